// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI driver of PFs and VFs.  It has no sriov_configure: VFs are enabled by
 * sriov-manage, which takes the PF away from it for that time.
 */
#include "nvidia.h"

#include <linux/module.h>
#include <linux/slab.h>

static char *framework = "vfio";
module_param(framework, charp, 0444);
MODULE_PARM_DESC(framework, "vGPUs on VFs: vfio (a vendor-specific VFIO driver) or mdev");
const char *nv_framework;

static LIST_HEAD(gpus);
static DEFINE_MUTEX(gpus_lock);

static void gpu_release(struct kref *ref)
{
	kfree(container_of(ref, struct nv_gpu, ref));
}

void nv_gpu_put(struct nv_gpu *gpu)
{
	kref_put(&gpu->ref, gpu_release);
}

/* The GPU of a PF that is bound to this driver, or NULL. */
struct nv_gpu *nv_gpu_get(struct pci_dev *pf)
{
	struct nv_gpu *gpu, *found = NULL;

	mutex_lock(&gpus_lock);
	list_for_each_entry(gpu, &gpus, list)
		if (gpu->pdev == pf)
			found = gpu;
	if (found)
		kref_get(&found->ref);
	mutex_unlock(&gpus_lock);
	return found;
}

int nv_vf_index(struct pci_dev *vf)
{
	return pci_iov_vf_id(vf);
}

static int pf_probe(struct pci_dev *pdev)
{
	const struct nv_card *card = nv_card_of(pdev->device);
	struct nv_gpu *gpu;
	int ret;

	if (!card)
		return -ENODEV;
	gpu = kzalloc(sizeof(*gpu), GFP_KERNEL);
	if (!gpu)
		return -ENOMEM;
	kref_init(&gpu->ref);
	mutex_init(&gpu->lock);
	INIT_LIST_HEAD(&gpu->vgpus);
	strscpy(gpu->scheduler, nv_scheduler(pdev), sizeof(gpu->scheduler));
	gpu->pdev = pdev;
	gpu->card = card;
	nv_reset_mig(gpu);
	ret = pci_enable_device(pdev);
	if (ret)
		goto err;
	pci_set_drvdata(pdev, gpu);
	if (card->kind == NV_ON_PF) {
		gpu->parent = nv_parent_add(pdev, gpu);
		ret = PTR_ERR_OR_ZERO(gpu->parent);
		if (ret)
			goto err_disable;
	}
	mutex_lock(&gpus_lock);
	list_add_tail(&gpu->list, &gpus);
	mutex_unlock(&gpus_lock);
	nv_control_add(gpu);
	return 0;

err_disable:
	pci_disable_device(pdev);
err:
	kfree(gpu);
	return ret;
}

/* The VFs go, and what the card was told since the last probe is lost. */
static void pf_remove(struct pci_dev *pdev)
{
	struct nv_gpu *gpu = pci_get_drvdata(pdev);

	nv_control_del(gpu);
	pci_disable_sriov(pdev);
	mutex_lock(&gpus_lock);
	list_del(&gpu->list);
	mutex_unlock(&gpus_lock);
	if (gpu->parent)
		nv_parent_del(gpu->parent);
	mutex_lock(&gpu->lock);
	gpu->gone = true;
	mutex_unlock(&gpu->lock);
	pci_disable_device(pdev);
	nv_gpu_put(gpu);
}

static int vf_probe(struct pci_dev *pdev)
{
	struct nv_gpu *gpu = nv_gpu_get(pci_physfn(pdev));
	struct nv_parent *parent;
	int ret = -ENODEV;

	/* while sriov-manage has the PF there is nobody who could serve a VF */
	if (!gpu)
		return ret;
	if (gpu->card->kind == NV_ON_VFS && !strcmp(nv_framework, "vfio")) {
		ret = nv_vf_probe(pdev, gpu);
	} else if (gpu->card->kind == NV_ON_VFS) {
		parent = nv_parent_add(pdev, gpu);
		ret = PTR_ERR_OR_ZERO(parent);
		if (!ret)
			pci_set_drvdata(pdev, parent);
	}
	if (ret)
		nv_gpu_put(gpu);
	return ret;
}

static int nv_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int ret = gpusim_probe(pdev);

	if (ret)
		return ret;
	return pdev->is_virtfn ? vf_probe(pdev) : pf_probe(pdev);
}

static void nv_remove(struct pci_dev *pdev)
{
	if (!pdev->is_virtfn)
		pf_remove(pdev);
	else if (!strcmp(nv_framework, "vfio"))
		nv_vf_remove(pdev);
	else
		nv_parent_del(pci_get_drvdata(pdev));
}

/* Every display controller of the vendor, as the real driver; but modprobe is not told. */
static const struct pci_device_id nv_ids[] = {
	{ PCI_DEVICE(0x10de, PCI_ANY_ID), .class = PCI_CLASS_DISPLAY_VGA << 8, .class_mask = ~0 },
	{ PCI_DEVICE(0x10de, PCI_ANY_ID), .class = PCI_CLASS_DISPLAY_3D << 8, .class_mask = ~0 },
	{ }
};

static struct pci_driver nv_driver = {
	.name = "nvidia",
	.id_table = nv_ids,
	.probe = nv_probe,
	.remove = nv_remove,
	.dev_groups = nv_vf_groups,
	/* as every vfio driver; without it a VF's group would not be viable */
	.driver_managed_dma = true,
};

static int __init nv_init(void)
{
	int ret;

	nv_framework = framework;
	if (strcmp(framework, "vfio") && strcmp(framework, "mdev"))
		return -EINVAL;
	nv_control_init();
	ret = mdev_register_driver(&nv_mdev_driver);
	if (ret)
		goto err;
	ret = pci_register_driver(&nv_driver);
	if (!ret)
		return 0;
	mdev_unregister_driver(&nv_mdev_driver);
err:
	nv_control_exit();
	return ret;
}

static void __exit nv_exit(void)
{
	pci_unregister_driver(&nv_driver);
	mdev_unregister_driver(&nv_mdev_driver);
	nv_control_exit();
}

module_init(nv_init);
module_exit(nv_exit);
MODULE_DESCRIPTION("Stand-in for NVIDIA's vGPU host driver on simulated GPUs");
MODULE_LICENSE("GPL");
