/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * gpusim - simulated SR-IOV capable GPUs for testing device managers.
 *
 * Every simulated physical function (PF) sits on a PCI host bridge of its own
 * (own PCI domain) whose configuration space is kept in memory.  The PCI core
 * enumerates it as usual, creates the virtual functions itself from the SR-IOV
 * capability, and a small recording-only IOMMU driver gives every function a
 * real iommu group, so that stock vfio-pci can bind and open it.
 *
 * Never load this outside of a throw-away virtual machine.
 */
#ifndef GPUSIM_HARDWARE_H
#define GPUSIM_HARDWARE_H

#include "gpusim.h"

#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

enum gs_group { GROUP_EACH, GROUP_PF, GROUP_TOPOLOGY };

/* What one PF is made of; see cards.c for the presets and the keys. */
struct gs_spec {
	u32 vendor, device, vf_device, subvendor, subdevice, vf_subdevice, class;
	u32 vfs, offset, stride, pf_bar_kb, vf_bar_kb, fb_mb;
	u32 node, group, domain, nvram;
	u32 present_delay_ms, probe_delay_ms;
	u64 serial;			/* 0: without the capability */
};

#define GS_PF_CFG	4096
#define GS_VF_CFG	0x110
#define GS_CAP_EXP	0x40
#define GS_CAP_IOV	0x100
#define GS_CAP_DSN	0x150

struct gs_vf {
	u8 cfg[GS_VF_CFG];
};

struct gs_pf {
	struct pci_sysdata sd;		/* bus->sysdata points here */
	struct list_head list;
	struct gs_spec spec;
	struct pci_host_bridge *bridge;
	struct resource win, busn;
	raw_spinlock_t lock;		/* configuration space, gone */
	u8 cfg[GS_PF_CFG], wmask[GS_PF_CFG], vf_wmask[GS_VF_CFG];
	struct gs_vf *vf;
	bool gone;
	struct dentry *dbg;
	u32 fail_errno, fail_after, fail_count, delay_ms, cap_vfs, drop;
	u32 probe_delay_ms, vf_probe_delay_ms;
	struct delayed_work appear;
	struct work_struct attach, dropped;
	struct pci_dev *attach_dev;
	bool fresh;			/* added and not probed yet */
};

/* cards.c: returns the number of PFs in the text; the caller frees *specs */
int gs_cards_parse(const char *text, struct gs_spec **specs);

/* config.c: configuration space */
extern struct pci_ops gs_pci_ops;
struct gs_pf *gs_pf_of(struct pci_dev *pdev);
void gs_cfg_init(struct gs_pf *pf);

/* bridge.c: the host bridge of a PF; the card in its slot or not */
struct gs_pf *gs_pf_add(const struct gs_spec *spec);
void gs_pf_del(struct gs_pf *pf);
void gs_set_present(struct gs_pf *pf, bool present);

/* main.c */
int gs_plug(const char *text);
int gs_unplug(u32 domain);

/* iommu.c */
int gs_iommu_init(void);
void gs_iommu_exit(void);
long gs_iommu_mapped_pages(void);

/* faults.c */
void gs_faults_init(void);
void gs_faults_exit(void);
void gs_faults_add(struct gs_pf *pf);
void gs_faults_cancel(struct gs_pf *pf);

#endif
