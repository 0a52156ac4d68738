/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* inherit: what a forked child does to memory mapped from its parent's frames; see inherit.c. 0 or -errno. */
#ifndef MEMD_PRELOAD_INHERIT_H
#define MEMD_PRELOAD_INHERIT_H

#include "memd/common/ranges.h"

#include <stdint.h>

/* What of [start, end) is mapped from frames becomes empty memory: MADV_DONTNEED would show their bytes. */
int inherit_discard(const struct ranges *inherited, uint64_t start, uint64_t end);
/* It becomes plain memory with the same bytes. -EBUSY: others may be writing there. */
int inherit_own(struct ranges *inherited, uint64_t start, uint64_t end);

#endif
