// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated devices on a PF (kind mdev-pf) or on each VF (kind mdev-vf).
 * All types of a PF draw on one framebuffer budget, so that their
 * available_instances are coupled as they are on real cards.
 */
#include "gpusim.h"

#include <linux/module.h>
#include <linux/vfio.h>

const struct gs_type gs_types[GS_NTYPES] = {
	{ 557, "GPUSIM-4Q",  4096 },
	{ 558, "GPUSIM-8Q",  8192 },
	{ 560, "GPUSIM-24Q", 24576 },
};

struct gs_mdev {
	struct vfio_device vdev;
	struct gs_mtype *mt;
	struct mutex lock;
	u8 cfg[256], wm[256];
	u8 bar0[4096];
};

#define REG_SHIFT	40
#define BAR0_SIZE	4096

static uint gs_avail(struct mdev_type *type)
{
	struct gs_mtype *mt = container_of(type, struct gs_mtype, type);
	struct gs_pf *pf = mt->slot->pf;
	uint n;

	mutex_lock(&pf->mgr);
	n = pf->fb_free / mt->t->fb;
	if (pf->spec.kind == GS_MDEV_VF)	/* one vGPU per VF */
		n = mt->slot->mdevs ? 0 : min(n, 1u);
	mutex_unlock(&pf->mgr);
	return n;
}

static ssize_t gs_mdev_desc(struct mdev_type *type, char *buf)
{
	struct gs_mtype *mt = container_of(type, struct gs_mtype, type);

	return sysfs_emit(buf, "num_heads=4, frl_config=60, framebuffer=%uM, max_resolution=5120x2880, max_instance=%u\n",
			  mt->t->fb, mt->slot->pf->spec.fb_mb / mt->t->fb);
}

static int gs_mdev_vinit(struct vfio_device *vdev)
{
	struct gs_mdev *m = container_of(vdev, struct gs_mdev, vdev);
	struct mdev_device *mdev = to_mdev_device(vdev->dev);
	struct gs_mtype *mt = container_of(mdev->type, struct gs_mtype, type);
	struct gs_slot *slot = mt->slot;
	struct gs_pf *pf = slot->pf;
	int ret = -ENOSPC;

	mutex_lock(&pf->mgr);
	if (pf->fb_free >= mt->t->fb && !(pf->spec.kind == GS_MDEV_VF && slot->mdevs)) {
		pf->fb_free -= mt->t->fb;
		slot->mdevs++;
		ret = 0;
	}
	mutex_unlock(&pf->mgr);
	if (ret)
		return ret;
	mutex_init(&m->lock);
	m->mt = mt;
	gs_put16(m->cfg, pf->spec.vendor);
	gs_put16(m->cfg + 2, pf->spec.device);
	gs_put16(m->wm + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
		 PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	gs_put32(m->cfg + PCI_CLASS_REVISION, pf->spec.class << 8);
	gs_put32(m->wm + PCI_BASE_ADDRESS_0, ~(u32)(BAR0_SIZE - 1));
	gs_put16(m->cfg + PCI_SUBSYSTEM_VENDOR_ID, pf->spec.subvendor);
	gs_put16(m->cfg + PCI_SUBSYSTEM_ID, mt->t->id);
	return 0;
}

static void gs_mdev_vrelease(struct vfio_device *vdev)
{
	struct gs_mtype *mt = container_of(vdev, struct gs_mdev, vdev)->mt;
	struct gs_slot *slot = mt->slot;

	mutex_lock(&slot->pf->mgr);
	slot->pf->fb_free += mt->t->fb;
	slot->mdevs--;
	mutex_unlock(&slot->pf->mgr);
}

static int gs_mdev_open(struct vfio_device *vdev) { return 0; }

static ssize_t gs_mdev_rw(struct gs_mdev *m, char __user *r, const char __user *w, size_t n, loff_t *pos)
{
	uint reg = *pos >> REG_SHIFT, lim;
	u64 off = *pos & GENMASK_ULL(REG_SHIFT - 1, 0);
	u8 tmp[256], *p, *wm = NULL;	/* QEMU wants the whole config space in one read */
	size_t i;

	if (reg == VFIO_PCI_CONFIG_REGION_INDEX) {
		p = m->cfg;
		wm = m->wm;
		lim = sizeof(m->cfg);
	} else if (reg == VFIO_PCI_BAR0_REGION_INDEX) {
		p = m->bar0;
		lim = sizeof(m->bar0);
	} else {
		return -EINVAL;
	}
	if (off >= lim)
		return -EINVAL;
	n = min3(n, (size_t)(lim - off), sizeof(tmp));
	if (w && copy_from_user(tmp, w, n))
		return -EFAULT;
	mutex_lock(&m->lock);
	for (i = 0; i < n; i++) {
		u8 mask = wm ? wm[off + i] : 0xff;

		if (w)
			p[off + i] = (p[off + i] & ~mask) | (tmp[i] & mask);
		else
			tmp[i] = p[off + i];
	}
	mutex_unlock(&m->lock);
	if (r && copy_to_user(r, tmp, n))
		return -EFAULT;
	*pos += n;
	return n;
}

static ssize_t gs_mdev_read(struct vfio_device *vdev, char __user *buf, size_t n, loff_t *pos)
{
	return gs_mdev_rw(container_of(vdev, struct gs_mdev, vdev), buf, NULL, n, pos);
}

static ssize_t gs_mdev_write(struct vfio_device *vdev, const char __user *buf, size_t n, loff_t *pos)
{
	return gs_mdev_rw(container_of(vdev, struct gs_mdev, vdev), NULL, buf, n, pos);
}

static long gs_mdev_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
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

static const struct vfio_device_ops gs_mdev_ops = {
	.name = "gpusim-mdev",
	.init = gs_mdev_vinit,
	.release = gs_mdev_vrelease,
	.open_device = gs_mdev_open,
	.read = gs_mdev_read,
	.write = gs_mdev_write,
	.ioctl = gs_mdev_ioctl,
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
};

static int gs_mdev_probe(struct mdev_device *mdev)
{
	struct gs_mdev *m = vfio_alloc_device(gs_mdev, vdev, &mdev->dev, &gs_mdev_ops);
	int ret;

	if (IS_ERR(m))
		return PTR_ERR(m);
	ret = vfio_register_emulated_iommu_dev(&m->vdev);
	if (ret)
		vfio_put_device(&m->vdev);
	else
		dev_set_drvdata(&mdev->dev, m);
	return ret;
}

static void gs_mdev_remove(struct mdev_device *mdev)
{
	struct gs_mdev *m = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&m->vdev);
	vfio_put_device(&m->vdev);
}

struct mdev_driver gs_mdev_drv = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.max_instances = 1 << 20,
	.driver = { .name = "gpusim_mdev", .owner = THIS_MODULE, .mod_name = KBUILD_MODNAME },
	.probe = gs_mdev_probe,
	.remove = gs_mdev_remove,
	.get_available = gs_avail,
	.show_description = gs_mdev_desc,
};

int gs_parent_add(struct gs_slot *slot, struct pci_dev *pdev)
{
	static char names[GS_NTYPES][8];
	int i, ret;

	memset(slot->mt, 0, sizeof(slot->mt));
	for (i = 0; i < GS_NTYPES; i++) {
		snprintf(names[i], sizeof(names[i]), "%u", gs_types[i].id);
		slot->mt[i].type.sysfs_name = names[i];
		slot->mt[i].type.pretty_name = gs_types[i].name;
		slot->mt[i].slot = slot;
		slot->mt[i].t = &gs_types[i];
		slot->mtp[i] = &slot->mt[i].type;
	}
	ret = mdev_register_parent(&slot->parent, &pdev->dev, &gs_mdev_drv, slot->mtp, GS_NTYPES);
	slot->parent_on = !ret;
	return ret;
}

void gs_parent_del(struct gs_slot *slot)
{
	if (slot->parent_on)
		mdev_unregister_parent(&slot->parent);
	slot->parent_on = false;
}

