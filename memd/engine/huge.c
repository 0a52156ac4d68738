/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Huge pages: they are not armed, but looked at from time to time, all 512 hashes at once, and broken when
 * the daemon says that enough of one would go. Part of the rounds (scan.c).
 *
 * All functions: engine.work held.
 */
#include "memd/common/hash.h"
#include "memd/engine/engine.h"

#include <errno.h>

#define RESURVEY_ROUNDS 8u

static const struct scan_query query_zero = {.mask = PAGE_IS_PFNZERO, .ret = PAGE_IS_PFNZERO};
static const struct scan_query query_huge = {.mask = PAGE_IS_HUGE, .ret = PAGE_IS_HUGE | PAGE_IS_PFNZERO};

/* Of a page at least. */
static void found_huge(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint64_t categories,
                       void *arg)
{
    uint32_t chunk = chunk_of(r, page);

    (void)m, (void)npages, (void)arg;
    r->chunks[chunk].huge = true;
    if (categories & PAGE_IS_PFNZERO)
        return;
    /* what was dropped or discarded is there again: the kernel has filled the chunk with a huge page at once
     */
    for (uint32_t p = chunk_first(r, chunk); p < chunk_end(r, chunk); p++) {
        uint64_t e = page_get(r, p);
        if (entry_state(e) == WIRE_PAGE_ZERO || entry_state(e) == WIRE_PAGE_GONE)
            page_set(r, p,
                     entry_make(WIRE_PAGE_PRIVATE,
                                (uint32_t)(e & (WIRE_PAGE_F_DROPPING | WIRE_PAGE_F_PINNED)), 0,
                                entry_frame(e)));
    }
}

void huge_survey(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk);
    struct wire_rec_hashes *rec = ring_reserve(&m->session.up, WIRE_REC_SURVEY, WIRE_REC_BYTES_MAX);

    if (!rec)
        return;
    rec->r.region = r->id;
    rec->page = first;
    rec->count = CHUNK_PAGES;
    rec->node = (int16_t)r->node;
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        const void *p = page_hva(r, first + i);
        uint64_t hash = page_is_zero(p) ? 0 : hash_page(p);
        uint64_t e = page_get(r, first + i) & ~((uint64_t)WIRE_PAGE_TAG_MASK << WIRE_PAGE_TAG_SHIFT);
        rec->hash[i] = hash;
        page_set(r, first + i,
                 e | WIRE_PAGE_F_HUGE | (uint64_t)(hash ? wire_tag_of_hash(hash) : 0) << WIRE_PAGE_TAG_SHIFT);
    }
    m->tokens -= CHUNK_PAGES;
    m->round.hashed += CHUNK_PAGES;
    r->chunks[chunk].surveyed = true;
}

/* No longer one huge page: its pages are found written, and pending, by the scan. */
void scan_huge_gone(struct region *r, uint32_t chunk)
{
    r->chunks[chunk].huge = r->chunks[chunk].surveyed = false;
    for (uint32_t p = chunk_first(r, chunk); p < chunk_end(r, chunk); p++)
        page_set(r, p,
                 page_get(r, p) & ~(WIRE_PAGE_F_HUGE | (uint64_t)WIRE_PAGE_TAG_MASK << WIRE_PAGE_TAG_SHIFT));
}

/* Splitting a huge page, the kernel maps its zero pages to the one it shares (Linux 6.12): they are dropped.
 */
static void found_zero(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint64_t categories,
                       void *arg)
{
    (void)categories, (void)arg;
    for (uint32_t p = page; p < page + npages; p++)
        if (entry_state(page_get(r, p)) == WIRE_PAGE_PRIVATE && !entry_frame(page_get(r, p)))
            page_set(r, p, entry_make(WIRE_PAGE_ZERO, 0, 0, 0));
    atomic_fetch_add_explicit(&m->stats.zero_drops, npages, memory_order_relaxed);
}

int scan_break_huge(struct memd *m, struct region *r, uint32_t page)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    uint32_t first = chunk_first(r, chunk_of(r, page));
    struct hold_run run;

    if (!c->huge || c->pins)
        return -EINVAL;
    /* moving one page out of a huge page splits it */
    chunk_lock(c);
    int err = hold_take(m, r, first, 1, &run);
    if (run.npages)
        hold_return(m, r, &run, 0, 1);
    hold_end(m, r, first, 1);
    chunk_unlock(c);
    uffd_wake(m->uffd_a, page_hva(r, first), PAGE_BYTES);
    if (!err) {
        scan_huge_gone(r, chunk_of(r, page));
        scan_pages(m, r, first, chunk_end(r, chunk_of(r, page)), &query_zero, found_zero, NULL);
        atomic_fetch_add_explicit(&m->stats.huge_broken, 1, memory_order_relaxed);
        m->round.asked = true;
    }
    return err;
}

/* All of it takes part: else a huge page there is somebody else's, or goes on beyond the region. */
static bool may_be_huge(const struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk);
    const struct segment *s = region_segment(r, first);

    return end - first == CHUNK_PAGES && s && end <= s->first + s->npages;
}

void huge_look(struct memd *m, struct region *r, uint32_t chunk)
{
    bool was = r->chunks[chunk].huge;

    if (!may_be_huge(r, chunk))
        return;
    r->chunks[chunk].huge = false;
    /* a huge page begins with the chunk, and its first page says so: looking at all 512 costs as much as
     * hashing 50 */
    scan_pages(m, r, chunk_first(r, chunk), chunk_first(r, chunk) + 1, &query_huge, found_huge, NULL);
    if (was && !r->chunks[chunk].huge)
        scan_huge_gone(r, chunk);
    else if (r->chunks[chunk].huge && m->round.number % RESURVEY_ROUNDS == 0)
        r->chunks[chunk].surveyed = false;
}
