/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Having the kernel join mappings again. Guest memory that has come home must not stay in pieces: a long life
 * would use up all the mappings a process may have.
 *
 * Two neighbouring anonymous mappings are one only if their pages hang on one anon_vma. A mapping gets its
 * own with its first page, unless it can share that of a neighbour with the same attributes, registration
 * included: rejoin_widen(). Pages that were discarded between merged ones and written since had no such
 * neighbour; when the chunk has no store mappings any more, they are moved aside, an empty window is laid
 * over all of the chunk, and they are moved back: rejoin_chunk().
 *
 * All functions: engine.work held.
 */
#include "memd/engine/engine.h"

/* Where tracked anonymous memory lies beside [page, end), a page of it on either side. The kernel lets the
 * new mapping join it only if it is registered alike when the first page comes in: it then shares the
 * neighbour's anon_vma. An access to the neighbour that waits in between goes on with hold_end(). */
void rejoin_widen(const struct region *r, uint32_t *page, uint32_t *end)
{
    const struct segment *s = region_segment(r, *page);

    if (*page > s->first && !entry_in_store(page_get(r, *page - 1)))
        --*page;
    if (*end < s->first + s->npages && !entry_in_store(page_get(r, *end)))
        ++*end;
}

struct homing {
    struct memd *m;
    struct region *r;
    uint32_t first, park;
};

static void go_home(void *ctx, uint32_t i, uint32_t npages)
{
    const struct homing *h = ctx;

    hold_back(h->m, page_hva(h->r, h->first + i), h->park + i, npages);
}

static bool can_rejoin(const struct region *r, uint32_t chunk)
{
    const struct chunk *c = &r->chunks[chunk];
    const struct segment *s = region_segment(r, chunk_first(r, chunk));

    return c->islands && !c->store && !c->huge && !atomic_load(&c->out) && s &&
           chunk_end(r, chunk) <= s->first + s->npages;
}

void rejoin_chunk(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), last = chunk_end(r, chunk), n = last - first, done = 0;
    struct chunk *c = &r->chunks[chunk];
    struct homing h = {.m = m, .r = r, .first = first};
    uint32_t moved;

    if (!can_rejoin(r, chunk))
        return;
    h.park = hold_room(m, n);
    chunk_lock(c);
    int err = uffd_register(m->uffd_a, page_hva(r, first), n * PAGE_BYTES,
                            UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
    while (!err && done < n) {
        err = hold_move(m, m->parking + (h.park + done) * PAGE_BYTES, page_hva(r, first + done), n - done,
                        UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &moved);
        done += moved;
    }
    if (!err && !place_window(m, r, first, n)) { /* a page that refuses to move keeps its mapping */
        c->islands = false;
        rejoin_widen(r, &first, &last);
        if (uffd_register(m->uffd_a, page_hva(r, first), (last - first) * PAGE_BYTES,
                          UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING))
            first = h.first, last = first + n;
    }
    hold_each(m, h.park, n, go_home, &h);
    hold_end(m, r, first, last - first);
    chunk_unlock(c);
    uffd_wake(m->uffd_a, page_hva(r, first), (last - first) * PAGE_BYTES);
}
