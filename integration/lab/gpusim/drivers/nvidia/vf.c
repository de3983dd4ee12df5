// SPDX-License-Identifier: GPL-2.0-only
/*
 * Vendor-specific VFIO: the VF stays on this driver, which is a vfio driver
 * itself, and its nvidia/ files choose a vGPU type before it can be opened.
 */
#include "nvidia.h"

#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

static bool old_files, list_header = true;
module_param(old_files, bool, 0444);
MODULE_PARM_DESC(old_files, "only the two files that the first drivers had");
module_param(list_header, bool, 0644);
MODULE_PARM_DESC(list_header, "creatable_vgpu_types begins with a header");
static uint init_window_ms = 5000;
module_param(init_window_ms, uint, 0644);
MODULE_PARM_DESC(init_window_ms, "a SIGKILL this soon after the start wedges the VF");

struct nv_vf {
	struct vfio_pci_core_device core;
	struct nv_gpu *gpu;
	struct nv_vgpu vgpu;
	char params[NV_PARAMS];
	ulong opened;
};

/* The VF's state, also when there is no vfio device because the VF is broken. */
struct nv_vf_data {
	struct nv_gpu *gpu;
	struct nv_vf *vf;
};

/* vfio_pci_core owns drvdata, hence a managed resource. */
static void vf_data_release(struct device *dev, void *data) { }

static struct nv_vf_data *vf_data(struct device *dev)
{
	return devres_find(dev, vf_data_release, NULL, NULL);
}

static ssize_t creatable_vgpu_types_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct nv_vf_data *d = vf_data(dev);
	const struct nv_card *card = d->gpu->card;
	int i, n = list_header ? sysfs_emit(buf, "ID    : vGPU Name\n") : 0;

	mutex_lock(&d->gpu->lock);
	for (i = 0; i < card->n_types && d->vf && !d->vf->vgpu.type; i++)
		if (nv_creatable(d->gpu, &card->types[i], false))
			n += sysfs_emit_at(buf, n, "%-5d : %s\n", card->types[i].id, card->types[i].name);
	mutex_unlock(&d->gpu->lock);
	return n;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct nv_vf_data *d = vf_data(dev);
	ssize_t n;

	mutex_lock(&d->gpu->lock);
	n = sysfs_emit(buf, "%u\n", d->vf && d->vf->vgpu.type ? d->vf->vgpu.type->id : 0);
	mutex_unlock(&d->gpu->lock);
	return n;
}

static int set_type(struct nv_gpu *gpu, struct nv_vf *vf, ulong id)
{
	if (!id == !vf->vgpu.type)	/* create a second one, free none */
		return -EPERM;
	if (id)
		return nv_create(gpu, &vf->vgpu, nv_type_of(gpu->card, id), false);
	if (vf->vgpu.open)
		return -EBUSY;
	nv_destroy(&vf->vgpu);
	return 0;
}

static ssize_t current_vgpu_type_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	struct nv_vf_data *d = vf_data(dev);
	ulong id;
	int ret;

	if (kstrtoul(buf, 10, &id))
		return -EINVAL;
	if (!d->vf) {
		dev_err(dev, "vfio_pci_core_device not found\n");
		return -EINVAL;
	}
	mutex_lock(&d->gpu->lock);
	ret = set_type(d->gpu, d->vf, id);
	mutex_unlock(&d->gpu->lock);
	return ret ?: n;
}
static DEVICE_ATTR_RW(current_vgpu_type);

static ssize_t vgpu_params_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct nv_vf_data *d = vf_data(dev);
	ssize_t n = 0;

	mutex_lock(&d->gpu->lock);
	if (d->vf)
		n = sysfs_emit(buf, "%s\n", d->vf->params);
	mutex_unlock(&d->gpu->lock);
	return n;
}

static ssize_t vgpu_params_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	struct nv_vf_data *d = vf_data(dev);
	ssize_t ret = -EINVAL;

	mutex_lock(&d->gpu->lock);
	if (d->vf)
		ret = nv_params_store(d->vf->params, buf, n);
	mutex_unlock(&d->gpu->lock);
	return ret;
}
static DEVICE_ATTR_RW(vgpu_params);

/* ENXIO while there is no vGPU; the instance also when it is not MIG-backed. */
static ssize_t show_place(struct device *dev, char *buf, bool gi)
{
	struct nv_vf_data *d = vf_data(dev);
	ssize_t n = -ENXIO;

	mutex_lock(&d->gpu->lock);
	if (d->vf && d->vf->vgpu.type && (!gi || d->vf->vgpu.gi >= 0))
		n = sysfs_emit(buf, "%d\n", gi ? d->vf->vgpu.gi : d->vf->vgpu.placement);
	mutex_unlock(&d->gpu->lock);
	return n;
}

static ssize_t gpu_instance_id_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return show_place(dev, buf, true);
}
static DEVICE_ATTR_RO(gpu_instance_id);

static ssize_t placement_id_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return show_place(dev, buf, false);
}
static DEVICE_ATTR_RO(placement_id);

static struct attribute *vf_attrs[] = {
	&dev_attr_creatable_vgpu_types.attr, &dev_attr_current_vgpu_type.attr,
	&dev_attr_vgpu_params.attr, &dev_attr_gpu_instance_id.attr, &dev_attr_placement_id.attr, NULL,
};

static umode_t vf_visible(struct kobject *k, struct attribute *a, int n)
{
	if (!vf_data(kobj_to_dev(k)))	/* no folder either */
		return SYSFS_GROUP_INVISIBLE;
	return n < 2 || !old_files ? a->mode : 0;
}

static const struct attribute_group vf_group = { .name = "nvidia", .attrs = vf_attrs, .is_visible = vf_visible };
const struct attribute_group *nv_vf_groups[] = { &vf_group, NULL };

static int vf_open(struct vfio_device *vdev)
{
	struct nv_vf *vf = container_of(vdev, struct nv_vf, core.vdev);
	int ret;

	mutex_lock(&vf->gpu->lock);
	ret = nv_start(vf->gpu, &vf->vgpu, vf->params);
	mutex_unlock(&vf->gpu->lock);
	if (ret)
		return ret;
	ret = vfio_pci_core_enable(&vf->core);
	if (ret) {
		mutex_lock(&vf->gpu->lock);
		vf->vgpu.open = false;
		mutex_unlock(&vf->gpu->lock);
		return ret;
	}
	vf->opened = jiffies;
	vfio_pci_core_finish_enable(&vf->core);
	return 0;
}

/* Killed while the plugin initialises, the VF is of no use any more; nothing on the host tells. */
static void vf_close(struct vfio_device *vdev)
{
	struct nv_vf *vf = container_of(vdev, struct nv_vf, core.vdev);
	bool killed = (current->flags & PF_EXITING) && (current->exit_code & 0x7f) == SIGKILL;

	vfio_pci_core_close_device(vdev);
	mutex_lock(&vf->gpu->lock);
	vf->vgpu.open = false;
	if (killed && time_before(jiffies, vf->opened + msecs_to_jiffies(init_window_ms)))
		vf->gpu->vf_wedged[vf->vgpu.vf] = true;
	mutex_unlock(&vf->gpu->lock);
}

static const struct vfio_device_ops vf_ops = {
	.name = "nvidia-vfio-pci",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = vf_open,
	.close_device = vf_close,
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

static int add_vfio(struct pci_dev *pdev, struct nv_vf_data *d)
{
	struct nv_vf *vf = vfio_alloc_device(nv_vf, core.vdev, &pdev->dev, &vf_ops);
	int ret;

	if (IS_ERR(vf))
		return PTR_ERR(vf);
	vf->gpu = d->gpu;
	vf->vgpu.vf = nv_vf_index(pdev);
	dev_set_drvdata(&pdev->dev, &vf->core);
	ret = vfio_pci_core_register_device(&vf->core);
	if (ret)
		vfio_put_device(&vf->core.vdev);
	else
		d->vf = vf;
	return ret;
}

int nv_vf_probe(struct pci_dev *pdev, struct nv_gpu *gpu)
{
	struct nv_vf_data *d = devres_alloc(vf_data_release, sizeof(*d), GFP_KERNEL);
	int ret = 0;

	if (!d)
		return -ENOMEM;
	d->gpu = gpu;
	/* once taken off the driver by hand, a VF has its files and no device until it is made anew */
	if (!gpu->vf_broken[nv_vf_index(pdev)])
		ret = add_vfio(pdev, d);
	if (ret)
		devres_free(d);
	else
		devres_add(&pdev->dev, d);
	return ret;
}

void nv_vf_remove(struct pci_dev *pdev)
{
	struct nv_vf_data *d = vf_data(&pdev->dev);
	struct nv_gpu *gpu = d->gpu;

	if (d->vf) {
		vfio_pci_core_unregister_device(&d->vf->core);
		mutex_lock(&gpu->lock);
		nv_destroy(&d->vf->vgpu);
		gpu->vf_broken[nv_vf_index(pdev)] = true;
		mutex_unlock(&gpu->lock);
		vfio_put_device(&d->vf->core.vdev);
		/* what vfio-pci refuses with EINVAL, as it does there */
		pdev->hdr_type = PCI_HEADER_TYPE_MASK;
	}
	nv_gpu_put(gpu);
}
