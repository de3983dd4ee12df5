// SPDX-License-Identifier: GPL-2.0-only
/*
 * Holds a PF while its VFs are enabled, and leaves them when it goes, as
 * pci-pf-stub does, whose name it has; only through driver_override.
 */
#include "../../hardware/gpusim.h"

#include <linux/module.h>

static int stub_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return pdev->is_virtfn ? -ENODEV : gpusim_probe(pdev);
}

static int stub_sriov_configure(struct pci_dev *pdev, int n)
{
	if (n)
		return gpusim_enable_vfs(pdev, n);
	pci_disable_sriov(pdev);
	return 0;
}

static const struct pci_device_id stub_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID) },
	{ }
};

static struct pci_driver stub_driver = {
	.name = "pci-pf-stub",
	.id_table = stub_ids,
	.probe = stub_probe,
	.sriov_configure = stub_sriov_configure,
};
module_pci_driver(stub_driver);
MODULE_DESCRIPTION("Stub driver for simulated PFs");
MODULE_LICENSE("GPL");
