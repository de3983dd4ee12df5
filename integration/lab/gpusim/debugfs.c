// SPDX-License-Identifier: GPL-2.0-only
/* The knobs a test turns: /sys/kernel/debug/gpusim/<PF address>/. */
#include "gpusim.h"

#include <linux/debugfs.h>

static struct dentry *root;

static int present_get(void *data, u64 *v)
{
	*v = !((struct gs_pf *)data)->gone;
	return 0;
}

static int present_set(void *data, u64 v)
{
	gs_set_present(data, v);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(present_fops, present_get, present_set, "%llu\n");

static int mapped_get(void *data, u64 *v)
{
	*v = gs_iommu_mapped_pages();
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(mapped_fops, mapped_get, NULL, "%llu\n");

void gs_debugfs_add(struct gs_pf *pf)
{
	char name[20];

	snprintf(name, sizeof(name), "%04x:00:00.0", pf->sd.domain);
	pf->dbg = debugfs_create_dir(name, root);
	/* the next fail_count enables fail with fail_errno; others take delay_ms and give at most cap_vfs */
	debugfs_create_u32("fail_errno", 0600, pf->dbg, &pf->fail_errno);
	debugfs_create_u32("fail_count", 0600, pf->dbg, &pf->fail_count);
	debugfs_create_u32("delay_ms", 0600, pf->dbg, &pf->delay_ms);
	debugfs_create_u32("cap_vfs", 0600, pf->dbg, &pf->cap_vfs);
	debugfs_create_u32("probe_delay_ms", 0600, pf->dbg, &pf->probe_delay_ms);
	debugfs_create_u32("fb_free", 0400, pf->dbg, &pf->fb_free);
	/* another card in the slot: takes effect when it is present again */
	debugfs_create_x64("serial", 0600, pf->dbg, &pf->serial);
	debugfs_create_file("present", 0600, pf->dbg, pf, &present_fops);
}

void gs_debugfs_init(void)
{
	root = debugfs_create_dir("gpusim", NULL);
	debugfs_create_file("mapped_pages", 0400, root, NULL, &mapped_fops);
}

void gs_debugfs_exit(void)
{
	debugfs_remove_recursive(root);
}
