// SPDX-License-Identifier: GPL-2.0-only
/*
 * A stand-in for amdgpu on the host: takes PFs and VFs, and has the partition
 * files of an Instinct.  A memory mode is a request, which comes into force
 * with the next load of the driver, for all GPUs of a hive.
 */
#include "../../hardware/gpusim.h"
#include "../gim/nvram.h"

#include <linux/bitfield.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/slab.h>

static const char *const compute_names[] = { [1] = "SPX", [2] = "DPX", [4] = "QPX", [8] = "CPX" };

struct gpu {
	struct list_head list;
	struct pci_dev *pdev;
	u32 nps, parts;
	u32 nps_caps;			/* a bit for each memory mode that there is; 0: no partitions */
	u32 kfd_users, resetting;	/* set by a test */
	struct dentry *dbg;
};

static LIST_HEAD(gpus);
static DEFINE_MUTEX(lock);
static struct dentry *root;

static u32 nps_caps_of(u16 device)
{
	switch (device) {
	case 0x74a1: case 0x74a2: case 0x74a5: case 0x74a8: case 0x74a9:
		return BIT(1) | BIT(4);
	case 0x75a0: case 0x75a3:
		return BIT(1) | BIT(2);
	}
	return 0;
}

/* Which memory modes go with a compute mode. */
static bool legal(u32 parts, u32 nps)
{
	if (parts == 1)
		return nps == 1;
	return parts == 2 ? nps <= 2 : true;
}

static struct gpu *gpu_of(struct device *dev)
{
	return pci_get_drvdata(to_pci_dev(dev));
}

static ssize_t current_compute_partition_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "%s\n", compute_names[gpu_of(dev)->parts]);
}

static ssize_t current_compute_partition_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	struct gpu *gpu = gpu_of(dev);
	u32 parts;
	int ret = 0;

	for (parts = 1; parts <= 8; parts *= 2)
		if (!strncasecmp(buf, compute_names[parts], 3))
			break;
	mutex_lock(&lock);
	if (parts > 8 || !legal(parts, gpu->nps))
		ret = -EINVAL;
	else if (gpu->resetting)
		ret = -EPERM;
	else if (parts != gpu->parts && gpu->kfd_users)
		ret = -EBUSY;
	else
		gpu->parts = parts;
	mutex_unlock(&lock);
	return ret ?: n;
}
static DEVICE_ATTR_RW(current_compute_partition);

static ssize_t available_compute_partition_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "SPX, DPX, QPX, CPX\n");
}
static DEVICE_ATTR_RO(available_compute_partition);

static ssize_t current_memory_partition_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "NPS%u\n", gpu_of(dev)->nps);
}

/* Of several requests the last counts; the mode that is in force takes a request back. */
static ssize_t current_memory_partition_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	struct gpu *gpu = gpu_of(dev), *other;
	u32 nps;

	if (strncasecmp(buf, "NPS", 3) || kstrtouint(buf + 3, 10, &nps) || nps > 8 || !(gpu->nps_caps & BIT(nps)))
		return -EINVAL;
	mutex_lock(&lock);
	list_for_each_entry(other, &gpus, list)
		if (other->pdev->device == gpu->pdev->device) {
			*gpusim_nvram(other->pdev) &= ~AMDGPU_NPS_WANTED;
			*gpusim_nvram(other->pdev) |= FIELD_PREP(AMDGPU_NPS_WANTED, nps);
		}
	mutex_unlock(&lock);
	return n;
}
static DEVICE_ATTR_RW(current_memory_partition);

static ssize_t available_memory_partition_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "%s\n", gpu_of(dev)->nps_caps & BIT(4) ? "NPS1, NPS4" : "NPS1, NPS2");
}
static DEVICE_ATTR_RO(available_memory_partition);

static struct attribute *attrs[] = {
	&dev_attr_current_compute_partition.attr, &dev_attr_available_compute_partition.attr,
	&dev_attr_current_memory_partition.attr, &dev_attr_available_memory_partition.attr, NULL,
};

static umode_t visible(struct kobject *k, struct attribute *a, int n)
{
	struct gpu *gpu = gpu_of(kobj_to_dev(k));

	return gpu && gpu->nps_caps ? a->mode : 0;
}
static const struct attribute_group group = { .attrs = attrs, .is_visible = visible };
static const struct attribute_group *groups[] = { &group, NULL };

static int amdgpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct gpu *gpu;
	int ret = gpusim_probe(pdev);
	u32 *nvram;

	if (!ret)
		ret = pci_enable_device(pdev);
	if (ret || pdev->is_virtfn)
		return ret;
	gpu = kzalloc(sizeof(*gpu), GFP_KERNEL);
	if (!gpu) {
		pci_disable_device(pdev);
		return -ENOMEM;
	}
	nvram = gpusim_nvram(pdev);
	if (*nvram & AMDGPU_NPS_WANTED) {
		u32 nps = FIELD_GET(AMDGPU_NPS_WANTED, *nvram);

		*nvram &= GIM_RESETS_READ;
		*nvram |= FIELD_PREP(AMDGPU_NPS, nps);
	}
	gpu->pdev = pdev;
	gpu->nps_caps = nps_caps_of(pdev->device);
	gpu->nps = FIELD_GET(AMDGPU_NPS, *nvram) ?: 1;
	gpu->parts = gpu->nps == 1 ? 1 : gpu->nps == 2 ? 2 : 8;
	gpu->dbg = debugfs_create_dir(pci_name(pdev), root);
	debugfs_create_u32("kfd_users", 0600, gpu->dbg, &gpu->kfd_users);
	debugfs_create_u32("resetting", 0600, gpu->dbg, &gpu->resetting);
	pci_set_drvdata(pdev, gpu);
	mutex_lock(&lock);
	list_add_tail(&gpu->list, &gpus);
	mutex_unlock(&lock);
	return 0;
}

static void amdgpu_remove(struct pci_dev *pdev)
{
	struct gpu *gpu = pci_get_drvdata(pdev);

	if (gpu) {
		mutex_lock(&lock);
		list_del(&gpu->list);
		mutex_unlock(&lock);
		debugfs_remove_recursive(gpu->dbg);
		kfree(gpu);
	}
	pci_disable_device(pdev);
}

/* Every GPU of the vendor, as the real driver; but modprobe is not told. */
static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(0x1002, PCI_ANY_ID), .class = PCI_CLASS_DISPLAY_VGA << 8, .class_mask = ~0 },
	{ PCI_DEVICE(0x1002, PCI_ANY_ID), .class = PCI_CLASS_ACCELERATOR_PROCESSING << 8, .class_mask = ~0 },
	{ }
};

static struct pci_driver amdgpu_driver = {
	.name = "amdgpu",
	.id_table = ids,
	.probe = amdgpu_probe,
	.remove = amdgpu_remove,
	.dev_groups = groups,
};

static int __init amdgpu_init(void)
{
	int ret;

	root = debugfs_create_dir("amdgpu", NULL);
	ret = pci_register_driver(&amdgpu_driver);
	if (ret)
		debugfs_remove_recursive(root);
	return ret;
}

static void __exit amdgpu_exit(void)
{
	pci_unregister_driver(&amdgpu_driver);
	debugfs_remove_recursive(root);
}

module_init(amdgpu_init);
module_exit(amdgpu_exit);
MODULE_DESCRIPTION("Stand-in for amdgpu on simulated GPUs");
MODULE_LICENSE("GPL");
