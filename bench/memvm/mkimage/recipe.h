/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * recipe: guest RAM content pinned by a recipe instead of by a file.
 *
 * A recipe names, for every page of an image, its bytes: a function of (seed, family, page) and of the shares
 * below, the same on every machine. Images of one family hold the same duplicates, each in its own order;
 * everything else in them differs by seed. Page N does not depend on the size of the image, so a longer image
 * starts with the shorter one.
 *
 * The image is laid out in blocks of RECIPE_BLOCK_PAGES pages. Every block has exactly the shares asked for:
 * zero_percent of its pages are zero, dup_percent of the rest are duplicates, what remains is unique and
 * incompressible. Duplicates come in "files": runs of consecutive pages, geometric in length with mean
 * dup_run_pages, always placed whole. Every image of a family has the same files in the same block, once
 * each; repeat_percent of them are repeats of a file of an earlier block, so that a single image has
 * duplicates too. Zero and unique pages come in geometric runs as well, and the runs of a block are shuffled.
 *
 * Pure functions, any thread, no allocation; about 70 KiB of stack.
 */
#ifndef MEMVM_RECIPE_H
#define MEMVM_RECIPE_H

#include <stddef.h>
#include <stdint.h>

#define RECIPE_PAGE_BYTES  4096u
#define RECIPE_BLOCK_PAGES 4096u
#define RECIPE_RUN_MAX     512u

struct recipe {
    uint64_t seed;           /* of this image */
    uint64_t family;         /* images of the same family share their duplicates */
    unsigned zero_percent;   /* of all pages */
    unsigned dup_percent;    /* of the pages that are not zero */
    unsigned repeat_percent; /* of the duplicate runs: also found earlier in the same image */
    unsigned dup_run_pages;  /* mean lengths, 1..RECIPE_RUN_MAX */
    unsigned zero_run_pages;
    unsigned unique_run_pages;
};

/* The benchmark's content: half zero, of the rest half duplicates in runs of 9 on average. */
#define RECIPE_DEFAULT(seed_, family_)                                                                     \
    {                                                                                                      \
        .seed = (seed_), .family = (family_), .zero_percent = 50, .dup_percent = 50, .repeat_percent = 10, \
        .dup_run_pages = 9, .zero_run_pages = 32, .unique_run_pages = 9,                                   \
    }

enum recipe_kind { RECIPE_ZERO, RECIPE_DUP, RECIPE_UNIQUE };

/* 0, or -EINVAL when a share or a run length is out of bounds. The other functions want a checked recipe. */
int recipe_check(const struct recipe *recipe);

/* Write pages [first_page, first_page + npages) of the image to dst (npages * 4096 bytes, 8-byte aligned). */
void recipe_fill(void *dst, size_t first_page, size_t npages, const struct recipe *recipe);

/*
 * What those pages are, without making them: ret_kind[i], and ret_content[i], equal exactly for pages with
 * equal bytes within a family (0 for zero pages). Either may be NULL.
 */
void recipe_describe(size_t first_page, size_t npages, const struct recipe *recipe, uint8_t *ret_kind,
                     uint64_t *ret_content);

/* One incompressible page; distinct content ids give distinct pages. 0 gives a zero page. */
void recipe_page(void *dst, uint64_t content);

/* A well-mixed hash of two words (splitmix64 steps): for deriving seeds and content ids. */
uint64_t recipe_mix(uint64_t a, uint64_t b);

#endif
