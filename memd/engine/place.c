/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replacing what is mapped at a guest address. Three kinds of replacement:
 *   place_store   frames of a store, copy-on-write, over pages that were moved aside;
 *   place_anon    fresh empty memory, for a discard: whoever writes in between writes new content, which
 * stays; place_window  fresh empty memory that is registered MISSING from its first instant, for a heal: an
 * access waits until the content has been moved in. Made by mremap of an unpopulated, registered mapping
 *                 (MREMAP_DONTUNMAP leaves the source in place for the next time; where the kernel commits
 * memory strictly, a mapping of its own is moved); mmap followed by UFFDIO_REGISTER would let accesses
 * through in between.
 * A replacement copies the attributes of what it replaces, so that the kernel joins it with its neighbours
 * again. Everything the engine maps for itself or into a guest is kept out of forked children (see fork.c).
 * All functions: engine.work held.
 */
#include "memd/engine/engine.h"
#include "memd/engine/maps.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GUARD_BYTES      PAGE_BYTES
#define OVERCOMMIT_NEVER 2 /* of vm.overcommit_memory */
#define STRICT_LOOK_NS   1000000000u

static const struct {
    uint32_t flag;
    int on, off;
} advices[] = {
    {VMA_DONTDUMP, MADV_DONTDUMP, MADV_DODUMP},
    {VMA_NOHUGE, MADV_NOHUGEPAGE, 0},
    {VMA_HUGE, MADV_HUGEPAGE, 0},
    {VMA_MERGEABLE, MADV_MERGEABLE, 0},
};

/* Maps over guest memory. Not by way of libc: sanitizers take its mmap() for a write to all of the range,
 * which the guest uses all the while. */
static int map_over(void *hva, uint64_t bytes, int flags, int fd, off_t offset)
{
    return syscall(SYS_mmap, hva, bytes, PROT_READ | PROT_WRITE, flags | MAP_PRIVATE | MAP_FIXED, fd,
                   offset) < 0
               ? -errno
               : 0;
}

static int apply_flags(void *hva, uint64_t bytes, uint32_t flags)
{
    if (madvise(hva, bytes, MADV_DONTFORK))
        return -errno;
    for (unsigned i = 0; i < sizeof advices / sizeof *advices; i++)
        if (flags & advices[i].flag && madvise(hva, bytes, advices[i].on) && errno == ENOMEM)
            return -ENOMEM;
    return 0;
}

#define OWN_BELOW (1ull << 40) /* from where the library, or the program, lies */
#define OWN_BYTES (1ull << 42)

/* Where memory of the engine's own is to lie: far from where the kernel puts what nobody has a wish for. A
 * program of one thread may map over what it has unmapped a moment ago, and need not think of others. */
void *place_hint(uint64_t bytes)
{
    static _Atomic uint64_t used;
    uint64_t top = (uintptr_t)place_hint & ~(OWN_BELOW - 1);

    if (top < 2 * OWN_BELOW + OWN_BYTES || bytes >= OWN_BELOW)
        return NULL;
    bytes = (bytes + 2 * PAGE_BYTES - 1) & ~(PAGE_BYTES - 1); /* and a gap */
    return (void *)(top - OWN_BELOW - atomic_fetch_add(&used, bytes) % OWN_BYTES - bytes);
}

/* Anonymous memory between guard pages, kept out of huge pages and of forked children. */
static void *map_guarded(uint64_t bytes, char **ret_map)
{
    char *map = mmap(place_hint(bytes + 2 * GUARD_BYTES), bytes + 2 * GUARD_BYTES, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED)
        return NULL;
    if (madvise(map, bytes + 2 * GUARD_BYTES, MADV_DONTFORK) ||
        mprotect(map + GUARD_BYTES, bytes, PROT_READ | PROT_WRITE)) {
        munmap(map, bytes + 2 * GUARD_BYTES);
        return NULL;
    }
    *ret_map = map;
    return map + GUARD_BYTES;
}

/* An area of the engine's own, empty. mlockall() locks and fills it like any other memory of the VMM; it must
 * not be either: nothing can be moved to where a page is, nor between locked memory and other. */
void place_empty(char *area, uint64_t bytes)
{
    syscall(SYS_munlock, area, bytes); /* not by way of libc: sanitizers make it do nothing */
    madvise(area, bytes, MADV_DONTNEED);
}

/* Memory of the engine's own that fills as it is used: never locked, huge, forked or dumped. */
void *place_reserve(uint64_t bytes)
{
    void *p = mmap(place_hint(bytes), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    /* under mlockall(MCL_FUTURE) it would be filled as soon as it can be written */
    syscall(SYS_munlock, p, bytes);
    madvise(p, bytes, MADV_NOHUGEPAGE);
    madvise(p, bytes, MADV_DONTDUMP);
    if (madvise(p, bytes, MADV_DONTFORK) || mprotect(p, bytes, PROT_READ | PROT_WRITE)) {
        munmap(p, bytes);
        return NULL;
    }
    return p;
}

/* How memory is mapped that is to join a segment with these attributes. */
static int anon_flags(uint32_t vma_flags)
{
    return MAP_ANONYMOUS | (vma_flags & VMA_NORESERVE ? MAP_NORESERVE : 0);
}

static int window_map(struct memd *m, uint32_t flags)
{
    uint64_t bytes = CHUNK_PAGES * PAGE_BYTES;
    int err;

    err = map_over(m->window, bytes, anon_flags(flags), -1, 0);
    if (!err)
        err = apply_flags(m->window, bytes, flags);
    if (!err)
        err = uffd_register(m->uffd_a, m->window, bytes,
                            UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
    m->window_flags = err ? UINT32_MAX : flags;
    return err;
}

/* Time to drop `npages` touched pages of the parking area, most of it the flush. */
static double drop_ns(struct memd *m, uint32_t npages)
{
    static const char page[WIRE_PAGE_BYTES] __attribute__((aligned(WIRE_PAGE_BYTES)));
    uint64_t copied;

    for (uint32_t i = 0; i < npages; i++) {
        uffd_copy(m->uffd_a, m->parking + i * PAGE_BYTES, page, PAGE_BYTES, &copied);
        *(volatile char *)(m->parking + i * PAGE_BYTES);
    }
    uint64_t begun = now_ns();
    madvise(m->parking, npages * PAGE_BYTES, MADV_DONTNEED);
    return (double)(now_ns() - begun);
}

/* Under mlockall(MCL_FUTURE) the kernel copies every frame as soon as it is mapped: merging would save
 * nothing. */
bool place_locks_future(void)
{
    void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char resident = 0;

    if (page == MAP_FAILED)
        return false;
    bool locked = !mincore(page, PAGE_BYTES, &resident) && resident & 1;
    munmap(page, PAGE_BYTES);
    return locked;
}

#define MEASURE_TIMES 3
#define SPAN_NS       15000.0 /* two registrations, a look, a wake; measured on several kernels */
#define COPY_NS       1300.0
#define REHASH_NS     400.0

void place_measure(struct memd *m)
{
    const uint32_t few = PLAN_FLUSH_PAGES - 1, many = 2 * PLAN_FLUSH_PAGES;
    double few_ns = 1e9, many_ns = 1e9;

    for (unsigned i = 0; i < MEASURE_TIMES; i++) {
        double a = drop_ns(m, few), b = drop_ns(m, many);
        few_ns = a < few_ns ? a : few_ns;
        many_ns = b < many_ns ? b : many_ns;
    }
    m->costs = (struct plan_costs){.flush_page_ns = few_ns / few,
                                   .flush_all_ns = many_ns,
                                   .span_ns = SPAN_NS,
                                   .keep_ns = COPY_NS + REHASH_NS,
                                   .copy_ns = COPY_NS};
}

int place_init(struct memd *m)
{
    uint64_t bytes = PARKING_PAGES * PAGE_BYTES;
    char *map;

    m->parking = map_guarded(bytes, &m->parking_map);
    m->window = map_guarded(CHUNK_PAGES * PAGE_BYTES, &map);
    m->window_map = m->window ? map : NULL;
    m->bell = place_reserve(PAGE_BYTES);
    if (!m->parking || !m->window || !m->bell)
        return -ENOMEM;
    madvise(m->parking, bytes, MADV_NOHUGEPAGE);
    int err = uffd_register(m->uffd_a, m->parking, bytes, UFFDIO_REGISTER_MODE_MISSING);
    if (!err)
        err = uffd_register(m->uffd_a, m->bell, PAGE_BYTES, UFFDIO_REGISTER_MODE_MISSING);
    return err ? err : window_map(m, 0);
}

void place_fini(struct memd *m)
{
    if (m->parking)
        munmap(m->parking_map, PARKING_PAGES * PAGE_BYTES + 2 * GUARD_BYTES);
    if (m->window_map)
        munmap(m->window_map, CHUNK_PAGES * PAGE_BYTES + 2 * GUARD_BYTES);
    if (m->bell)
        munmap(m->bell, PAGE_BYTES);
    m->parking = m->window_map = m->bell = NULL;
}

int place_anon(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    char *hva = page_hva(r, page);
    uint64_t bytes = npages * PAGE_BYTES;
    uint32_t flags = region_segment(r, page)->vma_flags;

    int err = map_over(hva, bytes, anon_flags(flags), -1, 0);
    if (err)
        return err;
    err = apply_flags(hva, bytes, flags);
    if (!err)
        err = uffd_register(m->uffd_a, hva, bytes, UFFDIO_REGISTER_MODE_WP);
    if (err) /* plain memory all the same: only its tracking is lost */
        log_msg(m, MEMD_LOG_WARN, "%u discarded pages are no longer tracked (%d): raise vm.max_map_count",
                npages, -err);
    return 0;
}

/* Whether the kernel refuses what it cannot be sure to have (vm.overcommit_memory 2). */
static bool commits_strictly(struct memd *m)
{
    uint64_t now = now_ns();

    if (now >= m->strict_look_ns) {
        m->strict = file_number("/proc/sys/vm/overcommit_memory", 0) == OVERCOMMIT_NEVER;
        m->strict_look_ns = now + STRICT_LOOK_NS;
    }
    return m->strict;
}

/* A mapping that is moved and leaves nothing behind: that is never more memory than before, so mremap, which
 * has unmapped its target by the time it asks for memory, can't fail for want of it. */
static int place_moved(struct memd *m, char *hva, uint64_t bytes, uint32_t flags)
{
    void *fresh =
        mmap(place_hint(bytes), bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | anon_flags(flags), -1, 0);

    if (fresh == MAP_FAILED)
        return -errno;
    int err = apply_flags(fresh, bytes, flags);
    if (!err)
        err = uffd_register(m->uffd_a, fresh, bytes, UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
    if (!err && mremap(fresh, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, hva) == MAP_FAILED)
        err = -errno;
    if (err)
        munmap(fresh, bytes);
    return err;
}

int place_window(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    char *hva = page_hva(r, page);
    uint64_t bytes = npages * PAGE_BYTES;
    uint32_t flags = region_segment(r, page)->vma_flags;

    if (commits_strictly(m))
        return place_moved(m, hva, bytes, flags);
    int err = m->window_flags == flags ? 0 : window_map(m, flags);
    if (err)
        return err;
    place_empty(m->window, bytes);
    if (mremap(m->window, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, hva) == MAP_FAILED)
        return -errno;
    return 0;
}

int place_store(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t frame)
{
    int fd = m->session.store_fd[frame >> WIRE_FRAME_NODE_SHIFT];
    off_t offset = (off_t)((frame & WIRE_FRAME_INDEX_MASK) * PAGE_BYTES);

    return map_over(page_hva(r, page), npages * PAGE_BYTES, MAP_NORESERVE, fd, offset);
}

void place_store_flags(struct region *r, uint32_t page, uint32_t npages)
{
    const struct segment *s = region_segment(r, page);

    madvise(page_hva(r, page), npages * PAGE_BYTES, MADV_DONTFORK);
    if (s->vma_flags & VMA_DONTDUMP)
        madvise(page_hva(r, page), npages * PAGE_BYTES, MADV_DONTDUMP);
}

/* What a page is mapped from, as far as joining with its neighbour goes; broken pages go on with what
 * precedes. */
static int64_t mapping_of(const struct region *r, uint32_t page, int64_t before)
{
    uint64_t e = page_get(r, page);

    if (entry_state(e) == WIRE_PAGE_SHARED)
        return (int64_t)entry_frame(e) - page;
    return entry_state(e) == WIRE_PAGE_BROKEN ? (before == INT64_MAX ? INT64_MIN : before) : INT64_MAX;
}

void chunk_count_vmas(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk);
    int64_t before = first ? mapping_of(r, first - 1, INT64_MAX) : INT64_MAX;
    uint16_t vmas = 0;

    for (uint32_t page = first; page < end; page++) {
        int64_t is = mapping_of(r, page, before);
        vmas += is != before;
        before = is;
    }
    m->vmas_used += vmas - (int)r->chunks[chunk].vmas;
    r->chunks[chunk].vmas = vmas;
    atomic_store_explicit(&m->vmas_now, m->vmas_used, memory_order_relaxed);
}
