/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the VMM asks for a range: discard it, pin it, take the region back. All of it on the caller's thread,
 * under engine.work; none of it waits for the daemon.
 *
 * A discard of a merged page must put fresh memory over the store mapping: MADV_DONTNEED there would bring
 * the frame's bytes back (I1).
 */
#include "memd/engine/engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct region *region_get(struct memd *m, uint32_t id)
{
    return id < MEMD_REGIONS_MAX ? m->regions[id] : NULL;
}

static int range_check(struct memd *m, uint32_t region, uint64_t offset, uint64_t bytes,
                       struct region **ret_region)
{
    struct region *r = region_get(m, region);

    if (!r)
        return -ENOENT;
    if (offset % PAGE_BYTES || bytes % PAGE_BYTES || offset > r->npages * PAGE_BYTES ||
        bytes > r->npages * PAGE_BYTES - offset)
        return -EINVAL;
    *ret_region = r;
    return 0;
}

/* How far from `page` (below `end`) pages lie in store mappings, or do not. */
static uint32_t same_kind_end(const struct region *r, uint32_t page, uint32_t end)
{
    bool store = entry_in_store(page_get(r, page));
    const struct segment *s = region_segment(r, page);
    uint32_t p = page + 1;

    while (p < end && entry_in_store(page_get(r, p)) == store && region_segment(r, p) == s)
        p++;
    return p;
}

/* Store pages cannot be replaced: their content goes all the same, into private pages that are then zero. */
static void zero_in_place(struct region *r, uint32_t page, uint32_t npages)
{
    memset(page_hva(r, page), 0, npages * PAGE_BYTES);
}

static void discard_piece(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    bool store = entry_in_store(page_get(r, page));
    unsigned state = WIRE_PAGE_GONE;

    if (!region_segment(r, page)) {
        madvise(page_hva(r, page), npages * PAGE_BYTES, MADV_DONTNEED);
        return;
    }
    if (!store) {
        if (madvise(page_hva(r, page), npages * PAGE_BYTES, MADV_DONTNEED))
            zero_in_place(r, page, npages);
    } else if (place_anon(m, r, page, npages)) {
        zero_in_place(r, page, npages);
        state = WIRE_PAGE_BROKEN;
    }
    refs_drop(m, r, page, npages, WIRE_DROP_DISCARDED);
    for (uint32_t p = page; p < page + npages; p++) {
        uint64_t e = page_get(r, p);
        /* a reference that could not be reported yet stays named, see refs_drop() */
        page_set(r, p, entry_make(state, (uint32_t)(e & WIRE_PAGE_F_DROPPING), 0, entry_frame(e)));
        pending_clear(r, p);
    }
    if (store) {
        r->chunks[chunk_of(r, page)].islands = true;
        chunk_count_vmas(m, r, chunk_of(r, page));
    }
}

int memd_discard(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes)
{
    struct region *r;

    if (!memd)
        return -EINVAL;
    if (memd->pid != getpid())
        return -ECHILD;
    work_lock_api(memd);
    int err = range_check(memd, region, offset, bytes, &r);
    uint32_t page = (uint32_t)(offset >> PAGE_SHIFT), end = page + (uint32_t)(bytes >> PAGE_SHIFT);
    for (uint32_t p = page; !err && p < end; p = chunk_end(r, chunk_of(r, p)))
        if (r->chunks[chunk_of(r, p)].pins)
            err = -EBUSY;
    while (!err && page < end) {
        uint32_t limit = chunk_end(r, chunk_of(r, page)) < end ? chunk_end(r, chunk_of(r, page)) : end;
        uint32_t next = same_kind_end(r, page, limit);
        discard_piece(memd, r, page, next - page);
        page = next;
    }
    work_unlock_api(memd);
    return err;
}

/* One chunk becomes plain resident memory. */
static int pin_chunk(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk), left = 0;
    uint64_t deadline = now_ns() + 1000000000u;

    do {
        int err = r->chunks[chunk].store ? heal_range(m, r, first, end - first, &left) : 0;
        if (err)
            return err;
        if (left)
            usleep(1000);
    } while (left && now_ns() < deadline);
    if (left)
        return -EBUSY;
    if (madvise(page_hva(r, first), (end - first) * PAGE_BYTES, MADV_POPULATE_WRITE))
        return -errno;
    for (uint32_t p = first; p < end; p++) {
        uint64_t e = page_get(r, p);
        page_set(r, p,
                 entry_make(entry_in_store(e) ? entry_state(e) : WIRE_PAGE_PRIVATE,
                            (uint32_t)(e & WIRE_PAGE_F_DROPPING), 0, entry_frame(e)));
        pending_clear(r, p);
    }
    return 0;
}

/* Chunks a byte range touches. */
static void chunk_span(const struct region *r, uint64_t offset, uint64_t bytes, uint32_t *ret_first,
                       uint32_t *ret_end)
{
    *ret_first = chunk_of(r, (uint32_t)(offset >> PAGE_SHIFT));
    *ret_end = bytes ? chunk_of(r, (uint32_t)((offset + bytes - 1) >> PAGE_SHIFT)) + 1 : *ret_first;
}

int memd_pin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes)
{
    uint32_t first = 0, end = 0, c = 0;
    struct region *r = NULL;

    if (!memd)
        return -EINVAL;
    if (memd->pid != getpid())
        return -ECHILD;
    work_lock_api(memd);
    int err = range_check(memd, region, offset, bytes, &r);
    if (!err)
        chunk_span(r, offset, bytes, &first, &end);
    for (c = first; !err && c < end; c++)
        if (r->chunks[c].pins == UINT8_MAX)
            err = -ENOSPC;
    for (c = first; !err && c < end; c++) {
        if (!r->chunks[c].pins)
            err = pin_chunk(memd, r, c);
        if (!err)
            r->chunks[c].pins++;
    }
    for (uint32_t undo = first; err && r && undo + 1 < c; undo++)
        r->chunks[undo].pins--;
    work_unlock_api(memd);
    return err;
}

int memd_unpin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes)
{
    uint32_t first, end;
    struct region *r;

    if (!memd)
        return -EINVAL;
    if (memd->pid != getpid())
        return -ECHILD;
    work_lock_api(memd);
    int err = range_check(memd, region, offset, bytes, &r);
    if (!err) {
        chunk_span(r, offset, bytes, &first, &end);
        for (uint32_t c = first; c < end; c++)
            if (!r->chunks[c].pins)
                err = -EINVAL;
        for (uint32_t c = first; !err && c < end; c++)
            if (!--r->chunks[c].pins)
                scan_forget(memd, r, c);
    }
    work_unlock_api(memd);
    return err;
}

static int del_locked(struct memd *m, struct region *r, unsigned timeout_ms)
{
    uint64_t deadline = now_ns() + timeout_ms * 1000000ull;
    uint32_t left;
    int err;

    r->stuck = true; /* no new merges while we go over it */
    while (!(err = unmerge_region(m, r, &left)) && left) {
        if (now_ns() >= deadline)
            return -EBUSY;
        usleep(1000);
    }
    if (err) {
        r->stuck = false;
        return err;
    }
    region_remove(m, r);
    return 0;
}

int memd_region_del(struct memd *memd, uint32_t region, unsigned timeout_ms)
{
    if (!memd)
        return -EINVAL;
    if (memd->pid != getpid())
        return -ECHILD;
    work_lock_api(memd);
    struct region *r = region_get(memd, region);
    int err = r ? del_locked(memd, r, timeout_ms) : -ENOENT;
    work_unlock_api(memd);
    return err;
}
