// SPDX-License-Identifier: GPL-2.0-only
/* The PFs there are: those of the load, and what was plugged and unplugged since. */
#include "hardware.h"

#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>

static char *kinds = "";
module_param(kinds, charp, 0444);
MODULE_PARM_DESC(kinds, "cards to make, for example mi300x*2,a40:vfs=32:numa_node=1; see cards.c");
static uint domain_base = 1;
module_param(domain_base, uint, 0444);
MODULE_PARM_DESC(domain_base, "the first card's PCI domain; the others get the next free ones");

static LIST_HEAD(pfs);
static DEFINE_MUTEX(pfs_lock);

static struct gs_pf *find_pf(u32 domain)
{
	struct gs_pf *pf;

	list_for_each_entry(pf, &pfs, list)
		if (pf->sd.domain == domain)
			return pf;
	return NULL;
}

static int add_pf(struct gs_spec *spec)
{
	struct gs_pf *pf;

	if (!spec->domain)
		for (spec->domain = domain_base; find_pf(spec->domain); spec->domain++)
			;
	if (spec->domain > 0xffff || find_pf(spec->domain))
		return -EEXIST;
	pf = gs_pf_add(spec);
	if (IS_ERR(pf))
		return PTR_ERR(pf);
	list_add_tail(&pf->list, &pfs);
	return 0;
}

int gs_plug(const char *text)
{
	struct gs_spec *specs;
	int i, n = gs_cards_parse(text, &specs), ret = 0;

	if (n < 0)
		return n;
	mutex_lock(&pfs_lock);
	for (i = 0; i < n && !ret; i++)
		ret = add_pf(&specs[i]);
	mutex_unlock(&pfs_lock);
	kfree(specs);
	return ret;
}

static void del_pf(struct gs_pf *pf)
{
	list_del(&pf->list);
	gs_pf_del(pf);
}

int gs_unplug(u32 domain)
{
	struct gs_pf *pf;

	mutex_lock(&pfs_lock);
	pf = find_pf(domain);
	if (pf)
		del_pf(pf);
	mutex_unlock(&pfs_lock);
	return pf ? 0 : -ENODEV;
}

static void gs_exit(void)
{
	/* nobody plugs any more: an open file of ours would hold the module */
	while (!list_empty(&pfs))
		del_pf(list_last_entry(&pfs, struct gs_pf, list));
	gs_faults_exit();
	gs_iommu_exit();
}

static int __init gs_init(void)
{
	int ret = gs_iommu_init();

	if (ret)
		return ret;
	gs_faults_init();
	ret = gs_plug(kinds);
	if (ret)
		gs_exit();
	return ret;
}

static void __exit gs_unload(void)
{
	gs_exit();
}

module_init(gs_init);
module_exit(gs_unload);
MODULE_DESCRIPTION("Simulated SR-IOV capable GPUs for tests");
MODULE_LICENSE("GPL");
