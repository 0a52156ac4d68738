/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving references back (wire.h): a page that stops using its frame keeps naming it, marked F_DROPPING,
 * until DROPPED has been written to the ring; without a daemon, or with a full ring, that waits for
 * refs_flush().
 *
 * All functions: engine.work held.
 */
#include "memd/engine/engine.h"

#define REFS_ROOM_BYTES 16384u /* of the ring, before what was left is tried again */

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
        r->chunks[chunk_of(r, page)].drops = m->drops_left = true;
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
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk), n;

    if (!r->chunks[chunk].drops || !session_can_report(m))
        return;
    r->chunks[chunk].drops = false;
    for (uint32_t p = first; p < end; p += n) {
        uint32_t frame = entry_frame(page_get(r, p));
        for (n = 0; p + n < end; n++) {
            uint64_t e = page_get(r, p + n);
            if (!(e & WIRE_PAGE_F_DROPPING) || entry_frame(e) != frame + n)
                break;
            page_set(r, p + n, e & ~(uint64_t)WIRE_PAGE_F_DROPPING);
        }
        if (n)
            drop_run(m, r, p, n, WIRE_DROP_WRITTEN);
        else
            n = 1;
    }
}

bool refs_flush_all(struct memd *m)
{
    if (!m->drops_left || !session_can_report(m) || ring_room(&m->session.up) < REFS_ROOM_BYTES)
        return !m->drops_left;
    m->drops_left = false;
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        for (uint32_t c = 0; r && c < r->nchunks && !m->drops_left; c++)
            refs_flush(m, r, c); /* sets it again when the ring is full */
    }
    return !m->drops_left;
}
