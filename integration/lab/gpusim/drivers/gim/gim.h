/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A stand-in for AMD's GIM: its interface as far as a manager of devices sees
 * it, written from what is documented and observed of it.
 */
#ifndef GPUSIM_GIM_H
#define GPUSIM_GIM_H

#include "../../hardware/gpusim.h"

#include <linux/completion.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/workqueue.h>

#define GIM_GPUS	32
#define GIM_VFS		31
#define GIM_GUARDS	6

/* The first drivers (8) have bind and unbind; the newest (9) leave what is not theirs. */
extern uint gim_generation;

/* What is legal with so many VFs: memory modes are NPS numbers, compute modes numbers of partitions. */
struct gim_mode {
	u8 vfs, nps, parts;
};

struct gim_asic {
	u16 device;
	u8 xcc;
	const struct gim_mode *modes;	/* NULL: the GPU has no partitions */
};

struct gim_guard {
	u32 state, valid, total, threshold;
};

struct gim_gpu {
	struct list_head list;		/* those that are initialised */
	struct pci_dev *pdev;
	const struct gim_asic *asic;
	struct completion init_over;
	struct task_struct *init;
	struct work_struct reset;
	struct dentry *dbg;
	uint index, vfs;
	u32 nps, parts, wanted_nps;	/* wanted: requested, in force after the reset; 0: none */
	bool live, self_switch, hold_reset;
	struct gim_guard guards[GIM_VFS][GIM_GUARDS];
	u32 refusals;
};

extern struct mutex gim_lock;		/* the list, modes and guards of all */
extern struct list_head gim_gpus;

/* pci.c: the VF behind an index, with a reference, or NULL; is a VF of the GPU enabled by anybody? */
struct pci_dev *gim_vf(struct gim_gpu *gpu, uint index);
bool gim_vf_in_use(struct gim_gpu *gpu, bool tell);

/* config.c: the module's options and /etc/gim_config */
int gim_config_load(void);
void gim_config_save(void);
void gim_config_forget(void);
void gim_config_set_modes(u32 nps, u32 parts);
void gim_config_modes(u32 *nps, u32 *parts);
uint gim_config_vfs(uint index);
bool gim_config_enabled(const char *address);
u32 gim_config_pf_mb(uint index);

/* asics.c: sorted as the driver probes them */
extern const struct gim_asic gim_asics[];
extern const uint gim_asics_count;
const char *gim_mode_name(u32 parts);
bool gim_legal(const struct gim_gpu *gpu, u32 nps, u32 parts);
u32 gim_default_parts(const struct gim_gpu *gpu, u32 nps);
/* compute modes that are legal in some memory mode; both return how many */
uint gim_profiles(const struct gim_gpu *gpu, u32 *parts);
uint gim_memory_modes(const struct gim_gpu *gpu, u32 parts, u32 *nps);

/* partition.c: an errno is a refusal, whose reason is in the kernel's log */
void gim_modes_init(struct gim_gpu *gpu);
int gim_set_compute(struct gim_gpu *gpu, u32 profile);
int gim_set_memory(struct gim_gpu *gpu, u32 nps);
void gim_hold_reset(struct gim_gpu *gpu, bool hold);
void gim_reset_work(struct work_struct *w);

/* files.c, guard.c */
extern const struct attribute_group gim_gpu_group;
extern struct device_attribute dev_attr_guard_status, dev_attr_guard_threshold;
ssize_t gim_guard_text(struct gim_gpu *gpu, char *buf, int at);
int gim_driver_files(struct device_driver *drv);
void gim_driver_files_gone(struct device_driver *drv);

/* control.c */
u32 gim_vf_fb_mb(struct gim_gpu *gpu);
void gim_control_init(void);
void gim_control_exit(void);
void gim_control_add(struct gim_gpu *gpu);
void gim_control_del(struct gim_gpu *gpu);

#endif
