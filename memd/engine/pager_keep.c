/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Upkeep of what is out of RAM, at any time: what the fault server has dropped from the pool is freed, sparse
 * blocks of the pool are emptied, chunks that have had nothing out for a while are released (MISSING off),
 * and what has left the swap file is given back to its file system.
 *
 * All functions: engine.work held.
 */
#include "memd/engine/memory.h"
#include "memd/engine/out.h"
#include "memd/engine/pager.h"
#include "memd/engine/swap.h"

#define RELEASE_STEP 16u  /* chunks, 40 to 240 us each */
#define COMPACT_STEP 256u /* objects */
#define SEEN_EMPTY   2u   /* chunk.missing: and nothing was out in the last sweep */
#define TRIM_STEP    4u   /* clusters of the swap file */

/* Chunks that had nothing out in this sweep and in the last. False: not all of it was done. */
static bool sweep(struct memd *m)
{
    uint32_t budget = RELEASE_STEP;
    bool again = false;

    atomic_store_explicit(&m->pager->emptied, false, memory_order_relaxed);
    for (unsigned i = 0; i < MEMD_REGIONS_MAX && budget; i++) {
        struct region *r = m->regions[i];
        for (uint32_t k = 0; r && k < r->nchunks && budget; k++) {
            struct chunk *c = &r->chunks[k];
            uint8_t missing = atomic_load_explicit(&c->missing, memory_order_relaxed);
            if (!missing || atomic_load_explicit(&c->out, memory_order_relaxed))
                continue;
            if (missing == SEEN_EMPTY) {
                out_release(m, r, k);
                budget--;
            } else {
                atomic_store_explicit(&c->missing, SEEN_EMPTY, memory_order_relaxed);
                again = true;
            }
        }
    }
    if (again || !budget)
        atomic_store_explicit(&m->pager->emptied, true, memory_order_relaxed);
    return budget;
}

bool pager_keep(struct memd *m)
{
    struct pager *p = m->pager;
    uint64_t now = now_ns();

    swap_report(m);
    if (p->pool)
        pool_reap(p->pool);
    if (p->swap) {
        bool idle =
            !swap_reap(m) && p->phase == PAGER_IDLE; /* file systems let it wait for writes under way */
        for (unsigned i = 0; idle && i < TRIM_STEP; i++)
            if (!swapfile_trim(p->swap))
                break;
    }
    if (p->pool && pool_sparse(p->pool) && out_compact(m, COMPACT_STEP))
        return true;
    if (!atomic_load_explicit(&p->emptied, memory_order_relaxed) ||
        now < p->swept_ns + PAGER_SWEEP_MS * 1000000ull)
        return false;
    if (!sweep(m))
        return true;
    p->swept_ns = now;
    return false;
}

struct pager_counts pager_count(struct memd *m)
{
    struct pager_counts n = {.metadata_bytes = m->pager->missing_chunks * PAGE_BYTES};

    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        n.parked += r ? atomic_load_explicit(&r->out.parked, memory_order_relaxed) : 0;
        n.sampled += r ? atomic_load_explicit(&r->out.sampled, memory_order_relaxed) : 0;
        n.packed += r ? atomic_load_explicit(&r->out.packed, memory_order_relaxed) : 0;
        n.swapped += r ? atomic_load_explicit(&r->out.swapped, memory_order_relaxed) : 0;
    }
    if (m->pager->pool) {
        struct pool_counts pool = pool_count(m->pager->pool);
        n.packed_bytes = pool.used_bytes;
        n.host_bytes = pool.host_bytes;
    }
    if (m->pager->swap)
        n.swap = swapfile_count(m->pager->swap);
    n.metadata_bytes += n.swap.memory_bytes;
    return n;
}
