// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the stand-ins of sriov-manage and nvidia-smi act on: the driver's own
 * unbindLock in /proc, and /sys/kernel/debug/nvidia/ADDRESS/ in place of its
 * ioctls.  An open file "nvml" is an NVML client.  Some of the files are faults.
 */
#include "nvidia.h"

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

static struct dentry *root;
static struct proc_dir_entry *gpus_dir;

static bool any_open(struct nv_gpu *gpu)
{
	struct nv_vgpu *v;

	list_for_each_entry(v, &gpu->vgpus, list)
		if (v->open)
			return true;
	return false;
}

static int lock_show(struct seq_file *m, void *unused)
{
	struct nv_gpu *gpu = m->private;

	seq_printf(m, "%d\n", gpu->unbind_lock);
	return 0;
}

static int lock_open(struct inode *inode, struct file *f)
{
	return single_open(f, lock_show, pde_data(inode));
}

/* A refusal is no error of the write: the reader finds a 0. */
static ssize_t lock_write(struct file *f, const char __user *buf, size_t n, loff_t *pos)
{
	struct nv_gpu *gpu = pde_data(file_inode(f));
	bool want;

	if (kstrtobool_from_user(buf, n, &want))
		return -EINVAL;
	mutex_lock(&gpu->lock);
	if (want && (gpu->clients || any_open(gpu))) {
		want = false;
	} else if (want && gpu->lock_refusals) {
		gpu->lock_refusals--;
		want = false;
	}
	gpu->unbind_lock = want;
	mutex_unlock(&gpu->lock);
	return n;
}

static const struct proc_ops lock_ops = {
	.proc_open = lock_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_write = lock_write,
	.proc_release = single_release,
};

static int nvml_open(struct inode *inode, struct file *f)
{
	struct nv_gpu *gpu = inode->i_private;
	int ret = 0;

	mutex_lock(&gpu->lock);
	if (gpu->unbind_lock)
		ret = -EBUSY;
	else
		gpu->clients++;
	mutex_unlock(&gpu->lock);
	kref_get(&gpu->ref);
	if (ret)
		nv_gpu_put(gpu);
	f->private_data = gpu;
	return ret;
}

static int nvml_release(struct inode *inode, struct file *f)
{
	struct nv_gpu *gpu = f->private_data;

	mutex_lock(&gpu->lock);
	gpu->clients--;
	mutex_unlock(&gpu->lock);
	nv_gpu_put(gpu);
	return 0;
}

static const struct file_operations nvml_fops = {
	.owner = THIS_MODULE, .open = nvml_open, .release = nvml_release,
};

static int card_show(struct seq_file *m, void *unused)
{
	struct nv_gpu *gpu = m->private;
	const struct nv_card *c = gpu->card;

	seq_printf(m, "name=%s\nfb=%u\nkind=%s\nmixed=%s\nmig=%s\n", c->name, gpusim_fb_mb(gpu->pdev),
		   c->kind == NV_ON_VFS ? "vfs" : c->kind == NV_ON_PF ? "pf" : "none",
		   c->mixed ? "yes" : "no", c->compute ? "yes" : "no");
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(card);

/* id, framebuffer in GiB and in MiB, creatable now, most, per VM, per GPU instance, its profile or -1, places, name */
static int types_show(struct seq_file *m, void *unused)
{
	struct nv_gpu *gpu = m->private;
	const struct nv_gi_profile *p;
	int i;

	mutex_lock(&gpu->lock);
	for (i = 0; i < gpu->card->n_types; i++) {
		const struct nv_type *t = &gpu->card->types[i];
		const struct nv_size *s = nv_size_of(gpu->card, t->gb);
		bool mig = t->gi_profile != NV_NO_GI;

		for (p = gpu->card->gi_profiles; mig && p->id != t->gi_profile; p++)
			;
		seq_printf(m, "%u %u %u %u %u %u %u %d %s %s\n", t->id, t->gb, nv_type_mb(gpu, t), nv_creatable(gpu, t, false),
			   nv_max_instances(gpu, t), NV_PER_VM, mig ? p->gb / t->gb : 0, mig ? t->gi_profile : -1,
			   mig || !*s->ids ? "-" : s->ids, t->name);
	}
	mutex_unlock(&gpu->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(types);

/* type, VF or -1, GPU instance or -1, placement id, runs, mdev's UUID or - */
static int vgpus_show(struct seq_file *m, void *unused)
{
	struct nv_gpu *gpu = m->private;
	struct nv_vgpu *v;

	mutex_lock(&gpu->lock);
	list_for_each_entry(v, &gpu->vgpus, list)
		seq_printf(m, "%u %d %d %d %d %s\n", v->type->id, v->vf, v->gi, v->placement, v->open, v->uuid ?: "-");
	mutex_unlock(&gpu->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vgpus);

/* id, profile, start, size, name */
static int gpu_instances_show(struct seq_file *m, void *unused)
{
	struct nv_gpu *gpu = m->private;
	int i;

	mutex_lock(&gpu->lock);
	for (i = 0; i < NV_MAX_GIS; i++) {
		const struct nv_gi_profile *p = gpu->gis[i].profile;

		if (p)
			seq_printf(m, "%d %u %u %u %s\n", i, p->id, gpu->gis[i].start, p->memory, p->name);
	}
	mutex_unlock(&gpu->lock);
	return 0;
}

static int gpu_instances_open(struct inode *inode, struct file *f)
{
	return single_open(f, gpu_instances_show, inode->i_private);
}

/* "+PROFILE", a number or a name, makes one; "-ID" takes it away. */
static ssize_t gpu_instances_write(struct file *f, const char __user *buf, size_t n, loff_t *pos)
{
	struct nv_gpu *gpu = file_inode(f)->i_private;
	char text[32] = "";
	uint id = 0;
	int ret;

	if (n >= sizeof(text) || copy_from_user(text, buf, n))
		return -EINVAL;
	text[strcspn(text, "\n")] = 0;
	if (*text != '+' && kstrtouint(text + 1, 10, &id))
		return -EINVAL;
	mutex_lock(&gpu->lock);
	ret = *text == '+' ? nv_gi_create(gpu, text + 1) : nv_gi_destroy(gpu, id);
	mutex_unlock(&gpu->lock);
	return ret < 0 ? ret : n;
}

static const struct file_operations gpu_instances_fops = {
	.owner = THIS_MODULE, .open = gpu_instances_open, .read = seq_read, .llseek = seq_lseek,
	.release = single_release, .write = gpu_instances_write,
};

static int mixed_get(void *data, u64 *v)
{
	*v = ((struct nv_gpu *)data)->mixed;
	return 0;
}

static int mixed_set(void *data, u64 v)
{
	struct nv_gpu *gpu = data;
	int ret;

	mutex_lock(&gpu->lock);
	ret = nv_set_mixed(gpu, v);
	mutex_unlock(&gpu->lock);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(mixed_fops, mixed_get, mixed_set, "%llu\n");

static int mig_get(void *data, u64 *v)
{
	*v = nv_mig(data);
	return 0;
}

static int mig_set(void *data, u64 v)
{
	struct nv_gpu *gpu = data;
	int ret;

	mutex_lock(&gpu->lock);
	ret = nv_set_mig(gpu, v);
	mutex_unlock(&gpu->lock);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(mig_fops, mig_get, mig_set, "%llu\n");

static int next_mig_get(void *data, u64 *v)
{
	*v = nv_next_mig(data);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(next_mig_fops, next_mig_get, NULL, "%llu\n");

static int wedged_show(struct seq_file *m, void *unused)
{
	struct nv_gpu *gpu = m->private;
	int i;

	for (i = 0; i < NV_MAX_VFS; i++)
		if (gpu->vf_wedged[i])
			seq_printf(m, "%d\n", i);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(wedged);

static ssize_t scheduler_read(struct file *f, char __user *buf, size_t n, loff_t *pos)
{
	struct nv_gpu *gpu = f->private_data;

	return simple_read_from_buffer(buf, n, pos, gpu->scheduler, strlen(gpu->scheduler));
}

static ssize_t scheduler_write(struct file *f, const char __user *buf, size_t n, loff_t *pos)
{
	struct nv_gpu *gpu = f->private_data;

	if (n >= sizeof(gpu->scheduler))
		return -EINVAL;
	memset(gpu->scheduler, 0, sizeof(gpu->scheduler));
	return copy_from_user(gpu->scheduler, buf, n) ? -EFAULT : n;
}

static const struct file_operations scheduler_fops = {
	.owner = THIS_MODULE, .open = simple_open, .read = scheduler_read, .write = scheduler_write,
};

void nv_control_add(struct nv_gpu *gpu)
{
	struct dentry *dir = debugfs_create_dir(pci_name(gpu->pdev), root);

	gpu->dbg = dir;
	debugfs_create_file("nvml", 0400, dir, gpu, &nvml_fops);
	debugfs_create_file("card", 0400, dir, gpu, &card_fops);
	debugfs_create_file("types", 0400, dir, gpu, &types_fops);
	debugfs_create_file("vgpus", 0400, dir, gpu, &vgpus_fops);
	debugfs_create_file("gpu_instances", 0600, dir, gpu, &gpu_instances_fops);
	debugfs_create_file("mixed", 0600, dir, gpu, &mixed_fops);
	debugfs_create_file("mig", 0600, dir, gpu, &mig_fops);
	debugfs_create_file("next_mig", 0400, dir, gpu, &next_mig_fops);
	debugfs_create_file("scheduler", 0600, dir, gpu, &scheduler_fops);
	debugfs_create_file("wedged", 0400, dir, gpu, &wedged_fops);
	/* so many requests for the lock, so many creations are refused; sriov-manage ends in the middle */
	debugfs_create_u32("lock_refusals", 0600, dir, &gpu->lock_refusals);
	debugfs_create_u32("create_refusals", 0600, dir, &gpu->create_refusals);
	debugfs_create_u32("leave_unbound", 0600, dir, &gpu->leave_unbound);
	gpu->proc = proc_mkdir(pci_name(gpu->pdev), gpus_dir);
	proc_create_data("unbindLock", 0644, gpu->proc, &lock_ops, gpu);
}

void nv_control_del(struct nv_gpu *gpu)
{
	proc_remove(gpu->proc);
	debugfs_remove_recursive(gpu->dbg);
}

void nv_control_init(void)
{
	root = debugfs_create_dir("nvidia", NULL);
	nv_registry_init(proc_mkdir("driver/nvidia", NULL));
	gpus_dir = proc_mkdir("driver/nvidia/gpus", NULL);
}

void nv_control_exit(void)
{
	remove_proc_subtree("driver/nvidia", NULL);
	debugfs_remove_recursive(root);
}
