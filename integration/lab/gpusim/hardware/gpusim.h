/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the simulated hardware offers to the stand-in drivers.  A driver binds
 * by PCI id as the real one does and calls:
 *
 *	gpusim_probe()		first in its probe, for PFs and VFs
 *	gpusim_enable_vfs()	in place of pci_enable_sriov()
 *
 * so that a test can delay and break them, see faults.c.
 */
#ifndef GPUSIM_H
#define GPUSIM_H

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/pci.h>

/*
 * 0, or the errno with which the probe has to fail: -ENODEV for a function that
 * is not simulated, and for the first probe of a slow one (a worker repeats it
 * outside of the rescan lock).  Sleeps for the injected delay.
 */
int gpusim_probe(struct pci_dev *pdev);

/* Enables up to n VFs; returns how many, or an errno.  Takes no locks. */
int gpusim_enable_vfs(struct pci_dev *pf, int n);

/* The card's memory in MiB, as a driver would read it from a register. */
u32 gpusim_fb_mb(struct pci_dev *pdev);

/* A word of the card's non-volatile memory, 0 when it was made: outlives drivers. */
u32 *gpusim_nvram(struct pci_dev *pdev);

static inline void gpusim_put16(u8 *p, u16 v)
{
	p[0] = v;
	p[1] = v >> 8;
}

static inline void gpusim_put32(u8 *p, u32 v)
{
	gpusim_put16(p, v);
	gpusim_put16(p + 2, v >> 16);
}

#endif
