/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The numbers of pages: whole units of 1 GiB, given out first fit, that lead back to their region. */
#include "memd/daemon/pages.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#define UNIT (1ull << PAGES_UNIT_SHIFT)

/* Only its address counts. */
static struct region *region(uintptr_t n)
{
    return (struct region *)(n * 64);
}

static void numbers_lead_back_to_their_region(void **state)
{
    struct pages pages = {0};
    (void)state;

    uint64_t a = pages_number(&pages, region(1), 1), b = pages_number(&pages, region(2), 2 * UNIT + 1);
    assert_int_not_equal(a, 0);
    assert_int_equal(a % UNIT, 0);
    assert_int_equal(b, a + UNIT);
    assert_ptr_equal(pages_region(&pages, a), region(1));
    assert_ptr_equal(pages_region(&pages, b), region(2));
    assert_ptr_equal(pages_region(&pages, b + 2 * UNIT), region(2));
    assert_null(pages_region(&pages, b + 3 * UNIT));
    assert_null(pages_region(&pages, 0));
    assert_null(pages_region(&pages, UINT64_MAX));
    pages_close(&pages);
}

static void a_gap_is_filled_by_what_fits(void **state)
{
    struct pages pages = {0};
    (void)state;

    uint64_t a = pages_number(&pages, region(1), 2 * UNIT), b = pages_number(&pages, region(2), 1);
    pages_release(&pages, a, 2 * UNIT);
    assert_null(pages_region(&pages, a));
    uint64_t large = pages_number(&pages, region(3), 3 * UNIT);
    assert_true(large > b);
    assert_int_equal(pages_number(&pages, region(4), 2 * UNIT), a);
    assert_ptr_equal(pages_region(&pages, b), region(2));
    pages_close(&pages);
}

static void there_is_an_end(void **state)
{
    struct pages pages = {0};
    (void)state;

    assert_int_equal(pages_number(&pages, region(1), 0), 0);
    assert_int_equal(pages_number(&pages, region(1), 1ull << PAGES_ID_BITS), 0);
    /* unit 0 is never given out */
    uint64_t most = (PAGES_UNITS_MAX - 1) * UNIT;
    assert_int_equal(pages_number(&pages, region(1), most + 1), 0);
    assert_int_equal(pages_number(&pages, region(1), most), UNIT);
    assert_int_equal(pages_number(&pages, region(2), 1), 0);
    assert_true(pages_bytes(&pages) >= PAGES_UNITS_MAX * sizeof(void *));
    pages_close(&pages);
    assert_int_equal(pages_bytes(&pages), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_lead_back_to_their_region),
        cmocka_unit_test(a_gap_is_filled_by_what_fits),
        cmocka_unit_test(there_is_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
