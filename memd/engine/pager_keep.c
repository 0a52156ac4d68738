/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the pager has, and the upkeep of what is out of RAM, at any time: what the fault server has dropped
 * from the pool is freed, sparse blocks of the pool are emptied, chunks that have had nothing out for a while
 * are released (MISSING off), and what has left the swap file is given back to its file system.
 *
 * All functions: engine.work held.
 */
#include "memd/engine/memory.h"
#include "memd/engine/out.h"
#include "memd/engine/pager.h"
#include "memd/engine/remote.h"
#include "memd/engine/swap.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define AREA_LZ4_BYTES 20480u
#define SERVE_BYTES    (2 * PAGE_BYTES)
#define AREA_BYTES     (SERVE_BYTES + OUT_BATCH_PAGES * PAGE_BYTES + AREA_LZ4_BYTES)
#define RELEASE_STEP   16u  /* chunks, 40 to 240 us each */
#define COMPACT_STEP   256u /* objects */
#define SEEN_EMPTY     2u   /* chunk.missing: and nothing was out in the last sweep */
#define TRIM_STEP      4u   /* clusters of the swap file */

/* ---- life */

int pager_open(struct memd *m)
{
    m->pager = calloc(1, sizeof *m->pager);
    if (!m->pager)
        return -ENOMEM;
    m->pager->swap_fd = -1;
    return 0;
}

void pager_close(struct memd *m)
{
    struct pager *p = m->pager;

    if (!p)
        return;
    if (!p->swap && p->swap_fd >= 0)
        close(p->swap_fd);
    swapfile_close(p->swap);
    pool_close(p->pool);
    if (p->area)
        munmap(p->area, AREA_BYTES);
    free(p);
    m->pager = NULL;
}

int pager_ready(struct memd *m)
{
    struct pager *p = m->pager;

    if (p->pool)
        return 0;
    if (!p->area)
        p->area = place_reserve(AREA_BYTES);
    if (!p->area || LZ4_sizeofState() > (int)AREA_LZ4_BYTES)
        return -ENOMEM;
    p->serve = p->area;
    p->batch = p->serve + SERVE_BYTES;
    p->lz4 = p->batch + OUT_BATCH_PAGES * PAGE_BYTES;
    if (mlock(p->serve, SERVE_BYTES))
        log_msg(m, MEMD_LOG_WARN,
                "the fault server's buffer cannot be locked in memory (%d): raise RLIMIT_MEMLOCK", errno);
    memset(p->serve, 0, SERVE_BYTES);
    p->pool = pool_open();
    if (!p->pool)
        return -ENOMEM;
    int err = swap_begin(m);
    if (err) /* pages are packed all the same */
        log_msg(m, MEMD_LOG_WARN, "the swap file cannot be used (%s)", strerror(-err));
    return 0;
}

/* ---- upkeep */

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

/* ---- counts */

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
    n.remote = remote_count(m);
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
