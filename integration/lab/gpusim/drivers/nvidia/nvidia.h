/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A stand-in for NVIDIA's vGPU host driver: its sysfs files with their texts,
 * order of checks and errno, as far as they are known in public.  No line of it
 * is NVIDIA's.
 */
#ifndef GPUSIM_NVIDIA_H
#define GPUSIM_NVIDIA_H

#include "../../hardware/gpusim.h"

#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mdev.h>
#include <linux/mutex.h>

/* Where the vGPUs of a card are made. */
enum nv_kind { NV_NONE, NV_ON_PF, NV_ON_VFS };

/* A framebuffer size: how many fit, and where, in units of placement ids. */
struct nv_size {
	u16 gb;
	u8 equal, mixed;	/* most on a card, when all are of this size; else */
	const char *ids;	/* placement ids in mixed-size mode */
};

#define NV_NO_GI 0xff
#define NV_PER_VM 1	/* most vGPUs of a card that one VM can have */

struct nv_type {
	u16 id;
	const char *name;
	u16 gb;
	u8 gi_profile;		/* MIG-backed: needs a GPU instance of this profile */
};

struct nv_gi_profile {
	u8 id;
	const char *name;
	u8 compute, memory;	/* slices */
	u8 most;
	u16 gb;
};

struct nv_card {
	u16 device;
	const char *name;
	enum nv_kind kind;
	bool mixed;		/* knows mixed sizes */
	u16 region;		/* placement units */
	u8 compute, memory;	/* MIG slices, 0: no MIG */
	const struct nv_type *types;
	int n_types;
	const struct nv_size *sizes;
	const struct nv_gi_profile *gi_profiles;
};

struct nv_gi {
	const struct nv_gi_profile *profile;	/* NULL: free */
	u8 start;
};

#define NV_MAX_VFS	64
#define NV_MAX_GIS	8

/* A vGPU that exists: on a VF, or an mdev. */
struct nv_vgpu {
	struct list_head list;
	const struct nv_type *type;
	int placement;
	int gi;			/* -1: time-sliced */
	int vf;			/* -1: on the PF */
	bool open;
	pid_t vm;		/* who has it open */
	const char *uuid;	/* of the mdev */
};

/* What the driver knows of a PF while it is bound.  VFs and mdevs hold it. */
struct nv_gpu {
	struct kref ref;
	struct list_head list;
	struct pci_dev *pdev;
	const struct nv_card *card;
	struct mutex lock;		/* all below */
	bool gone;			/* the PF was unbound */
	struct list_head vgpus;
	bool mixed;
	struct nv_gi gis[NV_MAX_GIS];
	bool vf_broken[NV_MAX_VFS];	/* was unbound by hand */
	bool vf_wedged[NV_MAX_VFS];
	char scheduler[32];
	u32 clients;			/* that have NVML open */
	bool unbind_lock;
	/* faults */
	u32 lock_refusals, create_refusals, leave_unbound;
	struct nv_parent *parent;	/* of a card with vGPUs on the PF */
	struct dentry *dbg;
	struct proc_dir_entry *proc;
};

/* catalogue.c */
const struct nv_card *nv_card_of(u16 device);
const struct nv_type *nv_type_of(const struct nv_card *card, unsigned long id);
uint nv_type_mb(struct nv_gpu *gpu, const struct nv_type *t);
const struct nv_size *nv_size_of(const struct nv_card *card, u16 gb);

/* placement.c: which vGPUs there are and can be; callers hold gpu->lock */
bool nv_mig(struct nv_gpu *gpu);
bool nv_next_mig(struct nv_gpu *gpu);
void nv_reset_mig(struct nv_gpu *gpu);
uint nv_creatable(struct nv_gpu *gpu, const struct nv_type *t, bool same_type);
uint nv_max_instances(struct nv_gpu *gpu, const struct nv_type *t);
int nv_create(struct nv_gpu *gpu, struct nv_vgpu *v, const struct nv_type *t, bool same_type);
void nv_destroy(struct nv_vgpu *v);
int nv_start(struct nv_gpu *gpu, struct nv_vgpu *v, const char *params);
int nv_gi_create(struct nv_gpu *gpu, const char *profile);
int nv_gi_destroy(struct nv_gpu *gpu, uint gi);
int nv_set_mixed(struct nv_gpu *gpu, bool on);
int nv_set_mig(struct nv_gpu *gpu, bool on);

#define NV_PARAMS 256
ssize_t nv_params_store(char *params, const char *buf, size_t n);

/* pci.c */
extern const char *nv_framework;
struct nv_gpu *nv_gpu_get(struct pci_dev *pf);
void nv_gpu_put(struct nv_gpu *gpu);
int nv_vf_index(struct pci_dev *vf);

/* vf.c: vendor-specific VFIO on VFs */
extern const struct attribute_group *nv_vf_groups[];
int nv_vf_probe(struct pci_dev *pdev, struct nv_gpu *gpu);
void nv_vf_remove(struct pci_dev *pdev);

/* mdev.c */
extern struct mdev_driver nv_mdev_driver;
struct nv_parent *nv_parent_add(struct pci_dev *pdev, struct nv_gpu *gpu);
void nv_parent_del(struct nv_parent *p);

/* control.c: what sriov-manage and nvidia-smi act on */
void nv_control_init(void);
void nv_control_exit(void);
void nv_control_add(struct nv_gpu *gpu);
void nv_control_del(struct nv_gpu *gpu);

/* registry.c: options of the module */
void nv_registry_init(struct proc_dir_entry *dir);
const char *nv_scheduler(struct pci_dev *pdev);

#endif
