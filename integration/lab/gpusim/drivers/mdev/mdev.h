/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef GPUSIM_MDEV_H
#define GPUSIM_MDEV_H

#include <linux/mdev.h>
#include <linux/mutex.h>
#include <linux/pci.h>

struct gm_type {
	u32 id;
	const char *name;
	u32 fb;
};

struct gm_parent;

/* One per PF, shared by its VFs: the framebuffer they all draw on. */
struct gm_card {
	struct gm_parent *self;		/* the PF, when it is a parent */
	struct mutex lock;
	u32 fb_free;
	bool on_vfs;			/* one device per VF, none on the PF */
};

#define GM_NTYPES 3

struct gm_mtype {
	struct mdev_type type;
	struct gm_parent *parent;
	const struct gm_type *t;
};

struct gm_parent {
	struct gm_card *card;
	struct pci_dev *pdev;
	u32 mdevs;
	struct mdev_parent parent;
	struct gm_mtype mt[GM_NTYPES];
	struct mdev_type *mtp[GM_NTYPES];
};

#define GM_FB_MB 49152

extern struct mdev_driver gm_mdev_driver;
struct gm_parent *gm_parent_add(struct pci_dev *pdev, struct gm_card *card);
void gm_parent_del(struct gm_parent *p);

#endif
