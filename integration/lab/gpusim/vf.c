// SPDX-License-Identifier: GPL-2.0-only
/*
 * The VF driver of kind nvidia-vfio: a vfio variant driver with the vendor's
 * two sysfs files, which choose a vGPU type before the VF can be opened.
 */
#include "gpusim.h"

#include <linux/module.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

struct gs_vfdev {
	struct vfio_pci_core_device core;
	struct gs_slot *vf;
};

static struct gs_slot *gs_vf_of(struct pci_dev *pdev)
{
	return &gs_pf_of(pdev)->vf[pci_iov_vf_id(pdev)];
}

static ssize_t creatable_vgpu_types_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gs_slot *vf = gs_vf_of(to_pci_dev(dev));
	int i, n = sysfs_emit(buf, "ID    : vGPU Name\n");

	mutex_lock(&vf->pf->mgr);
	for (i = 0; i < GS_NTYPES && !vf->cur; i++)
		if (gs_types[i].fb <= vf->pf->fb_free)
			n += sysfs_emit_at(buf, n, "%-6u: %s\n", gs_types[i].id, gs_types[i].name);
	mutex_unlock(&vf->pf->mgr);
	return n;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gs_slot *vf = gs_vf_of(to_pci_dev(dev));

	return sysfs_emit(buf, "%u\n", vf->cur ? vf->cur->id : 0);
}

static ssize_t current_vgpu_type_store(struct device *dev, struct device_attribute *a,
				       const char *buf, size_t n)
{
	struct gs_slot *vf = gs_vf_of(to_pci_dev(dev));
	struct vfio_pci_core_device *v = dev_get_drvdata(dev);
	const struct gs_type *t = NULL;
	ssize_t ret = n;
	u32 id;
	int i;

	if (kstrtou32(buf, 0, &id))
		return -EINVAL;
	for (i = 0; i < GS_NTYPES; i++)
		if (gs_types[i].id == id)
			t = &gs_types[i];
	if (id && !t)
		return -EINVAL;
	mutex_lock(&vf->pf->mgr);
	if (v && v->vdev.open_count)
		ret = -EBUSY;
	else if (t && vf->cur)
		ret = -EBUSY;
	else if (t && t->fb > vf->pf->fb_free)
		ret = -ENOSPC;
	else {
		if (vf->cur)
			vf->pf->fb_free += vf->cur->fb;
		if (t)
			vf->pf->fb_free -= t->fb;
		vf->cur = t;
	}
	mutex_unlock(&vf->pf->mgr);
	return ret;
}
static DEVICE_ATTR_RW(current_vgpu_type);

static struct attribute *gs_nv_attrs[] = {
	&dev_attr_creatable_vgpu_types.attr, &dev_attr_current_vgpu_type.attr, NULL,
};
static umode_t gs_nv_visible(struct kobject *k, struct attribute *a, int n)
{
	struct pci_dev *pdev = to_pci_dev(kobj_to_dev(k));

	return pdev->is_virtfn && gs_pf_of(pdev)->spec.kind == GS_NVIDIA_VFIO ? a->mode : 0;
}
static const struct attribute_group gs_nv_group = {
	.name = "nvidia", .attrs = gs_nv_attrs, .is_visible = gs_nv_visible,
};
const struct attribute_group *gs_nvidia_groups[] = { &gs_nv_group, NULL };

static int gs_vf_open(struct vfio_device *vdev)
{
	struct gs_vfdev *v = container_of(vdev, struct gs_vfdev, core.vdev);
	int ret;

	if (!v->vf->cur)		/* no vGPU created on this VF */
		return -ENODEV;
	ret = vfio_pci_core_enable(&v->core);
	if (!ret)
		vfio_pci_core_finish_enable(&v->core);
	return ret;
}

static const struct vfio_device_ops gs_vf_ops = {
	.name = "gpusim-vf",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = gs_vf_open,
	.close_device = vfio_pci_core_close_device,
	.ioctl = vfio_pci_core_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

int gs_vf_probe(struct pci_dev *pdev)
{
	struct gs_vfdev *v;
	int ret;

	v = vfio_alloc_device(gs_vfdev, core.vdev, &pdev->dev, &gs_vf_ops);
	if (IS_ERR(v))
		return PTR_ERR(v);
	v->vf = gs_vf_of(pdev);
	dev_set_drvdata(&pdev->dev, &v->core);
	ret = vfio_pci_core_register_device(&v->core);
	if (ret)
		vfio_put_device(&v->core.vdev);
	return ret;
}

void gs_vf_remove(struct pci_dev *pdev)
{
	struct gs_slot *vf = gs_vf_of(pdev);
	struct gs_vfdev *v;

	v = container_of((struct vfio_pci_core_device *)dev_get_drvdata(&pdev->dev),
			 struct gs_vfdev, core);
	vfio_pci_core_unregister_device(&v->core);
	vfio_put_device(&v->core.vdev);
	mutex_lock(&vf->pf->mgr);
	if (vf->cur)
		vf->pf->fb_free += vf->cur->fb;
	vf->cur = NULL;
	mutex_unlock(&vf->pf->mgr);
}

