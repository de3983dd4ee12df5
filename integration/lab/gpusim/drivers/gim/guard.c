// SPDX-License-Identifier: GPL-2.0-only
/* The guard counts what VFs do too often: six kinds of event under four headings. */
#include "gim.h"

static const char head[] = "VF[bdf]\t\t\tflr\tex\text\tint\n";

static int each_vf(struct gim_gpu *gpu, char *buf, int n, bool thresholds)
{
	struct pci_dev *vf;
	uint i, k;

	n += sysfs_emit_at(buf, n, head);
	for (i = 0; i < gpu->vfs; i++) {
		vf = gim_vf(gpu, i);
		n += sysfs_emit_at(buf, n, "VF[%s]:", vf ? pci_name(vf) : "");
		pci_dev_put(vf);
		for (k = 0; k < GIM_GUARDS; k++) {
			const struct gim_guard *g = &gpu->guards[i][k];

			if (thresholds)
				n += sysfs_emit_at(buf, n, "\t[%u]", g->threshold);
			else
				n += sysfs_emit_at(buf, n, "\t[%u:%u:%u]", g->state, g->valid, g->total);
		}
		n += sysfs_emit_at(buf, n, "\n");
	}
	return n;
}

ssize_t gim_guard_text(struct gim_gpu *gpu, char *buf, int at)
{
	mutex_lock(&gim_lock);
	at = each_vf(gpu, buf, at, false);
	mutex_unlock(&gim_lock);
	return at + sysfs_emit_at(buf, at, "Notes:\n1)flr: resets of a function;\n2)ex: exclusive access\n"
				  "3)ext: exclusive access that took too long\n4)int: interrupts\n"
				  "5)an event is [state:valid:total]\n6)state: 0->normal; 1->full; 2->overflow\n"
				  "7)valid: events of the last interval\n8)total: all events\n");
}

static ssize_t guard_status_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return gim_guard_text(pci_get_drvdata(to_pci_dev(dev)), buf, 0);
}
DEVICE_ATTR_RO(guard_status);

static ssize_t guard_threshold_show(struct device *dev, struct device_attribute *a, char *buf)
{
	int n;

	mutex_lock(&gim_lock);
	n = each_vf(pci_get_drvdata(to_pci_dev(dev)), buf, 0, true);
	mutex_unlock(&gim_lock);
	return n;
}

/* All four or nothing; a text that is not understood is no error of the write. */
static ssize_t guard_threshold_store(struct device *dev, struct device_attribute *a, const char *buf, size_t n)
{
	struct gim_gpu *gpu = pci_get_drvdata(to_pci_dev(dev));
	u32 t[4];
	uint i, k;

	if (sscanf(buf, "flr=%x,ex=%x,ext=%x,int=%x", &t[0], &t[1], &t[2], &t[3]) != 4) {
		pr_warn("invalid parameter\n");
		return n;
	}
	mutex_lock(&gim_lock);
	for (i = 0; i < gpu->vfs; i++)
		for (k = 0; k < ARRAY_SIZE(t); k++)
			gpu->guards[i][k].threshold = t[k];
	mutex_unlock(&gim_lock);
	return n;
}
DEVICE_ATTR_RW(guard_threshold);

/* Files of the driver itself, for all its GPUs. */
static ssize_t guard_status_all_show(struct device_driver *drv, char *buf)
{
	struct gim_gpu *gpu;
	int n = 0;

	mutex_lock(&gim_lock);
	list_for_each_entry(gpu, &gim_gpus, list) {
		n += sysfs_emit_at(buf, n, "Adapter[%s]\n", pci_name(gpu->pdev));
		n = each_vf(gpu, buf, n, false);
	}
	mutex_unlock(&gim_lock);
	return n;
}
static struct driver_attribute driver_guard_status = __ATTR(guard_status, 0444, guard_status_all_show, NULL);

static ssize_t self_switch_all_show(struct device_driver *drv, char *buf)
{
	struct gim_gpu *gpu;
	int n = 0;

	mutex_lock(&gim_lock);
	list_for_each_entry(gpu, &gim_gpus, list)
		n += sysfs_emit_at(buf, n, "Adapter[%s] : %d\n", pci_name(gpu->pdev), gpu->self_switch);
	mutex_unlock(&gim_lock);
	return n;
}
static struct driver_attribute driver_self_switch = __ATTR(self_switch, 0400, self_switch_all_show, NULL);

int gim_driver_files(struct device_driver *drv)
{
	int ret = driver_create_file(drv, &driver_self_switch);

	if (ret)
		return ret;
	ret = driver_create_file(drv, &driver_guard_status);
	if (ret)
		driver_remove_file(drv, &driver_self_switch);
	return ret;
}

void gim_driver_files_gone(struct device_driver *drv)
{
	driver_remove_file(drv, &driver_guard_status);
	driver_remove_file(drv, &driver_self_switch);
}
