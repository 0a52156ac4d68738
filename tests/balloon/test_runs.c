/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sets of pages as runs, against a plain array that says the same page by page. */
#include "balloon-driver/device/runs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NPAGES 300u
#define ROUNDS 3000u

static struct runs runs;
static bool plain[NPAGES];

/* The runs are the array's, in order and none longer than it could be. */
static void same(void)
{
    unsigned run = 0;

    runs_sort(&runs);
    for (unsigned page = 0; page < NPAGES;) {
        if (!plain[page]) {
            page++;
            continue;
        }
        assert_true(run < runs.n);
        assert_int_equal(runs.at[run].first, page);
        while (page < NPAGES && plain[page])
            page++;
        assert_int_equal(runs.at[run++].end, page);
    }
    assert_int_equal(run, runs.n);
}

static void add(uint64_t first, uint64_t end)
{
    assert_true(runs_add(&runs, first, end));
    for (uint64_t page = first; page < end; page++)
        plain[page] = true;
}

static void clear(void)
{
    runs.n = 0;
    memset(plain, 0, sizeof plain);
}

static void joins_any_order(void **state)
{
    (void)state;
    srand(11);
    for (unsigned round = 0; round < ROUNDS; round++) {
        clear();
        for (int n = rand() % 200; n > 0; n--) {
            uint64_t first = (uint64_t)rand() % NPAGES, end = first + 1 + (uint64_t)rand() % 4;
            add(first, end < NPAGES ? end : NPAGES);
        }
        same();
    }
}

static void up_and_down_is_one_run_at_once(void **state)
{
    (void)state;
    clear();
    for (uint64_t page = 100; page < 200; page++)
        add(page, page + 1);
    assert_int_equal(runs.n, 1);
    for (uint64_t page = 99; page > 0; page--)
        add(page, page + 1);
    assert_int_equal(runs.n, 1);
    same();
}

static void says_when_it_is_full(void **state)
{
    (void)state;
    clear();
    for (uint64_t i = 0; i < RUNS_MAX; i++)
        assert_true(runs_add(&runs, 2 * (RUNS_MAX - i), 2 * (RUNS_MAX - i) + 1));
    assert_false(runs_add(&runs, 0, 1));
    assert_true(runs_add(&runs, 3, 4)); /* next to the last one */
    runs_sort(&runs);
    assert_int_equal(runs.n, RUNS_MAX - 1); /* it closed the gap to the one before, too */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joins_any_order),
        cmocka_unit_test(up_and_down_is_one_run_at_once),
        cmocka_unit_test(says_when_it_is_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
