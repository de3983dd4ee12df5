// SPDX-License-Identifier: GPL-2.0-only
/*
 * An IOMMU of its own beside the machine's: it only records mappings, but it
 * makes real iommu groups and lets stock vfio type1 map guest memory.
 */
#include "hardware.h"

#include <linux/iommu.h>
#include <linux/irqdomain.h>
#include <linux/module.h>
#include <linux/msi.h>
#include <linux/property.h>
#include <linux/slab.h>
#include <linux/xarray.h>

static uint safe_msi = 1;
module_param(safe_msi, uint, 0444);
MODULE_PARM_DESC(safe_msi, "1: interrupts are isolated, as vfio demands");

struct gs_dom {
	struct iommu_domain domain;
	struct xarray pages;		/* iova pfn -> physical pfn */
};

static struct iommu_device gs_iommu;
static struct iommu_ops *gs_iommu_ops;
static struct fwnode_handle *gs_fwnode, *gs_irq_fwnode;
static struct irq_domain *gs_irqd;
static atomic_long_t gs_mapped;

static int gs_dom_attach(struct iommu_domain *d, struct device *dev) { return 0; }

static int gs_dom_map(struct iommu_domain *d, unsigned long iova, phys_addr_t pa, size_t pgsize,
		      size_t n, int prot, gfp_t gfp, size_t *mapped)
{
	struct gs_dom *g = container_of(d, struct gs_dom, domain);
	size_t i;
	void *old;

	for (i = 0; i < n; i++, iova += pgsize, pa += pgsize) {
		old = xa_store(&g->pages, iova >> 12, xa_mk_value(pa >> 12), gfp);
		if (xa_is_err(old))
			return xa_err(old);
		if (WARN_ONCE(old, "gpusim: iova %lx mapped twice\n", iova))
			return -EADDRINUSE;
		*mapped += pgsize;
	}
	atomic_long_add(n, &gs_mapped);
	return 0;
}

static size_t gs_dom_unmap(struct iommu_domain *d, unsigned long iova, size_t pgsize, size_t n,
			   struct iommu_iotlb_gather *gather)
{
	struct gs_dom *g = container_of(d, struct gs_dom, domain);
	size_t i;

	for (i = 0; i < n; i++)
		if (!xa_erase(&g->pages, (iova >> 12) + i))
			break;
	atomic_long_sub(i, &gs_mapped);
	return i * pgsize;
}

static phys_addr_t gs_dom_iova_to_phys(struct iommu_domain *d, dma_addr_t iova)
{
	struct gs_dom *g = container_of(d, struct gs_dom, domain);
	void *e = xa_load(&g->pages, iova >> 12);

	return e ? (xa_to_value(e) << 12) | (iova & 0xfff) : 0;
}

static void gs_dom_free(struct iommu_domain *d)
{
	struct gs_dom *g = container_of(d, struct gs_dom, domain);

	if (!xa_empty(&g->pages))
		pr_warn("paging domain freed with mappings left\n");
	xa_destroy(&g->pages);
	kfree(g);
}

static const struct iommu_domain_ops gs_dom_ops = {
	.attach_dev = gs_dom_attach,
	.map_pages = gs_dom_map,
	.unmap_pages = gs_dom_unmap,
	.iova_to_phys = gs_dom_iova_to_phys,
	.free = gs_dom_free,
};

static const struct iommu_domain_ops gs_static_ops = { .attach_dev = gs_dom_attach };
static struct iommu_domain gs_identity = { .type = IOMMU_DOMAIN_IDENTITY, .ops = &gs_static_ops };
static struct iommu_domain gs_blocked = { .type = IOMMU_DOMAIN_BLOCKED, .ops = &gs_static_ops };

static struct iommu_domain *gs_dom_alloc(struct device *dev)
{
	struct gs_dom *g = kzalloc(sizeof(*g), GFP_KERNEL);

	if (!g)
		return NULL;
	xa_init(&g->pages);
	g->domain.geometry.aperture_end = (1ULL << 48) - 1;
	g->domain.geometry.force_aperture = true;
	return &g->domain;
}

static bool gs_capable(struct device *dev, enum iommu_cap cap)
{
	return cap == IOMMU_CAP_CACHE_COHERENCY;
}

static struct iommu_device *gs_probe_device(struct device *dev)
{
	if (!dev_is_pci(dev) || !gs_pf_of(to_pci_dev(dev)))
		return ERR_PTR(-ENODEV);
	return &gs_iommu;
}

static struct iommu_group *gs_device_group(struct device *dev)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	u32 mode = gs_pf_of(pdev)->spec.group;
	struct iommu_group *g;

	if (mode == GROUP_TOPOLOGY)
		return pci_device_group(dev);
	if (mode == GROUP_PF && pdev->is_virtfn) {
		g = iommu_group_get(&pci_physfn(pdev)->dev);
		if (g)
			return g;
	}
	return generic_device_group(dev);
}

static void gs_resv(struct device *dev, struct list_head *head)
{
	struct iommu_resv_region *r;

	r = iommu_alloc_resv_region(0xfee00000, 0x100000, 0, IOMMU_RESV_MSI, GFP_KERNEL);
	if (r)
		list_add_tail(&r->list, head);
}

static int gs_def_type(struct device *dev) { return IOMMU_DOMAIN_IDENTITY; }

static const struct iommu_ops gs_iommu_tmpl = {
	.capable = gs_capable,
	.domain_alloc_paging = gs_dom_alloc,
	.probe_device = gs_probe_device,
	.device_group = gs_device_group,
	.get_resv_regions = gs_resv,
	.def_domain_type = gs_def_type,
	.default_domain_ops = &gs_dom_ops,
	.identity_domain = &gs_identity,
	.blocked_domain = &gs_blocked,
	.pgsize_bitmap = SZ_4K,
};

/* Runs before the iommu core's own notifier and claims our functions. */
static int gs_bus_notify(struct notifier_block *nb, unsigned long action, void *data)
{
	struct pci_dev *pdev = to_pci_dev(data);

	if (action != BUS_NOTIFY_ADD_DEVICE || !gs_pf_of(pdev))
		return NOTIFY_DONE;
	if (iommu_fwspec_init(&pdev->dev, gs_fwnode))
		pci_warn(pdev, "no iommu\n");
	if (safe_msi)
		dev_set_msi_domain(&pdev->dev, gs_irqd);
	if (!pdev->is_virtfn)
		gs_pf_of(pdev)->fresh = true;
	return NOTIFY_OK;
}

static struct notifier_block gs_nb = { .notifier_call = gs_bus_notify, .priority = 1000 };
static const struct irq_domain_ops gs_irqd_ops;

void gs_iommu_exit(void)
{
	bus_unregister_notifier(&pci_bus_type, &gs_nb);
	if (gs_iommu.ops) {
		iommu_device_unregister(&gs_iommu);
		iommu_device_sysfs_remove(&gs_iommu);
	}
	if (gs_irqd)
		irq_domain_remove(gs_irqd);
	if (gs_irq_fwnode)
		irq_domain_free_fwnode(gs_irq_fwnode);
	if (!IS_ERR_OR_NULL(gs_fwnode))
		fwnode_remove_software_node(gs_fwnode);
	kfree(gs_iommu_ops);
}

int gs_iommu_init(void)
{
	int ret;

	/*
	 * A copy on the heap with a NULL owner: with .owner set, every probed
	 * device pins the module and it could never be unloaded.
	 */
	gs_iommu_ops = kmemdup(&gs_iommu_tmpl, sizeof(gs_iommu_tmpl), GFP_KERNEL);
	gs_fwnode = fwnode_create_software_node(NULL, NULL);
	gs_irq_fwnode = irq_domain_alloc_named_fwnode("gpusim-msi");
	bus_register_notifier(&pci_bus_type, &gs_nb);
	ret = -ENOMEM;
	if (!gs_iommu_ops || IS_ERR(gs_fwnode) || !gs_irq_fwnode)
		goto fail;
	gs_irqd = irq_domain_create_tree(gs_irq_fwnode, &gs_irqd_ops, NULL);
	if (!gs_irqd)
		goto fail;
	gs_irqd->flags |= IRQ_DOMAIN_FLAG_ISOLATED_MSI;
	ret = iommu_device_sysfs_add(&gs_iommu, NULL, NULL, "gpusim-iommu");
	if (ret)
		goto fail;
	gs_iommu.fwnode = gs_fwnode;
	ret = iommu_device_register(&gs_iommu, gs_iommu_ops, NULL);
	if (!ret)
		return 0;
	iommu_device_sysfs_remove(&gs_iommu);
	gs_iommu.ops = NULL;
fail:
	gs_iommu_exit();
	return ret;
}

long gs_iommu_mapped_pages(void)
{
	return atomic_long_read(&gs_mapped);
}
