// SPDX-License-Identifier: GPL-2.0-only
/* Brings the parts up in order and takes them down in reverse. */
#include "gpusim.h"

#include <linux/module.h>
#include <linux/slab.h>

static struct gs_pf **pfs;
static int n_pfs;

static void gs_remove_pfs(void)
{
	while (n_pfs)
		gs_pf_del(pfs[--n_pfs]);
	kfree(pfs);
	gs_debugfs_exit();
}

static int gs_add_pfs(const struct gs_spec *specs, int n)
{
	gs_debugfs_init();
	pfs = kcalloc(n, sizeof(*pfs), GFP_KERNEL);
	if (!pfs)
		return -ENOMEM;
	while (n_pfs < n) {
		struct gs_pf *pf = gs_pf_add(n_pfs, &specs[n_pfs]);

		if (IS_ERR(pf))
			return PTR_ERR(pf);
		pfs[n_pfs++] = pf;
	}
	return 0;
}

static int __init gs_init(void)
{
	struct gs_spec *specs;
	int n = gs_specs_parse(&specs), ret;

	if (n < 0)
		return n;
	ret = gs_iommu_init();
	if (ret)
		goto out;
	ret = mdev_register_driver(&gs_mdev_drv);
	if (ret)
		goto err_iommu;
	ret = gs_drivers_register(specs, n);
	if (ret)
		goto err_mdev;
	ret = gs_add_pfs(specs, n);
	if (!ret)
		goto out;
	gs_remove_pfs();
	gs_drivers_unregister();
err_mdev:
	mdev_unregister_driver(&gs_mdev_drv);
err_iommu:
	gs_iommu_exit();
out:
	kfree(specs);
	return ret;
}

static void __exit gs_exit(void)
{
	gs_remove_pfs();
	gs_drivers_unregister();
	mdev_unregister_driver(&gs_mdev_drv);
	gs_iommu_exit();
}

module_init(gs_init);
module_exit(gs_exit);
MODULE_DESCRIPTION("Simulated SR-IOV and vGPU devices for tests");
MODULE_LICENSE("GPL");
