/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* recipe: shares exact in every block, content equal exactly where it should be, the same however asked for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/memvm/mkimage/recipe.h"

#define NPAGES (4u * RECIPE_BLOCK_PAGES)

struct image {
    uint8_t kind[NPAGES];
    uint64_t content[NPAGES];
};

static struct image *describe(const struct recipe *recipe)
{
    struct image *image = calloc(1, sizeof *image);

    assert_non_null(image);
    recipe_describe(0, NPAGES, recipe, image->kind, image->content);
    return image;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static bool contains(const uint64_t *sorted, uint64_t content)
{
    return bsearch(&content, sorted, NPAGES, sizeof *sorted, by_value) != NULL;
}

static void shares_are_exact(void **state)
{
    const struct recipe recipe = RECIPE_DEFAULT(3, 1);
    struct image *image = describe(&recipe);

    (void)state;
    for (unsigned block = 0; block < NPAGES / RECIPE_BLOCK_PAGES; block++) {
        unsigned count[3] = {0};
        for (unsigned i = 0; i < RECIPE_BLOCK_PAGES; i++)
            count[image->kind[block * RECIPE_BLOCK_PAGES + i]]++;
        assert_int_equal(count[RECIPE_ZERO], RECIPE_BLOCK_PAGES / 2);
        assert_int_equal(count[RECIPE_DUP], RECIPE_BLOCK_PAGES / 4);
        assert_int_equal(count[RECIPE_UNIQUE], RECIPE_BLOCK_PAGES / 4);
    }
    free(image);
}

static void family_shares_duplicates_only(void **state)
{
    const struct recipe one = RECIPE_DEFAULT(3, 1), two = RECIPE_DEFAULT(4, 1), other = RECIPE_DEFAULT(3, 2);
    struct image *a = describe(&one), *b = describe(&two), *c = describe(&other);

    (void)state;
    qsort(b->content, NPAGES, sizeof b->content[0], by_value);
    qsort(c->content, NPAGES, sizeof c->content[0], by_value);
    for (unsigned i = 0; i < NPAGES; i++) {
        if (a->kind[i] == RECIPE_ZERO) {
            assert_int_equal(a->content[i], 0);
            continue;
        }
        assert_int_not_equal(a->content[i], 0);
        assert_int_equal(contains(b->content, a->content[i]), a->kind[i] == RECIPE_DUP);
        assert_false(contains(c->content, a->content[i]));
    }
    free(a);
    free(b);
    free(c);
}

/* Runs of duplicates: consecutive in the image and in the file. Neighbouring runs cannot be told apart by the
 * kinds alone, so they are counted by the places where another image of the family goes on differently. */
static void duplicate_runs_have_their_mean(void **state)
{
    const struct recipe one = RECIPE_DEFAULT(3, 1), two = RECIPE_DEFAULT(4, 1);
    struct image *a = describe(&one), *b = describe(&two);
    unsigned pages = 0, runs = 0;

    (void)state;
    for (unsigned i = 0; i + 1 < NPAGES; i++) {
        unsigned at = 0;
        if (a->kind[i] != RECIPE_DUP)
            continue;
        pages++;
        while (at < NPAGES && b->content[at] != a->content[i])
            at++;
        runs += at + 1 >= NPAGES || b->content[at + 1] != a->content[i + 1];
    }
    assert_in_range(pages / runs, 7, 11);
    free(a);
    free(b);
}

static void pages_do_not_depend_on_how_they_are_asked_for(void **state)
{
    const struct recipe recipe = RECIPE_DEFAULT(9, 1);
    const size_t first = RECIPE_BLOCK_PAGES - 20, n = 40; /* over the border of two blocks */
    uint8_t *bytes = malloc(n * RECIPE_PAGE_BYTES), *one = malloc(RECIPE_PAGE_BYTES);
    struct image *image = describe(&recipe);

    (void)state;
    assert_non_null(bytes);
    assert_non_null(one);
    recipe_fill(bytes, first, n, &recipe);
    for (size_t i = 0; i < n; i++) {
        recipe_page(one, image->content[first + i]);
        assert_memory_equal(bytes + i * RECIPE_PAGE_BYTES, one, RECIPE_PAGE_BYTES);
        recipe_fill(one, first + i, 1, &recipe);
        assert_memory_equal(bytes + i * RECIPE_PAGE_BYTES, one, RECIPE_PAGE_BYTES);
    }
    free(image);
    free(bytes);
    free(one);
}

static void content_zero_is_a_zero_page(void **state)
{
    uint64_t page[RECIPE_PAGE_BYTES / 8], zero[RECIPE_PAGE_BYTES / 8] = {0};

    (void)state;
    memset(page, 0xff, sizeof page);
    recipe_page(page, 0);
    assert_memory_equal(page, zero, sizeof page);
    recipe_page(page, 1);
    assert_memory_not_equal(page, zero, sizeof page);
}

static void bounds_are_checked(void **state)
{
    struct recipe recipe = RECIPE_DEFAULT(1, 1);

    (void)state;
    assert_int_equal(recipe_check(&recipe), 0);
    recipe.dup_run_pages = 0;
    assert_int_not_equal(recipe_check(&recipe), 0);
    recipe.dup_run_pages = RECIPE_RUN_MAX + 1;
    assert_int_not_equal(recipe_check(&recipe), 0);
    recipe.dup_run_pages = 9;
    recipe.zero_percent = 101;
    assert_int_not_equal(recipe_check(&recipe), 0);
    recipe.zero_percent = 50;
    recipe.repeat_percent = 91; /* the search for an earlier file must end */
    assert_int_not_equal(recipe_check(&recipe), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_exact),
        cmocka_unit_test(family_shares_duplicates_only),
        cmocka_unit_test(duplicate_runs_have_their_mean),
        cmocka_unit_test(pages_do_not_depend_on_how_they_are_asked_for),
        cmocka_unit_test(content_zero_is_a_zero_page),
        cmocka_unit_test(bounds_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
