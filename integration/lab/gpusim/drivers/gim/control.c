// SPDX-License-Identifier: GPL-2.0-only
/* What a test can see and do: /sys/kernel/debug/gim/ADDRESS/. */
#include "gim.h"
#include "nvram.h"

#include <linux/debugfs.h>
#include <linux/module.h>

static struct dentry *root;

/* The same for each VF, in units of 16 MiB. */
u32 gim_vf_fb_mb(struct gim_gpu *gpu)
{
	u32 fb = gpusim_fb_mb(gpu->pdev), pf = gim_config_pf_mb(gpu->index);

	return gpu->vfs && fb > pf ? round_down((fb - pf) / gpu->vfs, 16) : 0;
}

static int vf_fb_mb_get(void *data, u64 *v)
{
	*v = gim_vf_fb_mb(data);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(vf_fb_mb_fops, vf_fb_mb_get, NULL, "%llu\n");

static int resets_read_get(void *data, u64 *v)
{
	*v = *gpusim_nvram(((struct gim_gpu *)data)->pdev) & GIM_RESETS_READ;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(resets_read_fops, resets_read_get, NULL, "%llu\n");

/* 1: a change of the memory mode is not over before it is 0 again. */
static int hold_reset_set(void *data, u64 v)
{
	gim_hold_reset(data, v);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(hold_reset_fops, NULL, hold_reset_set, "%llu\n");

/* VF KIND STATE VALID TOTAL */
static ssize_t guard_write(struct file *f, const char __user *buf, size_t n, loff_t *pos)
{
	struct gim_gpu *gpu = file_inode(f)->i_private;
	struct gim_guard g = { };
	char text[64] = "";
	uint vf, kind;

	if (n >= sizeof(text) || copy_from_user(text, buf, n))
		return -EINVAL;
	if (sscanf(text, "%u %u %u %u %u", &vf, &kind, &g.state, &g.valid, &g.total) != 5 || vf >= gpu->vfs ||
	    kind >= GIM_GUARDS)
		return -EINVAL;
	mutex_lock(&gim_lock);
	gpu->guards[vf][kind] = g;
	mutex_unlock(&gim_lock);
	return n;
}
static const struct file_operations guard_fops = { .owner = THIS_MODULE, .write = guard_write };

void gim_control_add(struct gim_gpu *gpu)
{
	gpu->dbg = debugfs_create_dir(pci_name(gpu->pdev), root);
	debugfs_create_file("resets_read", 0400, gpu->dbg, gpu, &resets_read_fops);
	debugfs_create_file("vf_fb_mb", 0400, gpu->dbg, gpu, &vf_fb_mb_fops);
	debugfs_create_file("guard", 0200, gpu->dbg, gpu, &guard_fops);
	debugfs_create_file("hold_reset", 0200, gpu->dbg, gpu, &hold_reset_fops);
	/* so many changes of a mode are refused */
	debugfs_create_u32("refusals", 0600, gpu->dbg, &gpu->refusals);
}

void gim_control_del(struct gim_gpu *gpu)
{
	debugfs_remove_recursive(gpu->dbg);
}

void gim_control_init(void)
{
	root = debugfs_create_dir("gim", NULL);
}

void gim_control_exit(void)
{
	debugfs_remove_recursive(root);
}
