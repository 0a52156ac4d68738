/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the VMM changes about its mappings: a region is taken back, part of it is cut out, unmapped or
 * mapped over, becomes plain again, gets other attributes. All of it on the caller's thread; none of it waits
 * for the daemon.
 *
 * Bringing pages home can take long (a host full of merged pages, a page under I/O), so engine.work is let go
 * after every chunk, and while a swap file is read: vCPUs that discard, a fork and the daemon's questions
 * come in between. Meanwhile region.changing keeps the worker from merging in that region and others from
 * removing it.
 */
#include "memd/engine/engine.h"
#include "memd/engine/out.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#define READING_NS 10000000ull /* at least one page of the swap file, whatever it takes */

/* ---- bringing home */

int home_from_swap(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    uint64_t since = now_ns();
    uint32_t homed;
    int err = 0;

    for (uint32_t p = page; p < end && !err && atomic_load(&r->out.swapped); p++) {
        if (entry_state(page_get(r, p)) != WIRE_PAGE_SWAPPED)
            continue;
        err = out_home(m, r, p, 1, &homed);
        if (now_ns() - since >= READING_NS) {
            work_breathe(m, 0);
            since = now_ns();
        }
    }
    return err;
}

static int home_once(struct memd *m, struct region *r, uint32_t page, uint32_t end, uint32_t *ret_left)
{
    uint32_t total = 0, left, next;
    int err = 0;

    for (uint32_t p = page; p < end && !err; p = next) {
        uint32_t chunk = chunk_of(r, p), homed;
        next = chunk_end(r, chunk) < end ? chunk_end(r, chunk) : end;
        if (!r->chunks[chunk].store && !atomic_load(&r->chunks[chunk].missing))
            continue;
        err = home_from_swap(m, r, p, next);
        if (err)
            break;
        if (p == chunk_first(r, chunk) && next == chunk_end(r, chunk))
            err = out_home_chunk(m, r, chunk);
        else
            err = out_home(m, r, p, next - p, &homed);
        if (!err)
            err = heal_home(m, r, p, next, &left);
        total += err ? 0 : left;
        work_breathe(m, 0);
    }
    *ret_left = total;
    return err;
}

/* 0, and nothing of [page, end) is merged; -ENOMEM; -EBUSY `timeout_ms` after all that could came home. */
static int bring_home(struct memd *m, struct region *r, uint32_t page, uint32_t end, unsigned timeout_ms)
{
    uint64_t deadline = 0;
    uint32_t left = 0;
    int err = heal_room(m, r, page, end);

    r->changing++;
    while (!err) {
        err = home_once(m, r, page, end, &left);
        if (err || !left)
            break;
        if (!deadline)
            deadline = now_ns() + timeout_ms * 1000000ull;
        if (now_ns() >= deadline)
            err = -EBUSY;
        else
            work_breathe(m, 1000);
    }
    r->changing--;
    hold_release(m, true);
    return err;
}

/* ---- leaving */

static bool any_pinned(const struct region *r, uint32_t page, uint32_t end)
{
    for (uint32_t p = page; p < end; p = chunk_end(r, chunk_of(r, p)))
        if (r->chunks[chunk_of(r, p)].pins)
            return true;
    return false;
}

static bool any_missing(const struct region *r, uint32_t page, uint32_t end)
{
    for (uint32_t p = page; p < end; p = chunk_end(r, chunk_of(r, p)))
        if (atomic_load(&r->chunks[chunk_of(r, p)].missing))
            return true;
    return false;
}

/* Nothing is known of these pages any more; frames they still name are told of later. */
static void forget_pages(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    for (uint32_t p = page; p < end; p++) {
        uint64_t e = page_get(r, p);
        page_set(r, p,
                 entry_make(WIRE_PAGE_PRIVATE, (uint32_t)(e & WIRE_PAGE_F_DROPPING), 0, entry_frame(e)));
        pending_clear(r, p);
    }
    for (uint32_t c = chunk_of(r, page); c <= chunk_of(r, end - 1); c++) {
        if (r->chunks[c].huge)
            scan_huge_gone(r, c);
        if (r->chunks[c].store)
            chunk_count_vmas(m, r, c);
    }
}

typedef int part_fn(struct memd *m, struct region *r, const struct segment *part);

/* Calls fn with what takes part of [page, end), piece by piece. fn may change the list of parts. */
static int parts_each(struct memd *m, struct region *r, uint32_t page, uint32_t end, part_fn *fn)
{
    int err = 0;

    while (page < end && !err) {
        struct segment s = *segments_find(&r->parts, page);
        uint32_t next = s.first + s.npages < end ? s.first + s.npages : end;
        s.first = page;
        s.npages = next - page;
        if (s.why == SEGMENT_TAKES_PART)
            err = fn(m, r, &s);
        page = next;
    }
    return err;
}

static int part_unregister(struct memd *m, struct region *r, const struct segment *s)
{
    char *hva = page_hva(r, s->first);
    int err = uffd_unregister(m->uffd_a, hva, s->npages * PAGE_BYTES);

    if (!err && !(s->vma_flags & VMA_DONTFORK))
        madvise(hva, s->npages * PAGE_BYTES, MADV_DOFORK);
    if (!err)
        region_show_zeros(r, s->first, s->first + s->npages);
    return err;
}

/* Where pages are, or have been, outside of guest RAM. What could be brought home is; of the rest nothing can
 * be had. */
static int part_forget_out(struct memd *m, struct region *r, const struct segment *s)
{
    for (uint32_t p = s->first, next; p < s->first + s->npages; p = next) {
        next = chunk_end(r, chunk_of(r, p));
        next = next < s->first + s->npages ? next : s->first + s->npages;
        out_discard(m, r, p, next - p);
    }
    return 0;
}

/* Room was reserved. */
static void leave(struct memd *m, struct region *r, uint32_t page, uint32_t end, enum memd_ineligible why)
{
    while (page < end) {
        const struct segment *s = segments_find(&r->parts, page);
        uint32_t next = s->first + s->npages < end ? s->first + s->npages : end;
        if (s->why == SEGMENT_TAKES_PART) {
            forget_pages(m, r, page, next);
            segments_set(&r->parts, page, next - page, (int)why, 0);
        }
        page = next;
    }
}

static int begin(struct memd *m, uint32_t region, uint64_t offset, uint64_t bytes, struct region **ret_region,
                 uint32_t *ret_page, uint32_t *ret_end)
{
    int err = region_range(m, region, offset, bytes, ret_region);

    if (err)
        return err;
    *ret_page = (uint32_t)(offset >> PAGE_SHIFT);
    *ret_end = *ret_page + (uint32_t)(bytes >> PAGE_SHIFT);
    return segments_reserve(&(*ret_region)->parts, (*ret_region)->parts.n + 1);
}

/* -EINVAL, -ECHILD, or 0 with engine.work held. */
static int enter(struct memd *m)
{
    if (!m)
        return -EINVAL;
    if (!fork_is_ours(m))
        return -ECHILD;
    work_lock_api(m);
    return 0;
}

int memd_region_cut(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes,
                    enum memd_ineligible why, unsigned timeout_ms)
{
    uint32_t page, end;
    struct region *r;

    if (why < 0 || why >= MEMD_INELIGIBLE_COUNT)
        return -EINVAL;
    int err = enter(memd);
    if (err)
        return err;
    err = begin(memd, region, offset, bytes, &r, &page, &end);
    if (!err && any_pinned(r, page, end))
        err = -EBUSY;
    if (!err)
        err = bring_home(memd, r, page, end, timeout_ms);
    if (!err) /* others may have cut the region into more parts meanwhile */
        err = segments_reserve(&r->parts, r->parts.n + 1);
    if (!err)
        err = parts_each(memd, r, page, end, part_unregister);
    if (!err) {
        parts_each(memd, r, page, end, part_forget_out);
        leave(memd, r, page, end, why);
        if (any_missing(r, page, end)) /* a late message would be answered with zeros in memory of others */
            fault_quiesce(memd);
    }
    work_unlock_api(memd);
    return err;
}

static int part_drop_refs(struct memd *m, struct region *r, const struct segment *s)
{
    part_forget_out(m, r, s);
    refs_drop(m, r, s->first, s->npages, WIRE_DROP_DISCARDED);
    return 0;
}

/* What of [hva, hva+bytes) lies in region `id`; false: nothing. */
static bool clip(struct memd *m, uint32_t id, const char *hva, uint64_t bytes, struct region **ret_region,
                 uint32_t *ret_page, uint32_t *ret_end)
{
    struct region *r = region_get(m, id);

    if (!r || hva >= r->base + r->npages * PAGE_BYTES || hva + bytes <= r->base)
        return false;
    *ret_region = r;
    *ret_page = hva > r->base ? (uint32_t)((uint64_t)(hva - r->base) >> PAGE_SHIFT) : 0;
    uint64_t end = (uint64_t)(hva + bytes - r->base) >> PAGE_SHIFT;
    *ret_end = end < r->npages ? (uint32_t)end : r->npages;
    return true;
}

int memd_unmap(struct memd *memd, void *hva, uint64_t bytes, int (*call)(void *ctx), void *ctx)
{
    uint32_t page, end;
    struct region *r;
    bool late = false;

    if (!call || (uintptr_t)hva % PAGE_BYTES || bytes % PAGE_BYTES || (uintptr_t)hva + bytes < bytes)
        return -EINVAL;
    int err = enter(memd);
    if (err)
        return err;
    for (uint32_t i = 0; i < MEMD_REGIONS_MAX && !err; i++) {
        if (!clip(memd, i, hva, bytes, &r, &page, &end))
            continue;
        err = any_pinned(r, page, end) ? -EBUSY : segments_reserve(&r->parts, r->parts.n + 1);
    }
    if (!err)
        err = call(ctx);
    for (uint32_t i = 0; i < MEMD_REGIONS_MAX && !err; i++) {
        if (!clip(memd, i, hva, bytes, &r, &page, &end))
            continue;
        parts_each(memd, r, page, end, part_drop_refs);
        leave(memd, r, page, end, MEMD_INELIGIBLE_OTHER);
        late |= any_missing(r, page, end);
    }
    if (late) /* as in memd_region_cut() */
        fault_quiesce(memd);
    work_unlock_api(memd);
    return err;
}

int memd_region_refresh(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes)
{
    uint32_t page, end;
    struct region *r;
    int err = enter(memd);

    if (err)
        return err;
    err = begin(memd, region, offset, bytes, &r, &page, &end);
    while (!err && page < end) {
        struct segment s = *segments_find(&r->parts, page);
        uint32_t next = s.first + s.npages < end ? s.first + s.npages : end;
        if (s.why != SEGMENT_TAKES_PART) {
            segments_set(&r->parts, page, next - page, MEMD_INELIGIBLE_OTHER, 0);
            err = region_survey(memd, r, page, next);
            if (!err)
                err = segments_reserve(&r->parts, r->parts.n + 1);
        }
        page = next;
    }
    memd->round.asked = true;
    work_unlock_api(memd);
    if (!err)
        engine_kick(memd);
    return err;
}

/* ---- advice */

enum kind {
    ATTRIBUTE,      /* of a mapping */
    ANON_ATTRIBUTE, /* means nothing to a store mapping */
    DISCARD,
};

static const struct advice {
    int advice;
    enum kind kind;
    uint32_t on, off;
} advices[] = {
    {MADV_HUGEPAGE, ANON_ATTRIBUTE, VMA_HUGE, VMA_NOHUGE},
    {MADV_NOHUGEPAGE, ANON_ATTRIBUTE, VMA_NOHUGE, VMA_HUGE},
    {MADV_DONTDUMP, ATTRIBUTE, VMA_DONTDUMP, 0},
    {MADV_DODUMP, ATTRIBUTE, 0, VMA_DONTDUMP},
    {MADV_DONTFORK, ATTRIBUTE, VMA_DONTFORK, 0},
    {MADV_DOFORK, ATTRIBUTE, 0, VMA_DONTFORK},
    {MADV_DONTNEED, DISCARD, 0, 0},
    {MADV_DONTNEED_LOCKED, DISCARD, 0, 0},
    {MADV_FREE, DISCARD, 0, 0},
    {MADV_REMOVE, DISCARD, 0, 0},
};

/* [page, end) takes part, all of it in one way. */
static int advise_part(struct memd *m, struct region *r, uint32_t page, uint32_t end, const struct advice *a)
{
    uint32_t next;

    if (a->advice == MADV_REMOVE) /* as the kernel: there is no file a hole could be made in */
        return -EINVAL;
    if (a->kind == DISCARD)
        return discard_pages(m, r, page, end);
    if (a->advice == MADV_DOFORK) /* the engine lets memory into a child itself (fork.c) */
        return 0;
    for (uint32_t p = page; p < end; p = next) {
        bool store = entry_in_store(page_get(r, p));
        for (next = p + 1; next < end && entry_in_store(page_get(r, next)) == store;)
            next++;
        if (a->kind == ANON_ATTRIBUTE && store)
            continue;
        if (madvise(page_hva(r, p), (next - p) * PAGE_BYTES, a->advice))
            return -errno;
    }
    return 0;
}

static int advise_range(struct memd *m, struct region *r, uint32_t page, uint32_t end, const struct advice *a)
{
    int err = 0;

    while (page < end) {
        struct segment s = *segments_find(&r->parts, page);
        uint32_t next = s.first + s.npages < end ? s.first + s.npages : end;
        int part_err = 0;
        if (s.why == SEGMENT_TAKES_PART)
            part_err = advise_part(m, r, page, next, a);
        else if (madvise(page_hva(r, page), (next - page) * PAGE_BYTES, a->advice))
            part_err = -errno;
        if (s.why == SEGMENT_TAKES_PART && !part_err)
            segments_set(&r->parts, page, next - page, SEGMENT_TAKES_PART, (s.vma_flags | a->on) & ~a->off);
        err = err ? err : part_err;
        page = next;
    }
    return err;
}

int memd_region_advise(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes, int advice)
{
    const struct advice *a = NULL;
    uint32_t page, end;
    struct region *r;

    for (unsigned i = 0; i < sizeof advices / sizeof *advices; i++)
        if (advices[i].advice == advice)
            a = &advices[i];
    if (!a)
        return -EINVAL;
    int err = enter(memd);
    if (err)
        return err;
    err = begin(memd, region, offset, bytes, &r, &page, &end);
    if (!err && a->kind == DISCARD && any_pinned(r, page, end))
        err = -EBUSY;
    if (!err)
        err = advise_range(memd, r, page, end, a);
    work_unlock_api(memd);
    return err;
}

/* ---- the whole region */

int memd_region_del(struct memd *memd, uint32_t region, unsigned timeout_ms)
{
    uint64_t deadline = now_ns() + timeout_ms * 1000000ull;
    int err = enter(memd);

    if (err)
        return err;
    struct region *r;
    while ((r = region_get(memd, region)) && r->changing && now_ns() < deadline)
        work_breathe(memd, 1000);
    if (!r)
        err = -ENOENT;
    else if (r->changing)
        err = -EBUSY;
    if (!err) {
        r->stuck = true; /* no new merges while we go over it, nor after -EBUSY */
        err = bring_home(memd, r, 0, r->npages, timeout_ms);
        /* of a region that is gone nothing is told any more; the daemon makes room as long as it lives */
        r->changing++;
        while (!err && !refs_flush_region(memd, r) && now_ns() < deadline)
            work_breathe(memd, 1000);
        r->changing--;
        if (!err && r->changing) /* somebody cuts it meanwhile */
            err = -EBUSY;
        if (err && err != -EBUSY)
            r->stuck = false;
        if (!err)
            region_remove(memd, r);
    }
    work_unlock_api(memd);
    return err;
}
