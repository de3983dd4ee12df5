/* SPDX-License-Identifier: GPL-2.0-only */
/* What AMD's drivers keep in the word of a card that outlives them. */
#ifndef GPUSIM_AMD_NVRAM_H
#define GPUSIM_AMD_NVRAM_H

#define GIM_RESETS_READ		0x0000ffff	/* reads of reset_gpu since the card was made */
#define AMDGPU_NPS		0x00ff0000	/* memory mode, 0 for the default; the request of it */
#define AMDGPU_NPS_WANTED	0xff000000

#endif
