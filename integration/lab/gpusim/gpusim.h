/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * gpusim - simulated SR-IOV and vGPU devices for testing device managers.
 *
 * Every simulated physical function (PF) sits on a PCI host bridge of its own
 * (own PCI domain) whose configuration space is kept in memory.  The PCI core
 * enumerates it as usual, creates the virtual functions itself from the SR-IOV
 * capability, and a small recording-only IOMMU driver gives every function a
 * real iommu group, so that stock vfio-pci can bind and open it.
 *
 * Never load this outside of a throw-away virtual machine.
 */
#ifndef GPUSIM_H
#define GPUSIM_H

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/mdev.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

enum gs_kind { GS_SRIOV, GS_NVIDIA_VFIO, GS_MDEV_PF, GS_MDEV_VF };

/* What one PF is made of; see kinds.c for the presets and the parameters. */
struct gs_spec {
	enum gs_kind kind;
	u16 vendor, device, vf_device, subvendor, subdevice;
	u32 class;
	u32 total_vfs, fb_mb;
	int node;
	u32 present_delay_ms, probe_delay_ms;
};

struct gs_type {
	u32 id;
	const char *name;
	u32 fb;
};

#define GS_NTYPES 3
extern const struct gs_type gs_types[GS_NTYPES];

struct gs_mtype {
	struct mdev_type type;
	struct gs_slot *slot;
	const struct gs_type *t;
};

#define GS_PF_CFG	4096
#define GS_VF_CFG	0x110
#define GS_CAP_EXP	0x40
#define GS_CAP_IOV	0x100
#define GS_CAP_DSN	0x150

/* A place for a vGPU: a VF, or for mdev on the PF the PF itself. */
struct gs_slot {
	struct gs_pf *pf;
	const struct gs_type *cur;	/* nvidia-vfio: current_vgpu_type */
	u32 mdevs;
	struct mdev_parent parent;
	struct gs_mtype mt[GS_NTYPES];
	struct mdev_type *mtp[GS_NTYPES];
	bool parent_on;
	u8 cfg[GS_VF_CFG];
};

struct gs_pf {
	struct pci_sysdata sd;		/* bus->sysdata points here */
	struct gs_spec spec;
	struct pci_host_bridge *bridge;
	struct resource win, busn;
	raw_spinlock_t lock;		/* configuration space, gone */
	u8 cfg[GS_PF_CFG], wmask[GS_PF_CFG], vf_wmask[GS_VF_CFG];
	struct gs_slot *vf;
	struct gs_slot self;
	struct mutex mgr;		/* framebuffer budget */
	u32 fb_free;
	bool gone;
	u64 serial;
	struct dentry *dbg;
	u32 fail_errno, fail_count, delay_ms, cap_vfs, probe_delay_ms;
	struct delayed_work appear;
	struct work_struct attach;	/* a probe outside the rescan lock */
	struct pci_dev *attach_dev;
	bool fresh;			/* added and not probed yet */
};

/* kinds.c */
extern uint gs_domain_base, gs_vf_offset, gs_vf_stride, gs_pf_bar_kb, gs_vf_bar_kb;
int gs_specs_parse(struct gs_spec **specs);

/* config.c: configuration space and host bridge */
struct gs_pf *gs_pf_of(struct pci_dev *pdev);
struct gs_pf *gs_pf_add(uint idx, const struct gs_spec *spec);
void gs_pf_del(struct gs_pf *pf);
void gs_set_present(struct gs_pf *pf, bool present);

/* iommu.c */
int gs_iommu_init(void);
void gs_iommu_exit(void);
long gs_iommu_mapped_pages(void);

/* mdev.c */
extern struct mdev_driver gs_mdev_drv;
int gs_parent_add(struct gs_slot *slot, struct pci_dev *pdev);
void gs_parent_del(struct gs_slot *slot);

/* vf.c: VFs of kind nvidia-vfio, a vfio variant driver */
extern const struct attribute_group *gs_nvidia_groups[];
int gs_vf_probe(struct pci_dev *pdev);
void gs_vf_remove(struct pci_dev *pdev);

/* drivers.c */
int gs_drivers_register(const struct gs_spec *specs, int n);
void gs_drivers_unregister(void);
void gs_attach_work(struct work_struct *w);

/* debugfs.c */
void gs_debugfs_init(void);
void gs_debugfs_exit(void);
void gs_debugfs_add(struct gs_pf *pf);

static inline void gs_put16(u8 *p, u16 v)
{
	p[0] = v;
	p[1] = v >> 8;
}

static inline void gs_put32(u8 *p, u32 v)
{
	gs_put16(p, v);
	gs_put16(p + 2, v >> 16);
}

#endif
