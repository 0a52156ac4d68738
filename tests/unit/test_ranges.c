/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sets of addresses, against a plain bitmap. */
#include "memd/common/ranges.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZE   200u
#define ROUNDS 20000u

static void same(const struct ranges *s, const bool *plain)
{
    bool got[SIZE + 1] = {false};
    struct range r;

    for (uint32_t i = 0; i < s->n; i++) {
        assert_true(s->at[i].start < s->at[i].end);
        if (i)
            assert_true(s->at[i - 1].end < s->at[i].start);
    }
    for (uint64_t at = 0; ranges_next(s, at, SIZE, &r); at = r.end)
        for (uint64_t k = r.start; k < r.end; k++)
            got[k] = true;
    assert_memory_equal(got, plain, SIZE);
}

static void adds_and_removes(void **state)
{
    bool plain[SIZE] = {false};
    struct ranges s = {0};
    struct range r;

    (void)state;
    srand(11);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t start = (uint64_t)rand() % SIZE, end = start + (uint64_t)rand() % 12;
        bool add = rand() % 2;
        end = end < SIZE ? end : SIZE;
        assert_int_equal(add ? ranges_add(&s, start, end) : ranges_remove(&s, start, end), 0);
        for (uint64_t k = start; k < end; k++)
            plain[k] = add;
        same(&s, plain);
        start = (uint64_t)rand() % SIZE;
        end = start + 1 + (uint64_t)rand() % (SIZE - start);
        bool any = memchr(plain + start, 1, end - start);
        assert_int_equal(ranges_touch(&s, start, end), any);
        if (ranges_next(&s, start, end, &r))
            assert_true(r.start >= start && r.end <= end && plain[r.start]);
    }
    ranges_free(&s);
    assert_false(ranges_touch(&s, 0, UINT64_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adds_and_removes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
