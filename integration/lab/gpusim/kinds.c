// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which PFs a load makes.  "kinds" lists them, for example
 * kinds=sriov*2,mdev-pf,nvidia-vfio; the n-th PF is domain_base + n.
 * Every kind has a preset; the array parameters replace a value per PF.
 * In an array 0 means the preset, and the last value holds for all further PFs.
 */
#include "gpusim.h"

#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#define GS_MAX_PFS 256

static char *kinds = "sriov";
module_param(kinds, charp, 0444);
MODULE_PARM_DESC(kinds, "PFs to make: sriov, nvidia-vfio, mdev-pf, mdev-vf, each with an optional *COUNT");

uint gs_domain_base = 1, gs_vf_offset = 16, gs_vf_stride = 1, gs_pf_bar_kb, gs_vf_bar_kb;
module_param_named(domain_base, gs_domain_base, uint, 0444);
module_param_named(vf_offset, gs_vf_offset, uint, 0444);
module_param_named(vf_stride, gs_vf_stride, uint, 0444);
module_param_named(pf_bar_kb, gs_pf_bar_kb, uint, 0444);
module_param_named(vf_bar_kb, gs_vf_bar_kb, uint, 0444);

/* the variables have a prefix because the kernel has names such as numa_node of its own */
#define GS_ARRAY(name, type) \
	static type p_##name[GS_MAX_PFS]; \
	static int n_##name; \
	module_param_array_named(name, p_##name, type, &n_##name, 0444)

GS_ARRAY(vendor, uint);
GS_ARRAY(device, uint);
GS_ARRAY(vf_device, uint);
GS_ARRAY(subvendor, uint);
GS_ARRAY(subdevice, uint);
GS_ARRAY(class, uint);
GS_ARRAY(total_vfs, uint);
GS_ARRAY(fb_mb, uint);
GS_ARRAY(numa_node, int);
GS_ARRAY(present_delay_ms, uint);
GS_ARRAY(probe_delay_ms, uint);
MODULE_PARM_DESC(present_delay_ms, "the PF appears this long after the load, as a slow card does");
MODULE_PARM_DESC(probe_delay_ms, "the PF's driver takes this long to bind");

static const struct {
	const char *name;
	struct gs_spec spec;
} presets[] = {
	/* MI300X: plain SR-IOV, the VFs are left without a driver */
	{ "sriov", { GS_SRIOV, 0x1002, 0x74a1, 0x74b5, 0x1002, 0x74a1, 0x120000, 8, 0 } },
	/* A40: the VF stays on the vendor's driver, which is a vfio driver */
	{ "nvidia-vfio", { GS_NVIDIA_VFIO, 0x10de, 0x2235, 0x2235, 0x10de, 0x145a, 0x030200, 16, 49152 } },
	/* T4: mdev types on the PF */
	{ "mdev-pf", { GS_MDEV_PF, 0x10de, 0x1eb8, 0x1eb8, 0x10de, 0x12a2, 0x030200, 16, 49152 } },
	/* A10: mdev types on each VF, one device per VF */
	{ "mdev-vf", { GS_MDEV_VF, 0x10de, 0x2236, 0x2236, 0x10de, 0x1482, 0x030200, 16, 49152 } },
};

static uint gs_pick(const uint *values, int n, int i, uint preset)
{
	uint v = n ? values[min(i, n - 1)] : 0;

	return v ? v : preset;
}
#define GS_PICK(name, preset) gs_pick(p_##name, n_##name, i, preset)

static void spec_fill(struct gs_spec *s, int i)
{
	s->vendor = GS_PICK(vendor, s->vendor);
	s->device = GS_PICK(device, s->device);
	s->vf_device = GS_PICK(vf_device, s->vf_device);
	s->subvendor = GS_PICK(subvendor, s->subvendor);
	s->subdevice = GS_PICK(subdevice, s->subdevice);
	s->class = GS_PICK(class, s->class);
	s->total_vfs = GS_PICK(total_vfs, s->total_vfs);
	s->fb_mb = GS_PICK(fb_mb, s->fb_mb);
	s->node = n_numa_node ? p_numa_node[min(i, n_numa_node - 1)] : NUMA_NO_NODE;
	s->present_delay_ms = GS_PICK(present_delay_ms, 0);
	s->probe_delay_ms = GS_PICK(probe_delay_ms, 0);
}

static int spec_append(struct gs_spec *specs, int n, char *word)
{
	char *star = strchr(word, '*');
	uint count = 1, i, k;

	if (star) {
		*star = 0;
		if (kstrtouint(star + 1, 10, &count))
			return -EINVAL;
	}
	for (k = 0; k < ARRAY_SIZE(presets); k++)
		if (!strcmp(word, presets[k].name))
			break;
	if (k == ARRAY_SIZE(presets) || !count || n + count > GS_MAX_PFS) {
		pr_err("kinds: cannot use \"%s\"\n", word);
		return -EINVAL;
	}
	for (i = 0; i < count; i++, n++) {
		specs[n] = presets[k].spec;
		spec_fill(&specs[n], n);
		if (gs_vf_offset + gs_vf_stride * (specs[n].total_vfs - 1) > 0xffff)
			return -ERANGE;
	}
	return n;
}

/* Returns the number of PFs; the caller frees *specs. */
int gs_specs_parse(struct gs_spec **specs)
{
	char *text = kstrdup(kinds, GFP_KERNEL), *rest = text, *word;
	int n = 0;

	*specs = kcalloc(GS_MAX_PFS, sizeof(**specs), GFP_KERNEL);
	if (!text || !*specs)
		n = -ENOMEM;
	else if (!gs_vf_offset || !gs_vf_stride || gs_domain_base > 0x10000 - GS_MAX_PFS)
		n = -EINVAL;
	while (n >= 0 && (word = strsep(&rest, ",")))
		n = spec_append(*specs, n, word);
	kfree(text);
	if (n <= 0) {
		kfree(*specs);
		*specs = NULL;
		return n ? n : -EINVAL;
	}
	return n;
}
