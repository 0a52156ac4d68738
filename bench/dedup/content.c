/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see content.h. Each block of the recipe is made on its own. */
#include "bench/dedup/content.h"

#define FAMILY 7

/* The recipe of a block. */
static struct recipe recipe_of(const struct content *content, size_t block)
{
    struct recipe recipe = RECIPE_DEFAULT(content->machine + 1, FAMILY);

    if (content->kind == CONTENT_HUGE && block % 4 == 0) {
        recipe.zero_percent = 0;
        recipe.dup_percent = 0;
    } else if (content->kind == CONTENT_HUGE && block % 4 == 1) {
        recipe.zero_percent = 2;
        recipe.dup_percent = 4;
    }
    return recipe;
}

void content_fill(void *dst, const struct content *content)
{
    for (size_t page = 0; page < content->npages; page += CONTENT_BLOCK_PAGES) {
        size_t at = content->first_page + page, left = content->npages - page;
        struct recipe recipe = recipe_of(content, at / CONTENT_BLOCK_PAGES);

        recipe_fill((char *)dst + page * RECIPE_PAGE_BYTES, at,
                    left < CONTENT_BLOCK_PAGES ? left : CONTENT_BLOCK_PAGES, &recipe);
    }
}

void content_describe(const struct content *content, size_t first, size_t n, uint8_t *ret_kind,
                      uint64_t *ret_id)
{
    for (size_t done = 0; done < n;) {
        size_t at = content->first_page + first + done;
        size_t left = CONTENT_BLOCK_PAGES - at % CONTENT_BLOCK_PAGES;
        struct recipe recipe = recipe_of(content, at / CONTENT_BLOCK_PAGES);

        if (left > n - done)
            left = n - done;
        recipe_describe(at, left, &recipe, ret_kind ? ret_kind + done : NULL, ret_id ? ret_id + done : NULL);
        done += left;
    }
}
