/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of a region's parts, against a plain array that says the same page by page. */
#include "memd/engine/segments.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define NPAGES 97u
#define ROUNDS 20000u

struct plain {
    int why;
    uint32_t flags;
};

static void same(const struct segments *s, const struct plain *plain)
{
    uint32_t page = 0;

    for (uint32_t i = 0; i < s->n; i++) {
        const struct segment *part = &s->at[i];
        assert_int_equal(part->first, page);
        assert_true(part->npages > 0);
        if (i)
            assert_true(part->why != part[-1].why || part->vma_flags != part[-1].vma_flags);
        for (uint32_t k = 0; k < part->npages; k++, page++) {
            assert_int_equal(part->why, plain[page].why);
            assert_int_equal(part->vma_flags, plain[page].flags);
            assert_ptr_equal(segments_find(s, page), part);
        }
    }
    assert_int_equal(page, NPAGES);
}

static void sets_as_an_array_would(void **state)
{
    struct plain plain[NPAGES];
    struct segments s;

    (void)state;
    srand(7);
    assert_int_equal(segments_init(&s, NPAGES, 5), 0);
    for (uint32_t i = 0; i < NPAGES; i++)
        plain[i] = (struct plain){5, 0};
    same(&s, plain);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t first = (uint32_t)rand() % NPAGES, n = 1 + (uint32_t)rand() % (NPAGES - first);
        struct plain is = {rand() % 3 - 1, (uint32_t)rand() % 2};
        if (rand() % 4)
            n = n > 5 ? 5 : n;
        assert_int_equal(segments_reserve(&s, 1), 0);
        segments_set(&s, first, n, is.why, is.flags);
        for (uint32_t k = first; k < first + n; k++)
            plain[k] = is;
        same(&s, plain);
    }
    segments_free(&s);
    assert_null(s.at);
}

static void reserves_for_many(void **state)
{
    struct segments s;

    (void)state;
    assert_int_equal(segments_init(&s, 1000, 0), 0);
    assert_int_equal(segments_reserve(&s, 300), 0);
    const struct segment *before = s.at;
    for (uint32_t i = 0; i < 300; i++)
        segments_set(&s, i * 3, 1, SEGMENT_TAKES_PART, 0);
    assert_ptr_equal(s.at, before);
    assert_int_equal(s.n, 600);
    segments_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_as_an_array_would),
        cmocka_unit_test(reserves_for_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
