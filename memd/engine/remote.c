/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * REMOTE pages: they are out, nothing is mapped where they were, and their bytes are those of a frame, which
 * the engine reads through its own mapping of the store (stores.c). Such a page holds the reference to its
 * frame, as a SHARED page does, and the frame does not change as long as it does (I2).
 *
 *   SHARED -- merged_remote (merged.c) --> REMOTE -- remote_serve (fault server), out_home --> PRIVATE
 *                                            +----- remote_park --> PARKED, and to the swap file
 *
 * What that saves. A merged page that nobody touches takes a share of two mappings and of page tables, and
 * its share of the frame. REMOTE, it takes only the latter, and costs no I/O and no room in the pool or the
 * swap file. It gives back no page of memory: so it never counts as paged out. What is to be had from the
 * frame comes with its last reference, and no engine knows how many there are. So an order that wants pages
 * in the swap file takes REMOTE pages as it takes merged ones, and before these, since they have not been
 * touched for longer: whoever has the last reference frees the frame, as without this state. Orders that may
 * write nothing, and those that have enough, make cold merged pages REMOTE instead of leaving them.
 *
 * A page that is touched comes home as a copy, the VM's own. It is marked F_DROPPING and goes on naming its
 * frame: the fault server takes no lock and writes to no ring, and before a daemon has adopted this engine no
 * frame field may change. Whoever has engine.work gives the reference back (refs.c). The page is merged again
 * when it has been quiet, since its frame is known by its hash as long as others have it.
 *
 * Without a daemon all of this goes on: only the references wait.
 */
#include "memd/engine/remote.h"

#include "memd/engine/memory.h"
#include "memd/engine/out.h"
#include "memd/engine/out_parts.h"
#include "memd/engine/pager.h"
#include "memd/engine/stores.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#define ROOM_BYTES 4096u /* of the ring, for references that are given back */
#define TRIES_MAX  1000u
#define BACK_STEP  32u /* chunks */

uint64_t remote_count(const struct memd *m)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        /* acquire: whoever counted a page out of it has read its frame before */
        n += r ? atomic_load_explicit(&r->out.remote, memory_order_acquire) : 0;
    }
    return n;
}

bool remote_on(const struct memd *m)
{
    return session_can_report(m) && m->session.map_version >= WIRE_MAP_VERSION_REMOTE;
}

void remote_enter(struct region *r, uint32_t page, uint64_t tag, uint32_t frame)
{
    /* the frame is named all the time: page_set() counts what it was, and leaves out pages alone */
    page_set(r, page, entry_make(WIRE_PAGE_PRIVATE, 0, 0, frame));
    pending_clear(r, page);
    if (place_get(r, page)) /* perhaps it is in the swap file as it is */
        place_set(r, page, place_get(r, page) & PLACE_SLOT_BITS);
    out_entry(r, page, entry_make(WIRE_PAGE_REMOTE, 0, (uint32_t)tag, frame));
}

/* ---- up */

void remote_homed(struct memd *m, struct region *r, uint32_t page, bool unchanged)
{
    uint64_t e = page_get(r, page);

    out_entry(
        r, page,
        entry_make(WIRE_PAGE_PRIVATE, WIRE_PAGE_F_DROPPING, unchanged ? entry_tag(e) : 0, entry_frame(e)));
    refs_later(m, &r->chunks[chunk_of(r, page)]);
}

/* The store was cut off, or cannot be read: not that there is no memory at the moment. */
static bool is_unreadable(const struct memd *m, uint32_t frame)
{
    return madvise((void *)stores_frame(m, frame), PAGE_BYTES, MADV_POPULATE_READ) &&
           (errno == EFAULT || errno == EHWPOISON);
}

int remote_serve(struct memd *m, struct region *r, uint32_t page, enum wire_tier *tier)
{
    uint64_t e = page_get(r, page);
    char *hva = page_hva(r, page);
    int err = uffd_copy_once(m->uffd_a, hva, stores_frame(m, entry_frame(e)), PAGE_BYTES, entry_tag(e));

    if (err == -EEXIST) /* a marker is in the way */
        uffd_unprotect_once(m->uffd_a, hva, PAGE_BYTES);
    if (err == -EFAULT && is_unreadable(m, entry_frame(e)))
        return out_lose(m, r, page);
    if (err)
        return err == -ENOENT || err == -ESRCH ? 0 : -EAGAIN; /* not mapped, or all of it is going away */
    *tier = WIRE_TIER_REMOTE;
    out_count_fault(m, &m->stats.remote_faults);
    remote_homed(m, r, page, entry_tag(e));
    out_emptied(m, r, page);
    out_tell_worker(m); /* others wait for the frames */
    return 0;
}

bool remote_gone(struct memd *m, struct region *r, uint32_t page)
{
    int err = -EAGAIN;

    if (!is_unreadable(m, entry_frame(page_get(r, page))))
        return false;
    for (unsigned tries = 0; err == -EAGAIN && tries < TRIES_MAX; tries++) {
        err = out_lose(m, r, page);
        if (err)
            sched_yield();
    }
    return !err;
}

/* The end of the pages from `page` on that are REMOTE, with consecutive frames. */
static uint32_t run_end(const struct region *r, uint32_t page, uint32_t end)
{
    uint32_t frame = entry_frame(page_get(r, page)), p = page;

    while (p < end && entry_state(page_get(r, p)) == WIRE_PAGE_REMOTE &&
           entry_frame(page_get(r, p)) == frame + (p - page))
        p++;
    return p;
}

int remote_home(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t end = chunk_end(r, chunk), homed;
    int err = 0;

    if (!atomic_load_explicit(&r->out.remote, memory_order_relaxed))
        return 0;
    for (uint32_t p = chunk_first(r, chunk), next; p < end && !err; p = next) {
        next = p + 1;
        if (entry_state(page_get(r, p)) != WIRE_PAGE_REMOTE)
            continue;
        next = run_end(r, p, end);
        next = next > p ? next : p + 1; /* somebody has come for it meanwhile */
        err = out_home(m, r, p, next - p, &homed);
    }
    return err;
}

bool remote_room(const struct memd *m)
{
    return remote_count(m) * PAGE_BYTES <= mem_available_bytes();
}

bool remote_step_back(struct memd *m)
{
    bool room = remote_room(m);
    uint64_t left;
    uint32_t n = 0;

    for (unsigned i = 0; i < MEMD_REGIONS_MAX && room; i++) {
        struct region *r = m->regions[i];
        for (uint32_t c = 0; r && room && c < r->nchunks && (left = atomic_load(&r->out.remote)); c++) {
            if (!atomic_load_explicit(&r->chunks[c].out, memory_order_relaxed))
                continue;
            room = !remote_home(m, r, c);
            n += atomic_load(&r->out.remote) != left;
            if (room && (n == BACK_STEP || atomic_load(&m->api_waiting)))
                return true;
        }
    }
    /* all are home, or there is no memory for them: the next session finds out which daemon there is now */
    m->pager->remote_back = false;
    return room;
}

/* ---- on, to the swap file */

/* A run of them; the chunk is locked. 0: they stay. */
static uint32_t park_run(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    uint32_t frame = entry_frame(page_get(r, page)), n = end - page;
    uint64_t bytes = n * PAGE_BYTES, copied;

    madvise(shadow_page(r, page), bytes, MADV_DONTNEED); /* a copy may have left something behind */
    int err = uffd_copy(m->uffd_a, shadow_page(r, page), stores_frame(m, frame), bytes, &copied);
    if (err || !refs_give(m, r, page, n, frame, WIRE_DROP_UNMERGED)) {
        madvise(shadow_page(r, page), bytes, MADV_DONTNEED);
        return 0;
    }
    for (uint32_t p = page; p < end; p++) {
        place_set(r, p, place_get(r, p) & PLACE_SLOT_BITS);
        out_entry(r, p, entry_make(WIRE_PAGE_PARKED, 0, entry_tag(page_get(r, p)), 0));
    }
    return n;
}

uint32_t remote_park(struct memd *m, struct region *r, uint32_t chunk, uint32_t most)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk), n = 0;
    struct chunk *c = &r->chunks[chunk];

    if (!atomic_load_explicit(&r->out.remote, memory_order_relaxed) || c->pins || r->stuck || r->changing ||
        out_prepare(m, r, false))
        return 0;
    chunk_lock(c);
    for (uint32_t p = first, next; p < end && n < most; p = next) {
        next = p + 1;
        if (entry_state(page_get(r, p)) != WIRE_PAGE_REMOTE)
            continue;
        next = run_end(r, p, end - p < most - n ? end : p + (most - n));
        if (ring_room(&m->session.up) < ROOM_BYTES || !park_run(m, r, p, next))
            break;
        n += next - p;
    }
    out_unlock(m, c);
    uffd_wake(m->uffd_a, page_hva(r, first), (end - first) * PAGE_BYTES);
    atomic_fetch_add_explicit(&m->stats.merged_outs, n, memory_order_relaxed);
    return n;
}
