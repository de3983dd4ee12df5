// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two PCI drivers: one for plain SR-IOV PFs, one for the NVIDIA kinds, whose
 * name becomes the prefix of the mdev types (nvidia-558).
 */
#include "gpusim.h"

#include <linux/delay.h>
#include <linux/module.h>
#include <linux/slab.h>

static char *driver_name = "gpusim", *nvidia_driver_name = "nvidia";
module_param(driver_name, charp, 0444);
module_param(nvidia_driver_name, charp, 0444);

static struct pci_driver gs_nvidia_drv;

/*
 * The core probes a hot-plugged function under the global rescan lock.  A slow
 * driver must not hold that for everyone here, so the first probe of a slow PF
 * is refused at once and repeated by a worker.
 */
void gs_attach_work(struct work_struct *w)
{
	struct gs_pf *pf = container_of(w, struct gs_pf, attach);
	struct pci_dev *pdev = pf->attach_dev;

	if (device_attach(&pdev->dev) < 0)
		pci_warn(pdev, "the delayed probe failed\n");
	pci_dev_put(pdev);
}

static bool gs_probe_later(struct gs_pf *pf, struct pci_dev *pdev)
{
	bool later = pf->fresh && pf->probe_delay_ms;

	pf->fresh = false;
	if (!later)
		return false;
	pf->attach_dev = pci_dev_get(pdev);
	if (!schedule_work(&pf->attach))
		pci_dev_put(pdev);
	return true;
}

static int gs_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct gs_pf *pf = gs_pf_of(pdev);
	int ret;

	if (!pf)			/* a real device with the same id */
		return -ENODEV;
	/* overridden ids can match both drivers */
	if ((pf->spec.kind != GS_SRIOV) != (to_pci_driver(pdev->dev.driver) == &gs_nvidia_drv))
		return -ENODEV;
	if (pdev->is_virtfn) {
		if (pf->spec.kind == GS_NVIDIA_VFIO)
			return gs_vf_probe(pdev);
		if (pf->spec.kind == GS_MDEV_VF)
			return gs_parent_add(&pf->vf[pci_iov_vf_id(pdev)], pdev);
		return -ENODEV;		/* the VFs are for vfio-pci */
	}
	if (gs_probe_later(pf, pdev))
		return -ENODEV;
	if (pf->probe_delay_ms)
		msleep(pf->probe_delay_ms);
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	pci_set_drvdata(pdev, pf);
	if (pf->spec.kind == GS_MDEV_PF) {
		ret = gs_parent_add(&pf->self, pdev);
		if (ret)
			pci_disable_device(pdev);
	}
	return ret;
}

static void gs_remove(struct pci_dev *pdev)
{
	struct gs_pf *pf = gs_pf_of(pdev);

	if (!pdev->is_virtfn) {
		gs_parent_del(&pf->self);
		pci_disable_sriov(pdev);
		pci_disable_device(pdev);
	} else if (pf->spec.kind == GS_NVIDIA_VFIO) {
		gs_vf_remove(pdev);
	} else {
		gs_parent_del(&pf->vf[pci_iov_vf_id(pdev)]);
	}
}

static int gs_sriov_configure(struct pci_dev *pdev, int n)
{
	struct gs_pf *pf = pci_get_drvdata(pdev);
	int ret;

	if (!n) {
		pci_disable_sriov(pdev);
		return 0;
	}
	if (pf->delay_ms)
		msleep(pf->delay_ms);
	if (pf->fail_count && pf->fail_errno) {
		pf->fail_count--;
		return -(int)pf->fail_errno;
	}
	if (pf->cap_vfs && n > pf->cap_vfs)
		n = pf->cap_vfs;
	ret = pci_enable_sriov(pdev, n);
	return ret ? ret : n;
}

static struct pci_driver gs_sriov_drv = {
	.probe = gs_probe,
	.remove = gs_remove,
	.sriov_configure = gs_sriov_configure,
};

static struct pci_driver gs_nvidia_drv = {
	.probe = gs_probe,
	.remove = gs_remove,
	.sriov_configure = gs_sriov_configure,
	.dev_groups = gs_nvidia_groups,
	/* as every vfio driver; without it the VF's group would not be viable */
	.driver_managed_dma = true,
};

/* Registers a driver for the PFs it serves and their VFs; none of them is no error. */
static int gs_driver_register(struct pci_driver *drv, const char *name, bool nvidia,
			      const struct gs_spec *specs, int n)
{
	struct pci_device_id *ids = kcalloc(2 * n + 1, sizeof(*ids), GFP_KERNEL);
	int i, used = 0, ret;

	if (!ids)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		if ((specs[i].kind != GS_SRIOV) != nvidia)
			continue;
		ids[used++] = (struct pci_device_id){ PCI_DEVICE(specs[i].vendor, specs[i].device) };
		ids[used++] = (struct pci_device_id){ PCI_DEVICE(specs[i].vendor, specs[i].vf_device) };
	}
	drv->name = name;
	drv->id_table = ids;
	ret = used ? pci_register_driver(drv) : 0;
	if (!used || ret) {
		kfree(ids);
		drv->id_table = NULL;
	}
	return ret;
}

static void gs_driver_unregister(struct pci_driver *drv)
{
	if (!drv->id_table)
		return;
	pci_unregister_driver(drv);
	kfree(drv->id_table);
	drv->id_table = NULL;
}

int gs_drivers_register(const struct gs_spec *specs, int n)
{
	int ret = gs_driver_register(&gs_sriov_drv, driver_name, false, specs, n);

	if (ret)
		return ret;
	ret = gs_driver_register(&gs_nvidia_drv, nvidia_driver_name, true, specs, n);
	if (ret)
		gs_driver_unregister(&gs_sriov_drv);
	return ret;
}

void gs_drivers_unregister(void)
{
	gs_driver_unregister(&gs_nvidia_drv);
	gs_driver_unregister(&gs_sriov_drv);
}
