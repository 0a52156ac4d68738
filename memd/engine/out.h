/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* out: pages that have left guest RAM, and how they come home; see out.c. */
#ifndef MEMD_ENGINE_OUT_H
#define MEMD_ENGINE_OUT_H

#include "memd/engine/engine.h"

#define OUT_BATCH_PAGES 32u /* packed or unpacked at a time */

/* All: engine.work held, and a range is within one chunk, unless it is said otherwise. */

/* Moves pages aside that are private and present; written[i]: page + i has changed since it was hashed.
 * `flags` of their entries: 0 or WIRE_PAGE_F_SAMPLE. Returns how many went. */
uint32_t out_park(struct memd *m, struct region *r, uint32_t page, uint32_t npages, const bool *written,
                  uint32_t flags);
/* Packs those of at most OUT_BATCH_PAGES pages that are parked. Pages of zeros vanish, those that have not
 * changed since they were in the swap file are there again. Incompressible ones go home, or, `keep`, stay
 * parked. Returns how many are no longer whole in memory. */
uint32_t out_pack(struct memd *m, struct region *r, uint32_t page, uint32_t npages, bool keep);
/* Brings home what of the range is out: 0 or -ENOMEM, then the rest stays out. Samples are not counted. */
int out_home(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t *ret_homed);
/* The same, a chunk, a region; with what is as before: MISSING off again where it can be. */
int out_home_chunk(struct memd *m, struct region *r, uint32_t chunk);
int out_home_region(struct memd *m, struct region *r); /* -ENOMEM also when it would not fit in the host */
/* Out pages of the range hold nothing any more: they are GONE. */
void out_discard(struct memd *m, struct region *r, uint32_t page, uint32_t npages);
/* MISSING off if nothing is out. False: something is, or the kernel refused. */
bool out_release(struct memd *m, struct region *r, uint32_t chunk);
bool out_refuses(const struct region *r, uint32_t page); /* it was found incompressible and has not changed */
uint32_t out_compact(struct memd *m, uint32_t most);
void out_region_free(struct region *r);

/* The fault server: an absent page of a chunk with MISSING on, which it has locked. 0: it is there now, or
 * never will be: wake; -EAGAIN: later; -EINPROGRESS: it is being read, see swap_complete(). *tier: where it
 * was, if it is there because of this. since_ns: when the server heard of it. */
int out_serve(struct memd *m, struct region *r, uint32_t page, uint64_t since_ns, enum wire_tier *tier);

#endif
