// SPDX-License-Identifier: GPL-2.0-only
/*
 * The options of the module, and /etc/gim_config, which the driver writes by
 * itself at each load and each change of a mode: by the process that loads it or
 * writes to it, with no more rights than that has.  It is rewritten in place and
 * never cut, so that a shorter text leaves the end of a longer one behind.
 */
#include "gim.h"

#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>

#define PATH	"/etc/gim_config"
#define UNSAVED	9			/* of a mode: nothing was saved yet; 0: the default */

static uint vf_num[GIM_GPUS], sch_policy[GIM_GPUS], fb_sharing_mode[GIM_GPUS], pf_fb_size[GIM_GPUS], guard[GIM_GPUS],
	log_level[GIM_GPUS];
static uint vf_num_count, sch_policy_count, fb_sharing_mode_count, pf_fb_size_count, guard_count, log_level_count;
module_param_array(vf_num, uint, &vf_num_count, 0444);
MODULE_PARM_DESC(vf_num, "VFs of each GPU, in the order of their probe; the last number stands for all that follow");
module_param_array(sch_policy, uint, &sch_policy_count, 0444);
module_param_array(fb_sharing_mode, uint, &fb_sharing_mode_count, 0444);
module_param_array(pf_fb_size, uint, &pf_fb_size_count, 0444);
module_param_array(guard, uint, &guard_count, 0444);
module_param_array(log_level, uint, &log_level_count, 0444);
static char *enabled_devices;
module_param(enabled_devices, charp, 0444);

/* A value per GPU; the last one repeats.  Only those that are kept have a place in the file. */
struct option {
	const char *name;
	bool kept;
	u32 min, max, def;
	uint *given, *given_count;
	u32 value[GIM_GPUS];
	uint count;
};

enum { VF_NUM, ACCELERATOR, MEMORY, PF_FB_SIZE };
static struct option options[] = {
	[VF_NUM] = { "vf_num", true, 1, GIM_VFS, 1, vf_num, &vf_num_count },
	[ACCELERATOR] = { "accelerator_partition_mode", true, 0, UNSAVED, 0 },
	[MEMORY] = { "memory_partition_mode", true, 0, UNSAVED, 0 },
	[PF_FB_SIZE] = { "pf_fb_size", false, 256, 1024, 256, pf_fb_size, &pf_fb_size_count },
	{ "sch_policy", false, 1, 5, 0, sch_policy, &sch_policy_count },
	{ "fb_sharing_mode", false, 0, 8, 0, fb_sharing_mode, &fb_sharing_mode_count },
	{ "guard", false, 0, 1, 1, guard, &guard_count },
	{ "log_level", false, 0, 4, 2, log_level, &log_level_count },
};

static void set_all(struct option *o, u32 value)
{
	uint i;

	for (i = 0; i < GIM_GPUS; i++)
		o->value[i] = value;
	o->count = 1;
}

static void defaults(void)
{
	uint i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		set_all(&options[i], options[i].def);
}

/* Values that are out of range are the default, with a word in the log. Returns whether anything changed. */
static bool take(struct option *o, const uint *values, uint count)
{
	bool changed = false;
	uint i;

	for (i = 0; i < GIM_GPUS; i++) {
		u32 v = values[min(i, count - 1)];

		if (v < o->min || v > o->max) {
			if (i < count)
				pr_warn("invalid token(%s) value: %u\n", o->name, v);
			v = o->def;
		}
		changed |= i < count && v != o->value[i];
		o->value[i] = v;
	}
	o->count = count;
	return changed;
}

static ssize_t file_text(int flags, char *buf, size_t n)
{
	struct file *f = filp_open(PATH, flags, 0);
	loff_t pos = 0;
	ssize_t ret;

	if (IS_ERR(f))
		return PTR_ERR(f);
	ret = flags == O_RDONLY ? kernel_read(f, buf, n, &pos) : kernel_write(f, buf, n, &pos);
	if (ret > 0 && flags != O_RDONLY)
		vfs_fsync(f, 0);
	filp_close(f, NULL);
	return ret;
}

void gim_config_forget(void)
{
	struct file *f = filp_open(PATH, O_WRONLY | O_TRUNC, 0);

	if (IS_ERR(f))
		pr_warn("failed to truncate config file.\n");
	else
		filp_close(f, NULL);
}

/* How many of its values are written: the last of them stands for those that are like it. */
static uint distinct(const struct option *o)
{
	uint n = o->count;

	while (n > 1 && o->value[n - 1] == o->value[n - 2])
		n--;
	return n;
}

void gim_config_save(void)
{
	char *text = kzalloc(1024, GFP_KERNEL);
	int n = 0;
	uint i, k;

	if (!text)
		return;
	for (i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option *o = &options[i];

		if (!o->kept)
			continue;
		n += scnprintf(text + n, 1024 - n, "%s=%u", o->name, o->value[0]);
		for (k = 1; k < distinct(o); k++)
			n += scnprintf(text + n, 1024 - n, ",%u", o->value[k]);
		n += scnprintf(text + n, 1024 - n, "\n");
	}
	pr_info("configurations:\n%s", text);
	if (file_text(O_RDWR, text, n) != n)
		pr_warn("writing to conf file failed.\n");
	kfree(text);
}

/* A word is a key when it begins with an option's name. */
static struct option *option_of(const char *word)
{
	uint i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		if (!strncasecmp(options[i].name, word, strlen(options[i].name)))
			return &options[i];
	return NULL;
}

static char *next_word(char **rest)
{
	char *word;

	do
		word = strsep(rest, " =\n\t");
	while (word && !*word);
	return word;
}

static void take_words(struct option *o, char *list)
{
	uint values[GIM_GPUS], n = 0;
	char *word;

	while (n < GIM_GPUS && (word = strsep(&list, ",")))
		if (kstrtouint(word, 10, &values[n++]))
			values[n - 1] = U32_MAX;
	take(o, values, n);
}

/* One word that the driver does not know, and all that was saved is lost. */
static void parse(char *text)
{
	struct option *o;
	char *word;

	while ((word = next_word(&text))) {
		o = option_of(word);
		if (!o || !o->kept) {
			pr_warn("unknown token: %s. Config file is invalid and will be truncated.\n", word);
			gim_config_forget();
			defaults();
			return;
		}
		word = next_word(&text);
		if (word)
			take_words(o, word);
	}
}

/* The kernel's own checks: the caller's folder must be writable.  The vendor's driver crashes where it is not. */
static int create(void)
{
	struct file *f = filp_open(PATH, O_CREAT, 0444);

	if (IS_ERR(f)) {
		pr_err("cannot create " PATH ": %ld; the vendor's driver crashes here\n", PTR_ERR(f));
		return PTR_ERR(f);
	}
	return filp_close(f, NULL);
}

int gim_config_load(void)
{
	char *text = kzalloc(1024, GFP_KERNEL);
	bool created = false, changed = false;
	ssize_t n;
	uint i;
	int ret = 0;

	if (!text)
		return -ENOMEM;
	defaults();
	n = file_text(O_RDONLY, text, 1023);
	if (n == -ENOENT) {
		ret = create();
		if (ret)
			goto out;
		created = true;
		set_all(&options[ACCELERATOR], UNSAVED);
		set_all(&options[MEMORY], UNSAVED);
	} else if (n < 0) {
		pr_warn("reading from conf file failed.\n");
	} else {
		parse(text);
	}
	for (i = 0; i < ARRAY_SIZE(options); i++)
		if (options[i].given && *options[i].given_count)
			changed |= take(&options[i], options[i].given, *options[i].given_count) && i == VF_NUM;
	/* modes belong to a number of VFs */
	if (changed && !created) {
		set_all(&options[ACCELERATOR], 0);
		set_all(&options[MEMORY], 0);
	}
	gim_config_save();
out:
	kfree(text);
	return ret;
}

void gim_config_set_modes(u32 nps, u32 parts)
{
	set_all(&options[MEMORY], nps);
	set_all(&options[ACCELERATOR], parts);
	gim_config_save();
}

void gim_config_modes(u32 *nps, u32 *parts)
{
	*nps = options[MEMORY].value[0];
	*parts = options[ACCELERATOR].value[0];
}

uint gim_config_vfs(uint index)
{
	return options[VF_NUM].value[index];
}

u32 gim_config_pf_mb(uint index)
{
	return options[PF_FB_SIZE].value[index];
}

bool gim_config_enabled(const char *address)
{
	const char *at = enabled_devices;
	size_t n = strlen(address);

	for (; at; at = strchr(at, ';') ? strchr(at, ';') + 1 : NULL)
		if (!strncmp(at, address, n) && (!at[n] || at[n] == ';'))
			return true;
	return !enabled_devices;
}
