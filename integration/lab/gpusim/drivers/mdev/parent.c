// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI driver of the cards with mediated devices.  The prefix of their types
 * is the driver's name.
 */
#include "mdev.h"
#include "../../hardware/gpusim.h"

#include <linux/module.h>
#include <linux/slab.h>

static char *driver_name = "nvidia";
module_param(driver_name, charp, 0444);

static int gm_add_card(struct pci_dev *pdev, bool on_vfs)
{
	struct gm_card *card = devm_kzalloc(&pdev->dev, sizeof(*card), GFP_KERNEL);

	if (!card)
		return -ENOMEM;
	mutex_init(&card->lock);
	card->fb_free = GM_FB_MB;
	card->on_vfs = on_vfs;
	pci_set_drvdata(pdev, card);
	return pci_enable_device(pdev);
}

static int gm_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	bool on_vfs = id->driver_data;
	struct gm_parent *p;
	int ret;

	if (pdev->is_virtfn && !on_vfs)
		return -ENODEV;
	ret = gpusim_probe(pdev);
	if (!ret && !pdev->is_virtfn)
		ret = gm_add_card(pdev, on_vfs);
	if (ret || pdev->is_virtfn != on_vfs)
		return ret;
	p = gm_parent_add(pdev, pci_get_drvdata(pci_physfn(pdev)));
	if (IS_ERR(p)) {
		if (!pdev->is_virtfn)
			pci_disable_device(pdev);
		return PTR_ERR(p);
	}
	if (pdev->is_virtfn)
		pci_set_drvdata(pdev, p);
	else
		((struct gm_card *)pci_get_drvdata(pdev))->self = p;
	return 0;
}

static void gm_remove(struct pci_dev *pdev)
{
	struct gm_card *card = pci_get_drvdata(pdev);

	if (pdev->is_virtfn) {
		gm_parent_del(pci_get_drvdata(pdev));
		return;
	}
	if (card->self)
		gm_parent_del(card->self);
	pci_disable_sriov(pdev);
	pci_disable_device(pdev);
}

static int gm_sriov_configure(struct pci_dev *pdev, int n)
{
	if (n)
		return gpusim_enable_vfs(pdev, n);
	pci_disable_sriov(pdev);
	return 0;
}

static const struct pci_device_id gm_ids[] = {
	{ PCI_DEVICE(0x10de, 0x1eb8), .driver_data = false },	/* T4: on the PF */
	{ PCI_DEVICE(0x10de, 0x2236), .driver_data = true },	/* A10: on each VF */
	{ }
};

static struct pci_driver gm_driver = {
	.id_table = gm_ids,
	.probe = gm_probe,
	.remove = gm_remove,
	.sriov_configure = gm_sriov_configure,
};

static int __init gm_init(void)
{
	int ret = mdev_register_driver(&gm_mdev_driver);

	if (ret)
		return ret;
	gm_driver.name = driver_name;
	ret = pci_register_driver(&gm_driver);
	if (ret)
		mdev_unregister_driver(&gm_mdev_driver);
	return ret;
}

static void __exit gm_exit(void)
{
	pci_unregister_driver(&gm_driver);
	mdev_unregister_driver(&gm_mdev_driver);
}

module_init(gm_init);
module_exit(gm_exit);
MODULE_DESCRIPTION("Mediated devices on simulated GPUs");
MODULE_LICENSE("GPL");
