/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Regions: what of them takes part, their page map, and the lock that changes to them are made under.
 *
 * A region is surveyed once, when it is added: the mappings that cover it are read from smaps, each is
 * eligible or not for a reason that is counted (I7). Eligible mappings become segments, registered with uffd
 * A for write tracking and kept out of forked children (fork.c lets them in for the time of a fork).
 */
#include "memd/engine/engine.h"

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

void work_lock_api(struct memd *m)
{
    atomic_fetch_add(&m->api_waiting, 1);
    pthread_mutex_lock(&m->work);
    atomic_fetch_sub(&m->api_waiting, 1);
}

void work_unlock_api(struct memd *m)
{
    pthread_cond_broadcast(&m->work_free);
    pthread_mutex_unlock(&m->work);
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
    count_entry(r, page_get(r, page), -1);
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
    uint32_t lo = 0, hi = r->nsegments;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        const struct segment *s = &r->segments[mid];
        if (page < s->first)
            hi = mid;
        else if (page - s->first >= s->npages)
            lo = mid + 1;
        else
            return s;
    }
    return NULL;
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

struct mapping {
    uint64_t start, end;
    bool file, readable, writable, shared;
    char flags[160]; /* " rd wr mr ..." */
};

static bool has_flag(const struct mapping *v, const char *two)
{
    char want[5] = {' ', two[0], two[1], ' ', 0};

    return strstr(v->flags, want);
}

/* -1: eligible. */
static int ineligible_reason(const struct mapping *v)
{
    if (has_flag(v, "ht"))
        return MEMD_INELIGIBLE_HUGETLB;
    if (v->shared || v->file || has_flag(v, "sh"))
        return MEMD_INELIGIBLE_SHARED;
    if (has_flag(v, "lo"))
        return MEMD_INELIGIBLE_LOCKED;
    if (has_flag(v, "um") || has_flag(v, "uw") || has_flag(v, "ui"))
        return MEMD_INELIGIBLE_UFFD;
    if (!v->readable || !v->writable || has_flag(v, "io") || has_flag(v, "pf") || has_flag(v, "mm"))
        return MEMD_INELIGIBLE_OTHER;
    return -1;
}

static uint32_t vma_flags_of(const struct mapping *v)
{
    return (has_flag(v, "dd") ? VMA_DONTDUMP : 0) | (has_flag(v, "dc") ? VMA_DONTFORK : 0) |
           (has_flag(v, "nh") ? VMA_NOHUGE : 0) | (has_flag(v, "hg") ? VMA_HUGE : 0) |
           (has_flag(v, "mg") ? VMA_MERGEABLE : 0) | (has_flag(v, "nr") ? VMA_NORESERVE : 0);
}

static void add_mapping(struct memd *m, struct region *r, const struct mapping *v)
{
    uint64_t base = (uintptr_t)r->base, limit = base + r->npages * PAGE_BYTES;
    uint64_t start = v->start > base ? v->start : base, end = v->end < limit ? v->end : limit;
    int why = ineligible_reason(v);

    if (start >= end)
        return;
    /* neighbouring mappings of one kind are one segment, whether the kernel has joined them or not */
    struct segment *last = r->nsegments ? &r->segments[r->nsegments - 1] : NULL;
    bool joins = last && page_hva(r, last->first + last->npages) == (char *)start &&
                 last->vma_flags == vma_flags_of(v);
    if (why < 0 && !joins && r->nsegments == SEGMENTS_MAX)
        why = MEMD_INELIGIBLE_OTHER;
    if (why < 0) {
        int err = uffd_register(m->uffd_a, (void *)start, end - start, UFFDIO_REGISTER_MODE_WP);
        if (err)
            why = err == -EBUSY ? MEMD_INELIGIBLE_UFFD : MEMD_INELIGIBLE_OTHER;
    }
    if (why >= 0) {
        r->ineligible_bytes[why] += end - start;
        return;
    }
    if (!has_flag(v, "dc"))
        madvise((void *)start, end - start, MADV_DONTFORK);
    if (joins) {
        last->npages += (uint32_t)((end - start) >> PAGE_SHIFT);
        return;
    }
    r->segments[r->nsegments++] = (struct segment){.first = (uint32_t)((start - base) >> PAGE_SHIFT),
                                                   .npages = (uint32_t)((end - start) >> PAGE_SHIFT),
                                                   .vma_flags = vma_flags_of(v)};
}

/* Reads smaps up to the region's end; pages covered by no mapping at all count as `other`. */
static int survey(struct memd *m, struct region *r)
{
    uint64_t base = (uintptr_t)r->base, limit = base + r->npages * PAGE_BYTES, covered = 0;
    FILE *f = fopen("/proc/self/smaps", "re");
    struct mapping v = {0};
    char line[4352];

    if (!f)
        return -errno;
    while (fgets(line, sizeof line, f)) {
        uint64_t start, end;
        unsigned long inode;
        char perms[5];
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %lu", &start, &end, perms, &inode) == 4) {
            if (start >= limit)
                break;
            v = (struct mapping){.start = start,
                                 .end = end,
                                 .file = inode != 0,
                                 .readable = perms[0] == 'r',
                                 .writable = perms[1] == 'w',
                                 .shared = perms[3] == 's'};
        } else if (!strncmp(line, "VmFlags:", 8) && v.end > base) {
            line[strcspn(line, "\n")] = 0;
            snprintf(v.flags, sizeof v.flags, "%.150s ", line + 8);
            covered += (v.end < limit ? v.end : limit) - (v.start > base ? v.start : base);
            add_mapping(m, r, &v);
        }
    }
    fclose(f);
    r->ineligible_bytes[MEMD_INELIGIBLE_OTHER] += limit - base - covered;
    return r->nsegments ? 0 : -ENOTSUP;
}

static void explain(struct memd *m, const struct region *r)
{
    static const char *const names[] = {"pinned",
                                        "locked",
                                        "hugetlb",
                                        "shared or file-backed",
                                        "under another userfaultfd",
                                        "not private writable memory"};
    static_assert(sizeof names / sizeof *names == MEMD_INELIGIBLE_COUNT, "a name each");

    for (unsigned i = 0; i < MEMD_INELIGIBLE_COUNT; i++)
        if (r->ineligible_bytes[i])
            log_msg(m, MEMD_LOG_WARN, "region %s at %p: %" PRIu64 " KiB left alone: %s", r->name,
                    (void *)r->base, r->ineligible_bytes[i] >> 10, names[i]);
}

/* ---- life of a region */

static int map_make(struct region *r, uint64_t gpa)
{
    r->map_bytes = sizeof(struct wire_map) + (size_t)r->npages * sizeof(uint64_t);
    r->map_fd = memfd_create("memd-page-map", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (r->map_fd < 0 || ftruncate(r->map_fd, (off_t)r->map_bytes) ||
        fcntl(r->map_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return -errno;
    r->map = mmap(NULL, r->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->map_fd, 0);
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
    if (r->map)
        munmap(r->map, r->map_bytes);
    if (r->map_fd >= 0)
        close(r->map_fd);
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
    if (!r->chunks || !r->pending || map_make(r, desc->gpa)) {
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
    int err = survey(m, r);
    explain(m, r);
    if (err) {
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
        desc->flags || (uintptr_t)desc->hva % PAGE_BYTES || desc->bytes % PAGE_BYTES ||
        desc->bytes >> PAGE_SHIFT > WIRE_REGION_PAGES_MAX || (uintptr_t)desc->hva + desc->bytes < desc->bytes)
        return -EINVAL;
    if (memd->pid != getpid())
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
    for (uint32_t i = 0; i < r->nsegments; i++) {
        const struct segment *s = &r->segments[i];
        uffd_unregister(m->uffd_a, page_hva(r, s->first), s->npages * PAGE_BYTES);
        if (!(s->vma_flags & VMA_DONTFORK))
            madvise(page_hva(r, s->first), s->npages * PAGE_BYTES, MADV_DOFORK);
    }
    for (uint32_t c = 0; c < r->nchunks; c++)
        m->apply.todo -= r->chunks[c].todo;
    session_retire(m, r);
    atomic_store(&m->regions[r->id], NULL);
    if (m->round.region == r->id)
        m->round.chunk = UINT32_MAX;
    fault_quiesce(m);
    region_free(r);
    metadata_count(m);
}
