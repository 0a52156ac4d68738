/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Taking MISSING off a chunk (out_release) unregisters it, and all its pages would count as written: 512
 * pages to be hashed again, however few have changed. So it is noted which were armed, and these are armed
 * again afterwards.
 *
 * A write in between, some tens of microseconds, is not noticed: the page is armed, its hash (the tag of its
 * entry, and what the daemon was told) is of what it held before, and nobody hashes it until it is written
 * again. The same is true of a page that a device writes by way of an older pin. It may be done because
 * nothing takes "armed", "not pending" or a tag for a proof of what a page holds:
 *
 *   merging    apply.c moves the page aside and compares it with the frame (I4); one that differs goes back
 *              by a move, which counts as written, and is pending: its hash is right again
 *   zeros      dropped only after all of the page was found zero while it was aside (apply.c)
 *   frames     the daemon hashes the bytes it was sent, and makes no frame of them if they are not those it
 *              has been told of (publish.c)
 *   parking    takes the page as it is (UFFDIO_MOVE): the tag goes with it, and comes home with it, perhaps
 *              by a copy that is armed. A stale tag stays stale; the bytes are those that were moved away
 *   packing    compresses what was moved. "Found incompressible" goes by the tag: at worst the page stays in
 *              RAM as long as nobody writes it
 *   swapping   the copy in the file counts as this page if a keyed hash of 128 bits of the bytes that lie in
 *              the shadow says so, taken when it goes out (pack_page)
 *   the pager  leaves alone what was written lately: a choice, no more
 *   samples    are touched or not, whatever is written
 *
 * What is lost is a merge or a page out, until the next write. Pages whose entry says that nothing is there
 * (ZERO, GONE) are another matter: should one hold something, that has to be seen. They are there, armed and
 * not written, only as the kernel's shared zero page, so that is never armed again: it counts as written, as
 * after any other registration, and the write to it that falls in between is seen by the next round.
 *
 * Arming is left to PAGEMAP_SCAN, as in the rounds: it puts no marker where there is no page.
 */
#include "memd/engine/out.h"
#include "memd/engine/out_parts.h"
#include "memd/engine/pager.h"

#include <sys/mman.h>

#define VEC_MAX 64u

/* Pages of a chunk that were armed. */
struct armed {
    uint32_t first;
    uint64_t bits[CHUNK_WORDS]; /* from page `first` */
};

static const struct scan_query query_armed = {
    .inverted = PAGE_IS_WRITTEN | PAGE_IS_HUGE | PAGE_IS_PFNZERO,
    .mask = PAGE_IS_WRITTEN | PAGE_IS_HUGE | PAGE_IS_PFNZERO | PAGE_IS_WPALLOWED,
    .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    .ret = PAGE_IS_PRESENT,
};
static const struct scan_query query_arm = {
    .flags = PM_SCAN_WP_MATCHING,
    .inverted = PAGE_IS_HUGE,
    .mask = PAGE_IS_WRITTEN | PAGE_IS_HUGE,
    .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    .ret = PAGE_IS_PRESENT,
};

static void found(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint64_t categories,
                  void *arg)
{
    struct armed *armed = arg;

    (void)m, (void)r, (void)categories;
    for (uint32_t bit = page - armed->first; npages; bit++, npages--)
        armed->bits[bit / 64] |= 1ull << (bit % 64);
}

static void armed_note(struct memd *m, struct region *r, uint32_t chunk, struct armed *ret_armed)
{
    *ret_armed = (struct armed){.first = chunk_first(r, chunk)};
    scan_pages(m, r, ret_armed->first, chunk_end(r, chunk), &query_armed, found, ret_armed);
}

static bool is_armed(const struct armed *armed, uint32_t bit)
{
    return bit < CHUNK_PAGES && armed->bits[bit / 64] >> (bit % 64) & 1;
}

static void armed_again(struct memd *m, struct region *r, const struct armed *armed)
{
    struct page_region vec[VEC_MAX];

    for (uint32_t bit = 0, end; bit < CHUNK_PAGES; bit = end + 1) {
        for (end = bit; is_armed(armed, end); end++)
            ;
        const char *hva = page_hva(r, armed->first + bit), *to = page_hva(r, armed->first + end);
        uint64_t walked;
        while (hva < to &&
               pagemap_scan(m, hva, (uint64_t)(to - hva), &query_arm, vec, VEC_MAX, &walked) >= 0 &&
               walked > (uintptr_t)hva)
            hva = (const char *)walked;
    }
}

/* ---- MISSING off */

static bool places_used(const struct region *r, uint32_t chunk)
{
    for (uint32_t p = chunk_first(r, chunk); p < chunk_end(r, chunk); p++)
        if (place_get(r, p))
            return true;
    return false;
}

void out_trim_places(struct region *r, uint32_t chunk)
{
    if (r->out.place && !atomic_load_explicit(&r->chunks[chunk].missing, memory_order_relaxed) &&
        !places_used(r, chunk))
        madvise(r->out.place + (uint64_t)chunk * CHUNK_PAGES, PAGE_BYTES, MADV_DONTNEED);
}

bool out_release(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk), next;
    struct chunk *c = &r->chunks[chunk];
    struct armed armed;
    int err = 0;

    chunk_lock(c);
    bool empty = !atomic_load_explicit(&c->out, memory_order_relaxed);
    if (empty)
        armed_note(m, r, chunk, &armed);
    for (uint32_t p = first; empty && p < end && !err; p = next) {
        const struct segment *s = region_segment(r, p);
        next = p + 1;
        if (!s || entry_in_store(page_get(r, p)))
            continue;
        while (next < end && next < s->first + s->npages && !entry_in_store(page_get(r, next)))
            next++;
        err = uffd_unregister(m->uffd_a, page_hva(r, p), (next - p) * PAGE_BYTES);
        if (!err)
            err = uffd_register(m->uffd_a, page_hva(r, p), (next - p) * PAGE_BYTES, UFFDIO_REGISTER_MODE_WP);
    }
    if (empty)
        armed_again(m, r, &armed);
    if (empty && !err) {
        atomic_store_explicit(&c->missing, 0, memory_order_relaxed);
        m->pager->missing_chunks--;
        out_trim_places(r, chunk);
        if (r->out.shadow) /* nothing is there, and its page table goes, too (Linux 6.14) */
            madvise(shadow_page(r, first), (end - first) * PAGE_BYTES, MADV_DONTNEED);
    }
    out_unlock(m, c);
    uffd_wake(m->uffd_a, page_hva(r, first), (end - first) * PAGE_BYTES);
    return empty && !err;
}
