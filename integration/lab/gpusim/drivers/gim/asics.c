// SPDX-License-Identifier: GPL-2.0-only
/* The GPUs that the driver knows by id, and which modes go with which number of VFs. */
#include "gim.h"

static const struct gim_mode mi300x[] = {
	{ 1, 1, 1 }, { 1, 1, 8 }, { 1, 4, 8 },
	{ 2, 1, 2 }, { 2, 1, 8 },
	{ 4, 1, 4 }, { 4, 1, 8 }, { 4, 4, 4 }, { 4, 4, 8 },
	{ 8, 1, 8 }, { 8, 4, 8 },
	{ }
};
static const struct gim_mode mi308x[] = {
	{ 1, 1, 1 }, { 1, 1, 4 }, { 2, 1, 2 }, { 4, 1, 4 }, { }
};
static const struct gim_mode mi350x[] = {
	{ 1, 1, 1 }, { 1, 2, 2 }, { 1, 2, 4 }, { 1, 2, 8 },
	{ 2, 2, 2 }, { 4, 2, 4 }, { 8, 2, 8 },
	{ }
};
static const struct gim_mode single[] = { { 1, 1, 1 }, { } };

/* The order is the probe's: all of the first id, then all of the second. */
const struct gim_asic gim_asics[] = {
	{ 0x74a1, 8, mi300x }, { 0x74a5, 8, single },
	{ 0x74a2, 4, mi308x }, { 0x74a8, 4, mi308x },
	{ 0x74a9, 8, mi300x },
	{ 0x75a0, 8, mi350x }, { 0x75a3, 8, mi350x },
	{ 0x740f, 1, single },
	{ 0x7460, 0, NULL },
	{ 0x7480, 0, NULL },		/* a Radeon as announced */
};
const uint gim_asics_count = ARRAY_SIZE(gim_asics);

const char *gim_mode_name(u32 parts)
{
	switch (parts) {
	case 1: return "SPX";
	case 2: return "DPX";
	case 4: return "QPX";
	case 8: return "CPX";
	}
	return "UNKNOWN";
}

static bool matches(const struct gim_gpu *gpu, const struct gim_mode *m, u32 nps, u32 parts)
{
	return m->vfs == gpu->vfs && (!nps || m->nps == nps) && (!parts || m->parts == parts);
}

/* A mode of 0 stands for any. */
bool gim_legal(const struct gim_gpu *gpu, u32 nps, u32 parts)
{
	const struct gim_mode *m;

	for (m = gpu->asic->modes; m && m->vfs; m++)
		if (matches(gpu, m, nps, parts))
			return true;
	return false;
}

uint gim_profiles(const struct gim_gpu *gpu, u32 *parts)
{
	uint n = 0, p;

	for (p = 1; p <= 8; p *= 2)
		if (gim_legal(gpu, 0, p))
			parts[n++] = p;
	return n;
}

uint gim_memory_modes(const struct gim_gpu *gpu, u32 parts, u32 *nps)
{
	uint n = 0, p;

	for (p = 1; p <= 8; p *= 2)
		if (gim_legal(gpu, p, parts))
			nps[n++] = p;
	return n;
}

/* With several VFs one partition each; with one what goes with the memory mode. */
u32 gim_default_parts(const struct gim_gpu *gpu, u32 nps)
{
	if (gpu->vfs > 1)
		return gpu->vfs;
	return nps == 1 ? 1 : nps == 2 ? 2 : 8;
}
