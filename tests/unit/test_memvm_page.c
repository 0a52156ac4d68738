/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What memvm's guests write into pages, and that they notice every way of losing a write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bench/memvm/payload/page.h"

#define SEED 42u

static void sums_returned_are_those_of_the_bytes(void **state)
{
    uint64_t page[PAGE_WORDS], sum = page_fill_zero(page);

    (void)state;
    assert_int_equal(page_sum(page), sum);
    sum = page_fill_shared(page, 7);
    assert_int_equal(page_sum(page), sum);
    sum = page_fill_unique(page, SEED, 7, 3);
    assert_int_equal(page_sum(page), sum);
}

static void any_changed_word_changes_the_sum(void **state)
{
    uint64_t page[PAGE_WORDS], sum = page_fill_unique(page, SEED, 1, 0);

    (void)state;
    for (size_t i = 0; i < PAGE_WORDS; i++) {
        for (unsigned bit = 0; bit < 64; bit += 9) {
            page[i] ^= 1ull << bit;
            assert_int_not_equal(page_sum(page), sum);
            page[i] ^= 1ull << bit;
        }
    }
    assert_int_equal(page_sum(page), sum);
}

static void sum_with_says_what_a_store_will_make(void **state)
{
    uint64_t page[PAGE_WORDS], sum;

    (void)state;
    page_fill_shared(page, 3);
    sum = page_sum_with(page, PAGE_TOGGLE_WORD, 99);
    assert_int_not_equal(sum, page_sum(page));
    page[PAGE_TOGGLE_WORD] = 99;
    assert_int_equal(sum, page_sum(page));
}

static void a_stale_page_does_not_match(void **state)
{
    uint64_t page[PAGE_WORDS], found;
    struct abi_entry entry = {.writes = 2, .stamped = 1};

    (void)state;
    entry.sum = page_fill_unique(page, SEED, 5, 2);
    assert_true(page_matches(page, SEED, 5, &entry, &found));
    assert_false(page_matches(page, SEED, 6, &entry, &found)); /* another page's bytes */
    page_fill_unique(page, SEED, 5, 1);                        /* its own of before */
    assert_false(page_matches(page, SEED, 5, &entry, &found));
    assert_int_not_equal(found, entry.sum);
}

static void shared_content_repeats_and_unique_does_not(void **state)
{
    uint64_t a[PAGE_WORDS], b[PAGE_WORDS];

    (void)state;
    page_fill_shared(a, 1);
    page_fill_shared(b, 1 + PAGE_SHARED_CONTENTS);
    assert_memory_equal(a, b, sizeof a);
    page_fill_shared(b, 2);
    assert_memory_not_equal(a, b, sizeof a);
    page_fill_unique(a, SEED, 1, 0);
    page_fill_unique(b, SEED + 1, 1, 0);
    assert_memory_not_equal(a, b, sizeof a);
    page_fill_unique(b, SEED, 1, 1);
    assert_memory_not_equal(a, b, sizeof a);
}

/* The vCPUs' shares are in order, without gaps, and cover all pages. */
static void shares_cover_all_pages(void **state)
{
    static const uint64_t sizes[] = {1, 3, 1536, 15872, 1u << 24};

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (unsigned n = 1; n <= ABI_VCPUS_MAX; n++) {
            assert_int_equal(abi_share(sizes[i], 0, n), 0);
            assert_int_equal(abi_share(sizes[i], n, n), sizes[i]);
            for (unsigned v = 0; v < n; v++)
                assert_true(abi_share(sizes[i], v, n) <= abi_share(sizes[i], v + 1, n));
        }
    }
}

static void hot_pages_are_so_many_and_each_once(void **state)
{
    enum { PAGES = 3 * PAGE_BLOCK + 500 };
    static bool hot[PAGES];

    (void)state;
    for (uint32_t percent = 1; percent < 100; percent += 7) {
        uint64_t n = page_hot_count(PAGES, percent), are = 0;
        assert_int_equal(n, 3 * PAGE_BLOCK / 100 * percent);
        memset(hot, 0, sizeof hot);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t page = page_hot(i, percent);
            assert_true(page < PAGES && !hot[page]);
            hot[page] = true;
        }
        for (uint64_t page = 0; page < PAGES; page++) {
            assert_int_equal(page_is_hot(page, PAGES, percent), hot[page]);
            are += hot[page];
        }
        assert_int_equal(are, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hot_pages_are_so_many_and_each_once),
        cmocka_unit_test(sums_returned_are_those_of_the_bytes),
        cmocka_unit_test(any_changed_word_changes_the_sum),
        cmocka_unit_test(sum_with_says_what_a_store_will_make),
        cmocka_unit_test(a_stale_page_does_not_match),
        cmocka_unit_test(shared_content_repeats_and_unique_does_not),
        cmocka_unit_test(shares_cover_all_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
