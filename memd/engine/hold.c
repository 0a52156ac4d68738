/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holding pages aside. A run of pages is moved (UFFDIO_MOVE: atomic against vCPUs, refused for pinned pages)
 * to the parking area while its range is registered MISSING, so whoever touches it waits. There it can be
 * looked at while nobody can write it (I4). Then it is given back, replaced, or left out (zero pages),
 * MISSING goes off again for what is still anonymous, and all waiters are woken.
 *
 * Order for a caller, engine.work held throughout:
 *    chunk_lock, hold_take ..., look, hold_return or place_store, hold_end, chunk_unlock, uffd_wake of the
 * range. MISSING is on only for the pages being held, never between two operations: a range with nothing in
 * it is cheap to unregister, and first touches of fresh guest memory stay the kernel's business.
 */
#include "memd/engine/engine.h"
#include "memd/engine/pager.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#define HOLD_COMPLAIN 1000u /* failures in a row */

bool chunk_trylock(struct chunk *c)
{
    /* acquire: what the previous holder did to the chunk's pages and entries is seen */
    return !atomic_exchange_explicit(&c->busy, 1, memory_order_acquire);
}

void chunk_lock(struct chunk *c)
{
    /* only the fault server competes, for the time of one system call */
    while (!chunk_trylock(c))
        sched_yield();
}

void chunk_unlock(struct chunk *c)
{
    atomic_store_explicit(&c->busy, 0, memory_order_release);
}

char *hold_page(struct memd *m, const struct hold_run *run, uint32_t i)
{
    return m->parking + (uint64_t)(run->park + i) * PAGE_BYTES;
}

void hold_release(struct memd *m, bool force)
{
    if (!m->parked || (!force && m->parked + CHUNK_PAGES <= PARKING_PAGES))
        return;
    if (madvise(m->parking, m->parked * PAGE_BYTES, MADV_DONTNEED))
        place_empty(m->parking, PARKING_PAGES * PAGE_BYTES);
    m->parked = 0;
}

int hold_take(struct memd *m, struct region *r, uint32_t page, uint32_t npages, struct hold_run *ret_run)
{
    char *hva = page_hva(r, page);
    uint64_t moved = 0;
    int err;

    *ret_run = (struct hold_run){.page = page};
    uint32_t park = hold_room(m, npages);
    err = uffd_register(m->uffd_a, hva, npages * PAGE_BYTES,
                        UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
    if (err)
        return err;
    err = uffd_move(m, m->parking + park * PAGE_BYTES, hva, npages * PAGE_BYTES, 0, &moved);
    *ret_run = (struct hold_run){.page = page, .npages = (uint32_t)(moved / PAGE_BYTES), .park = park};
    return err;
}

uint32_t hold_room(struct memd *m, uint32_t npages)
{
    if (m->parked + npages > PARKING_PAGES)
        hold_release(m, true);
    if (!m->parked)
        place_empty(m->parking, PARKING_PAGES * PAGE_BYTES);
    m->parked += npages;
    return m->parked - npages;
}

/* Neighbouring mappings that did not join can't be filled in one call. */
static bool crosses_mappings(int err)
{
    return err == -EINVAL || err == -ENOENT;
}

int hold_move(struct memd *m, char *dst, char *hva, uint32_t npages, uint64_t mode, uint32_t *ret_npages)
{
    uint64_t moved = 0;
    int err;

    for (uint32_t n = npages;; n /= 2) {
        err = uffd_move(m, dst, hva, n * PAGE_BYTES, mode, &moved);
        if (moved || n == 1 || !crosses_mappings(err))
            break;
    }
    *ret_npages = (uint32_t)(moved / PAGE_BYTES);
    return err;
}

void hold_each(struct memd *m, uint32_t park, uint32_t npages, hold_fn *fn, void *ctx)
{
    /* the kernel's shared zero page need not go back: nothing there reads the same */
    static const struct scan_query there = {.inverted = PAGE_IS_PFNZERO,
                                            .mask = PAGE_IS_PFNZERO,
                                            .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                                            .ret = PAGE_IS_PRESENT};
    struct page_region vec[64];
    uint64_t base = (uintptr_t)m->parking + park * PAGE_BYTES, at = base, end = at + npages * PAGE_BYTES;

    while (at < end) {
        uint64_t walked = at;
        int n = pagemap_scan(m, (void *)at, end - at, &there, vec, 64, &walked);
        for (int k = 0; k < n; k++)
            fn(ctx, (uint32_t)((vec[k].start - base) >> PAGE_SHIFT),
               (uint32_t)((vec[k].end - vec[k].start) >> PAGE_SHIFT));
        if (n < 0 || walked <= at) /* not known what is there; PAGEMAP_SCAN on our own memory does not fail */
            log_msg(m, MEMD_LOG_ERROR, "looking at the parking area failed (%d), trying again", -n);
        else
            at = walked;
    }
}

/* Moving costs a flush, copying a copy of each page. */
static bool copy_is_cheaper(const struct memd *m, uint32_t npages)
{
    double flush = npages > PLAN_FLUSH_PAGES ? m->costs.flush_all_ns : npages * m->costs.flush_page_ns;

    return npages * m->costs.copy_ns < flush;
}

int hold_fill(struct memd *m, struct hold_fill *f)
{
    uint64_t done = 0;
    int err = f->move    ? uffd_move(m, f->hva, f->src, f->piece, 0, &done)
              : f->armed ? uffd_copy_armed(m->uffd_a, f->hva, f->src, f->piece, &done)
                         : uffd_copy(m->uffd_a, f->hva, f->src, f->piece, &done);

    f->hva += done, f->src += done, f->left -= done;
    if (done)
        f->piece = f->left;
    if (!err || done)
        return 0;
    if (err == -EEXIST) { /* a marker is in the way */
        uffd_write_protect(m->uffd_a, f->hva, PAGE_BYTES, false);
    } else if (crosses_mappings(err) && f->piece > PAGE_BYTES) {
        f->piece = (f->piece / 2 + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
        return 0;
    } else if (!f->stays) {
        f->move = !f->move; /* moving is refused for shared pages, copying needs memory */
    }
    return err;
}

void hold_back(struct memd *m, char *hva, uint32_t park, uint32_t npages)
{
    uint64_t bytes = npages * PAGE_BYTES;
    struct hold_fill f = {.hva = hva,
                          .src = m->parking + park * PAGE_BYTES,
                          .left = bytes,
                          .piece = bytes,
                          .move = !copy_is_cheaper(m, npages)};
    unsigned failures = 0;

    while (f.left) {
        int err = hold_fill(m, &f);
        /* the content is safe where it is, and the guest waits for it: try until it goes */
        if (err && ++failures % HOLD_COMPLAIN == 0)
            log_msg(m, MEMD_LOG_ERROR, "giving a page back to %p fails (%d), trying again", (void *)f.hva,
                    -err);
        if (err)
            sched_yield();
    }
}

void hold_return(struct memd *m, struct region *r, const struct hold_run *run, uint32_t skip, uint32_t npages)
{
    hold_back(m, page_hva(r, run->page + skip), run->park + skip, npages);
}

void map_count_hit(struct memd *m)
{
    m->map_count_short = true;
    m->map_count_retry_ns = now_ns() + PIN_RETRY_MS * 1000000ull;
}

void hold_missing_on(struct memd *m, struct chunk *c)
{
    m->pager->missing_chunks += !atomic_load_explicit(&c->missing, memory_order_relaxed);
    atomic_store_explicit(&c->missing, 1, memory_order_relaxed);
}

void hold_stays_missing(struct memd *m, struct chunk *c, uint32_t npages, int err)
{
    hold_missing_on(m, c);
    map_count_hit(m);
    log_msg(m, MEMD_LOG_WARN, "first touches of %u pages go through the fault server: out of mappings (%d)",
            npages, -err);
}

static void end_in_chunk(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    char *hva = page_hva(r, page);
    uint64_t bytes = npages * PAGE_BYTES;

    if (atomic_load_explicit(&c->missing, memory_order_relaxed)) /* pages may be out: out_release() */
        return;
    int err = uffd_unregister(m->uffd_a, hva, bytes);
    if (!err)
        err = uffd_register(m->uffd_a, hva, bytes, UFFDIO_REGISTER_MODE_WP);
    if (err)
        hold_stays_missing(m, c, npages, err);
}

void hold_end(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    for (uint32_t end = page + npages, next; page < end; page = next) {
        next = chunk_end(r, chunk_of(r, page)) < end ? chunk_end(r, chunk_of(r, page)) : end;
        end_in_chunk(m, r, page, next - page);
    }
}
