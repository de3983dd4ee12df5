/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The emulated PCI function behind a mediated device: as much of one as QEMU
 * needs.  A driver embeds it first in what it allocates and takes the calls
 * below into its vfio_device_ops.
 */
#ifndef GPUSIM_VGPU_H
#define GPUSIM_VGPU_H

#include <linux/mutex.h>
#include <linux/vfio.h>

struct vgpu {
	struct vfio_device vdev;
	struct mutex lock;
	u8 cfg[256], wm[256];
	u8 bar0[4096];
};

struct vgpu_ids {
	u16 vendor, device, subvendor, subdevice;
	u32 class;
};

void vgpu_init(struct vgpu *v, const struct vgpu_ids *ids);
ssize_t vgpu_read(struct vfio_device *vdev, char __user *buf, size_t n, loff_t *pos);
ssize_t vgpu_write(struct vfio_device *vdev, const char __user *buf, size_t n, loff_t *pos);
long vgpu_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg);

#define VGPU_OPS \
	.read = vgpu_read, \
	.write = vgpu_write, \
	.ioctl = vgpu_ioctl, \
	.bind_iommufd = vfio_iommufd_emulated_bind, \
	.unbind_iommufd = vfio_iommufd_emulated_unbind, \
	.attach_ioas = vfio_iommufd_emulated_attach_ioas, \
	.detach_ioas = vfio_iommufd_emulated_detach_ioas

#endif
