// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keys that the driver is given as options of its module: for all GPUs and for
 * each.  /proc/driver/nvidia/params shows the options as they were given; the
 * keys of a GPU are looked up at its probe.
 */
#include "nvidia.h"

#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

static char *for_all;
module_param_named(NVreg_RegistryDwords, for_all, charp, 0);
MODULE_PARM_DESC(NVreg_RegistryDwords, "KEY=VALUE;... for all GPUs");
static char *for_each;
module_param_named(NVreg_RegistryDwordsPerDevice, for_each, charp, 0);
MODULE_PARM_DESC(NVreg_RegistryDwordsPerDevice, "pci=ADDRESS;KEY=VALUE;... for one GPU after the other");

static int params_show(struct seq_file *m, void *v)
{
	seq_puts(m, "ResmanDebugLevel: 4294967295\nEnableMSI: 1\n");
	seq_printf(m, "RegistryDwords: \"%s\"\n", for_all ?: "");
	seq_printf(m, "RegistryDwordsPerDevice: \"%s\"\n", for_each ?: "");
	seq_puts(m, "RmMsg: \"\"\nGpuBlacklist: \"\"\nTemporaryFilePath: \"\"\nExcludedGpus: \"\"\n");
	return 0;
}

void nv_registry_init(struct proc_dir_entry *dir)
{
	proc_create_single("params", 0444, dir, params_show);
}

/* The last value of a key; of GPU, where the option says whose its keys are. */
static void look_up(const char *option, const char *gpu, const char *key, u32 *value)
{
	char *copy = kstrdup(option ?: "", GFP_KERNEL), *rest = copy, *to = copy, *pair, *name, *text;
	bool own = !gpu;

	if (!copy)
		return;
	for (char *from = copy; *from; from++)
		if (*from != ' ')
			*to++ = *from;
	*to = '\0';
	while ((pair = strsep(&rest, ";"))) {
		name = strsep(&pair, "=");
		text = strsep(&pair, "=");
		if (!*name || !text || !*text || pair)
			continue;
		if (gpu && !strcmp(name, "pci"))
			own = !strcmp(text, gpu);
		else if (own && !strcasecmp(name, key))
			*value = simple_strtoul(text, NULL, 0);
	}
	kfree(copy);
}

/* How the vGPUs of a GPU take turns, in the words of nvidia-smi. */
const char *nv_scheduler(struct pci_dev *pdev)
{
	u32 key = 0;

	look_up(for_all, NULL, "RmPVMRL", &key);
	look_up(for_each, pci_name(pdev), "RmPVMRL", &key);
	if (!(key & 1))
		return "Best Effort";
	return key & 0x10 ? "Fixed Share" : "Equal Share";
}
