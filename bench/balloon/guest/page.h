/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * page: what is on a guest's data disk. Each page says whose it is and where it lies, and has a checksum of
 * the rest; so no two are alike, and whoever reads one knows whether it is right.
 */
#ifndef BENCH_BALLOON_GUEST_PAGE_H
#define BENCH_BALLOON_GUEST_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / 8)

struct page {
    uint64_t owner;                /* of the disk, from 1 on */
    uint64_t number;               /* of this page there */
    uint64_t sum;                  /* page_sum() */
    uint64_t word[PAGE_WORDS - 3]; /* whatever */
};
_Static_assert(sizeof(struct page) == PAGE_BYTES, "a page");

static inline uint64_t page_sum(const struct page *page)
{
    uint64_t a = page->owner, b = page->number;

    for (unsigned i = 0; i < PAGE_WORDS - 3; i++) {
        a += page->word[i];
        b += a;
    }
    return a ^ b << 1;
}

static inline bool page_is(const struct page *page, uint64_t owner, uint64_t number)
{
    return page->owner == owner && page->number == number && page->sum == page_sum(page);
}

#endif
