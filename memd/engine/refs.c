/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving references back (wire.h): a page that stops using its frame keeps naming it, marked F_DROPPING,
 * until DROPPED has been written to the ring; without a daemon, or with a full ring, that waits for
 * refs_flush().
 *
 * All functions: engine.work held.
 */
#include "memd/engine/engine.h"

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
