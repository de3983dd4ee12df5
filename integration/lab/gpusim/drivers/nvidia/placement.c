// SPDX-License-Identifier: GPL-2.0-only
/*
 * The rules of placement: equal sizes or mixed ones, GPU instances under MIG.
 * All that a reader sees of capacity is computed from the list of vGPUs.
 */
#include "nvidia.h"
#include "../../hardware/gpusim.h"

#include <linux/ctype.h>
#include <linux/sched.h>

/* What of MIG is in the card. */
#define MIG_ON		BIT(0)
#define MIG_WAITS	BIT(1)	/* for a reset, which it gets with the next probe; then it is */
#define MIG_THEN_ON	BIT(2)

bool nv_mig(struct nv_gpu *gpu)
{
	return gpu->card->compute && *gpusim_nvram(gpu->pdev) & MIG_ON;
}

bool nv_next_mig(struct nv_gpu *gpu)
{
	u32 nvram = *gpusim_nvram(gpu->pdev);

	return nvram & MIG_WAITS ? nvram & MIG_THEN_ON : nv_mig(gpu);
}

void nv_reset_mig(struct nv_gpu *gpu)
{
	if (gpu->card->compute)
		*gpusim_nvram(gpu->pdev) = nv_next_mig(gpu) ? MIG_ON : 0;
}

static uint gi_count(struct nv_gpu *gpu)
{
	uint i, n = 0;

	for (i = 0; i < NV_MAX_GIS; i++)
		n += !!gpu->gis[i].profile;
	return n;
}

/* Is [at, at + size) free?  In a GPU instance, placements count from its start. */
static bool range_free(struct nv_gpu *gpu, int gi, uint at, uint size, const struct nv_vgpu *but)
{
	struct nv_vgpu *v;

	list_for_each_entry(v, &gpu->vgpus, list)
		if (v != but && v->gi == gi && at < v->placement + v->type->gb && v->placement < at + size)
			return false;
	return true;
}

/* Walks a list of ids such as "0,8,16"; false at its end. */
static bool next_id(const char **ids, uint *id)
{
	char *end;

	if (!**ids)
		return false;
	*id = simple_strtoul(*ids, &end, 10);
	*ids = *end == ',' ? end + 1 : end;
	return true;
}

static uint mixed_room(struct nv_gpu *gpu, const struct nv_size *s, int *first)
{
	const char *ids = s->ids;
	uint id, n = 0;

	while (next_id(&ids, &id)) {
		if (!range_free(gpu, -1, id, s->gb, NULL))
			continue;
		if (!n)
			*first = id;
		n++;
	}
	return n;
}

static uint equal_room(struct nv_gpu *gpu, const struct nv_type *t, const struct nv_size *s, bool same_type,
		       int *first)
{
	struct nv_vgpu *v;
	uint n = 0, at;

	list_for_each_entry(v, &gpu->vgpus, list) {
		if (v->type->gb != t->gb || (same_type && v->type != t))
			return 0;
		n++;
	}
	if (n >= s->equal)
		return 0;
	for (at = 0; !range_free(gpu, -1, at, s->gb, NULL); at += s->gb)
		;
	*first = at;
	return s->equal - n;
}

/* Room in one GPU instance, which holds one framebuffer size at a time. */
static uint gi_room(struct nv_gpu *gpu, int gi, const struct nv_type *t, int *first)
{
	const struct nv_gi_profile *p = gpu->gis[gi].profile;
	struct nv_vgpu *v;
	uint n = 0, at;

	if (!p || p->id != t->gi_profile)
		return 0;
	list_for_each_entry(v, &gpu->vgpus, list) {
		if (v->gi != gi)
			continue;
		if (v->type->gb != t->gb)
			return 0;
		n++;
	}
	if (n >= p->gb / t->gb)
		return 0;
	for (at = 0; !range_free(gpu, gi, at, t->gb, NULL); at += t->gb)
		;
	*first = at;
	return p->gb / t->gb - n;
}

static uint room(struct nv_gpu *gpu, const struct nv_type *t, bool same_type, int *gi, int *first)
{
	const struct nv_size *s = nv_size_of(gpu->card, t->gb);
	uint i, n = 0, here;
	int at;

	*gi = -1;
	if (gpu->gone || nv_mig(gpu) != (t->gi_profile != NV_NO_GI))
		return 0;
	if (t->gi_profile == NV_NO_GI) {
		if (gpu->mixed)
			return mixed_room(gpu, s, first);
		return equal_room(gpu, t, s, same_type, first);
	}
	for (i = 0; i < NV_MAX_GIS; i++) {
		here = gi_room(gpu, i, t, &at);
		if (here && !n) {
			*gi = i;
			*first = at;
		}
		n += here;
	}
	return n;
}

uint nv_creatable(struct nv_gpu *gpu, const struct nv_type *t, bool same_type)
{
	int gi, first;

	return room(gpu, t, same_type, &gi, &first);
}

uint nv_max_instances(struct nv_gpu *gpu, const struct nv_type *t)
{
	const struct nv_gi_profile *p;

	if (t->gi_profile == NV_NO_GI)
		return nv_size_of(gpu->card, t->gb)->equal;
	for (p = gpu->card->gi_profiles; p->id != t->gi_profile; p++)
		;
	return p->most * (p->gb / t->gb);
}

int nv_create(struct nv_gpu *gpu, struct nv_vgpu *v, const struct nv_type *t, bool same_type)
{
	struct device *dev = &gpu->pdev->dev;
	int gi, first;

	if (gpu->gone)
		return -EIO;
	if (gpu->create_refusals) {
		gpu->create_refusals--;
		dev_err(dev, "kvgpumgrCreateRequestVgpu: GPU is not initialized yet\n");
		return -EIO;
	}
	if (!t || !room(gpu, t, same_type, &gi, &first)) {
		dev_err(dev, "Failed to add vgpu create request: 0x%x\n", nv_mig(gpu) && !gi_count(gpu) ? 0x38 : 0x1f);
		return -EIO;
	}
	v->type = t;
	v->gi = gi;
	v->placement = first;
	list_add_tail(&v->list, &gpu->vgpus);
	return 0;
}

void nv_destroy(struct nv_vgpu *v)
{
	if (!v->type)
		return;
	list_del(&v->list);
	v->type = NULL;
}

static bool vm_is_full(struct nv_gpu *gpu)
{
	struct nv_vgpu *v;
	int n = 0;

	list_for_each_entry(v, &gpu->vgpus, list)
		n += v->open && v->vm == current->tgid;
	return n >= NV_PER_VM;
}

/* A VM opens its vGPU: vgpu_params are read now.  A wrong placement id fails the start, and so does one vGPU too many. */
int nv_start(struct nv_gpu *gpu, struct nv_vgpu *v, const char *params)
{
	const char *want = strstr(params, "vgpu-placement-id="), *ids;
	uint id, at;

	if (!v->type)
		return -ENODEV;
	if (gpu->gone || vm_is_full(gpu))
		return -EIO;
	v->open = true;
	v->vm = current->tgid;
	if (!want)
		return 0;
	id = simple_strtoul(want + strlen("vgpu-placement-id="), NULL, 10);
	ids = gpu->mixed ? nv_size_of(gpu->card, v->type->gb)->ids : "";
	while (next_id(&ids, &at))
		if (at == id && range_free(gpu, v->gi, id, v->type->gb, v)) {
			v->placement = id;
			return 0;
		}
	dev_err(&gpu->pdev->dev, "vGPU placement id %u cannot be used\n", id);
	v->open = false;
	return -EIO;
}

/* A single space clears all parameters; there is no way to clear one. */
ssize_t nv_params_store(char *params, const char *buf, size_t n)
{
	if (n >= NV_PARAMS)
		return -EINVAL;
	strscpy(params, skip_spaces(buf), NV_PARAMS);
	params[strcspn(params, "\n")] = 0;
	return n;
}

/* By the number of its profile, or by its name. */
int nv_gi_create(struct nv_gpu *gpu, const char *profile)
{
	const struct nv_gi_profile *p;
	uint i, free = NV_MAX_GIS, compute = 0, used = 0, at, id = NV_NO_GI;

	if (!nv_mig(gpu))
		return -EOPNOTSUPP;
	if (kstrtouint(profile, 10, &id))
		id = NV_NO_GI;
	for (p = gpu->card->gi_profiles; p->name && p->id != id && strcmp(p->name, profile); p++)
		;
	if (!p->name)
		return -EINVAL;
	for (i = 0; i < NV_MAX_GIS; i++) {
		const struct nv_gi *gi = &gpu->gis[i];

		if (!gi->profile) {
			free = min(free, i);
			continue;
		}
		compute += gi->profile->compute;
		used |= (BIT(gi->profile->memory) - 1) << gi->start;
	}
	if (free == NV_MAX_GIS || compute + p->compute > gpu->card->compute)
		return -ENOSPC;
	for (at = 0; at + p->memory <= gpu->card->memory; at += p->memory)
		if (!(used & (BIT(p->memory) - 1) << at)) {
			gpu->gis[free] = (struct nv_gi){ p, at };
			return free;
		}
	return -ENOSPC;
}

int nv_gi_destroy(struct nv_gpu *gpu, uint gi)
{
	struct nv_vgpu *v;

	if (gi >= NV_MAX_GIS || !gpu->gis[gi].profile)
		return -ENOENT;
	list_for_each_entry(v, &gpu->vgpus, list)
		if (v->gi == gi)
			return -EBUSY;
	gpu->gis[gi].profile = NULL;
	return 0;
}

int nv_set_mixed(struct nv_gpu *gpu, bool on)
{
	if (!gpu->card->mixed || nv_mig(gpu))
		return -EOPNOTSUPP;
	if (!list_empty(&gpu->vgpus))
		return -EBUSY;
	gpu->mixed = on;
	return 0;
}

/*
 * Survives a reload of the driver, as it is in the card.  Refused while VFs are enabled, when turned off.  It takes a reset
 * of the GPU, which has to wait while anybody but the one who asks has it open.
 */
int nv_set_mig(struct nv_gpu *gpu, bool on)
{
	u32 *nvram = gpusim_nvram(gpu->pdev);

	if (!gpu->card->compute)
		return -EOPNOTSUPP;
	if (on == nv_mig(gpu)) {
		*nvram &= MIG_ON;
		return 0;
	}
	if (!list_empty(&gpu->vgpus) || gi_count(gpu) || (!on && pci_num_vf(gpu->pdev)))
		return -EBUSY;
	if (gpu->clients > 1) {
		*nvram = (*nvram & MIG_ON) | MIG_WAITS | (on ? MIG_THEN_ON : 0);
		return 0;
	}
	*nvram = on ? MIG_ON : 0;
	gpu->mixed = false;
	return 0;
}
