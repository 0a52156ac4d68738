/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * content: what a guest's memory holds. A function of the image alone, so that both sides, and a guest that
 * checks its memory afterwards, have the same; made by the recipe of bench/memvm/mkimage.
 */
#ifndef BENCH_DEDUP_CONTENT_H
#define BENCH_DEDUP_CONTENT_H

#include "bench/common/bench.h"
#include "bench/memvm/mkimage/recipe.h"

#define CONTENT_BLOCK_PAGES RECIPE_BLOCK_PAGES

enum content_kind {
    CONTENT_PLAIN, /* the recipe's default: half zero, the rest half duplicates; 4 KiB pages */
    CONTENT_HUGE,  /* huge pages: half of the memory as above, a quarter all unique, a quarter nearly so */
};

/* A stretch of the memory of one machine: a guest has all of it, or shares it with others. */
struct content {
    enum content_kind kind;
    unsigned machine;  /* machines differ in everything but the duplicates */
    size_t first_page; /* of the machine, a multiple of CONTENT_BLOCK_PAGES */
    size_t npages;
};

void content_fill(void *dst, const struct content *content);
/* As recipe_describe(), of pages [first, first + n) of the stretch. */
void content_describe(const struct content *content, size_t first, size_t n, uint8_t *ret_kind,
                      uint64_t *ret_id);

#endif
