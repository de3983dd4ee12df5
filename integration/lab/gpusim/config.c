// SPDX-License-Identifier: GPL-2.0-only
/*
 * Configuration space in memory and the host bridge that answers for it.
 * A function's registers are bytes plus a mask of the bits that can be written.
 */
#include "gpusim.h"

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/slab.h>

static unsigned long long serial = 0x6770757300000000ULL;
module_param(serial, ullong, 0444);
MODULE_PARM_DESC(serial, "Device Serial Number of the first PF; the others count up");

/* VFs answer only while VF Enable is set, as the PCI core expects. */
static u8 *gs_find(struct gs_pf *pf, uint bus, uint devfn, u8 **wm, uint *len)
{
	uint rid = bus << 8 | devfn, ctrl, n, i;

	if (pf->gone)
		return NULL;
	if (!rid) {
		*wm = pf->wmask;
		*len = GS_PF_CFG;
		return pf->cfg;
	}
	ctrl = pf->cfg[GS_CAP_IOV + PCI_SRIOV_CTRL];
	n = pf->cfg[GS_CAP_IOV + PCI_SRIOV_NUM_VF] | pf->cfg[GS_CAP_IOV + PCI_SRIOV_NUM_VF + 1] << 8;
	if (!(ctrl & PCI_SRIOV_CTRL_VFE) || rid < gs_vf_offset || (rid - gs_vf_offset) % gs_vf_stride)
		return NULL;
	i = (rid - gs_vf_offset) / gs_vf_stride;
	if (i >= n || i >= pf->spec.total_vfs)
		return NULL;
	*wm = pf->vf_wmask;
	*len = GS_VF_CFG;
	return pf->vf[i].cfg;
}

/* x86 takes no lock around configuration access, hence our own raw one. */
static int gs_cfg_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *val)
{
	struct gs_pf *pf = container_of(bus->sysdata, struct gs_pf, sd);
	unsigned long flags;
	uint len, i;
	u8 *c, *wm;
	u32 v = 0;

	raw_spin_lock_irqsave(&pf->lock, flags);
	c = gs_find(pf, bus->number, devfn, &wm, &len);
	if (c)
		for (i = 0; i < size; i++)
			v |= (where + i < len ? c[where + i] : 0) << (8 * i);
	raw_spin_unlock_irqrestore(&pf->lock, flags);
	*val = c ? v : ~0u;
	return c ? PCIBIOS_SUCCESSFUL : PCIBIOS_DEVICE_NOT_FOUND;
}

static int gs_cfg_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 val)
{
	struct gs_pf *pf = container_of(bus->sysdata, struct gs_pf, sd);
	unsigned long flags;
	uint len, i;
	u8 *c, *wm;

	raw_spin_lock_irqsave(&pf->lock, flags);
	c = gs_find(pf, bus->number, devfn, &wm, &len);
	for (i = 0; c && i < size && where + i < len; i++) {
		u8 m = wm[where + i];

		c[where + i] = (c[where + i] & ~m) | ((val >> (8 * i)) & m);
	}
	raw_spin_unlock_irqrestore(&pf->lock, flags);
	return c ? PCIBIOS_SUCCESSFUL : PCIBIOS_DEVICE_NOT_FOUND;
}

static struct pci_ops gs_pci_ops = { .read = gs_cfg_read, .write = gs_cfg_write };

struct gs_pf *gs_pf_of(struct pci_dev *pdev)
{
	if (pdev->bus->ops != &gs_pci_ops)
		return NULL;
	return container_of(pdev->bus->sysdata, struct gs_pf, sd);
}

static void gs_common(const struct gs_spec *s, u8 *c, u8 *wm, bool vf)
{
	/* a VF reads ffff here: the core takes the ids from the PF's capability */
	gs_put16(c + PCI_VENDOR_ID, vf ? 0xffff : s->vendor);
	gs_put16(c + PCI_DEVICE_ID, vf ? 0xffff : s->device);
	gs_put16(wm + PCI_COMMAND, vf ? PCI_COMMAND_MASTER : PCI_COMMAND_MEMORY |
		 PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
		 PCI_COMMAND_INTX_DISABLE);
	gs_put16(c + PCI_STATUS, PCI_STATUS_CAP_LIST);
	gs_put32(c + PCI_CLASS_REVISION, s->class << 8);
	gs_put16(c + PCI_SUBSYSTEM_VENDOR_ID, s->subvendor);
	gs_put16(c + PCI_SUBSYSTEM_ID, s->subdevice);
	c[PCI_CAPABILITY_LIST] = GS_CAP_EXP;
	c[GS_CAP_EXP] = PCI_CAP_ID_EXP;
	gs_put16(c + GS_CAP_EXP + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_RC_END << 4);
	/* vfio wants a way to reset; the FLR bit itself is never stored, so it reads as done */
	gs_put32(c + GS_CAP_EXP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
	gs_put16(wm + GS_CAP_EXP + PCI_EXP_DEVCTL, 0x7fff);
	gs_put16(wm + GS_CAP_EXP + PCI_EXP_DEVCTL2, 0x7fff);
}

static void gs_bar64(u8 *c, u8 *wm, int pos, u64 size)
{
	if (!size)
		return;
	c[pos] = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
	gs_put32(wm + pos, ~(u32)(size - 1) & ~0xfu);
	gs_put32(wm + pos + 4, ~(u32)((size - 1) >> 32));
}

/* The state after power-on. */
static void gs_cfg_init(struct gs_pf *pf)
{
	u8 *s = pf->cfg + GS_CAP_IOV, *w = pf->wmask + GS_CAP_IOV, *d = pf->cfg + GS_CAP_DSN;
	uint i, vfs = pf->spec.total_vfs;

	memset(pf->cfg, 0, GS_PF_CFG);
	gs_common(&pf->spec, pf->cfg, pf->wmask, false);
	gs_bar64(pf->cfg, pf->wmask, PCI_BASE_ADDRESS_0, (u64)gs_pf_bar_kb << 10);
	gs_put32(s, PCI_EXT_CAP_ID_SRIOV | 1 << 16 | GS_CAP_DSN << 20);
	gs_put16(w + PCI_SRIOV_CTRL, PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE | PCI_SRIOV_CTRL_ARI);
	gs_put16(s + PCI_SRIOV_INITIAL_VF, vfs);
	gs_put16(s + PCI_SRIOV_TOTAL_VF, vfs);
	gs_put16(w + PCI_SRIOV_NUM_VF, 0xffff);
	gs_put16(s + PCI_SRIOV_VF_OFFSET, gs_vf_offset);
	gs_put16(s + PCI_SRIOV_VF_STRIDE, gs_vf_stride);
	gs_put16(s + PCI_SRIOV_VF_DID, pf->spec.vf_device);
	gs_put32(s + PCI_SRIOV_SUP_PGSIZE, 0x553);
	gs_put32(s + PCI_SRIOV_SYS_PGSIZE, 1);
	gs_put32(w + PCI_SRIOV_SYS_PGSIZE, 0x553);
	gs_bar64(s, w, PCI_SRIOV_BAR, (u64)gs_vf_bar_kb << 10);
	gs_put32(d, PCI_EXT_CAP_ID_DSN | 1 << 16);
	gs_put32(d + 4, pf->serial);
	gs_put32(d + 8, pf->serial >> 32);
	for (i = 0; i < vfs; i++) {
		memset(pf->vf[i].cfg, 0, GS_VF_CFG);
		gs_common(&pf->spec, pf->vf[i].cfg, pf->vf_wmask, true);
	}
}

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
	u64 pfb = (u64)gs_pf_bar_kb << 10, vfb = (u64)gs_vf_bar_kb << 10;
	u64 size = ALIGN(pfb, vfb ?: 1) + vfb * pf->spec.total_vfs;
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

struct gs_pf *gs_pf_add(uint idx, const struct gs_spec *spec)
{
	struct gs_pf *pf = kvzalloc(sizeof(*pf), GFP_KERNEL);
	struct pci_host_bridge *br;
	int ret = -ENOMEM;
	uint i;

	if (!pf)
		return ERR_PTR(-ENOMEM);
	pf->spec = *spec;
	pf->vf = kvcalloc(spec->total_vfs, sizeof(*pf->vf), GFP_KERNEL);
	br = pci_alloc_host_bridge(0);
	if (!pf->vf || !br)
		goto err;
	raw_spin_lock_init(&pf->lock);
	mutex_init(&pf->mgr);
	INIT_DELAYED_WORK(&pf->appear, gs_appear_work);
	INIT_WORK(&pf->attach, gs_attach_work);
	pf->fb_free = spec->fb_mb;
	pf->probe_delay_ms = spec->probe_delay_ms;
	pf->serial = serial + idx;
	pf->self.pf = pf;
	for (i = 0; i < spec->total_vfs; i++)
		pf->vf[i].pf = pf;
	gs_cfg_init(pf);
	pf->gone = spec->present_delay_ms;
	pf->sd.domain = gs_domain_base + idx;
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
	ret = pci_host_probe(br);
	if (ret)
		goto err;
	if (spec->present_delay_ms)
		schedule_delayed_work(&pf->appear, msecs_to_jiffies(spec->present_delay_ms));
	gs_debugfs_add(pf);
	return pf;
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
	debugfs_remove_recursive(pf->dbg);
	cancel_delayed_work_sync(&pf->appear);
	cancel_work_sync(&pf->attach);
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
