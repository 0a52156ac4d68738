/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merged pages that nobody touches leave RAM, too: for the VM's own swap file, since a frame is freed only
 * when the last VM that maps it has let go. Packing them in RAM would cost more than the frame does. Those
 * for which that is not wanted give up their mapping, and keep the frame (remote.c).
 *
 *   SHARED -- merged_park --> PARKED -- out_pack, swap_out --> SWAPPED
 *   SHARED -- merged_remote --> REMOTE
 *
 * The way is that of a heal (heal.c), but the pages end up in the shadow and not at home:
 *   1. userfaultfd B write-protects the mapping: writers wait. All of it is read in, because the protection
 * of a page nobody has touched looks like a page that was written.
 *   2. If any of its pages has been written, it is private, and may be pinned: then nothing is done. A page
 *      that was not written is the frame; whoever has pinned it for reading goes on with the frame's bytes,
 *      which stay as they are for as long as it is pinned (a freed frame is punched out of its file).
 *   3. The bytes are copied to the shadow, but for REMOTE pages, and an empty mapping that is MISSING from
 * birth replaces the store mapping, in one call. Whoever touches it from then on waits for the chunk, and
 * finds the page PARKED.
 *   4. The references are given back, but for REMOTE pages.
 *
 * Only whole mappings leave, or a piece at an end of one where the neighbour is anonymous memory: the piece
 * then joins it. So there are no more mappings than before; but for those that go on in the next chunk, which
 * are cut in two until the rest has followed, if there are mappings to spare.
 *
 * Whether somebody touches merged pages is seen by their page table entries. A mapping begins without any;
 * merged_age() takes those away that have come since, protected in the same way: dropping a page that was
 * written would lose it. The kernel fills in entries of neighbours, too (16 pages around a read), so a
 * mapping with something hot in it keeps what is near that.
 *
 * All functions: engine.work held, worker thread.
 */
#include "memd/engine/merged.h"

#include "memd/engine/out.h"
#include "memd/engine/out_parts.h"
#include "memd/engine/pager.h"
#include "memd/engine/remote.h"

#include <errno.h>
#include <sys/mman.h>

#define ROOM_BYTES 4096u /* of the ring, for references that are given back */
#define VMAS_SPARE 16u

/* Pages of one chunk that map consecutive frames; `begins`, `ends`: so does their mapping. `joins_left`,
 * `joins_right`: with anonymous memory beside it. */
struct run {
    uint32_t page, end;
    bool begins, ends, joins_left, joins_right;
};

static bool plain_shared(const struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page);

    return entry_state(e) == WIRE_PAGE_SHARED && entry_frame(e) &&
           !(e & (WIRE_PAGE_F_PENDING | WIRE_PAGE_F_DROPPING));
}

/* Whether a mapping of `frame` at `page` may go on at this neighbour: of a page that was written it is not
 * known which mapping it is in. */
static bool goes_on(const struct region *r, uint32_t neighbour, uint32_t frame)
{
    uint64_t e = page_get(r, neighbour);

    return entry_in_store(e) && (!entry_frame(e) || entry_frame(e) == frame);
}

static bool may_cut(const struct memd *m)
{
    return m->vmas_used + 2 * VMAS_SPARE < m->budget.vmas_max;
}

static bool next_run(const struct memd *m, const struct region *r, uint32_t page, uint32_t end,
                     struct run *ret_run)
{
    while (page < end && !(plain_shared(r, page) && region_segment(r, page)))
        page++;
    if (page >= end)
        return false;
    const struct segment *s = region_segment(r, page);
    uint32_t frame = entry_frame(page_get(r, page)), last = s->first + s->npages, q = page + 1;
    while (q < end && q < last && plain_shared(r, q) && entry_frame(page_get(r, q)) == frame + (q - page))
        q++;
    bool first_there = page > s->first, next_there = q < last, spare = may_cut(m);
    *ret_run = (struct run){.page = page,
                            .end = q,
                            .begins = !first_there || (spare && page == chunk_first(r, chunk_of(r, page))) ||
                                      !goes_on(r, page - 1, frame - 1),
                            .ends = !next_there || (spare && q == end) || !goes_on(r, q, frame + (q - page)),
                            .joins_left = first_there && !entry_in_store(page_get(r, page - 1)),
                            .joins_right = next_there && !entry_in_store(page_get(r, q))};
    return true;
}

/* ---- writers wait */

/* 0: from now on none of these pages is written; they are the frames. What has been written is left for the
 * next round to find: under the protection a page that the host swaps out at this moment looks the same. */
static int stop_writers(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    uint64_t bytes = (end - page) * PAGE_BYTES;
    int err = uffd_register(m->uffd_b, page_hva(r, page), bytes, UFFDIO_REGISTER_MODE_WP);

    if (!err)
        err = uffd_write_protect(m->uffd_b, page_hva(r, page), bytes, true);
    if (!err && madvise(page_hva(r, page), bytes, MADV_POPULATE_READ))
        err = -ENOMEM;
    if (!err)
        err = scan_any_private(m, r, page, end);
    return err;
}

static void let_writers_go(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    uint64_t bytes = (end - page) * PAGE_BYTES;

    uffd_write_protect(m->uffd_b, page_hva(r, page), bytes, false);
    uffd_unregister(m->uffd_b, page_hva(r, page), bytes);
}

static void wake(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    uffd_wake(m->uffd_a, page_hva(r, page), (end - page) * PAGE_BYTES);
    uffd_wake(m->uffd_b, page_hva(r, page), (end - page) * PAGE_BYTES);
}

/* ---- away */

/* The anonymous memory beside it is registered as the window is, so that they join. */
static int prepare_neighbours(struct memd *m, struct region *r, const struct run *run)
{
    int err = 0;

    if (run->joins_left && chunk_of(r, run->page - 1) == chunk_of(r, run->page))
        err = out_missing_on(m, r, run->page - 1, run->page);
    if (!err && run->joins_right && run->end < r->npages && chunk_of(r, run->end) == chunk_of(r, run->page))
        err = out_missing_on(m, r, run->end, run->end + 1);
    return err;
}

/* The pages are in the shadow, and nothing is mapped where they were. */
static void now_parked(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    refs_drop(m, r, page, end - page, WIRE_DROP_UNMERGED);
    for (uint32_t p = page; p < end; p++) {
        /* there was room in the ring: only a peer that moves its end backwards leaves a reference untold.
         * The page maps are counted anew with the next session. */
        m->session.broken |= entry_frame(page_get(r, p)) != 0;
        page_set(r, p, entry_make(WIRE_PAGE_PRIVATE, 0, 0, 0));
        pending_clear(r, p);
        place_set(r, p, place_get(r, p) & PLACE_SLOT_BITS); /* perhaps it is in the swap file as it is */
        out_entry(r, p, entry_make(WIRE_PAGE_PARKED, 0, 0, 0));
    }
}

static void now_remote(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    for (uint32_t p = page; p < end; p++)
        remote_enter(r, p, 0, entry_frame(page_get(r, p)));
    atomic_fetch_add_explicit(&m->stats.remote_outs, end - page, memory_order_relaxed);
}

/* False: it stays as it is. */
static bool take(struct memd *m, struct region *r, const struct run *run, bool remote)
{
    struct chunk *c = &r->chunks[chunk_of(r, run->page)];
    uint32_t page = run->page, n = run->end - run->page;
    uint64_t bytes = n * PAGE_BYTES, copied = 0;

    chunk_lock(c);
    int err = stop_writers(m, r, page, run->end);
    if (!err && !remote) {
        madvise(shadow_page(r, page), bytes, MADV_DONTNEED); /* a copy may have left something behind */
        err = uffd_copy(m->uffd_a, shadow_page(r, page), page_hva(r, page), bytes, &copied);
    }
    if (!err)
        err = prepare_neighbours(m, r, run);
    if (!err)
        err = place_window(m, r, page, n);
    if (err) {
        let_writers_go(m, r, page, run->end);
        if (copied)
            madvise(shadow_page(r, page), bytes, MADV_DONTNEED);
        if (err == -ENOMEM)
            map_count_hit(m);
        out_emptied(m, r, page); /* perhaps the neighbours were registered for nothing */
    } else {
        hold_missing_on(m, c);
        if (remote)
            now_remote(m, r, page, run->end);
        else
            now_parked(m, r, page, run->end);
    }
    out_unlock(m, c);
    wake(m, r, page, run->end);
    return !err;
}

/* ---- what is cold */

/* The part of it that may leave: all of it, or what is cold at an end where it joins its neighbour. */
static bool cold_part(const struct choice *touched, struct run *run, bool all)
{
    const bool *hot = touched->there;
    uint32_t first = touched->first, head = run->page, tail = run->end;

    while (head < run->end && (all || !hot[head - first]))
        head++;
    while (tail > run->page && (all || !hot[tail - 1 - first]))
        tail--;
    if (head == run->end &&
        ((run->begins && run->ends) || (run->begins && run->joins_left) || (run->ends && run->joins_right)))
        return true;
    if (head > run->page && head < run->end && run->begins && run->joins_left) {
        run->end = head;
        run->joins_right = false;
        return true;
    }
    if (tail < run->end && tail > run->page && run->ends && run->joins_right) {
        run->page = tail;
        run->joins_left = false;
        return true;
    }
    return false;
}

static bool leaves_alone(const struct memd *m, const struct region *r, uint32_t chunk)
{
    const struct chunk *c = &r->chunks[chunk];

    return !c->store || c->pins || r->stuck || r->changing || m->map_count_short || !session_can_report(m);
}

uint32_t merged_park(struct memd *m, struct region *r, uint32_t chunk, uint32_t most, bool all)
{
    uint32_t end = chunk_end(r, chunk), n = 0, vmas = r->chunks[chunk].vmas;
    struct choice touched;
    struct run run;

    if (leaves_alone(m, r, chunk) || out_prepare(m, r, false) || pager_look(m, r, chunk, &touched))
        return 0;
    fault_attend(m);
    for (uint32_t page = chunk_first(r, chunk); n < most && next_run(m, r, page, end, &run);) {
        page = run.end;
        if (ring_room(&m->session.up) < ROOM_BYTES || m->session.broken)
            break;
        if (cold_part(&touched, &run, all) && take(m, r, &run, false))
            n += run.end - run.page;
    }
    fault_release(m);
    if (n || vmas)
        chunk_count_vmas(m, r, chunk);
    atomic_fetch_add_explicit(&m->stats.merged_outs, n, memory_order_relaxed);
    return n;
}

void merged_remote(struct memd *m, struct region *r, uint32_t chunk, bool all)
{
    uint32_t end = chunk_end(r, chunk);
    struct choice touched;
    struct run run;
    bool any = false;

    if (leaves_alone(m, r, chunk) || out_prepare(m, r, true) || pager_look(m, r, chunk, &touched))
        return;
    fault_attend(m);
    for (uint32_t page = chunk_first(r, chunk); next_run(m, r, page, end, &run);) {
        page = run.end;
        if (cold_part(&touched, &run, all) && take(m, r, &run, true))
            any = true;
    }
    fault_release(m);
    if (any)
        chunk_count_vmas(m, r, chunk);
}

/* ---- from now on */

static void drop_entries(struct memd *m, struct region *r, const struct run *run)
{
    struct chunk *c = &r->chunks[chunk_of(r, run->page)];

    chunk_lock(c);
    /* what was written stays: then nothing is dropped. Of the others the protection stays behind, until
     * writers may go on. */
    if (!stop_writers(m, r, run->page, run->end))
        madvise(page_hva(r, run->page), (run->end - run->page) * PAGE_BYTES, MADV_DONTNEED);
    let_writers_go(m, r, run->page, run->end);
    out_unlock(m, c);
    wake(m, r, run->page, run->end);
}

void merged_age(struct memd *m, struct region *r, uint32_t chunk)
{
    struct choice touched;
    struct run run;

    if (leaves_alone(m, r, chunk) || pager_look(m, r, chunk, &touched))
        return;
    fault_attend(m);
    for (uint32_t page = chunk_first(r, chunk); next_run(m, r, page, chunk_end(r, chunk), &run);
         page = run.end) {
        bool any = false;
        for (uint32_t p = run.page; p < run.end; p++)
            any |= touched.there[p - touched.first];
        if (any)
            drop_entries(m, r, &run);
    }
    fault_release(m);
}
