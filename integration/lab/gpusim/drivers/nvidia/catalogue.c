// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cards and their vGPU types: ids, names and sizes as published.  Marked with *:
 * not published, continued from what is.
 */
#include "nvidia.h"

#define T(id, name, gb)		{ id, name, gb, NV_NO_GI }
#define M(id, name, gb, gip)	{ id, name, gb, gip }

static const struct nv_type t4_types[] = {
	T(222, "GRID T4-1B", 1), T(223, "GRID T4-2B", 2),
	T(225, "GRID T4-1A", 1), T(226, "GRID T4-2A", 2), T(227, "GRID T4-4A", 4), T(228, "GRID T4-8A", 8),
	T(229, "GRID T4-16A", 16),
	T(230, "GRID T4-1Q", 1), T(231, "GRID T4-2Q", 2), T(232, "GRID T4-4Q", 4), T(233, "GRID T4-8Q", 8),
	T(234, "GRID T4-16Q", 16),
};

static const struct nv_type p40_types[] = {
	T(46, "GRID P40-1Q", 1), T(47, "GRID P40-2Q", 2), T(48, "GRID P40-3Q", 3), T(49, "GRID P40-4Q", 4),
	T(50, "GRID P40-6Q", 6), T(51, "GRID P40-8Q", 8), T(52, "GRID P40-12Q", 12), T(53, "GRID P40-24Q", 24),
};

static const struct nv_type v100_types[] = {
	T(105, "GRID V100-1Q", 1), T(106, "GRID V100-2Q", 2), T(107, "GRID V100-4Q", 4), T(108, "GRID V100-8Q", 8),
	T(109, "GRID V100-16Q", 16),
};

static const struct nv_type a16_types[] = {
	T(709, "NVIDIA A16-1B", 1), T(710, "NVIDIA A16-2B", 2),
	T(711, "NVIDIA A16-1Q", 1), T(712, "NVIDIA A16-2Q", 2), T(713, "NVIDIA A16-4Q", 4), T(714, "NVIDIA A16-8Q", 8),
	T(715, "NVIDIA A16-16Q", 16),
	T(716, "NVIDIA A16-1A", 1), T(717, "NVIDIA A16-2A", 2), T(718, "NVIDIA A16-4A", 4), T(719, "NVIDIA A16-8A", 8),
	T(720, "NVIDIA A16-16A", 16),
	T(721, "NVIDIA A16-4C", 4), T(722, "NVIDIA A16-8C", 8), T(723, "NVIDIA A16-16C", 16),
};

static const struct nv_type a40_types[] = {
	T(555, "NVIDIA A40-1B", 1), T(556, "NVIDIA A40-2B", 2),
	T(557, "NVIDIA A40-1Q", 1), T(558, "NVIDIA A40-2Q", 2), T(559, "NVIDIA A40-3Q", 3), T(560, "NVIDIA A40-4Q", 4),
	T(561, "NVIDIA A40-6Q", 6), T(562, "NVIDIA A40-8Q", 8), T(563, "NVIDIA A40-12Q", 12), T(564, "NVIDIA A40-16Q", 16),
	T(565, "NVIDIA A40-24Q", 24), T(566, "NVIDIA A40-48Q", 48),
	T(567, "NVIDIA A40-1A", 1), T(568, "NVIDIA A40-2A", 2), T(569, "NVIDIA A40-3A", 3), T(570, "NVIDIA A40-4A", 4),
	T(571, "NVIDIA A40-6A", 6), T(572, "NVIDIA A40-8A", 8), T(573, "NVIDIA A40-12A", 12), T(574, "NVIDIA A40-16A", 16),
	T(575, "NVIDIA A40-24A", 24), T(576, "NVIDIA A40-48A", 48),
	T(581, "NVIDIA A40-4C", 4), T(582, "NVIDIA A40-6C", 6), T(583, "NVIDIA A40-8C", 8), T(584, "NVIDIA A40-12C", 12),
	T(585, "NVIDIA A40-16C", 16), T(586, "NVIDIA A40-24C", 24), T(587, "NVIDIA A40-48C", 48),
};

static const struct nv_type l40s_types[] = {
	T(1145, "NVIDIA L40S-1B", 1), T(1146, "NVIDIA L40S-2B", 2),
	T(1147, "NVIDIA L40S-1Q", 1), T(1148, "NVIDIA L40S-2Q", 2), T(1149, "NVIDIA L40S-3Q", 3),
	T(1150, "NVIDIA L40S-4Q", 4), T(1151, "NVIDIA L40S-6Q", 6), T(1152, "NVIDIA L40S-8Q", 8),
	T(1153, "NVIDIA L40S-12Q", 12), T(1154, "NVIDIA L40S-16Q", 16), T(1155, "NVIDIA L40S-24Q", 24),
	T(1156, "NVIDIA L40S-48Q", 48),
	T(1157, "NVIDIA L40S-1A", 1), T(1158, "NVIDIA L40S-2A", 2), T(1159, "NVIDIA L40S-3A", 3),
	T(1160, "NVIDIA L40S-4A", 4), T(1161, "NVIDIA L40S-6A", 6), T(1162, "NVIDIA L40S-8A", 8),
	T(1163, "NVIDIA L40S-12A", 12), T(1164, "NVIDIA L40S-16A", 16), T(1165, "NVIDIA L40S-24A", 24),
	T(1166, "NVIDIA L40S-48A", 48),
	T(2164, "NVIDIA L40S-3B", 3),
};

static const struct nv_type a100_types[] = {
	T(692, "GRID A100D-4C", 4), T(693, "GRID A100D-8C", 8), T(694, "GRID A100D-10C", 10), T(695, "GRID A100D-16C", 16),
	T(696, "GRID A100D-20C", 20), T(697, "GRID A100D-40C", 40), T(698, "GRID A100D-80C", 80),
	M(699, "GRID A100D-1-10C", 10, 19), M(700, "GRID A100D-2-20C", 20, 14), M(701, "GRID A100D-3-40C", 40, 9),
	M(702, "GRID A100D-4-40C", 40, 5), M(703, "GRID A100D-7-80C", 80, 0), M(707, "GRID A100D-1-10CME", 10, 20),
};

/* an H100 NVL, whose ids are not published */
static const struct nv_type h100_types[] = {
	T(1121, "NVIDIA H100L-4C", 4), T(1122, "NVIDIA H100L-6C", 6), T(1123, "NVIDIA H100L-11C", 11),
	T(1124, "NVIDIA H100L-15C", 15), T(1125, "NVIDIA H100L-23C", 23), T(1126, "NVIDIA H100L-47C", 47),
	T(1127, "NVIDIA H100L-94C", 94),
	M(1128, "NVIDIA H100L-1-12CME", 11, 20), M(1129, "NVIDIA H100L-1-12C", 11, 19),
	M(1130, "NVIDIA H100L-1-24C", 23, 15), M(1131, "NVIDIA H100L-2-24C", 23, 14),
	M(1132, "NVIDIA H100L-3-47C", 47, 9), M(1133, "NVIDIA H100L-4-47C", 47, 5), M(1134, "NVIDIA H100L-7-94C", 94, 0),
};

#define RTX "NVIDIA RTX Pro 6000 Blackwell DC-"
static const struct nv_type rtxpro_types[] = {
	T(1518, RTX "2Q", 2) /* * */, T(1519, RTX "3Q", 3), T(1520, RTX "4Q", 4) /* * */, T(1522, RTX "8Q", 8) /* * */,
	T(1525, RTX "24Q", 24) /* * */, T(1527, RTX "48Q", 48) /* * */, T(1528, RTX "96Q", 96) /* * */,
	M(1560, RTX "1-12Q", 12, 47) /* * */, M(1561, RTX "1-24Q", 24, 47), M(1564, RTX "4-96Q", 96, 32) /* * */,
};

/* placement units are GiB, except on the A100, where they are too */
static const struct nv_size sizes_16[] = {
	{ 1, 16, 16, "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15" }, { 2, 8, 8, "0,2,4,6,8,10,12,14" },
	{ 4, 4, 4, "0,4,8,12" }, { 8, 2, 2, "0,8" }, { 16, 1, 1, "0" }, { }
};
static const struct nv_size sizes_24[] = {
	{ 1, 24, 16, "0,2,3,5,6,8,9,11,12,14,15,17,18,20,21,23" }, { 2, 12, 8, "0,4,6,10,12,16,18,22" },
	{ 3, 8, 8, "0,3,6,9,12,15,18,21" }, { 4, 6, 4, "0,8,12,20" }, { 6, 4, 4, "0,6,12,18" },
	{ 8, 3, 2, "0,16" }, { 12, 2, 2, "0,12" }, { 24, 1, 1, "0" }, { }
};
/* the ids are those of 24 GiB, doubled *, as those of 80 GiB are those of 40 */
static const struct nv_size sizes_48[] = {
	{ 1, 32, 32, "0,2,3,5,6,8,9,11,12,14,15,17,18,20,21,23,24,26,27,29,30,32,33,35,36,38,39,41,42,44,45,47" },
	{ 2, 24, 16, "0,4,6,10,12,16,18,22,24,28,30,34,36,40,42,46" },
	{ 3, 16, 16, "0,3,6,9,12,15,18,21,24,27,30,33,36,39,42,45" },
	{ 4, 12, 8, "0,8,12,20,24,32,36,44" }, { 6, 8, 8, "0,6,12,18,24,30,36,42" }, { 8, 6, 4, "0,16,24,40" },
	{ 12, 4, 4, "0,12,24,36" }, { 16, 3, 2, "0,32" }, { 24, 2, 2, "0,24" }, { 48, 1, 1, "0" }, { }
};
static const struct nv_size sizes_80[] = {
	{ 4, 20, 16, "0,6,10,16,20,26,30,36,40,46,50,56,60,66,70,76" }, { 8, 10, 8, "0,12,20,32,40,52,60,72" },
	{ 10, 8, 8, "0,10,20,30,40,50,60,70" }, { 16, 5, 4, "0,24,40,64" }, { 20, 4, 4, "0,20,40,60" },
	{ 40, 2, 2, "0,40" }, { 80, 1, 1, "0" }, { }
};
/* of 4 and 6 GiB the places are not known */
static const struct nv_size sizes_94[] = {
	{ 4, 23, 16, "" }, { 6, 15, 8, "" }, { 11, 8, 8, "0,12,23,36,47,59,70,83" }, { 15, 6, 4, "0,32,47,79" },
	{ 23, 4, 4, "0,24,47,71" }, { 47, 2, 2, "0,47" }, { 94, 1, 1, "0" }, { }
};
static const struct nv_size sizes_96[] = {
	{ 2, 32, 32, "0,4,6,10,12,16,18,22,24,28,30,34,36,40,42,46,48,52,54,58,60,64,66,70,72,76,78,82,84,88,90,94" },
	{ 3, 32, 32, "0,3,6,9,12,15,18,21,24,27,30,33,36,39,42,45,48,51,54,57,60,63,66,69,72,75,78,81,84,87,90,93" },
	{ 4, 24, 16, "0,8,12,20,24,32,36,44,48,56,60,68,72,80,84,92" },
	{ 8, 12, 8, "0,16,24,40,48,64,72,88" }, { 12, 8, 8, "0,12,24,36,48,60,72,84" },
	{ 24, 4, 4, "0,24,48,72" }, { 48, 2, 2, "0,48" }, { 96, 1, 1, "0" }, { }
};

static const struct nv_gi_profile a100_gis[] = {
	{ 0, "7g.80gb", 7, 8, 1, 80 }, { 5, "4g.40gb", 4, 4, 1, 40 }, { 9, "3g.40gb", 3, 4, 2, 40 },
	{ 14, "2g.20gb", 2, 2, 3, 20 }, { 15, "1g.20gb", 1, 2, 4, 20 }, { 19, "1g.10gb", 1, 1, 7, 10 },
	{ 20, "1g.10gb+me", 1, 1, 1, 10 }, { }
};
static const struct nv_gi_profile h100_gis[] = {
	{ 0, "7g.94gb", 7, 8, 1, 94 }, { 5, "4g.47gb", 4, 4, 1, 47 }, { 9, "3g.47gb", 3, 4, 2, 47 },
	{ 14, "2g.24gb", 2, 2, 3, 24 }, { 15, "1g.24gb", 1, 2, 4, 24 }, { 19, "1g.12gb", 1, 1, 7, 12 },
	{ 20, "1g.12gb+me", 1, 1, 1, 12 }, { }
};
static const struct nv_gi_profile rtxpro_gis[] = {
	{ 32, "4g.96gb", 4, 4, 1, 96 }, { 35, "2g.48gb", 2, 2, 2, 48 }, { 47, "1g.24gb", 1, 1, 4, 24 }, { }
};

#define TYPES(t) .types = t, .n_types = ARRAY_SIZE(t)
static const struct nv_card cards[] = {
	{ 0x1b38, "Tesla P40", NV_ON_PF, .region = 24, TYPES(p40_types), .sizes = sizes_24 },
	{ 0x1db4, "Tesla V100-PCIE-16GB", NV_ON_PF, .region = 16, TYPES(v100_types), .sizes = sizes_16 },
	{ 0x1eb8, "Tesla T4", NV_ON_PF, .region = 16, TYPES(t4_types), .sizes = sizes_16 },
	{ 0x20b5, "NVIDIA A100 80GB PCIe", NV_ON_VFS, true, 80, 7, 8, TYPES(a100_types), sizes_80, a100_gis },
	{ 0x2235, "NVIDIA A40", NV_ON_VFS, true, 48, TYPES(a40_types), .sizes = sizes_48 },
	{ 0x2321, "NVIDIA H100 NVL", NV_ON_VFS, true, 94, 7, 8, TYPES(h100_types), sizes_94, h100_gis },
	{ 0x25b6, "NVIDIA A16", NV_ON_VFS, true, 16, TYPES(a16_types), .sizes = sizes_16 },
	{ 0x26b9, "NVIDIA L40S", NV_ON_VFS, true, 48, TYPES(l40s_types), .sizes = sizes_48 },
	{ 0x2bb5, "NVIDIA RTX PRO 6000 Blackwell Server Edition", NV_ON_VFS, true, 96, 4, 4, TYPES(rtxpro_types), sizes_96,
	  rtxpro_gis },
	{ 0x2b85, "NVIDIA GeForce RTX 5090", NV_NONE },
};

const struct nv_card *nv_card_of(u16 device)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(cards); i++)
		if (cards[i].device == device)
			return &cards[i];
	return NULL;
}

const struct nv_type *nv_type_of(const struct nv_card *card, unsigned long id)
{
	int i;

	for (i = 0; i < card->n_types; i++)
		if (card->types[i].id == id)
			return &card->types[i];
	return NULL;
}

/* A GiB of a card's whole framebuffer can lack some of its MiB. */
uint nv_type_mb(struct nv_gpu *gpu, const struct nv_type *t)
{
	return min(t->gb * 1024u, gpusim_fb_mb(gpu->pdev));
}

const struct nv_size *nv_size_of(const struct nv_card *card, u16 gb)
{
	const struct nv_size *s;

	for (s = card->sizes; s && s->gb; s++)
		if (s->gb == gb)
			return s;
	return NULL;
}
