/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the VMM asks for the content of a range: discard it, pin it. All of it on the caller's thread, under
 * engine.work; none of it waits for the daemon.
 *
 * A discard of a merged page must put fresh memory over the store mapping: MADV_DONTNEED there would bring
 * the frame's bytes back (I1).
 */
#include "memd/engine/engine.h"
#include "memd/engine/maps.h"
#include "memd/engine/out.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define BATCH_MAX 256u /* ranges */

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

struct others {
    uint64_t start, end, covered;
    int err;
};

/* Memory that does not take part, one mapping of it. */
static int discard_other(void *ctx, const struct mapping *v)
{
    struct others *o = ctx;
    uint64_t start = v->start > o->start ? v->start : o->start, end = v->end < o->end ? v->end : o->end;
    void *hva = (void *)start;
    int err = 0;

    o->covered += end - start;
    if (v->shared) {
        err = madvise(hva, end - start, MADV_REMOVE) ? -errno : 0;
    } else if (v->file) { /* MADV_DONTNEED would bring back what the file has */
        if (v->writable)
            memset(hva, 0, end - start);
        else
            err = -EACCES;
    } else if (madvise(hva, end - start, MADV_DONTNEED) &&
               (errno != EINVAL || madvise(hva, end - start, MADV_DONTNEED_LOCKED))) {
        err = -errno;
    }
    o->err = o->err ? o->err : err;
    return 0;
}

static int discard_others(struct region *r, uint32_t page, uint32_t npages)
{
    struct others o = {.start = (uintptr_t)page_hva(r, page), .end = (uintptr_t)page_hva(r, page + npages)};
    int err = mappings_each(o.start, o.end, false, discard_other, &o);

    if (!err)
        err = o.err;
    return !err && o.covered < o.end - o.start ? -ENOMEM : err;
}

/* Their content is gone. */
static void discarded(struct memd *m, struct region *r, uint32_t page, uint32_t npages, unsigned state)
{
    refs_drop(m, r, page, npages, WIRE_DROP_DISCARDED);
    for (uint32_t p = page; p < page + npages; p++) {
        uint64_t e = page_get(r, p);
        /* a reference that could not be reported yet stays named, see refs_drop() */
        page_set(r, p, entry_make(state, (uint32_t)(e & WIRE_PAGE_F_DROPPING), 0, entry_frame(e)));
        pending_clear(r, p);
    }
}

/* Private pages that are to go in one system call. */
struct batch {
    int self; /* a pidfd of this process */
    unsigned n;
    struct iovec at[BATCH_MAX];
};

static void drop_private(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    if (madvise(page_hva(r, page), npages * PAGE_BYTES, MADV_DONTNEED))
        zero_in_place(r, page, npages);
    discarded(m, r, page, npages, WIRE_PAGE_GONE);
}

static void batch_flush(struct memd *m, struct region *r, struct batch *b)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < b->n; i++)
        bytes += b->at[i].iov_len;
    bool all = b->n && syscall(SYS_process_madvise, b->self, b->at, b->n, MADV_DONTNEED, 0) == (long)bytes;
    for (unsigned i = 0; i < b->n; i++) {
        uint32_t page = (uint32_t)(((char *)b->at[i].iov_base - (char *)r->base) >> PAGE_SHIFT),
                 npages = (uint32_t)(b->at[i].iov_len >> PAGE_SHIFT);
        if (all)
            discarded(m, r, page, npages, WIRE_PAGE_GONE);
        else /* an older kernel, or it was refused half-way: dropped twice is dropped */
            drop_private(m, r, page, npages);
    }
    b->n = 0;
}

/* `b` may be NULL. */
static int discard_piece(struct memd *m, struct region *r, uint32_t page, uint32_t npages, struct batch *b)
{
    uint32_t chunk = chunk_of(r, page);

    if (!region_segment(r, page))
        return discard_others(r, page, npages);
    out_discard(m, r, page, npages);
    if (!entry_in_store(page_get(r, page))) {
        if (!b) {
            drop_private(m, r, page, npages);
            return 0;
        }
        if (b->n == BATCH_MAX)
            batch_flush(m, r, b);
        b->at[b->n++] = (struct iovec){page_hva(r, page), npages * PAGE_BYTES};
        return 0;
    }
    int err = place_anon(m, r, page, npages);
    if (err)
        zero_in_place(r, page, npages);
    discarded(m, r, page, npages, err ? WIRE_PAGE_BROKEN : WIRE_PAGE_GONE);
    r->chunks[chunk].islands = true;
    chunk_count_vmas(m, r, chunk);
    return 0;
}

static int discard_some(struct memd *m, struct region *r, uint32_t page, uint32_t end, struct batch *b)
{
    int err = 0;

    while (page < end) {
        uint32_t limit = chunk_end(r, chunk_of(r, page)) < end ? chunk_end(r, chunk_of(r, page)) : end;
        uint32_t next = same_kind_end(r, page, limit);
        int piece_err = discard_piece(m, r, page, next - page, b);
        err = err ? err : piece_err;
        page = next;
    }
    return err;
}

int discard_pages(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    return discard_some(m, r, page, end, NULL);
}

/* engine.work held. */
static int discard_range(struct memd *m, uint32_t region, uint64_t offset, uint64_t bytes, struct batch *b)
{
    struct region *r;
    int err = region_range(m, region, offset, bytes, &r);
    uint32_t page = (uint32_t)(offset >> PAGE_SHIFT), end = page + (uint32_t)(bytes >> PAGE_SHIFT);

    for (uint32_t p = page; !err && p < end; p = chunk_end(r, chunk_of(r, p)))
        if (r->chunks[chunk_of(r, p)].pins)
            err = -EBUSY;
    return err ? err : discard_some(m, r, page, end, b);
}

int memd_discard(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes)
{
    if (!memd)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    work_lock_api(memd);
    int err = discard_range(memd, region, offset, bytes, NULL);
    work_unlock_api(memd);
    return err;
}

int memd_discard_ranges(struct memd *memd, uint32_t region, const struct memd_range *ranges, unsigned n)
{
    /* a seccomp filter that was there before the engine may end the process for a call it does not know */
    struct batch batch = {.self = -1}, *b = NULL;
    int err = 0;

    if (!memd || (!ranges && n))
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    if (n > 1 && !memd->filtered)
        batch.self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (batch.self >= 0)
        b = &batch;
    for (unsigned i = 0; i < n;) {
        unsigned end = n - i < BATCH_MAX ? n : i + BATCH_MAX;
        work_lock_api(memd);
        for (; i < end; i++) {
            int one = discard_range(memd, region, ranges[i].offset, ranges[i].bytes, b);
            err = err ? err : one;
        }
        if (batch.n) /* so there is the region */
            batch_flush(memd, memd->regions[region], &batch);
        work_unlock_api(memd);
    }
    if (b)
        close(batch.self);
    return err;
}

/* One chunk becomes plain resident memory. */
static int pin_chunk(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk), left = 0;
    uint64_t deadline;
    int err;

    r->changing++;
    err = home_from_swap(m, r, first, end);
    if (!err)
        err = out_home_chunk(m, r, chunk);
    if (err) {
        r->changing--;
        return err;
    }
    deadline = now_ns() + 1000000000u;
    do {
        err = heal_home(m, r, first, end, &left);
        if (left)
            work_breathe(m, 1000);
    } while (!err && left && now_ns() < deadline);
    r->changing--;
    if (err || left)
        return err ? err : -EBUSY;
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

/* All or none. Others come in after each chunk: there may be much to be brought home and to be filled. */
static int pin_chunks(struct memd *m, struct region *r, uint32_t first, uint32_t end)
{
    uint32_t c;
    int err = 0;

    r->changing++;
    for (c = first; c < end; c++) {
        err = r->chunks[c].pins == UINT8_MAX ? -ENOSPC : r->chunks[c].pins ? 0 : pin_chunk(m, r, c);
        if (err)
            break;
        r->chunks[c].pins++;
        if (c + 1 < end)
            work_breathe(m, 0);
    }
    while (err && c > first)
        if (!--r->chunks[--c].pins)
            scan_forget(m, r, c);
    r->changing--;
    return err;
}

int memd_pin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes)
{
    uint32_t first = 0, end = 0;
    struct region *r = NULL;

    if (!memd)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    work_lock_api(memd);
    int err = region_range(memd, region, offset, bytes, &r);
    if (!err)
        chunk_span(r, offset, bytes, &first, &end);
    if (!err && first < end)
        err = heal_room(memd, r, chunk_first(r, first), chunk_end(r, end - 1));
    if (!err)
        err = pin_chunks(memd, r, first, end);
    work_unlock_api(memd);
    return err;
}

int memd_unpin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes)
{
    uint32_t first, end;
    struct region *r;

    if (!memd)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    work_lock_api(memd);
    int err = region_range(memd, region, offset, bytes, &r);
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
