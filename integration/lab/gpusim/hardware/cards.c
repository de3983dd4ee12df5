// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which cards there are, as text: NAME[*COUNT][:KEY=VALUE]…, separated by
 * commas, for example "mi300x*8,a40:vfs=32:numa_node=1".  A name is a preset of
 * ids and sizes and nothing more; the keys replace its values one by one.
 */
#include "hardware.h"

#include <linux/slab.h>
#include <linux/string.h>

#define GS_MAX_PFS 256

/* vendor, PF, VF, subsystem, VF's subsystem device, class */
#define IDS(v, d, vf, sv, sd, vsd, c) \
	.vendor = v, .device = d, .vf_device = vf, .subvendor = sv, .subdevice = sd, .vf_subdevice = vsd, .class = c
#define AMD(d, vf, c)		IDS(0x1002, d, vf, 0x1002, d, d, c), .offset = 16, .stride = 1
#define NVIDIA(d, sd, c)	IDS(0x10de, d, d, 0x10de, sd, 0, c), .offset = 4, .stride = 1

static const struct {
	const char *name;
	struct gs_spec spec;
} presets[] = {
	{ "mi300x",     { AMD(0x74a1, 0x74b5, 0x120000), .vfs = 8, .fb_mb = 196608 } },
	{ "mi308x",     { AMD(0x74a2, 0x74b6, 0x120000), .vfs = 8, .fb_mb = 196608 } },
	{ "mi325x",     { AMD(0x74a5, 0x74b9, 0x120000), .vfs = 8, .fb_mb = 262144 } },
	{ "mi350x",     { AMD(0x75a0, 0x75b0, 0x120000), .vfs = 8, .fb_mb = 294912 } },
	{ "mi210",      { AMD(0x740f, 0x7410, 0x120000), .vfs = 8, .fb_mb = 65536 } },
	{ "v710",       { AMD(0x7460, 0x7461, 0x030000), .vfs = 12, .fb_mb = 28672 } },
	{ "radeon",     { AMD(0x7480, 0x7480, 0x030000), .vfs = 4, .fb_mb = 16384 } },
	{ "rx6600",     { AMD(0x73ff, 0, 0x030000), .fb_mb = 8192 } },
	{ "p40",        { NVIDIA(0x1b38, 0x11d9, 0x030200), .fb_mb = 24576 } },
	{ "v100",       { NVIDIA(0x1db4, 0x1214, 0x030200), .fb_mb = 16384 } },
	{ "t4",         { NVIDIA(0x1eb8, 0x12a2, 0x030200), .vfs = 16, .fb_mb = 16384 } },
	{ "a100",       { NVIDIA(0x20b5, 0x1533, 0x030200), .vfs = 20, .fb_mb = 81920 } },
	{ "a16",        { NVIDIA(0x25b6, 0x14a9, 0x030200), .vfs = 16, .fb_mb = 16384 } },
	{ "a40",        { NVIDIA(0x2235, 0x145a, 0x030200), .vfs = 32, .fb_mb = 49152 } },
	{ "a10",        { NVIDIA(0x2236, 0x1482, 0x030200), .vfs = 32, .fb_mb = 24576 } },
	{ "h100",       { NVIDIA(0x2321, 0x1839, 0x030200), .vfs = 16, .fb_mb = 96246 } },
	{ "l40s",       { NVIDIA(0x26b9, 0x1851, 0x030200), .vfs = 32, .fb_mb = 49152 } },
	{ "rtxpro6000", { NVIDIA(0x2bb5, 0x204e, 0x030200), .vfs = 32, .fb_mb = 98304 } },
	{ "rtx5090",    { NVIDIA(0x2b85, 0x2057, 0x030000), .fb_mb = 32768 } },
};

#define KEY(k) { #k, offsetof(struct gs_spec, k) }
static const struct {
	const char *name;
	size_t at;
} keys[] = {
	KEY(vendor), KEY(device), KEY(vf_device), KEY(subvendor), KEY(subdevice), KEY(vf_subdevice), KEY(class),
	KEY(vfs), KEY(offset), KEY(stride), KEY(pf_bar_kb), KEY(vf_bar_kb), KEY(fb_mb),
	KEY(group), KEY(domain), KEY(nvram), KEY(present_delay_ms), KEY(probe_delay_ms),
	{ "numa_node", offsetof(struct gs_spec, node) },
};

static int set_key(struct gs_spec *spec, char *pair)
{
	char *value = strchr(pair, '=');
	long long v;
	uint i;

	if (!value)
		return -EINVAL;
	*value++ = 0;
	if (!strcmp(pair, "serial"))
		return kstrtou64(value, 0, &spec->serial);
	if (kstrtoll(value, 0, &v) || v < -1 || v > U32_MAX)
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(pair, keys[i].name)) {
			*(u32 *)((u8 *)spec + keys[i].at) = v;
			return 0;
		}
	return -EINVAL;
}

/* Serials count up over all cards ever made, so that two never share one. */
static u64 next_serial = 0x6770757300000000ULL;

static int parse_word(char *word, struct gs_spec *spec, uint *count)
{
	char *name = strsep(&word, ":"), *star = strchr(name, '*'), *pair;
	uint i;

	*count = 1;
	if (star) {
		*star = 0;
		if (kstrtouint(star + 1, 10, count) || !*count)
			return -EINVAL;
	}
	for (i = 0; i < ARRAY_SIZE(presets) && strcmp(name, presets[i].name); i++)
		;
	if (i == ARRAY_SIZE(presets))
		return -EINVAL;
	*spec = presets[i].spec;
	spec->node = NUMA_NO_NODE;
	spec->serial = next_serial;
	while ((pair = strsep(&word, ":")))
		if (set_key(spec, pair))
			return -EINVAL;
	if (spec->vfs && (!spec->offset || !spec->stride || spec->offset + spec->stride * (spec->vfs - 1) > 0xffff))
		return -ERANGE;
	return spec->group > GROUP_TOPOLOGY ? -EINVAL : 0;
}

int gs_cards_parse(const char *text, struct gs_spec **specs)
{
	char *copy = kstrdup(text, GFP_KERNEL), *rest = copy ? strim(copy) : NULL, *word;
	uint n = 0, count, i;
	int ret = 0;

	*specs = kcalloc(GS_MAX_PFS, sizeof(**specs), GFP_KERNEL);
	if (!copy || !*specs)
		ret = -ENOMEM;
	while (!ret && *rest && (word = strsep(&rest, ","))) {
		struct gs_spec spec;

		ret = parse_word(word, &spec, &count);
		if (!ret && n + count > GS_MAX_PFS)
			ret = -E2BIG;
		for (i = 0; !ret && i < count; i++, n++) {
			(*specs)[n] = spec;
			if (spec.domain)
				(*specs)[n].domain += i;
			if (spec.serial)
				(*specs)[n].serial += i;
			next_serial++;
		}
		if (!rest)
			break;
	}
	kfree(copy);
	if (!ret)
		return n;
	pr_err("cannot make \"%s\": %d\n", text, ret);
	kfree(*specs);
	return ret;
}
