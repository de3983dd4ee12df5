// SPDX-License-Identifier: GPL-2.0-only
/* Configuration space and one BAR in memory, for mediated devices. */
#include "vgpu.h"
#include "../../hardware/gpusim.h"

#include <linux/module.h>

#define REG_SHIFT	40
#define BAR0_SIZE	4096

void vgpu_init(struct vgpu *v, const struct vgpu_ids *ids)
{
	mutex_init(&v->lock);
	gpusim_put16(v->cfg, ids->vendor);
	gpusim_put16(v->cfg + 2, ids->device);
	gpusim_put16(v->wm + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
		     PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	gpusim_put32(v->cfg + PCI_CLASS_REVISION, ids->class << 8);
	gpusim_put32(v->wm + PCI_BASE_ADDRESS_0, ~(u32)(BAR0_SIZE - 1));
	gpusim_put16(v->cfg + PCI_SUBSYSTEM_VENDOR_ID, ids->subvendor);
	gpusim_put16(v->cfg + PCI_SUBSYSTEM_ID, ids->subdevice);
}
EXPORT_SYMBOL_GPL(vgpu_init);

static ssize_t vgpu_rw(struct vgpu *v, char __user *r, const char __user *w, size_t n, loff_t *pos)
{
	uint reg = *pos >> REG_SHIFT, lim;
	u64 off = *pos & GENMASK_ULL(REG_SHIFT - 1, 0);
	u8 tmp[256], *p, *wm = NULL;	/* QEMU wants the whole config space in one read */
	size_t i;

	if (reg == VFIO_PCI_CONFIG_REGION_INDEX) {
		p = v->cfg;
		wm = v->wm;
		lim = sizeof(v->cfg);
	} else if (reg == VFIO_PCI_BAR0_REGION_INDEX) {
		p = v->bar0;
		lim = sizeof(v->bar0);
	} else {
		return -EINVAL;
	}
	if (off >= lim)
		return -EINVAL;
	n = min3(n, (size_t)(lim - off), sizeof(tmp));
	if (w && copy_from_user(tmp, w, n))
		return -EFAULT;
	mutex_lock(&v->lock);
	for (i = 0; i < n; i++) {
		u8 mask = wm ? wm[off + i] : 0xff;

		if (w)
			p[off + i] = (p[off + i] & ~mask) | (tmp[i] & mask);
		else
			tmp[i] = p[off + i];
	}
	mutex_unlock(&v->lock);
	if (r && copy_to_user(r, tmp, n))
		return -EFAULT;
	*pos += n;
	return n;
}

ssize_t vgpu_read(struct vfio_device *vdev, char __user *buf, size_t n, loff_t *pos)
{
	return vgpu_rw(container_of(vdev, struct vgpu, vdev), buf, NULL, n, pos);
}
EXPORT_SYMBOL_GPL(vgpu_read);

ssize_t vgpu_write(struct vfio_device *vdev, const char __user *buf, size_t n, loff_t *pos)
{
	return vgpu_rw(container_of(vdev, struct vgpu, vdev), NULL, buf, n, pos);
}
EXPORT_SYMBOL_GPL(vgpu_write);

long vgpu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	void __user *u = (void __user *)arg;

	if (cmd == VFIO_DEVICE_GET_INFO) {
		struct vfio_device_info i = {
			.argsz = sizeof(i), .flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
			.num_regions = VFIO_PCI_NUM_REGIONS, .num_irqs = VFIO_PCI_NUM_IRQS,
		};
		return copy_to_user(u, &i, offsetofend(struct vfio_device_info, num_irqs)) ? -EFAULT : 0;
	}
	if (cmd == VFIO_DEVICE_GET_REGION_INFO) {
		struct vfio_region_info i;
		size_t sz = offsetofend(struct vfio_region_info, offset);

		if (copy_from_user(&i, u, sz))
			return -EFAULT;
		if (i.index >= VFIO_PCI_NUM_REGIONS)
			return -EINVAL;
		i.offset = (u64)i.index << REG_SHIFT;
		i.size = i.index == VFIO_PCI_CONFIG_REGION_INDEX ? 256 :
			 i.index == VFIO_PCI_BAR0_REGION_INDEX ? BAR0_SIZE : 0;
		i.flags = i.size ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
		i.cap_offset = 0;
		return copy_to_user(u, &i, sz) ? -EFAULT : 0;
	}
	if (cmd == VFIO_DEVICE_GET_IRQ_INFO) {
		struct vfio_irq_info i;

		if (copy_from_user(&i, u, sizeof(i)))
			return -EFAULT;
		if (i.index >= VFIO_PCI_NUM_IRQS)
			return -EINVAL;
		i.count = i.index == VFIO_PCI_REQ_IRQ_INDEX;
		i.flags = i.count ? VFIO_IRQ_INFO_EVENTFD : 0;
		return copy_to_user(u, &i, sizeof(i)) ? -EFAULT : 0;
	}
	if (cmd == VFIO_DEVICE_SET_IRQS || cmd == VFIO_DEVICE_RESET)
		return 0;
	return -ENOTTY;
}
EXPORT_SYMBOL_GPL(vgpu_ioctl);

MODULE_DESCRIPTION("Emulated PCI function behind simulated mediated devices");
MODULE_LICENSE("GPL");
