// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI driver of the PFs.  It has no ids for modprobe and no
 * sriov_configure: each PF's VFs are made once, by a thread that its probe
 * starts, and go when the module goes, which waits for whoever uses one of them.
 */
#include "gim.h"

#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/slab.h>

uint gim_generation = 9;
module_param_named(generation, gim_generation, uint, 0444);
MODULE_PARM_DESC(generation, "8: as the first drivers, 9: as the newest");
static bool lab_async;
module_param(lab_async, bool, 0444);
MODULE_PARM_DESC(lab_async, "the load does not wait for the GPUs' threads");

DEFINE_MUTEX(gim_lock);
LIST_HEAD(gim_gpus);
static atomic_t probed, starting;

struct pci_dev *gim_vf(struct gim_gpu *gpu, uint index)
{
	struct pci_dev *vf = NULL;

	while ((vf = pci_get_device(gpu->pdev->vendor, PCI_ANY_ID, vf)))
		if (vf->is_virtfn && pci_physfn(vf) == gpu->pdev && pci_iov_vf_id(vf) == index)
			return vf;
	return NULL;
}

/* Open by VFIO, or bound to a driver of the host: both enable the function. */
bool gim_vf_in_use(struct gim_gpu *gpu, bool tell)
{
	struct pci_dev *vf;
	bool used = false;
	uint i;

	for (i = 0; i < gpu->vfs; i++) {
		vf = gim_vf(gpu, i);
		if (vf && atomic_read(&vf->enable_cnt) > 0) {
			used = true;
			if (tell)
				pr_info("GIM is used by [%x:%x:%x:%x]\n", pci_domain_nr(vf->bus), vf->bus->number,
					PCI_SLOT(vf->devfn), PCI_FUNC(vf->devfn));
		}
		pci_dev_put(vf);
	}
	return used;
}

static int enable(struct gim_gpu *gpu)
{
	int total = pci_sriov_get_totalvfs(gpu->pdev), want = gim_config_vfs(gpu->index);

	if (want > total) {
		pr_err("VF number %d to be enabled exceeds the vf limit %d\n", want, total);
		gim_config_forget();
		return -EINVAL;
	}
	return gpusim_enable_vfs(gpu->pdev, want);
}

static int init_gpu(void *data)
{
	struct gim_gpu *gpu = data;
	int ret = enable(gpu);

	if (ret < 0) {
		pr_err("Failed to init dev(0x%x).\n", pci_dev_id(gpu->pdev));
	} else {
		gpu->vfs = ret;
		gim_modes_init(gpu);
		gim_control_add(gpu);
		mutex_lock(&gim_lock);
		list_add_tail(&gpu->list, &gim_gpus);
		mutex_unlock(&gim_lock);
		gpu->live = true;
		if (sysfs_create_group(&gpu->pdev->dev.kobj, &gim_gpu_group))
			pr_err("no files for %s\n", pci_name(gpu->pdev));
	}
	pr_info("AMD GIM probed GPU(%u) %s\n", gpu->index, pci_name(gpu->pdev));
	complete_all(&gpu->init_over);
	atomic_dec(&starting);
	return 0;
}

static const struct gim_asic *asic_of(struct pci_dev *pdev)
{
	uint i;

	for (i = 0; i < gim_asics_count; i++)
		if (gim_asics[i].device == pdev->device)
			return &gim_asics[i];
	return &gim_asics[gim_asics_count - 1];		/* through new_id */
}

/* What is not theirs, the newest refuse; the first drivers stay bound to it and do nothing. */
static int gim_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct gim_gpu *gpu;
	int ret = gpusim_probe(pdev);

	if (ret)
		return ret;
	if (!gim_config_enabled(pci_name(pdev)) || pdev->is_virtfn) {
		pr_info("AMD GIM skip probing device %s\n", pci_name(pdev));
		return gim_generation >= 9 ? -ENODEV : 0;
	}
	pr_info("AMD GIM start to probe device %s\n", pci_name(pdev));
	if (!pci_sriov_get_totalvfs(pdev) || atomic_read(&probed) >= GIM_GPUS)
		return 0;
	gpu = kzalloc(sizeof(*gpu), GFP_KERNEL);
	if (!gpu)
		return -ENOMEM;
	ret = pci_enable_device(pdev);
	if (ret) {
		kfree(gpu);
		return ret;
	}
	gpu->pdev = pdev;
	gpu->asic = asic_of(pdev);
	gpu->index = atomic_fetch_inc(&probed);
	init_completion(&gpu->init_over);
	INIT_WORK(&gpu->reset, gim_reset_work);
	pci_set_drvdata(pdev, gpu);
	atomic_inc(&starting);
	gpu->init = kthread_run(init_gpu, gpu, "gpu_init_thread");
	if (IS_ERR(gpu->init)) {
		complete_all(&gpu->init_over);
		atomic_dec(&starting);
	}
	return 0;
}

static void gim_remove(struct pci_dev *pdev)
{
	struct gim_gpu *gpu = pci_get_drvdata(pdev);

	if (!gpu)
		return;
	wait_for_completion(&gpu->init_over);
	if (gpu->live) {
		sysfs_remove_group(&pdev->dev.kobj, &gim_gpu_group);
		mutex_lock(&gim_lock);
		list_del(&gpu->list);
		mutex_unlock(&gim_lock);
		cancel_work_sync(&gpu->reset);
		gim_control_del(gpu);
		pci_disable_sriov(pdev);
	}
	pci_disable_device(pdev);
	pci_set_drvdata(pdev, NULL);
	pr_info("AMD GIM removed device %s\n", pci_name(pdev));
	kfree(gpu);
}

static struct pci_driver gim_driver = {
	.name = "gim",
	.probe = gim_probe,
	.remove = gim_remove,
};

static int __init gim_init(void)
{
	uint i;
	int ret = gim_config_load();

	if (ret)
		return ret;
	gim_control_init();
	gim_driver.driver.suppress_bind_attrs = gim_generation >= 9;
	ret = pci_register_driver(&gim_driver);
	if (ret)
		goto err_control;
	for (i = 0; i < gim_asics_count && !ret; i++)
		ret = pci_add_dynid(&gim_driver, PCI_VENDOR_ID_ATI, gim_asics[i].device, PCI_ANY_ID, PCI_ANY_ID, 0, 0, 0);
	if (!ret)
		ret = gim_driver_files(&gim_driver.driver);
	if (ret)
		goto err_driver;
	while (!lab_async && atomic_read(&starting))
		msleep(1);
	pr_info("AMD GIM is Running\n");
	return 0;

err_driver:
	pci_unregister_driver(&gim_driver);
err_control:
	gim_control_exit();
	return ret;
}

static bool idle(void)
{
	struct gim_gpu *gpu;
	bool used = false;

	mutex_lock(&gim_lock);
	list_for_each_entry(gpu, &gim_gpus, list) {
		used |= gim_vf_in_use(gpu, true);
		if (gpu->wanted_nps) {
			used = true;
			pr_info("GIM is used by [%s], GPU is in reset state\n", pci_name(gpu->pdev));
		}
	}
	mutex_unlock(&gim_lock);
	return !used;
}

/* For ever, where somebody uses a VF; nothing ends it but that he lets go. */
static void __exit gim_exit(void)
{
	while (!idle())
		msleep(5000);
	gim_driver_files_gone(&gim_driver.driver);
	pci_unregister_driver(&gim_driver);
	gim_control_exit();
}

module_init(gim_init);
module_exit(gim_exit);
MODULE_DESCRIPTION("Stand-in for AMD's GIM on simulated GPUs");
MODULE_LICENSE("GPL");
