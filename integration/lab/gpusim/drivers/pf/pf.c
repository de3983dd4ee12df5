// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plain SR-IOV driver: VFs through sriov_numvfs.  It knows a few cards; others
 * are given to it through new_id, as VFs that nobody binds.
 */
#include "../../hardware/gpusim.h"

#include <linux/module.h>

/* What becomes of the VFs. */
enum { VFS_FREE, VFS_BOUND };

static int pf_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int ret;

	if (pdev->is_virtfn && id->driver_data != VFS_BOUND)
		return -ENODEV;		/* the VFs are for vfio-pci */
	ret = gpusim_probe(pdev);
	if (ret || pdev->is_virtfn)
		return ret;
	return pci_enable_device(pdev);
}

static void pf_remove(struct pci_dev *pdev)
{
	if (pdev->is_virtfn)
		return;
	pci_disable_sriov(pdev);
	pci_disable_device(pdev);
}

static int pf_sriov_configure(struct pci_dev *pdev, int n)
{
	if (n)
		return gpusim_enable_vfs(pdev, n);
	pci_disable_sriov(pdev);
	return 0;
}

/* No device table for modprobe: a scenario says which driver its cards get. */
static const struct pci_device_id pf_ids[] = {
	{ PCI_DEVICE(0x1002, 0x74a1) },
	{ PCI_DEVICE(0x1002, 0x74b5) },
	{ PCI_DEVICE(0x10de, 0x2235), .driver_data = VFS_BOUND },
	{ }
};

static struct pci_driver pf_driver = {
	.name = "gpusim",
	.id_table = pf_ids,
	.probe = pf_probe,
	.remove = pf_remove,
	.sriov_configure = pf_sriov_configure,
};
module_pci_driver(pf_driver);
MODULE_DESCRIPTION("Plain SR-IOV driver for simulated GPUs");
MODULE_LICENSE("GPL");
