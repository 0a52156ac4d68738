/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Regions: what of them takes part, their page map, and the lock that changes to them are made under.
 *
 * A region is surveyed when it is added: the mappings that cover it are read from smaps, each is eligible or
 * not for a reason that is counted (I7). Eligible ones are registered with uffd A for write tracking and kept
 * out of forked children (fork.c lets them in for the time of a fork). What the VMM changes afterwards:
 * change.c.
 */
#include "memd/engine/engine.h"
#include "memd/engine/maps.h"
#include "memd/engine/out.h"
#include "memd/engine/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORK_STEPS_BACK 8u

/* ---- engine.work */

/* A thread that is cancelled while it has the lock would take it along, and pages that are aside with it. */
void work_lock_api(struct memd *m)
{
    int before;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    atomic_fetch_add(&m->api_waiting, 1);
    pthread_mutex_lock(&m->work);
    atomic_fetch_sub(&m->api_waiting, 1);
    m->cancel_before = before;
}

void work_unlock_api(struct memd *m)
{
    int before = m->cancel_before, ignored;

    pthread_cond_broadcast(&m->work_free);
    pthread_mutex_unlock(&m->work);
    pthread_setcancelstate(before, &ignored);
}

void work_breathe(struct memd *m, unsigned us)
{
    int before = m->cancel_before;

    m->cancel_before = PTHREAD_CANCEL_DISABLE;
    work_unlock_api(m);
    if (us)
        usleep(us);
    work_lock_api(m);
    m->cancel_before = before;
}

void work_lock_worker(struct memd *m)
{
    pthread_mutex_lock(&m->work);
    /* a mutex lets the thread that just left it in again first: step back while an API caller wants it, yet
     * not for ever, or a crowd of them would keep the daemon's fences waiting */
    for (unsigned i = 0; i < WORK_STEPS_BACK && atomic_load(&m->api_waiting) && !atomic_load(&m->stopping);
         i++) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 1000000;
        if (t.tv_nsec >= 1000000000)
            t.tv_sec++, t.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&m->work_free, &m->work, &t);
    }
}

void work_unlock_worker(struct memd *m)
{
    pthread_mutex_unlock(&m->work);
}

struct region *region_get(struct memd *m, uint32_t id)
{
    return id < MEMD_REGIONS_MAX ? m->regions[id] : NULL;
}

int region_range(struct memd *m, uint32_t region, uint64_t offset, uint64_t bytes, struct region **ret_region)
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

/* ---- page map */

uint64_t page_get(const struct region *r, uint32_t page)
{
    return atomic_load_explicit(&r->map->entry[page], memory_order_relaxed);
}

static void count_entry(struct region *r, uint64_t e, int64_t by)
{
    switch (entry_state(e)) {
    case WIRE_PAGE_ZERO:
        r->n.zero += (uint64_t)by;
        break;
    case WIRE_PAGE_SHARED:
        r->n.shared += (uint64_t)by;
        break;
    case WIRE_PAGE_BROKEN:
        r->n.broken += (uint64_t)by;
        break;
    case WIRE_PAGE_PRIVATE:
        if (entry_tag(e))
            r->n.tagged += (uint64_t)by;
        break;
    }
    if (e & WIRE_PAGE_F_PINNED)
        r->n.pinned += (uint64_t)by;
}

void page_set(struct region *r, uint32_t page, uint64_t entry)
{
    uint64_t was = page_get(r, page);

    /* an out page may come home at any moment: what the caller has read may be old */
    if (entry_out(was) || entry_out(entry))
        return;
    count_entry(r, was, -1);
    count_entry(r, entry, 1);
    /* release: whoever sees a frame named here sees it before the engine maps or compares it; and a frame
     * field that reads 0 is read after the unmapping that preceded it */
    atomic_store_explicit(&r->map->entry[page], entry, memory_order_release);
}

static uint64_t *pending_word(const struct region *r, uint32_t page, uint64_t *ret_bit)
{
    uint32_t slot = page + r->first_bit;

    *ret_bit = 1ull << (slot % 64);
    return &r->pending[slot / 64];
}

void pending_set(struct region *r, uint32_t page)
{
    uint64_t bit, *word = pending_word(r, page, &bit);

    r->n.pending += !(*word & bit);
    *word |= bit;
}

void pending_clear(struct region *r, uint32_t page)
{
    uint64_t bit, *word = pending_word(r, page, &bit);

    r->n.pending -= !!(*word & bit);
    *word &= ~bit;
}

bool pending_test(const struct region *r, uint32_t page)
{
    uint64_t bit;

    return *pending_word(r, page, &bit) & bit;
}

const struct segment *region_segment(const struct region *r, uint32_t page)
{
    const struct segment *s = segments_find(&r->parts, page);

    return s->why == SEGMENT_TAKES_PART ? s : NULL;
}

struct region *region_at(struct memd *m, uint64_t hva)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        /* acquire: pairs with the publication in memd_region_add() */
        struct region *r = atomic_load_explicit(&m->regions[i], memory_order_acquire);
        if (r && hva >= (uintptr_t)r->base && hva - (uintptr_t)r->base < r->npages * PAGE_BYTES)
            return r;
    }
    return NULL;
}

/* ---- what takes part */

static int ineligible_reason(const struct mapping *v)
{
    if (mapping_has(v, "ht"))
        return MEMD_INELIGIBLE_HUGETLB;
    if (v->shared || v->file || mapping_has(v, "sh"))
        return MEMD_INELIGIBLE_SHARED;
    if (mapping_has(v, "lo"))
        return MEMD_INELIGIBLE_LOCKED;
    if (mapping_has(v, "um") || mapping_has(v, "uw") || mapping_has(v, "ui"))
        return MEMD_INELIGIBLE_UFFD;
    if (!v->readable || !v->writable || mapping_has(v, "io") || mapping_has(v, "pf") ||
        mapping_has(v, "mm") || mapping_has(v, "wf"))
        return MEMD_INELIGIBLE_OTHER;
    return SEGMENT_TAKES_PART;
}

static uint32_t vma_flags_of(const struct mapping *v)
{
    return (mapping_has(v, "dd") ? VMA_DONTDUMP : 0) | (mapping_has(v, "dc") ? VMA_DONTFORK : 0) |
           (mapping_has(v, "nh") ? VMA_NOHUGE : 0) | (mapping_has(v, "hg") ? VMA_HUGE : 0) |
           (mapping_has(v, "mg") ? VMA_MERGEABLE : 0) | (mapping_has(v, "nr") ? VMA_NORESERVE : 0);
}

struct survey {
    struct memd *m;
    struct region *r;
    uint32_t first, end;
    unsigned parts;
};

/* One mapping's part of what is surveyed. Neighbours of one kind become one part, whether the kernel has
 * joined them or not. */
static int survey_mapping(void *ctx, const struct mapping *v)
{
    struct survey *s = ctx;
    struct region *r = s->r;
    uint64_t from = (uintptr_t)page_hva(r, s->first), to = (uintptr_t)page_hva(r, s->end);
    uint64_t start = v->start > from ? v->start : from, end = v->end < to ? v->end : to;
    uint32_t page = (uint32_t)((start - (uintptr_t)r->base) >> PAGE_SHIFT);
    int why = ineligible_reason(v), err = segments_reserve(&r->parts, 1);

    if (err)
        return err;
    if (why == SEGMENT_TAKES_PART && s->parts++ >= SEGMENTS_MAX)
        why = MEMD_INELIGIBLE_OTHER;
    if (why == SEGMENT_TAKES_PART) {
        err = uffd_register(s->m->uffd_a, (void *)start, end - start, UFFDIO_REGISTER_MODE_WP);
        if (err)
            why = err == -EBUSY ? MEMD_INELIGIBLE_UFFD : MEMD_INELIGIBLE_OTHER;
    }
    if (why == SEGMENT_TAKES_PART && !mapping_has(v, "dc"))
        madvise((void *)start, end - start, MADV_DONTFORK);
    segments_set(&r->parts, page, (uint32_t)((end - start) >> PAGE_SHIFT), why,
                 why == SEGMENT_TAKES_PART ? vma_flags_of(v) : 0);
    return 0;
}

int region_survey(struct memd *m, struct region *r, uint32_t first, uint32_t end)
{
    struct survey s = {.m = m, .r = r, .first = first, .end = end};

    return mappings_each((uintptr_t)page_hva(r, first), (uintptr_t)page_hva(r, end), true, survey_mapping,
                         &s);
}

void region_ineligible(const struct region *r, uint64_t *bytes)
{
    for (uint32_t i = 0; i < r->parts.n; i++)
        if (r->parts.at[i].why != SEGMENT_TAKES_PART)
            bytes[r->parts.at[i].why] += r->parts.at[i].npages * PAGE_BYTES;
}

bool region_takes_part(const struct region *r)
{
    for (uint32_t i = 0; i < r->parts.n; i++)
        if (r->parts.at[i].why == SEGMENT_TAKES_PART)
            return true;
    return false;
}

static void explain(struct memd *m, const struct region *r, enum memd_log_level level)
{
    static const char *const names[] = {"pinned",
                                        "locked",
                                        "hugetlb",
                                        "shared or file-backed",
                                        "under another userfaultfd",
                                        "not private writable memory"};
    static_assert(sizeof names / sizeof *names == MEMD_INELIGIBLE_COUNT, "a name each");
    uint64_t bytes[MEMD_INELIGIBLE_COUNT] = {0};

    region_ineligible(r, bytes);
    for (unsigned i = 0; i < MEMD_INELIGIBLE_COUNT; i++)
        if (bytes[i])
            log_msg(m, level, "region %s at %p: %" PRIu64 " KiB left alone: %s", r->name, (void *)r->base,
                    bytes[i] >> 10, names[i]);
}

/* ---- life of a region */

static int map_make(struct region *r, uint64_t gpa)
{
    r->map_bytes = sizeof(struct wire_map) + (size_t)r->npages * sizeof(uint64_t);
    r->map_fd = memfd_create("memd-page-map", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (r->map_fd < 0 || ftruncate(r->map_fd, (off_t)r->map_bytes) ||
        fcntl(r->map_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return -errno;
    r->map = mmap(place_hint(r->map_bytes), r->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->map_fd, 0);
    if (r->map == MAP_FAILED) {
        r->map = NULL;
        return -errno;
    }
    madvise(r->map, r->map_bytes, MADV_DONTFORK);
    r->map->magic = WIRE_MAP_MAGIC;
    r->map->version = WIRE_MAP_VERSION_MAX;
    r->map->npages = r->npages;
    r->map->hva = (uintptr_t)r->base;
    r->map->gpa = gpa;
    return 0;
}

static void region_free(struct region *r)
{
    out_region_free(r);
    if (r->map)
        munmap(r->map, r->map_bytes);
    if (r->map_fd >= 0)
        close(r->map_fd);
    segments_free(&r->parts);
    free(r->chunks);
    free(r->pending);
    free(r);
}

static struct region *region_new(const struct memd_region_desc *desc, uint32_t id)
{
    struct region *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->id = id;
    r->base = desc->hva;
    r->npages = (uint32_t)(desc->bytes >> PAGE_SHIFT);
    r->first_bit = ((uintptr_t)desc->hva >> PAGE_SHIFT) % CHUNK_PAGES;
    r->nchunks = chunk_of(r, r->npages - 1) + 1;
    r->gpa = desc->gpa;
    r->node = desc->node;
    snprintf(r->name, sizeof r->name, "%s", desc->name ? desc->name : "");
    r->map_fd = -1;
    r->chunks = calloc(r->nchunks, sizeof *r->chunks);
    r->pending = calloc(r->nchunks, CHUNK_WORDS * sizeof *r->pending);
    if (segments_init(&r->parts, r->npages, MEMD_INELIGIBLE_OTHER) || !r->chunks || !r->pending ||
        map_make(r, desc->gpa)) {
        region_free(r);
        return NULL;
    }
    return r;
}

static void metadata_count(struct memd *m)
{
    uint64_t bytes = sizeof *m + sizeof(struct wire_shm);

    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        if (r)
            bytes += sizeof *r + r->map_bytes +
                     r->nchunks * (sizeof *r->chunks + CHUNK_WORDS * sizeof *r->pending);
    }
    atomic_store(&m->metadata_bytes, bytes);
}

static bool overlaps(struct memd *m, const struct memd_region_desc *desc)
{
    uint64_t start = (uintptr_t)desc->hva, end = start + desc->bytes;

    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        if (r && start < (uintptr_t)r->base + r->npages * PAGE_BYTES && end > (uintptr_t)r->base)
            return true;
    }
    return false;
}

void region_dropped(struct memd *m, struct region *r, uint32_t page)
{
    page_set(r, page, entry_make(WIRE_PAGE_ZERO, 0, 0, 0));
    pending_clear(r, page);
    if (m->reads_take_pages) /* somebody may have written to it already: it is not empty then */
        uffd_zero(m->uffd_a, page_hva(r, page), PAGE_BYTES);
}

/* Zero pages that were dropped are there again, as the kernel's shared zero page: a program that was told by
 * its own userfaultfd of a page it has already filled would wait for ever (QEMU's postcopy). */
void region_show_zeros(const struct region *r, uint32_t page, uint32_t end)
{
    for (uint32_t n; page < end; page += n) {
        bool zero = entry_state(page_get(r, page)) == WIRE_PAGE_ZERO;
        for (n = 1; page + n < end && (entry_state(page_get(r, page + n)) == WIRE_PAGE_ZERO) == zero;)
            n++;
        if (zero)
            madvise(page_hva(r, page), n * PAGE_BYTES, MADV_POPULATE_READ);
    }
}

/* Undoes what enrolling did to the mappings. */
static void parts_leave(struct memd *m, struct region *r)
{
    for (uint32_t i = 0; i < r->parts.n; i++) {
        const struct segment *s = &r->parts.at[i];
        if (s->why != SEGMENT_TAKES_PART)
            continue;
        uffd_unregister(m->uffd_a, page_hva(r, s->first), s->npages * PAGE_BYTES);
        if (!(s->vma_flags & VMA_DONTFORK))
            madvise(page_hva(r, s->first), s->npages * PAGE_BYTES, MADV_DOFORK);
        region_show_zeros(r, s->first, s->first + s->npages);
    }
}

static int add_locked(struct memd *m, const struct memd_region_desc *desc, uint32_t *ret_region)
{
    uint32_t id = 0;

    if (overlaps(m, desc))
        return -EEXIST;
    while (id < MEMD_REGIONS_MAX && m->regions[id])
        id++;
    if (id == MEMD_REGIONS_MAX)
        return -ENOSPC;
    struct region *r = region_new(desc, id);
    if (!r)
        return -ENOMEM;
    int err = region_survey(m, r, 0, r->npages);
    explain(m, r, desc->flags & MEMD_REGION_KEEP ? MEMD_LOG_INFO : MEMD_LOG_WARN);
    if (!err && !region_takes_part(r) && !(desc->flags & MEMD_REGION_KEEP))
        err = -ENOTSUP;
    if (err) {
        parts_leave(m, r);
        region_free(r);
        return err;
    }
    /* release: the fault server finds a complete region */
    atomic_store_explicit(&m->regions[id], r, memory_order_release);
    metadata_count(m);
    r->serial = ++m->region_serial;
    session_announce(m, r);
    m->round.asked = true;
    *ret_region = id;
    return 0;
}

int memd_region_add(struct memd *memd, const struct memd_region_desc *desc, uint32_t *ret_region)
{
    if (!memd || !desc || !ret_region || desc->size < sizeof *desc || !desc->hva || !desc->bytes ||
        desc->flags & ~MEMD_REGION_KEEP || (uintptr_t)desc->hva % PAGE_BYTES || desc->bytes % PAGE_BYTES ||
        desc->bytes >> PAGE_SHIFT > WIRE_REGION_PAGES_MAX || (uintptr_t)desc->hva + desc->bytes < desc->bytes)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    work_lock_api(memd);
    int err = add_locked(memd, desc, ret_region);
    work_unlock_api(memd);
    if (!err)
        engine_kick(memd);
    return err;
}

/* Everything is home: undo what enrolling did, forget the region. */
void region_remove(struct memd *m, struct region *r)
{
    parts_leave(m, r);
    for (uint32_t c = 0; c < r->nchunks; c++)
        m->apply.todo -= r->chunks[c].todo;
    session_retire(m, r);
    swap_forget(m, r);
    atomic_store(&m->regions[r->id], NULL);
    if (m->round.region == r->id)
        m->round.chunk = UINT32_MAX;
    fault_quiesce(m);
    region_free(r);
    metadata_count(m);
}
