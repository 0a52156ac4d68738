/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the guest writes into a page, and how it recognises it again. Integers only: the payload runs with SSE
 * off.
 *
 * The checksum sets the guest's read rate, so it is cheap: four independent lanes, one multiplication a word.
 * Every step of a lane is a bijection of the word and of the lane, and so is the fold: a page in which any
 * one word changed always has another sum, other changes go unseen once in 2^64.
 */
#ifndef MEMVM_PAYLOAD_PAGE_H
#define MEMVM_PAYLOAD_PAGE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/memvm/payload/abi.h"

#define PAGE_WORDS  (ABI_PAGE_BYTES / sizeof(uint64_t))
#define PAGE_GOLDEN 0x9e3779b97f4a7c15ull
#define PAGE_MUL    0xd6e8feb86659fd93ull

/*
 * Hot pages: of every 100 runs of 32 pages `percent`, spread over them; what is left at the end is cold. How
 * many of `pages` are; which is number `i` of them; whether `page` is one.
 */
#define PAGE_RUN   32u
#define PAGE_BLOCK (100u * PAGE_RUN)
static_assert(37 * 73 % 100 == 1, "the two multipliers are each other's inverse");

static inline uint64_t page_hot_count(uint64_t pages, uint32_t percent)
{
    return pages / PAGE_BLOCK * percent * PAGE_RUN;
}

static inline uint64_t page_hot(uint64_t i, uint32_t percent)
{
    uint64_t run = i / PAGE_RUN;

    return (run / percent * 100 + run % percent * 73 % 100) * PAGE_RUN + i % PAGE_RUN;
}

static inline int page_is_hot(uint64_t page, uint64_t pages, uint32_t percent)
{
    return page / PAGE_BLOCK < pages / PAGE_BLOCK && page / PAGE_RUN % 100 * 37 % 100 < percent;
}

static inline uint64_t page_rotate(uint64_t x, unsigned bits)
{
    return x << bits | x >> (64 - bits);
}

static inline uint64_t page_step(uint64_t lane, uint64_t word)
{
    return page_rotate(lane ^ word, 29) * PAGE_MUL;
}

static inline uint64_t page_fold(const uint64_t lane[4])
{
    return page_step(page_step(page_step(lane[0], lane[1]), lane[2]), lane[3]);
}

#define PAGE_LANES                                                                                 \
    {                                                                                              \
        0x243f6a8885a308d3ull, 0x13198a2e03707344ull, 0xa4093822299f31d0ull, 0x082efa98ec4e6c89ull \
    }

static inline uint64_t page_sum(const uint64_t *page)
{
    uint64_t lane[4] = PAGE_LANES;

    for (size_t i = 0; i < PAGE_WORDS; i += 4) {
        lane[0] = page_step(lane[0], page[i]);
        lane[1] = page_step(lane[1], page[i + 1]);
        lane[2] = page_step(lane[2], page[i + 2]);
        lane[3] = page_step(lane[3], page[i + 3]);
    }
    return page_fold(lane);
}

/* A hash of two words, for stamps and choices. */
static inline uint64_t page_mix(uint64_t a, uint64_t b)
{
    uint64_t x = (a + PAGE_GOLDEN) ^ (b * PAGE_MUL);
    x = (x ^ (x >> 32)) * PAGE_MUL;
    x = (x ^ (x >> 29)) * PAGE_GOLDEN;
    return x ^ (x >> 32);
}

/* Word 0 of a page the guest wrote itself. */
static inline uint64_t page_stamp(uint64_t seed, uint64_t page_number)
{
    return page_mix(seed, page_number) | 1;
}

/*
 * Write incompressible content that no other page, guest or time has: stamp, write counter, noise. The sum
 * returned is that of the values meant, not of what can be read back: a store that got lost is found later.
 */
static inline uint64_t page_fill_unique(uint64_t *page, uint64_t seed, uint64_t page_number, uint64_t writes)
{
    uint64_t lane[4] = PAGE_LANES;
    uint64_t x = page_mix(page_mix(seed, page_number), writes + 1);

    for (size_t i = 0; i < PAGE_WORDS; i++) {
        uint64_t word;
        if (i == 0) {
            word = page_stamp(seed, page_number);
        } else if (i == 1) {
            word = writes;
        } else {
            x += PAGE_GOLDEN;
            word = (x ^ (x >> 31)) * PAGE_MUL;
        }
        page[i] = word;
        lane[i % 4] = page_step(lane[i % 4], word);
    }
    return page_fold(lane);
}

/* How many contents all guests have in common, and the word by which a toggle changes a page. */
#define PAGE_SHARED_CONTENTS 64u
#define PAGE_TOGGLE_WORD     8u
#define PAGE_TOGGLE_MASK     3u

/* Content that depends on nothing but its number: neighbours in one guest are neighbours in every guest. */
static inline uint64_t page_fill_shared(uint64_t *page, uint64_t page_number)
{
    uint64_t lane[4] = PAGE_LANES;
    uint64_t x = page_mix(PAGE_MUL, page_number % PAGE_SHARED_CONTENTS);

    for (size_t i = 0; i < PAGE_WORDS; i++) {
        x += PAGE_GOLDEN;
        page[i] = (x ^ (x >> 31)) * PAGE_MUL;
        lane[i % 4] = page_step(lane[i % 4], (x ^ (x >> 31)) * PAGE_MUL);
    }
    return page_fold(lane);
}

/* What page_sum() will be once word `at` is `word`; nothing is written. */
static inline uint64_t page_sum_with(const uint64_t *page, size_t at, uint64_t word)
{
    uint64_t lane[4] = PAGE_LANES;

    for (size_t i = 0; i < PAGE_WORDS; i++)
        lane[i % 4] = page_step(lane[i % 4], i == at ? word : page[i]);
    return page_fold(lane);
}

static inline uint64_t page_fill_zero(uint64_t *page)
{
    uint64_t lane[4] = PAGE_LANES;

    for (size_t i = 0; i < PAGE_WORDS; i++) {
        page[i] = 0;
        lane[i % 4] = page_step(lane[i % 4], 0);
    }
    return page_fold(lane);
}

/* Does the page hold what its entry says? ret_sum is the sum found. */
static inline int page_matches(const uint64_t *page, uint64_t seed, uint64_t page_number,
                               const struct abi_entry *entry, uint64_t *ret_sum)
{
    *ret_sum = page_sum(page);
    if (*ret_sum != entry->sum)
        return 0;
    return !entry->stamped || (page[0] == page_stamp(seed, page_number) && page[1] == entry->writes);
}

#endif
