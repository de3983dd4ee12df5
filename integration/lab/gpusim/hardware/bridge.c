// SPDX-License-Identifier: GPL-2.0-only
/* The host bridge of a PF, and the card that sits in its slot or does not. */
#include "hardware.h"

#include <linux/slab.h>

/* Surprise removal: the link is dead before anyone is told. And the return. */
void gs_set_present(struct gs_pf *pf, bool present)
{
	struct pci_bus *bus = pf->bridge->bus;
	struct pci_dev *pdev, *t;

	pci_lock_rescan_remove();
	if (!present && !pf->gone) {
		raw_spin_lock_irq(&pf->lock);
		pf->gone = true;
		raw_spin_unlock_irq(&pf->lock);
		list_for_each_entry(pdev, &bus->devices, bus_list)
			pdev->error_state = pci_channel_io_perm_failure;
		pdev = pci_get_slot(bus, 0);
		if (pdev) {
			pci_stop_and_remove_bus_device(pdev);
			pci_dev_put(pdev);
		}
		list_for_each_entry_safe(pdev, t, &bus->devices, bus_list)
			pci_stop_and_remove_bus_device(pdev);
	} else if (present && pf->gone) {
		raw_spin_lock_irq(&pf->lock);
		gs_cfg_init(pf);
		pf->gone = false;
		raw_spin_unlock_irq(&pf->lock);
		pci_rescan_bus(bus);
	}
	pci_unlock_rescan_remove();
}

static void gs_appear_work(struct work_struct *w)
{
	gs_set_present(container_of(to_delayed_work(w), struct gs_pf, appear), true);
}

static int gs_window(struct gs_pf *pf, struct pci_host_bridge *br)
{
	u64 pfb = (u64)pf->spec.pf_bar_kb << 10, vfb = (u64)pf->spec.vf_bar_kb << 10;
	u64 size = ALIGN(pfb, vfb ?: 1) + vfb * pf->spec.vfs;
	u64 align = roundup_pow_of_two(max3(pfb, vfb, (u64)SZ_1M));
	int ret;

	if (!size)
		return 0;
	pf->win.name = "gpusim window";
	pf->win.flags = IORESOURCE_MEM | IORESOURCE_PREFETCH | IORESOURCE_MEM_64;
	ret = allocate_resource(&iomem_resource, &pf->win, ALIGN(size, SZ_1M), 1ULL << 36,
				(1ULL << boot_cpu_data.x86_phys_bits) - 1, align, NULL, NULL);
	if (!ret)
		pci_add_resource(&br->windows, &pf->win);
	return ret;
}

struct gs_pf *gs_pf_add(const struct gs_spec *spec)
{
	struct gs_pf *pf = kvzalloc(sizeof(*pf), GFP_KERNEL);
	struct pci_host_bridge *br;
	int ret = -ENOMEM;

	if (!pf)
		return ERR_PTR(-ENOMEM);
	pf->spec = *spec;
	pf->vf = kvcalloc(spec->vfs, sizeof(*pf->vf), GFP_KERNEL);
	br = pci_alloc_host_bridge(0);
	if (!pf->vf || !br)
		goto err;
	raw_spin_lock_init(&pf->lock);
	INIT_DELAYED_WORK(&pf->appear, gs_appear_work);
	pf->probe_delay_ms = spec->probe_delay_ms;
	gs_cfg_init(pf);
	pf->gone = spec->present_delay_ms;
	pf->sd.domain = spec->domain;
	pf->sd.node = spec->node;

	pf->busn = DEFINE_RES_NAMED(0, 256, "gpusim bus", IORESOURCE_BUS);
	pci_add_resource(&br->windows, &pf->busn);
	ret = gs_window(pf, br);
	if (ret)
		goto err;
	br->sysdata = &pf->sd;
	br->ops = &gs_pci_ops;
	br->busnr = 0;
	pf->bridge = br;
	gs_faults_add(pf);
	ret = pci_host_probe(br);
	if (ret)
		goto err_faults;
	if (spec->present_delay_ms)
		schedule_delayed_work(&pf->appear, msecs_to_jiffies(spec->present_delay_ms));
	return pf;
err_faults:
	gs_faults_cancel(pf);
err:
	if (pf->win.parent)
		release_resource(&pf->win);
	if (br)
		pci_free_host_bridge(br);
	kvfree(pf->vf);
	kvfree(pf);
	return ERR_PTR(ret);
}

void gs_pf_del(struct gs_pf *pf)
{
	cancel_delayed_work_sync(&pf->appear);
	gs_faults_cancel(pf);
	pci_lock_rescan_remove();
	pci_stop_root_bus(pf->bridge->bus);
	pci_remove_root_bus(pf->bridge->bus);
	pci_unlock_rescan_remove();
	if (pf->win.parent)
		release_resource(&pf->win);
	pci_free_host_bridge(pf->bridge);
	kvfree(pf->vf);
	kvfree(pf);
}
