// SPDX-License-Identifier: GPL-2.0-only
/* vGPUs as mediated devices: on the PF of older cards, or one on each VF. */
#include "nvidia.h"
#include "../vgpu/vgpu.h"

#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

static bool equal_size;
module_param(equal_size, bool, 0644);
MODULE_PARM_DESC(equal_size, "beside a vGPU others of its size fit, as with newer drivers, not only of its type");
static int autoremove_ms = -1;
module_param(autoremove_ms, int, 0644);
MODULE_PARM_DESC(autoremove_ms, "remove a vGPU this long after its VM ended; -1: never");

struct nv_mdev_type {
	struct mdev_type type;
	struct nv_parent *parent;
	const struct nv_type *t;
	char id[8];
};

struct nv_parent {
	struct nv_gpu *gpu;
	struct pci_dev *pdev;
	struct mdev_parent parent;
	struct nv_mdev_type *types;
	struct mdev_type **list;
};

struct nv_mdev {
	struct vgpu emulated;
	struct nv_parent *parent;
	struct nv_vgpu vgpu;
	char params[NV_PARAMS];
	bool used;			/* a VM has opened it before */
	struct delayed_work autoremove;
};

static bool parent_used(struct nv_parent *p)
{
	struct nv_vgpu *v;

	list_for_each_entry(v, &p->gpu->vgpus, list)
		if (v->vf >= 0 && v->vf == nv_vf_index(p->pdev))
			return true;
	return false;
}

static uint nv_available(struct mdev_type *type)
{
	struct nv_mdev_type *t = container_of(type, struct nv_mdev_type, type);
	struct nv_parent *p = t->parent;
	uint n;

	mutex_lock(&p->gpu->lock);
	n = nv_creatable(p->gpu, t->t, !equal_size);
	if (p->pdev->is_virtfn)
		n = parent_used(p) ? 0 : min(n, 1u);
	mutex_unlock(&p->gpu->lock);
	return n;
}

static ssize_t nv_description(struct mdev_type *type, char *buf)
{
	struct nv_mdev_type *t = container_of(type, struct nv_mdev_type, type);
	char series = t->t->name[strlen(t->t->name) - 1];
	bool desktop = series == 'Q' || series == 'B';

	return sysfs_emit(buf, "num_heads=%d, frl_config=%d, framebuffer=%uM, max_resolution=%s, max_instance=%u\n",
			  desktop ? 4 : 1, series == 'B' ? 45 : 60, nv_type_mb(t->parent->gpu, t->t),
			  series == 'A' ? "1280x1024" : series == 'C' ? "4096x2160" :
			  series == 'Q' && t->t->gb > 1 ? "7680x4320" : "5120x2880",
			  nv_max_instances(t->parent->gpu, t->t));
}

static int nv_vinit(struct vfio_device *vdev)
{
	struct nv_mdev *m = container_of(vdev, struct nv_mdev, emulated.vdev);
	struct mdev_device *mdev = to_mdev_device(vdev->dev);
	struct nv_mdev_type *t = container_of(mdev->type, struct nv_mdev_type, type);
	struct nv_parent *p = t->parent;
	struct vgpu_ids ids = {
		.vendor = p->pdev->vendor, .device = p->pdev->device, .class = p->pdev->class,
		.subvendor = p->pdev->vendor, .subdevice = t->t->id,
	};
	int ret = -EIO;

	mutex_lock(&p->gpu->lock);
	m->vgpu.vf = p->pdev->is_virtfn ? nv_vf_index(p->pdev) : -1;
	m->vgpu.uuid = dev_name(&mdev->dev);
	if (!p->pdev->is_virtfn || !parent_used(p))
		ret = nv_create(p->gpu, &m->vgpu, t->t, !equal_size);
	mutex_unlock(&p->gpu->lock);
	if (ret)
		return ret;
	m->parent = p;
	kref_get(&p->gpu->ref);
	vgpu_init(&m->emulated, &ids);
	return 0;
}

static void nv_vrelease(struct vfio_device *vdev)
{
	struct nv_mdev *m = container_of(vdev, struct nv_mdev, emulated.vdev);

	mutex_lock(&m->parent->gpu->lock);
	nv_destroy(&m->vgpu);
	mutex_unlock(&m->parent->gpu->lock);
	nv_gpu_put(m->parent->gpu);
}

static int nv_open(struct vfio_device *vdev)
{
	struct nv_mdev *m = container_of(vdev, struct nv_mdev, emulated.vdev);
	int ret;

	mutex_lock(&m->parent->gpu->lock);
	ret = nv_start(m->parent->gpu, &m->vgpu, m->params);
	mutex_unlock(&m->parent->gpu->lock);
	return ret;
}

static void nv_close(struct vfio_device *vdev)
{
	struct nv_mdev *m = container_of(vdev, struct nv_mdev, emulated.vdev);

	mutex_lock(&m->parent->gpu->lock);
	m->vgpu.open = false;
	mutex_unlock(&m->parent->gpu->lock);
	if (autoremove_ms >= 0)
		schedule_delayed_work(&m->autoremove, msecs_to_jiffies(autoremove_ms));
}

/* The driver removes what a VM left, through the same door as everybody. */
static void nv_autoremove(struct work_struct *w)
{
	struct nv_mdev *m = container_of(to_delayed_work(w), struct nv_mdev, autoremove);
	char path[80];
	struct file *f;
	loff_t pos = 0;

	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/remove", m->vgpu.uuid);
	f = filp_open(path, O_WRONLY, 0);
	if (IS_ERR(f))
		return;
	kernel_write(f, "1", 1, &pos);
	filp_close(f, NULL);
}

static const struct vfio_device_ops nv_mdev_ops = {
	.name = "nvidia-vgpu-vfio",
	.init = nv_vinit,
	.release = nv_vrelease,
	.open_device = nv_open,
	.close_device = nv_close,
	VGPU_OPS,
};

static ssize_t vgpu_params_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct nv_mdev *m = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%s\n", m->params);
}

static ssize_t vgpu_params_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	struct nv_mdev *m = dev_get_drvdata(dev);

	mutex_lock(&m->parent->gpu->lock);
	n = nv_params_store(m->params, buf, n);
	mutex_unlock(&m->parent->gpu->lock);
	return n;
}
static DEVICE_ATTR_RW(vgpu_params);

/* Who uses it is known to the plugin only; empty until then. */
static ssize_t vm_name_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct nv_mdev *m = dev_get_drvdata(dev);

	return m->vgpu.open ? sysfs_emit(buf, "unknown\n") : 0;
}
static DEVICE_ATTR_RO(vm_name);

static struct attribute *mdev_attrs[] = { &dev_attr_vgpu_params.attr, &dev_attr_vm_name.attr, NULL };
static const struct attribute_group mdev_group = { .name = "nvidia", .attrs = mdev_attrs };
static const struct attribute_group *mdev_groups[] = { &mdev_group, NULL };

static int nv_mdev_probe(struct mdev_device *mdev)
{
	struct nv_mdev *m = vfio_alloc_device(nv_mdev, emulated.vdev, &mdev->dev, &nv_mdev_ops);
	int ret;

	if (IS_ERR(m))
		return PTR_ERR(m);
	INIT_DELAYED_WORK(&m->autoremove, nv_autoremove);
	dev_set_drvdata(&mdev->dev, m);
	ret = vfio_register_emulated_iommu_dev(&m->emulated.vdev);
	if (ret)
		vfio_put_device(&m->emulated.vdev);
	return ret;
}

static void nv_mdev_remove(struct mdev_device *mdev)
{
	struct nv_mdev *m = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&m->emulated.vdev);
	/* not when it is this work that removes it */
	if (current_work() != &m->autoremove.work)
		cancel_delayed_work_sync(&m->autoremove);
	vfio_put_device(&m->emulated.vdev);
}

struct mdev_driver nv_mdev_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.max_instances = 1 << 20,
	.driver = {
		.name = "nvidia-vgpu-vfio", .owner = THIS_MODULE, .mod_name = KBUILD_MODNAME, .dev_groups = mdev_groups,
	},
	.probe = nv_mdev_probe,
	.remove = nv_mdev_remove,
	.get_available = nv_available,
	.show_description = nv_description,
};

static void parent_free(struct nv_parent *p)
{
	kfree(p->types);
	kfree(p->list);
	kfree(p);
}

/* Takes over the caller's reference to gpu when the parent is a VF. */
struct nv_parent *nv_parent_add(struct pci_dev *pdev, struct nv_gpu *gpu)
{
	struct nv_parent *p = kzalloc(sizeof(*p), GFP_KERNEL);
	int i, ret = -ENOMEM, n = gpu->card->n_types;

	if (!p)
		return ERR_PTR(ret);
	p->gpu = gpu;
	p->pdev = pdev;
	p->types = kcalloc(n, sizeof(*p->types), GFP_KERNEL);
	p->list = kcalloc(n, sizeof(*p->list), GFP_KERNEL);
	if (!p->types || !p->list)
		goto err;
	for (i = 0; i < n; i++) {
		struct nv_mdev_type *t = &p->types[i];

		t->parent = p;
		t->t = &gpu->card->types[i];
		snprintf(t->id, sizeof(t->id), "%u", t->t->id);
		t->type.sysfs_name = t->id;
		t->type.pretty_name = t->t->name;
		p->list[i] = &t->type;
	}
	ret = mdev_register_parent(&p->parent, &pdev->dev, &nv_mdev_driver, p->list, n);
	if (!ret)
		return p;
err:
	parent_free(p);
	return ERR_PTR(ret);
}

void nv_parent_del(struct nv_parent *p)
{
	mdev_unregister_parent(&p->parent);
	if (p->pdev->is_virtfn)
		nv_gpu_put(p->gpu);
	parent_free(p);
}
