// SPDX-License-Identifier: GPL-2.0-only
/*
 * Configuration space in memory.  A function's registers are bytes plus a mask
 * of the bits that can be written.
 */
#include "hardware.h"

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
	if (!pf->spec.vfs)
		return NULL;
	ctrl = pf->cfg[GS_CAP_IOV + PCI_SRIOV_CTRL];
	n = pf->cfg[GS_CAP_IOV + PCI_SRIOV_NUM_VF] | pf->cfg[GS_CAP_IOV + PCI_SRIOV_NUM_VF + 1] << 8;
	if (!(ctrl & PCI_SRIOV_CTRL_VFE) || rid < pf->spec.offset ||
	    (rid - pf->spec.offset) % pf->spec.stride)
		return NULL;
	i = (rid - pf->spec.offset) / pf->spec.stride;
	if (i >= n || i >= pf->spec.vfs)
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

struct pci_ops gs_pci_ops = { .read = gs_cfg_read, .write = gs_cfg_write };

struct gs_pf *gs_pf_of(struct pci_dev *pdev)
{
	if (pdev->bus->ops != &gs_pci_ops)
		return NULL;
	return container_of(pdev->bus->sysdata, struct gs_pf, sd);
}

static void gs_common(const struct gs_spec *s, u8 *c, u8 *wm, bool vf)
{
	/* a VF reads ffff here: the core takes the ids from the PF's capability */
	gpusim_put16(c + PCI_VENDOR_ID, vf ? 0xffff : s->vendor);
	gpusim_put16(c + PCI_DEVICE_ID, vf ? 0xffff : s->device);
	gpusim_put16(wm + PCI_COMMAND, vf ? PCI_COMMAND_MASTER : PCI_COMMAND_MEMORY |
		 PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
		 PCI_COMMAND_INTX_DISABLE);
	gpusim_put16(c + PCI_STATUS, PCI_STATUS_CAP_LIST);
	gpusim_put32(c + PCI_CLASS_REVISION, s->class << 8);
	gpusim_put16(c + PCI_SUBSYSTEM_VENDOR_ID, s->subvendor);
	gpusim_put16(c + PCI_SUBSYSTEM_ID, vf ? s->vf_subdevice : s->subdevice);
	c[PCI_CAPABILITY_LIST] = GS_CAP_EXP;
	c[GS_CAP_EXP] = PCI_CAP_ID_EXP;
	gpusim_put16(c + GS_CAP_EXP + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_RC_END << 4);
	/* vfio wants a way to reset; the FLR bit itself is never stored, so it reads as done */
	gpusim_put32(c + GS_CAP_EXP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
	gpusim_put16(wm + GS_CAP_EXP + PCI_EXP_DEVCTL, 0x7fff);
	gpusim_put16(wm + GS_CAP_EXP + PCI_EXP_DEVCTL2, 0x7fff);
}

static void gs_bar64(u8 *c, u8 *wm, int pos, u64 size)
{
	if (!size)
		return;
	c[pos] = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
	gpusim_put32(wm + pos, ~(u32)(size - 1) & ~0xfu);
	gpusim_put32(wm + pos + 4, ~(u32)((size - 1) >> 32));
}

static void gs_cap_iov(struct gs_pf *pf)
{
	u8 *s = pf->cfg + GS_CAP_IOV, *w = pf->wmask + GS_CAP_IOV;

	gpusim_put32(s, PCI_EXT_CAP_ID_SRIOV | 1 << 16 | (pf->spec.serial ? GS_CAP_DSN << 20 : 0));
	gpusim_put16(w + PCI_SRIOV_CTRL, PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE | PCI_SRIOV_CTRL_ARI);
	gpusim_put16(s + PCI_SRIOV_INITIAL_VF, pf->spec.vfs);
	gpusim_put16(s + PCI_SRIOV_TOTAL_VF, pf->spec.vfs);
	gpusim_put16(w + PCI_SRIOV_NUM_VF, 0xffff);
	gpusim_put16(s + PCI_SRIOV_VF_OFFSET, pf->spec.offset);
	gpusim_put16(s + PCI_SRIOV_VF_STRIDE, pf->spec.stride);
	gpusim_put16(s + PCI_SRIOV_VF_DID, pf->spec.vf_device);
	gpusim_put32(s + PCI_SRIOV_SUP_PGSIZE, 0x553);
	gpusim_put32(s + PCI_SRIOV_SYS_PGSIZE, 1);
	gpusim_put32(w + PCI_SRIOV_SYS_PGSIZE, 0x553);
	gs_bar64(s, w, PCI_SRIOV_BAR, (u64)pf->spec.vf_bar_kb << 10);
}

/* The state after power-on.  The extended capabilities begin at 0x100, whichever comes first. */
void gs_cfg_init(struct gs_pf *pf)
{
	u8 *dsn = pf->cfg + (pf->spec.vfs ? GS_CAP_DSN : GS_CAP_IOV);
	uint i;

	memset(pf->cfg, 0, GS_PF_CFG);
	gs_common(&pf->spec, pf->cfg, pf->wmask, false);
	gs_bar64(pf->cfg, pf->wmask, PCI_BASE_ADDRESS_0, (u64)pf->spec.pf_bar_kb << 10);
	if (pf->spec.vfs)
		gs_cap_iov(pf);
	if (pf->spec.serial) {
		gpusim_put32(dsn, PCI_EXT_CAP_ID_DSN | 1 << 16);
		gpusim_put32(dsn + 4, pf->spec.serial);
		gpusim_put32(dsn + 8, pf->spec.serial >> 32);
	}
	for (i = 0; i < pf->spec.vfs; i++) {
		memset(pf->vf[i].cfg, 0, GS_VF_CFG);
		gs_common(&pf->spec, pf->vf[i].cfg, pf->vf_wmask, true);
	}
}
