/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dropping zero pages, merging, and giving references back.
 *
 * A merge (I4): the frames are named in the page map first, so that no reference is ever held that the map
 * does not show; the run is taken aside; each page is compared with its frame; equal stretches get the store
 * mapped over them, the others go back. A hash has no say in it. What the daemon proposed may be stale or
 * nonsense: every bound is checked here and the answer says what was done.
 *
 * References (wire.h): a page that stops using its frame keeps naming it, marked F_DROPPING, until DROPPED
 * has been written to the ring; without a daemon, or with a full ring, that waits for refs_flush().
 */
#include "memd/engine/engine.h"

#include <errno.h>
#include <string.h>

struct outcome {
    uint64_t merged[CHUNK_PAGES / 64];
    enum wire_why why;
};

/* ---- references */

static bool report_drop(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t frame,
                        enum wire_drop why)
{
    if (!session_can_report(m))
        return false;
    struct wire_rec_dropped *rec = ring_reserve(&m->session.up, WIRE_REC_DROPPED, sizeof *rec);
    if (!rec)
        return false;
    rec->r.region = r->id;
    rec->page = page;
    rec->frame = frame;
    rec->count = (uint16_t)npages;
    rec->why = (uint16_t)why;
    rec->reserved = 0;
    return true;
}

/* One run of consecutive pages with consecutive frames; the pages' state has changed or is about to. */
static void drop_run(struct memd *m, struct region *r, uint32_t page, uint32_t npages, enum wire_drop why)
{
    uint32_t frame = entry_frame(page_get(r, page));
    bool told = report_drop(m, r, page, npages, frame, why);

    for (uint32_t p = page; p < page + npages; p++) {
        uint64_t e = page_get(r, p) & ~(uint64_t)WIRE_PAGE_F_DROPPING;
        page_set(r, p, told ? (uint32_t)e : e | WIRE_PAGE_F_DROPPING);
    }
    if (!told)
        r->chunks[chunk_of(r, page)].drops = true;
}

void refs_drop(struct memd *m, struct region *r, uint32_t page, uint32_t npages, enum wire_drop why)
{
    uint32_t end = page + npages;

    while (page < end) {
        uint32_t frame = entry_frame(page_get(r, page)), n = 1;
        if (!frame || page_get(r, page) & WIRE_PAGE_F_DROPPING) {
            page++;
            continue;
        }
        while (page + n < end && chunk_of(r, page + n) == chunk_of(r, page) &&
               entry_frame(page_get(r, page + n)) == frame + n &&
               !(page_get(r, page + n) & WIRE_PAGE_F_DROPPING))
            n++;
        drop_run(m, r, page, n, why);
        page += n;
    }
}

void refs_flush(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk);

    if (!r->chunks[chunk].drops || !session_can_report(m))
        return;
    r->chunks[chunk].drops = false;
    for (uint32_t p = first; p < end; p++) {
        uint64_t e = page_get(r, p);
        if (!(e & WIRE_PAGE_F_DROPPING))
            continue;
        page_set(r, p, e & ~(uint64_t)WIRE_PAGE_F_DROPPING);
        drop_run(m, r, p, 1, WIRE_DROP_WRITTEN);
    }
}

/* ---- taking one run aside, piece by piece around pages that refuse */

/* `page` could not be moved; those behind it, up to `end`, were not tried and are looked at again. */
static void mark_pinned(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    page_set(r, page, page_get(r, page) | WIRE_PAGE_F_PINNED);
    for (uint32_t p = page + 1; p < end; p++)
        pending_set(r, p);
    if (!m->pin_retry_ns)
        m->pin_retry_ns = now_ns() + PIN_RETRY_MS * 1000000ull;
}

/* A zero page that is still zero now that nobody can write it. */
static void zero_run(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    struct hold_run run;

    chunk_lock(c);
    int err = hold_take(m, r, page, npages, &run);
    for (uint32_t i = 0; i < run.npages; i++) {
        uint64_t e = page_get(r, page + i);
        if (!page_is_zero(hold_page(m, &run, i))) {
            hold_return(m, r, &run, i, 1);
            pending_set(r, page + i);
            continue;
        }
        page_set(r, page + i,
                 entry_make(WIRE_PAGE_ZERO, (uint32_t)(e & WIRE_PAGE_F_DROPPING), 0, entry_frame(e)));
        pending_clear(r, page + i);
        atomic_fetch_add_explicit(&m->stats.zero_drops, 1, memory_order_relaxed);
    }
    hold_end(m, r, page, npages);
    chunk_unlock(c);
    uffd_wake(m->uffd_a, page_hva(r, page), npages * PAGE_BYTES);
    if (err == -EBUSY)
        mark_pinned(m, r, page + run.npages, page + npages);
}

void zero_drop(struct memd *m, struct region *r, uint32_t chunk, const uint64_t zero[CHUNK_WORDS])
{
    uint32_t end = chunk_end(r, chunk);

    for (uint32_t p = chunk_first(r, chunk); p < end;) {
        uint32_t n = 0, slot = (p + r->first_bit) % CHUNK_PAGES;
        while (p + n < end && n < HOLD_PAGES_MAX && zero[(slot + n) / 64] >> ((slot + n) % 64) & 1)
            n++;
        if (n)
            zero_run(m, r, p, n);
        p += n ? n : 1;
    }
}

/* ---- merging */

static const uint8_t *frame_bytes(const struct memd *m, uint32_t frame)
{
    return m->session.store[frame >> WIRE_FRAME_NODE_SHIFT] + (frame & WIRE_FRAME_INDEX_MASK) * PAGE_BYTES;
}

static bool frames_valid(const struct memd *m, uint32_t frame, uint32_t count)
{
    uint32_t index = frame & WIRE_FRAME_INDEX_MASK, node = frame >> WIRE_FRAME_NODE_SHIFT;
    uint64_t limit = m->session.store_bytes >> PAGE_SHIFT;

    return node < m->session.nstores && frame && index < limit && count <= limit - index &&
           (uint64_t)index + count <= WIRE_FRAME_INDEX_MASK;
}

static void name_frames(struct region *r, uint32_t page, uint32_t npages, uint32_t frame)
{
    for (uint32_t i = 0; i < npages; i++) {
        uint64_t e = page_get(r, page + i);
        page_set(r, page + i, entry_make(WIRE_PAGE_PRIVATE, WIRE_PAGE_F_PENDING, entry_tag(e), frame + i));
    }
}

static void unname_frame(struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page);

    page_set(r, page, entry_make(WIRE_PAGE_PRIVATE, 0, entry_tag(e), 0));
}

/* An equal stretch of a held run. False: the mapping failed and the pages went back. */
static bool map_stretch(struct memd *m, struct region *r, const struct hold_run *run, uint32_t skip,
                        uint32_t npages, uint32_t frame, struct outcome *out)
{
    uint32_t page = run->page + skip;
    int err = place_store(m, r, page, npages, frame);

    if (err) {
        out->why = err == -ENOMEM ? WIRE_WHY_MAP_COUNT : WIRE_WHY_NOMEM;
        m->map_count_short = true;
        m->map_count_retry_ns = now_ns() + PIN_RETRY_MS * 1000000ull;
        hold_return(m, r, run, skip, npages);
        return false;
    }
    for (uint32_t p = page; p < page + npages; p++) {
        page_set(r, p, entry_make(WIRE_PAGE_SHARED, 0, 0, entry_frame(page_get(r, p))));
        pending_clear(r, p);
    }
    atomic_fetch_add_explicit(&m->stats.merges, npages, memory_order_relaxed);
    return true;
}

/* The held pages against their frames: equal stretches are mapped, the rest goes back. MISSING ends on what
 * stays anonymous. */
static void settle_run(struct memd *m, struct region *r, const struct hold_run *run, uint32_t frame,
                       uint32_t base, struct outcome *out)
{
    uint32_t i = 0, anon = 0; /* pages [anon, i) of the run are anonymous with MISSING on */

    while (i < run->npages) {
        uint32_t n = 0;
        while (i + n < run->npages &&
               !memcmp(hold_page(m, run, i + n), frame_bytes(m, frame + i + n), PAGE_BYTES))
            n++;
        if (n && map_stretch(m, r, run, i, n, frame + i, out)) {
            for (uint32_t k = base + i; k < base + i + n; k++)
                out->merged[k / 64] |= 1ull << (k % 64);
            if (i > anon)
                hold_end(m, r, run->page + anon, i - anon);
            anon = i + n;
        } else if (!n) {
            hold_return(m, r, run, i, 1);
            n = 1;
            out->why = WIRE_WHY_DIFFERS;
            pending_set(r, run->page + i);
            atomic_fetch_add_explicit(&m->stats.rejected, 1, memory_order_relaxed);
        }
        i += n;
    }
    if (i > anon)
        hold_end(m, r, run->page + anon, i - anon);
}

/* Up to HOLD_PAGES_MAX pages in one segment and chunk, all private and free. */
static void merge_piece(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t frame,
                        uint32_t base, struct outcome *out)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    struct hold_run run;

    name_frames(r, page, npages, frame);
    chunk_lock(c);
    int err = hold_take(m, r, page, npages, &run);
    if (run.npages) {
        settle_run(m, r, &run, frame, base, out);
        place_store_flags(r, page, run.npages);
        c->store = true;
    }
    if (run.npages < npages)
        hold_end(m, r, page + run.npages, npages - run.npages);
    chunk_unlock(c);
    uffd_wake(m->uffd_a, page_hva(r, page), npages * PAGE_BYTES);
    for (uint32_t p = page; p < page + npages; p++)
        if (entry_state(page_get(r, p)) == WIRE_PAGE_PRIVATE)
            unname_frame(r, p);
    if (err)
        out->why = err == -EBUSY ? WIRE_WHY_PINNED : err == -ENOMEM ? WIRE_WHY_MAP_COUNT : WIRE_WHY_STATE;
    if (err == -EBUSY)
        mark_pinned(m, r, page + run.npages, page + npages);
    chunk_count_vmas(m, r, chunk_of(r, page));
}

/* Why this page cannot be merged now; NONE: it can. */
static enum wire_why page_refuses(const struct region *r, uint32_t page)
{
    const struct chunk *c = &r->chunks[chunk_of(r, page)];
    uint64_t e = page_get(r, page);

    if (c->pins || !region_segment(r, page))
        return WIRE_WHY_OFF;
    if (c->huge)
        return WIRE_WHY_HUGE;
    if (entry_state(e) != WIRE_PAGE_PRIVATE || entry_frame(e))
        return WIRE_WHY_STATE;
    return e & WIRE_PAGE_F_PINNED ? WIRE_WHY_PINNED : WIRE_WHY_NONE;
}

/* Shortest run worth its two mappings: the nearer the limit, the longer. */
static uint32_t run_worth(const struct memd *m)
{
    uint64_t limit = m->budget.vmas_max, used = m->vmas_used;

    if (m->map_count_short || used + 8 >= limit)
        return UINT32_MAX;
    return used < limit / 2 ? 1 : used < limit / 4 * 3 ? 3 : 8;
}

static void merge_all(struct memd *m, struct region *r, const struct wire_rec_merge *rec, struct outcome *out)
{
    uint32_t i = 0;

    /* written since the merge, quiet, and now equal to something again: worth bringing back into plain memory
     */
    for (uint32_t k = 0; k < rec->count; k++)
        if (entry_state(page_get(r, rec->page + k)) == WIRE_PAGE_BROKEN) {
            uint32_t left;
            heal_range(m, r, rec->page + k, 1, &left);
        }
    while (i < rec->count) {
        const struct segment *s = region_segment(r, rec->page + i);
        enum wire_why why = page_refuses(r, rec->page + i);
        uint32_t n = 1;
        if (why) {
            out->why = why;
            i++;
            continue;
        }
        while (i + n < rec->count && n < HOLD_PAGES_MAX && !page_refuses(r, rec->page + i + n) &&
               region_segment(r, rec->page + i + n) == s)
            n++;
        if (n < run_worth(m))
            out->why = WIRE_WHY_MAP_COUNT;
        else
            merge_piece(m, r, rec->page + i, n, rec->frame + i, i, out);
        i += n;
    }
}

void merge_run(struct memd *m, const struct wire_rec_merge *rec)
{
    struct region *r = rec->r.region < MEMD_REGIONS_MAX ? m->regions[rec->r.region] : NULL;
    struct outcome out = {.why = WIRE_WHY_NONE};
    bool sane = r && rec->count && rec->count <= CHUNK_PAGES && rec->page < r->npages &&
                rec->count <= r->npages - rec->page &&
                chunk_of(r, rec->page) == chunk_of(r, rec->page + rec->count - 1) &&
                frames_valid(m, rec->frame, rec->count);

    if (!sane)
        out.why = WIRE_WHY_STATE;
    else if (!merging_on(m) || r->stuck)
        out.why = WIRE_WHY_OFF;
    else
        merge_all(m, r, rec, &out);
    struct wire_rec_result *res = ring_reserve(&m->session.up, WIRE_REC_RESULT, sizeof *res);
    if (!res) { /* session_drain() left room: only a peer that moves tail backwards gets here */
        log_msg(m, MEMD_LOG_ERROR, "the daemon's ring is inconsistent; reconnecting");
        session_close(m);
        return;
    }
    *res = (struct wire_rec_result){
        .r = {.type = WIRE_REC_RESULT, .bytes = sizeof *res, .region = rec->r.region},
        .page = rec->page,
        .frame = rec->frame,
        .count = rec->count,
        .why = (uint16_t)out.why,
        .id = rec->id};
    memcpy(res->merged, out.merged, sizeof res->merged);
}
