// SPDX-License-Identifier: GPL-2.0-only
/*
 * The files of a PF.  Reading reset_gpu resets the GPU.  A refusal is no error
 * of the write: the reason is in the kernel's log alone.
 */
#include "gim.h"
#include "nvram.h"

static struct gim_gpu *gpu_of(struct device *dev)
{
	return pci_get_drvdata(to_pci_dev(dev));
}

static ssize_t reset_gpu_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gim_gpu *gpu = gpu_of(dev);

	mutex_lock(&gim_lock);
	++*gpusim_nvram(gpu->pdev);	/* the low half: GIM_RESETS_READ */
	mutex_unlock(&gim_lock);
	dev_info(dev, "whole GPU reset\n");
	return sysfs_emit(buf, "dev(%s) reset completed\n", dev_name(dev));
}
static DEVICE_ATTR_ADMIN_RO(reset_gpu);

static ssize_t self_switch_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "%d\n", gpu_of(dev)->self_switch);
}

static ssize_t self_switch_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	uint on;

	if (sscanf(buf, "%u", &on) != 1)
		return -EINVAL;
	gpu_of(dev)->self_switch = on;
	return n;
}
static DEVICE_ATTR_ADMIN_RW(self_switch);

/* Two resources a profile: compute dies and video decoders. */
static int emit_resources(char *buf, int at, uint profile, u32 parts)
{
	int n = sysfs_emit_at(buf, at, "[");
	u32 i;

	for (i = 0; i < parts; i++)
		n += sysfs_emit_at(buf, at + n, "[%u %u ]", 2 * profile, 2 * profile + 1);
	return n + sysfs_emit_at(buf, at + n, "]\n");
}

static ssize_t accelerator_partition_profile_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gim_gpu *gpu = gpu_of(dev);
	u32 parts[4], i;
	uint count;
	int n;

	mutex_lock(&gim_lock);
	count = gim_profiles(gpu, parts);
	for (i = 0; i < count && parts[i] != gpu->parts; i++)
		;
	if (i == count || !gpu->parts) {
		n = sysfs_emit(buf, "failed to get current accelerator partition profile\n");
	} else {
		n = sysfs_emit(buf, "%-20s%-20s%-20s%-20s%-20s\n", "profile_index", "profile_type", "num_of_partitions",
			       "num_of_resources", "resource_index_in_resource_profiles");
		n += sysfs_emit_at(buf, n, "%-20u%-20s%-20u%-20u", i, gim_mode_name(gpu->parts), gpu->parts, 2);
		n += emit_resources(buf, n, i, gpu->parts);
	}
	mutex_unlock(&gim_lock);
	return n;
}

static ssize_t accelerator_partition_profile_store(struct device *dev, struct device_attribute *a, const char *buf,
						   size_t n)
{
	u32 profile;
	int ret;

	if (sscanf(buf, "%u", &profile) != 1) {
		pr_warn("invalid parameter\n");
		return -EINVAL;
	}
	mutex_lock(&gim_lock);
	ret = gim_set_compute(gpu_of(dev), profile);
	mutex_unlock(&gim_lock);
	if (ret)
		pr_warn("Failed to set accelerator_partition_profile profile_index=%u\n", profile);
	return n;
}
static DEVICE_ATTR_ADMIN_RW(accelerator_partition_profile);

static ssize_t memory_partition_mode_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gim_gpu *gpu = gpu_of(dev);
	u64 size = (u64)gpusim_fb_mb(gpu->pdev) << 20;
	u32 nps, i;
	int n;

	mutex_lock(&gim_lock);
	nps = gpu->nps;
	mutex_unlock(&gim_lock);
	if (!nps)
		return sysfs_emit(buf, "failed to get current mp mode\n");
	n = sysfs_emit(buf, "memory_partition_mode: NPS%u\nnuma_count: %u\n", nps, nps);
	for (i = 0; i < nps; i++)
		n += sysfs_emit_at(buf, n, "NUMA%u type=%u start=0x%016llx end=0x%016llx\n", i, 0, size / nps * i,
				   size / nps * (i + 1) - 1);
	return n;
}

/* NPS8 is taken for NPS4. */
static ssize_t memory_partition_mode_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	char word[5] = "";
	u32 nps = 0;
	int ret;

	if (sscanf(buf, "%4s", word) == 1 && !strncasecmp(word, "NPS", 3) && strchr("1248", word[3]) && word[3])
		nps = min(word[3] - '0', 4);
	if (!nps) {
		pr_warn("invalid parameter %s\n", word);
		return -EINVAL;
	}
	mutex_lock(&gim_lock);
	ret = gim_set_memory(gpu_of(dev), nps);
	mutex_unlock(&gim_lock);
	if (ret)
		pr_warn("Failed to set mp mode %s\n", word);
	return n;
}
static DEVICE_ATTR_ADMIN_RW(memory_partition_mode);

static ssize_t spatial_partition_mode_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gim_gpu *gpu = gpu_of(dev);
	u32 parts;

	mutex_lock(&gim_lock);
	parts = gpu->parts;
	mutex_unlock(&gim_lock);
	if (!parts)
		return sysfs_emit(buf, "failed to get current sp mode\n");
	return sysfs_emit(buf, "%s\n", gim_mode_name(parts));
}
static DEVICE_ATTR_ADMIN_RO(spatial_partition_mode);

/*
 * One text for all GPUs, begun anew only for profiles with NPS1: it grows with
 * every read of a GPU that has others.
 */
static const char *memory_caps(const struct gim_gpu *gpu, u32 parts)
{
	static char caps[128];
	u32 nps[4], i;
	uint n = gim_memory_modes(gpu, parts, nps);
	char word[8];

	if (n && nps[0] == 1)
		caps[0] = 0;
	for (i = 0; i < n; i++) {
		snprintf(word, sizeof(word), "NPS%u ", nps[i]);
		strlcat(caps, word, sizeof(caps));
	}
	return caps;
}

static ssize_t accelerator_partition_profile_config_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gim_gpu *gpu = gpu_of(dev);
	u32 parts[4], i;
	uint count;
	int n;

	mutex_lock(&gim_lock);
	count = gim_profiles(gpu, parts);
	if (!count) {
		mutex_unlock(&gim_lock);
		return sysfs_emit(buf, "failed to get cp profile\n");
	}
	n = sysfs_emit(buf, "resource_profiles:\n%-20s%-20s%-20s%-20s\n", "resource_index", "resource_type",
		       "resource_in_partition", "num_partitions_share_resource");
	for (i = 0; i < count; i++) {
		n += sysfs_emit_at(buf, n, "%-20u%-20s%-20u%-20u\n", 2 * i, "XCC", gpu->asic->xcc / parts[i], 1);
		n += sysfs_emit_at(buf, n, "%-20u%-20s%-20u%-20u\n", 2 * i + 1, "DECODER", max(4 / parts[i], 1u),
				   max(parts[i] / 4, 1u));
	}
	n += sysfs_emit_at(buf, n, "profiles:\n%-20s%-20s%-20s%-20s%-20s%-20s\n", "profile_index", "profile_type",
			   "num_of_partitions", "memory_caps", "num_of_resources", "resource_index");
	for (i = 0; i < count; i++) {
		n += sysfs_emit_at(buf, n, "%-20u%-20s%-20u%-20s%-20u", i, gim_mode_name(parts[i]), parts[i],
				   memory_caps(gpu, parts[i]), 2);
		n += emit_resources(buf, n, i, parts[i]);
	}
	mutex_unlock(&gim_lock);
	return n;
}
static DEVICE_ATTR_ADMIN_RO(accelerator_partition_profile_config);

static ssize_t memory_partition_config_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct gim_gpu *gpu = gpu_of(dev);
	u32 nps[4], i;
	uint count = gim_memory_modes(gpu, 0, nps);
	int n = 0;

	if (!count)
		return sysfs_emit(buf, "failed to get mp caps\n");
	for (i = 0; i < count; i++)
		n += sysfs_emit_at(buf, n, "NPS%u ", nps[i]);
	return n + sysfs_emit_at(buf, n, "\n");
}
static DEVICE_ATTR_ADMIN_RO(memory_partition_config);

static ssize_t spatial_partition_caps_show(struct device *dev, struct device_attribute *a, char *buf)
{
	const struct gim_asic *asic = gpu_of(dev)->asic;

	if (!asic->modes)
		return sysfs_emit(buf, "failed to get sp caps\n");
	return sysfs_emit(buf, "num_xcc=%u num_sdma=%u num_vcn=%u num_jpeg=%u\n", asic->xcc, 2 * asic->xcc, 4, 32);
}
static DEVICE_ATTR_ADMIN_RO(spatial_partition_caps);

static struct attribute *attrs[] = {
	&dev_attr_reset_gpu.attr, &dev_attr_self_switch.attr, &dev_attr_accelerator_partition_profile.attr,
	&dev_attr_memory_partition_mode.attr, &dev_attr_spatial_partition_mode.attr,
	&dev_attr_accelerator_partition_profile_config.attr, &dev_attr_memory_partition_config.attr,
	&dev_attr_spatial_partition_caps.attr, &dev_attr_guard_status.attr, &dev_attr_guard_threshold.attr, NULL,
};
const struct attribute_group gim_gpu_group = { .attrs = attrs };
