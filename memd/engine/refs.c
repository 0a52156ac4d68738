/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving references back (wire.h): a page that stops using its frame keeps naming it, marked F_DROPPING,
 * until DROPPED has been written to the ring; without a daemon, or with a full ring, that waits for
 * refs_flush(). So do the references of REMOTE pages the fault server has brought home (remote.c): it only
 * marks them.
 *
 * All functions but refs_later(): engine.work held.
 */
#include "memd/engine/engine.h"

#define REFS_ROOM_BYTES 16384u /* of the ring, before what was left is tried again */

bool refs_give(struct memd *m, const struct region *r, uint32_t page, uint32_t npages, uint32_t frame,
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

void refs_later(struct memd *m, struct chunk *c)
{
    /* after the entry, and in this order: see refs_flush() and refs_flush_all() */
    atomic_store(&c->drops, 1);
    atomic_store(&m->drops_left, true);
}

/* One run of consecutive pages with consecutive frames; the pages' state has changed or is about to. False:
 * it is told later. */
static bool drop_run(struct memd *m, struct region *r, uint32_t page, uint32_t npages, enum wire_drop why)
{
    uint32_t frame = entry_frame(page_get(r, page));
    bool told = refs_give(m, r, page, npages, frame, why);

    for (uint32_t p = page; p < page + npages; p++) {
        uint64_t e = page_get(r, p) & ~(uint64_t)WIRE_PAGE_F_DROPPING;
        page_set(r, p, told ? (uint32_t)e : e | WIRE_PAGE_F_DROPPING);
    }
    if (!told)
        refs_later(m, &r->chunks[chunk_of(r, page)]);
    return told;
}

/* The frame of a page whose reference can be given back here; 0: none. That of a page that is out is the
 * business of whoever has its chunk. */
static uint32_t droppable(const struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page);

    return entry_out(e) || e & WIRE_PAGE_F_DROPPING ? 0 : entry_frame(e);
}

void refs_drop(struct memd *m, struct region *r, uint32_t page, uint32_t npages, enum wire_drop why)
{
    uint32_t end = page + npages;

    while (page < end) {
        uint32_t frame = droppable(r, page), n = 1;
        if (!frame) {
            page++;
            continue;
        }
        while (page + n < end && chunk_of(r, page + n) == chunk_of(r, page) &&
               droppable(r, page + n) == frame + n)
            n++;
        drop_run(m, r, page, n, why);
        page += n;
    }
}

bool refs_flush(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk), n;
    bool told = true;

    if (!atomic_load_explicit(&r->chunks[chunk].drops, memory_order_relaxed) || !session_can_report(m))
        return true;
    /* first: what the fault server marks from here on sets it again */
    atomic_store(&r->chunks[chunk].drops, 0);
    for (uint32_t p = first; p < end; p += n) {
        uint32_t frame = 0;
        for (n = 0; p + n < end; n++) {
            uint64_t e = page_get(r, p + n);
            frame = n ? frame : entry_frame(e);
            if (!(e & WIRE_PAGE_F_DROPPING) || entry_frame(e) != frame + n)
                break;
            page_set(r, p + n, e & ~(uint64_t)WIRE_PAGE_F_DROPPING);
        }
        if (n)
            told &= drop_run(m, r, p, n, WIRE_DROP_WRITTEN);
        else
            n = 1;
    }
    return told;
}

bool refs_flush_region(struct memd *m, struct region *r)
{
    bool told = true;

    for (uint32_t c = 0; c < r->nchunks && told; c++)
        told = refs_flush(m, r, c);
    return told;
}

bool refs_flush_all(struct memd *m)
{
    bool told = true;

    if (!atomic_load(&m->drops_left))
        return true;
    if (!session_can_report(m) || ring_room(&m->session.up) < REFS_ROOM_BYTES)
        return false;
    atomic_store(&m->drops_left, false);
    for (unsigned i = 0; i < MEMD_REGIONS_MAX && told; i++)
        told = !m->regions[i] || refs_flush_region(m, m->regions[i]);
    if (!told)
        atomic_store(&m->drops_left, true);
    return told;
}
