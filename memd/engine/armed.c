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
#include "memd/engine/out_parts.h"

#define VEC_MAX 64u

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

void armed_note(struct memd *m, struct region *r, uint32_t chunk, struct armed *ret_armed)
{
    *ret_armed = (struct armed){.first = chunk_first(r, chunk)};
    scan_pages(m, r, ret_armed->first, chunk_end(r, chunk), &query_armed, found, ret_armed);
}

static bool is_armed(const struct armed *armed, uint32_t bit)
{
    return bit < CHUNK_PAGES && armed->bits[bit / 64] >> (bit % 64) & 1;
}

void armed_again(struct memd *m, struct region *r, const struct armed *armed)
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
