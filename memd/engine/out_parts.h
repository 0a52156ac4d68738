/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* out_parts: what out.c and swap.c share of the pages that are out; see out.c. */
#ifndef MEMD_ENGINE_OUT_PARTS_H
#define MEMD_ENGINE_OUT_PARTS_H

#include "memd/engine/engine.h"

/* A page's place: bits 0-31 its handle in the pool (PACKED), 32-62 the slot of its record in the swap file:
 * where it is (SWAPPED), is being written (PACKED, or PARKED with F_PENDING), or has an old copy that may
 * still be good (PRIVATE, PARKED). PLACE_REFUSED: it was found incompressible when its tag was what bits 0-23
 * say. Of a sample (sample.c) bits 0-15 say how many samples it is, and PLACE_TOUCHED that it came home
 * because somebody touched it. */
#define PLACE_WATCHERS  0xffffull
#define PLACE_TOUCHED   (1ull << 31)
#define PLACE_REFUSED   (1ull << 63)
#define PLACE_SLOT_BITS 0x7fffffff00000000ull

static inline uint64_t place_slot(uint32_t slot)
{
    return (uint64_t)slot << 32;
}

static inline uint32_t place_slot_of(uint64_t place)
{
    return (uint32_t)((place & PLACE_SLOT_BITS) >> 32);
}

/* Atomic because a page may come home while somebody looks; what is found is true only under chunk.busy. */
static inline uint64_t place_get(const struct region *r, uint32_t page)
{
    return atomic_load_explicit(&r->out.place[page + r->first_bit], memory_order_relaxed);
}

static inline void place_set(struct region *r, uint32_t page, uint64_t place)
{
    atomic_store_explicit(&r->out.place[page + r->first_bit], place, memory_order_relaxed);
}

static inline char *shadow_page(const struct region *r, uint32_t page)
{
    return r->out.shadow + page * PAGE_BYTES;
}

/* From or to a state of being out; the chunk is locked. */
void out_entry(struct region *r, uint32_t page, uint64_t entry);
uint64_t out_private(uint64_t e, bool unchanged); /* the entry of a page that has come home */
void out_emptied(struct memd *m, const struct region *r, uint32_t page); /* its chunk has lost an out page */
void out_unlock(struct memd *m, struct chunk *c); /* chunk_unlock() for chunks the fault server may want */
/* There is what pages need that go out: 0, -ENOMEM. A sample needs no pool. */
int out_prepare(struct memd *m, struct region *r, bool sample);
/* MISSING for all anonymous memory around [page, end) within the chunk: one mapping, not many. */
int out_missing_on(struct memd *m, struct region *r, uint32_t page, uint32_t end);
void out_unpack(const void *packed, uint32_t bytes, void *to);
void out_count_fault(struct memd *m, _Atomic uint64_t *tier);
void out_tell_worker(struct memd *m); /* the fault server has left something for it, that can wait a while */
/* The page cannot be had: it is LOST. The chunk is locked. -EAGAIN: it is to be tried again. */
int out_lose(struct memd *m, struct region *r, uint32_t page);
void out_trim_places(struct region *r, uint32_t chunk); /* gives their memory back if none is used */

#endif
