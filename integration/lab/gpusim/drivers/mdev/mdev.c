// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated devices on a PF or on each VF.  All types of a card draw on one
 * framebuffer budget, so that their available_instances are coupled.
 */
#include "mdev.h"
#include "../vgpu/vgpu.h"
#include "../../hardware/gpusim.h"

#include <linux/module.h>
#include <linux/slab.h>

static const struct gm_type gm_types[GM_NTYPES] = {
	{ 557, "GPUSIM-4Q",  4096 },
	{ 558, "GPUSIM-8Q",  8192 },
	{ 560, "GPUSIM-24Q", 24576 },
};

struct gm_mdev {
	struct vgpu vgpu;
	struct gm_mtype *mt;
};

static uint gm_avail(struct mdev_type *type)
{
	struct gm_mtype *mt = container_of(type, struct gm_mtype, type);
	struct gm_card *card = mt->parent->card;
	uint n;

	mutex_lock(&card->lock);
	n = card->fb_free / mt->t->fb;
	if (card->on_vfs)
		n = mt->parent->mdevs ? 0 : min(n, 1u);
	mutex_unlock(&card->lock);
	return n;
}

static ssize_t gm_desc(struct mdev_type *type, char *buf)
{
	struct gm_mtype *mt = container_of(type, struct gm_mtype, type);

	return sysfs_emit(buf, "num_heads=4, frl_config=60, framebuffer=%uM, max_resolution=5120x2880, max_instance=%u\n",
			  mt->t->fb, GM_FB_MB / mt->t->fb);
}

static int gm_vinit(struct vfio_device *vdev)
{
	struct gm_mdev *m = container_of(vdev, struct gm_mdev, vgpu.vdev);
	struct mdev_device *mdev = to_mdev_device(vdev->dev);
	struct gm_mtype *mt = container_of(mdev->type, struct gm_mtype, type);
	struct gm_card *card = mt->parent->card;
	struct pci_dev *pdev = mt->parent->pdev;
	struct vgpu_ids ids = {
		.vendor = pdev->vendor, .device = pdev->device, .class = pdev->class,
		.subvendor = pdev->subsystem_vendor, .subdevice = mt->t->id,
	};
	int ret = -ENOSPC;

	mutex_lock(&card->lock);
	if (card->fb_free >= mt->t->fb && !(card->on_vfs && mt->parent->mdevs)) {
		card->fb_free -= mt->t->fb;
		mt->parent->mdevs++;
		ret = 0;
	}
	mutex_unlock(&card->lock);
	if (ret)
		return ret;
	m->mt = mt;
	vgpu_init(&m->vgpu, &ids);
	return 0;
}

static void gm_vrelease(struct vfio_device *vdev)
{
	struct gm_mtype *mt = container_of(vdev, struct gm_mdev, vgpu.vdev)->mt;
	struct gm_card *card = mt->parent->card;

	mutex_lock(&card->lock);
	card->fb_free += mt->t->fb;
	mt->parent->mdevs--;
	mutex_unlock(&card->lock);
}

static int gm_open(struct vfio_device *vdev) { return 0; }

static const struct vfio_device_ops gm_ops = {
	.name = "gpusim-mdev",
	.init = gm_vinit,
	.release = gm_vrelease,
	.open_device = gm_open,
	VGPU_OPS,
};

static int gm_probe(struct mdev_device *mdev)
{
	struct gm_mdev *m = vfio_alloc_device(gm_mdev, vgpu.vdev, &mdev->dev, &gm_ops);
	int ret;

	if (IS_ERR(m))
		return PTR_ERR(m);
	ret = vfio_register_emulated_iommu_dev(&m->vgpu.vdev);
	if (ret)
		vfio_put_device(&m->vgpu.vdev);
	else
		dev_set_drvdata(&mdev->dev, m);
	return ret;
}

static void gm_remove(struct mdev_device *mdev)
{
	struct gm_mdev *m = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&m->vgpu.vdev);
	vfio_put_device(&m->vgpu.vdev);
}

struct mdev_driver gm_mdev_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.max_instances = 1 << 20,
	.driver = { .name = "gpusim_mdev", .owner = THIS_MODULE, .mod_name = KBUILD_MODNAME },
	.probe = gm_probe,
	.remove = gm_remove,
	.get_available = gm_avail,
	.show_description = gm_desc,
};

struct gm_parent *gm_parent_add(struct pci_dev *pdev, struct gm_card *card)
{
	static char names[GM_NTYPES][8];
	struct gm_parent *p = kzalloc(sizeof(*p), GFP_KERNEL);
	int i, ret;

	if (!p)
		return ERR_PTR(-ENOMEM);
	p->card = card;
	p->pdev = pdev;
	for (i = 0; i < GM_NTYPES; i++) {
		snprintf(names[i], sizeof(names[i]), "%u", gm_types[i].id);
		p->mt[i].type.sysfs_name = names[i];
		p->mt[i].type.pretty_name = gm_types[i].name;
		p->mt[i].parent = p;
		p->mt[i].t = &gm_types[i];
		p->mtp[i] = &p->mt[i].type;
	}
	ret = mdev_register_parent(&p->parent, &pdev->dev, &gm_mdev_driver, p->mtp, GM_NTYPES);
	if (!ret)
		return p;
	kfree(p);
	return ERR_PTR(ret);
}

void gm_parent_del(struct gm_parent *p)
{
	mdev_unregister_parent(&p->parent);
	kfree(p);
}
