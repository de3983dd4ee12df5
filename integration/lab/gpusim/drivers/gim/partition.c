// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compute and memory modes.  Both are changed for all GPUs of an XGMI hive at
 * once, and only while nobody uses a VF of any of them.  Here all GPUs of one
 * id that have partitions are a hive.
 */
#include "gim.h"

static bool in_hive(const struct gim_gpu *gpu, const struct gim_gpu *other)
{
	return gpu == other || (gpu->asic == other->asic && gpu->asic->modes);
}

/* What was saved counts where it is legal still. */
void gim_modes_init(struct gim_gpu *gpu)
{
	u32 nps, parts, any[4];

	gim_config_modes(&nps, &parts);
	if (!gpu->asic->modes || !gim_legal(gpu, 0, 0))
		return;
	if (!gim_legal(gpu, nps, 0) || nps < 1 || nps > 8) {
		gim_memory_modes(gpu, 0, any);
		nps = any[0];
	}
	gpu->nps = nps;
	gpu->parts = parts && gim_legal(gpu, nps, parts) ? parts : gim_default_parts(gpu, nps);
}

static bool hive_in_use(struct gim_gpu *gpu)
{
	struct gim_gpu *other;
	bool used = false;

	list_for_each_entry(other, &gim_gpus, list)
		used |= in_hive(gpu, other) && gim_vf_in_use(other, false);
	return used;
}

static bool told_to_refuse(struct gim_gpu *gpu)
{
	if (!gpu->refusals)
		return false;
	gpu->refusals--;
	dev_err(&gpu->pdev->dev, "firmware did not answer\n");
	return true;
}

int gim_set_compute(struct gim_gpu *gpu, u32 profile)
{
	struct gim_gpu *other;
	u32 parts[4];
	uint n = gim_profiles(gpu, parts);

	if (!gpu->parts) {
		dev_err(&gpu->pdev->dev, "failed to get accelerator_partition_profile\n");
		return -EOPNOTSUPP;
	}
	if (profile < n && parts[profile] == gpu->parts) {
		dev_info(&gpu->pdev->dev, "current accelerator_partition_profile is already set to profile_index=%u\n",
			 profile);
		return -EALREADY;
	}
	if (hive_in_use(gpu)) {
		dev_err(&gpu->pdev->dev, "set accelerator partition mode not allowed when active VM/VFs running!\n");
		return -EBUSY;
	}
	if (profile >= n || !gim_legal(gpu, gpu->nps, parts[profile]) || told_to_refuse(gpu))
		return -EINVAL;
	list_for_each_entry(other, &gim_gpus, list)
		if (in_hive(gpu, other) && gim_legal(other, other->nps, parts[profile]))
			other->parts = parts[profile];
	gim_config_set_modes(gpu->nps, gpu->parts);
	return 0;
}

/* Asks for it; a reset of the whole hive brings it into force, and the compute mode is the default again. */
int gim_set_memory(struct gim_gpu *gpu, u32 nps)
{
	struct gim_gpu *other;

	if (!gpu->nps) {
		dev_err(&gpu->pdev->dev, "failed to get current memory partition mode\n");
		return -EOPNOTSUPP;
	}
	if (gpu->wanted_nps) {
		dev_info(&gpu->pdev->dev, "memory mode switch in progress. current memory partition mode is already set to NPS%u\n",
			 gpu->wanted_nps);
		return -EALREADY;
	}
	if (nps == gpu->nps) {
		dev_info(&gpu->pdev->dev, "current memory partition mode is already set to NPS%u\n", nps);
		return -EALREADY;
	}
	if (hive_in_use(gpu)) {
		dev_err(&gpu->pdev->dev, "set memory partition mode not allowed when active VM/VFs running!\n");
		return -EBUSY;
	}
	if (!gim_legal(gpu, nps, 0) || told_to_refuse(gpu))
		return -EINVAL;
	list_for_each_entry(other, &gim_gpus, list)
		if (in_hive(gpu, other) && gim_legal(other, nps, 0)) {
			other->wanted_nps = nps;
			if (!gpu->hold_reset)
				schedule_work(&other->reset);
		}
	return 0;
}

/* A reset that takes long, for a test: until it is told to end. */
void gim_hold_reset(struct gim_gpu *gpu, bool hold)
{
	struct gim_gpu *other;

	mutex_lock(&gim_lock);
	gpu->hold_reset = hold;
	list_for_each_entry(other, &gim_gpus, list)
		if (!hold && in_hive(gpu, other) && other->wanted_nps)
			schedule_work(&other->reset);
	mutex_unlock(&gim_lock);
}

void gim_reset_work(struct work_struct *w)
{
	struct gim_gpu *gpu = container_of(w, struct gim_gpu, reset);

	mutex_lock(&gim_lock);
	if (gpu->wanted_nps) {
		dev_info(&gpu->pdev->dev, "whole GPU reset\n");
		gpu->nps = gpu->wanted_nps;
		gpu->parts = gim_default_parts(gpu, gpu->nps);
		gpu->wanted_nps = 0;
		gim_config_set_modes(gpu->nps, gpu->parts);
	}
	mutex_unlock(&gim_lock);
}
