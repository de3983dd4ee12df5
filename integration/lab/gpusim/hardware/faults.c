// SPDX-License-Identifier: GPL-2.0-only
/* What a test can do to a card: /sys/kernel/debug/gpusim/, and where drivers meet it. */
#include "hardware.h"

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/uaccess.h>

static struct dentry *root;

/*
 * The core probes a hot-plugged function under the global rescan lock.  A slow
 * driver must not hold that for everyone here, so the first probe of a slow PF
 * is refused at once and repeated by a worker.
 */
static void gs_attach_work(struct work_struct *w)
{
	struct gs_pf *pf = container_of(w, struct gs_pf, attach);
	struct pci_dev *pdev = pf->attach_dev;

	if (device_attach(&pdev->dev) < 0)
		pci_warn(pdev, "the delayed probe failed\n");
	pci_dev_put(pdev);
}

static bool gs_probe_later(struct gs_pf *pf, struct pci_dev *pdev)
{
	bool later = pf->fresh && pf->probe_delay_ms;

	pf->fresh = false;
	if (!later)
		return false;
	pf->attach_dev = pci_dev_get(pdev);
	if (!schedule_work(&pf->attach))
		pci_dev_put(pdev);
	return true;
}

int gpusim_probe(struct pci_dev *pdev)
{
	struct gs_pf *pf = gs_pf_of(pdev);
	u32 ms;

	if (!pf)			/* a real device with the same id */
		return -ENODEV;
	if (!pdev->is_virtfn && gs_probe_later(pf, pdev))
		return -ENODEV;
	ms = pdev->is_virtfn ? pf->vf_probe_delay_ms : pf->probe_delay_ms;
	if (ms)
		msleep(ms);
	return 0;
}
EXPORT_SYMBOL_GPL(gpusim_probe);

static void gs_dropped_work(struct work_struct *w)
{
	gs_set_present(container_of(w, struct gs_pf, dropped), false);
}

int gpusim_enable_vfs(struct pci_dev *pdev, int n)
{
	struct gs_pf *pf = gs_pf_of(pdev);
	int ret;

	if (!pf)
		return -ENODEV;
	if (pf->delay_ms)
		msleep(pf->delay_ms);
	if (pf->drop) {
		pf->drop = 0;
		schedule_work(&pf->dropped);
		return -EIO;
	}
	if (pf->fail_errno && pf->fail_count) {
		if (!pf->fail_after) {
			pf->fail_count--;
			return -(int)pf->fail_errno;
		}
		pf->fail_after--;
	}
	if (pf->cap_vfs && n > pf->cap_vfs)
		n = pf->cap_vfs;
	ret = pci_enable_sriov(pdev, n);
	return ret ? ret : n;
}
EXPORT_SYMBOL_GPL(gpusim_enable_vfs);

u32 gpusim_fb_mb(struct pci_dev *pdev)
{
	struct gs_pf *pf = gs_pf_of(pdev);

	return pf ? pf->spec.fb_mb : 0;
}
EXPORT_SYMBOL_GPL(gpusim_fb_mb);

u32 *gpusim_nvram(struct pci_dev *pdev)
{
	return &gs_pf_of(pdev)->spec.nvram;
}
EXPORT_SYMBOL_GPL(gpusim_nvram);

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

/* modprobe -r of a driver takes with it what it used and nobody else uses: the cards must be in use. */
static bool staying;

static int stay_set(void *data, u64 v)
{
	if (v && !staying)
		__module_get(THIS_MODULE);
	else if (!v && staying)
		module_put(THIS_MODULE);
	staying = v;
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(stay_fops, NULL, stay_set, "%llu\n");

static ssize_t write_text(const char __user *buf, size_t n, char *text, size_t max)
{
	if (n >= max)
		return -E2BIG;
	if (copy_from_user(text, buf, n))
		return -EFAULT;
	text[n] = 0;
	return n;
}

static ssize_t plug_write(struct file *f, const char __user *buf, size_t n, loff_t *pos)
{
	char text[256];
	ssize_t ret = write_text(buf, n, text, sizeof(text));

	if (ret >= 0)
		ret = gs_plug(text) ?: n;
	return ret;
}

static ssize_t unplug_write(struct file *f, const char __user *buf, size_t n, loff_t *pos)
{
	char text[32];
	ssize_t ret = write_text(buf, n, text, sizeof(text));
	u32 domain;

	if (ret < 0)
		return ret;
	if (sscanf(text, "%x:00:00.0", &domain) != 1)
		return -EINVAL;
	return gs_unplug(domain) ?: n;
}

/* A line as a driver says it: what a program writes to /dev/kmsg is marked as the program's. */
static ssize_t say_write(struct file *f, const char __user *buf, size_t n, loff_t *pos)
{
	char text[256];
	ssize_t ret = write_text(buf, n, text, sizeof(text));

	if (ret > 0)
		printk(KERN_ERR "%s\n", strim(text));
	return ret;
}

static const struct file_operations say_fops = { .owner = THIS_MODULE, .write = say_write };
static const struct file_operations plug_fops = { .owner = THIS_MODULE, .write = plug_write };
static const struct file_operations unplug_fops = { .owner = THIS_MODULE, .write = unplug_write };

void gs_faults_add(struct gs_pf *pf)
{
	char name[20];

	INIT_WORK(&pf->attach, gs_attach_work);
	INIT_WORK(&pf->dropped, gs_dropped_work);
	snprintf(name, sizeof(name), "%04x:00:00.0", pf->sd.domain);
	pf->dbg = debugfs_create_dir(name, root);
	/* after fail_after more enables of VFs, fail_count of them fail with fail_errno */
	debugfs_create_u32("fail_errno", 0600, pf->dbg, &pf->fail_errno);
	debugfs_create_u32("fail_after", 0600, pf->dbg, &pf->fail_after);
	debugfs_create_u32("fail_count", 0600, pf->dbg, &pf->fail_count);
	/* an enable takes this long, gives at most so many, or loses the card with EIO */
	debugfs_create_u32("delay_ms", 0600, pf->dbg, &pf->delay_ms);
	debugfs_create_u32("cap_vfs", 0600, pf->dbg, &pf->cap_vfs);
	debugfs_create_u32("drop", 0600, pf->dbg, &pf->drop);
	debugfs_create_u32("probe_delay_ms", 0600, pf->dbg, &pf->probe_delay_ms);
	debugfs_create_u32("vf_probe_delay_ms", 0600, pf->dbg, &pf->vf_probe_delay_ms);
	/* another card in the slot: takes effect when it is present again */
	debugfs_create_x64("serial", 0600, pf->dbg, &pf->spec.serial);
	debugfs_create_u32("group", 0600, pf->dbg, &pf->spec.group);
	debugfs_create_file("present", 0600, pf->dbg, pf, &present_fops);
}

void gs_faults_cancel(struct gs_pf *pf)
{
	debugfs_remove_recursive(pf->dbg);
	if (cancel_work_sync(&pf->attach))
		pci_dev_put(pf->attach_dev);
	cancel_work_sync(&pf->dropped);
}

void gs_faults_init(void)
{
	root = debugfs_create_dir("gpusim", NULL);
	debugfs_create_file("mapped_pages", 0400, root, NULL, &mapped_fops);
	debugfs_create_file("stay", 0200, root, NULL, &stay_fops);
	debugfs_create_file("plug", 0200, root, NULL, &plug_fops);
	debugfs_create_file("unplug", 0200, root, NULL, &unplug_fops);
	debugfs_create_file("say", 0200, root, NULL, &say_fops);
}

void gs_faults_exit(void)
{
	debugfs_remove_recursive(root);
}
