/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see recipe.h. A block is laid out as a list of runs (kind, length, id of the first
 * page's content), then the list is shuffled with the image's seed. To fill any range only the blocks it
 * touches are laid out, some 300 runs each, so a caller may ask for one page or for gigabytes, in any order
 * and from several threads.
 *
 * Only integers are used: floating point would make the content depend on the machine.
 */
#include "bench/memvm/mkimage/recipe.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define WORDS_PER_PAGE (RECIPE_PAGE_BYTES / sizeof(uint64_t))
#define GOLDEN         0x9e3779b97f4a7c15ull

/* Salts part the streams drawn from one seed. */
enum salt { SALT_FILE = 1, SALT_REPEAT, SALT_RUNS, SALT_SHUFFLE, SALT_PAGE };

struct run {
    uint64_t id; /* content of page i of the run is page_content(id, i); of no meaning for zero runs */
    uint16_t npages;
    uint8_t kind;
};

struct block {
    size_t nruns;
    struct run run[RECIPE_BLOCK_PAGES]; /* a run has at least one page */
};
static_assert(sizeof(struct block) <= 72u * 1024, "a block lives on the stack");

struct rng {
    uint64_t state;
};

static uint64_t scramble(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

uint64_t recipe_mix(uint64_t a, uint64_t b)
{
    return scramble(scramble(a + GOLDEN) ^ (b * GOLDEN + 1));
}

static uint64_t rng_next(struct rng *rng)
{
    return scramble(rng->state += GOLDEN);
}

/* Uniform in [0, bound) up to a bias of bound / 2^64. */
static uint64_t rng_below(struct rng *rng, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)rng_next(rng) * bound) >> 64);
}

/* Geometric with the given mean, at least 1. */
static unsigned rng_run_pages(struct rng *rng, unsigned mean)
{
    unsigned n = 1;
    while (n < RECIPE_RUN_MAX && rng_below(rng, mean) != 0)
        n++;
    return n;
}

static uint64_t page_content(uint64_t run_id, unsigned page)
{
    return recipe_mix(run_id, ((uint64_t)page << 8) | SALT_PAGE) | 1;
}

/* Entry `index` of the family's file list of `block`: a file of its own, or one of an earlier block. */
static uint64_t file_id(const struct recipe *recipe, uint64_t block, uint64_t index)
{
    for (;;) {
        uint64_t own = recipe_mix(recipe_mix(recipe->family, SALT_FILE), block << 16 | index);
        struct rng rng = {recipe_mix(own, SALT_REPEAT)};
        if (block == 0 || rng_below(&rng, 100) >= recipe->repeat_percent)
            return own;
        block = rng_below(&rng, block);
        index = rng_below(&rng, 16); /* small, so that the earlier block really has this entry */
    }
}

static void block_append(struct block *b, enum recipe_kind kind, uint64_t id, unsigned npages)
{
    b->run[b->nruns++] = (struct run){.id = id, .npages = (uint16_t)npages, .kind = (uint8_t)kind};
}

/* `budget` pages of one kind, as runs of the image's own. */
static void block_append_runs(struct block *b, struct rng *rng, enum recipe_kind kind, unsigned budget,
                              unsigned mean)
{
    while (budget > 0) {
        unsigned n = rng_run_pages(rng, mean);
        if (n > budget)
            n = budget;
        block_append(b, kind, kind == RECIPE_UNIQUE ? rng_next(rng) : 0, n);
        budget -= n;
    }
}

static void block_append_files(struct block *b, const struct recipe *recipe, uint64_t block, unsigned budget)
{
    for (uint64_t index = 0; budget > 0; index++) {
        uint64_t id = file_id(recipe, block, index);
        struct rng rng = {id};
        unsigned n = rng_run_pages(&rng, recipe->dup_run_pages);
        if (n > budget)
            n = budget;
        block_append(b, RECIPE_DUP, id, n);
        budget -= n;
    }
}

static void block_layout(struct block *b, const struct recipe *recipe, uint64_t block)
{
    unsigned zero = RECIPE_BLOCK_PAGES * recipe->zero_percent / 100;
    unsigned dup = (RECIPE_BLOCK_PAGES - zero) * recipe->dup_percent / 100;
    uint64_t own = recipe_mix(recipe_mix(recipe->seed, recipe->family), block);
    struct rng rng = {recipe_mix(own, SALT_RUNS)};

    b->nruns = 0;
    block_append_files(b, recipe, block, dup);
    block_append_runs(b, &rng, RECIPE_ZERO, zero, recipe->zero_run_pages);
    block_append_runs(b, &rng, RECIPE_UNIQUE, RECIPE_BLOCK_PAGES - zero - dup, recipe->unique_run_pages);

    rng.state = recipe_mix(own, SALT_SHUFFLE);
    for (size_t i = b->nruns; i > 1; i--) {
        size_t j = rng_below(&rng, i);
        struct run swap = b->run[i - 1];
        b->run[i - 1] = b->run[j];
        b->run[j] = swap;
    }
}

int recipe_check(const struct recipe *recipe)
{
    const unsigned means[] = {recipe->dup_run_pages, recipe->zero_run_pages, recipe->unique_run_pages};

    if (recipe->zero_percent > 100 || recipe->dup_percent > 100 || recipe->repeat_percent > 90)
        return -EINVAL;
    for (size_t i = 0; i < sizeof means / sizeof *means; i++) {
        if (means[i] < 1 || means[i] > RECIPE_RUN_MAX)
            return -EINVAL;
    }
    return 0;
}

void recipe_page(void *dst, uint64_t content)
{
    uint64_t *word = dst, state = scramble(content);

    if (content == 0) {
        memset(dst, 0, RECIPE_PAGE_BYTES);
        return;
    }
    word[0] = content; /* keeps distinct contents distinct for certain */
    for (size_t i = 1; i < WORDS_PER_PAGE; i++)
        word[i] = scramble(state += GOLDEN);
}

/* What to do with each page of a range, in order. */
struct sink {
    uint8_t *bytes;
    uint8_t *kind;
    uint64_t *content;
};

static void sink_put(struct sink *sink, enum recipe_kind kind, uint64_t content)
{
    if (sink->bytes) {
        recipe_page(sink->bytes, content);
        sink->bytes += RECIPE_PAGE_BYTES;
    }
    if (sink->kind)
        *sink->kind++ = (uint8_t)kind;
    if (sink->content)
        *sink->content++ = content;
}

static void walk(size_t first_page, size_t npages, const struct recipe *recipe, struct sink sink)
{
    struct block b;
    size_t end = first_page + npages;

    for (size_t page = first_page; page < end;) {
        uint64_t block = page / RECIPE_BLOCK_PAGES;
        size_t at = block * RECIPE_BLOCK_PAGES; /* first page of the run at hand */

        block_layout(&b, recipe, block);
        for (size_t r = 0; r < b.nruns && page < end; at += b.run[r++].npages) {
            const struct run *run = &b.run[r];
            for (; page < at + run->npages && page < end; page++) {
                unsigned nth = (unsigned)(page - at);
                sink_put(&sink, run->kind, run->kind == RECIPE_ZERO ? 0 : page_content(run->id, nth));
            }
        }
    }
}

void recipe_fill(void *dst, size_t first_page, size_t npages, const struct recipe *recipe)
{
    walk(first_page, npages, recipe, (struct sink){.bytes = dst});
}

void recipe_describe(size_t first_page, size_t npages, const struct recipe *recipe, uint8_t *ret_kind,
                     uint64_t *ret_content)
{
    walk(first_page, npages, recipe, (struct sink){.kind = ret_kind, .content = ret_content});
}
