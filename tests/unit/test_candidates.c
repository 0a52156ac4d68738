/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* candidates: found again whatever the table's size, bounded whatever the hashes, and no larger than it must
 * be. */
#include "memd/daemon/candidates.h"

#include "memd/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define MANY 200000u

static uint64_t hash_of(uint64_t n)
{
    n = (n + 1) * 0x9e3779b97f4a7c15ull;
    n ^= n >> 29;
    n *= 0xbf58476d1ce4e5b9ull;
    return n ^ n >> 32;
}

static bool has(struct candidates *table, uint64_t hash, uint64_t id)
{
    struct candidates_at at;

    for (uint64_t found = candidates_find(table, hash, &at); found; found = candidates_next(&at))
        if (found == id)
            return true;
    return false;
}

static void take_out(struct candidates *table, uint64_t hash, uint64_t id)
{
    struct candidates_at at;
    uint64_t found = candidates_find(table, hash, &at);

    while (found && found != id)
        found = candidates_next(&at);
    assert_int_equal(found, id);
    candidates_remove(table, &at);
}

static bool everything_is_current(void *ctx, uint64_t id, uint32_t tag)
{
    (void)ctx, (void)id, (void)tag;
    return true;
}

/* ---------------------------------------------------------------- finding */

static void test_empty(void **state)
{
    struct candidates table = {0};
    struct candidates_at at;

    (void)state;
    assert_int_equal(candidates_find(&table, hash_of(1), &at), 0);
    candidates_prefetch(&table, hash_of(1));
    candidates_make_room(&table, hash_of(1), everything_is_current, NULL);
    candidates_sweep(&table, everything_is_current, NULL);
    candidates_trim(&table);
    assert_int_equal(table.bytes, 0);
}

static void test_same_hash(void **state)
{
    struct candidates table = {0};
    struct candidates_at at;
    const uint64_t hash = hash_of(7);

    (void)state;
    for (uint64_t id = 5; id >= 3; id--)
        assert_int_equal(candidates_insert(&table, hash, id), 0);
    assert_int_equal(candidates_insert(&table, hash, 4), 0); /* twice is once */
    assert_int_equal(table.used, 3);
    assert_int_equal(candidates_find(&table, hash, &at), 3);
    candidates_remove(&table, &at);
    assert_int_equal(candidates_again(&at), 4);
    assert_int_equal(candidates_next(&at), 5);
    assert_int_equal(candidates_next(&at), 0);
    assert_false(has(&table, hash, 3));
    assert_int_equal(candidates_find(&table, hash ^ 1ull << 63, &at), 0);
    candidates_close(&table);
}

static void test_all_found_while_growing(void **state)
{
    struct candidates table = {0};

    (void)state;
    for (uint64_t n = 1; n <= MANY; n++) {
        assert_int_equal(candidates_insert(&table, hash_of(n), n), 0);
        assert_true(has(&table, hash_of(n / 2 + 1), n / 2 + 1));
    }
    for (uint64_t n = 1; n <= MANY; n++)
        assert_true(has(&table, hash_of(n), n));
    assert_int_equal(table.used, MANY);
    assert_int_equal(table.refused, 0);
    candidates_close(&table);
}

static void test_removing(void **state)
{
    struct candidates table = {0};
    size_t full_bytes;

    (void)state;
    for (uint64_t n = 1; n <= MANY; n++)
        candidates_insert(&table, hash_of(n), n);
    full_bytes = table.bytes;
    for (uint64_t n = 1; n <= MANY; n++)
        if (n % 4)
            take_out(&table, hash_of(n), n);
    assert_int_equal(table.used, MANY / 4);
    candidates_trim(&table);
    assert_true(table.bytes < full_bytes / 3);
    for (uint64_t n = 1; n <= MANY; n++)
        assert_int_equal(has(&table, hash_of(n), n), n % 4 == 0);
    for (uint64_t n = 4; n <= MANY; n += 4)
        take_out(&table, hash_of(n), n);
    candidates_trim(&table);
    assert_int_equal(table.bytes, 0);
    candidates_close(&table);
}

/* ---------------------------------------------------------------- what it costs */

static void test_bytes_per_entry(void **state)
{
    struct candidates table = {0};

    (void)state;
    for (uint64_t n = 1; n <= MANY; n++) {
        candidates_insert(&table, hash_of(n), n);
        if (n >= MANY / 2 && n % 1000 == 0)
            assert_true(table.bytes <= n * 12 + 4096);
    }
    size_t bytes = 0;
    for (int i = 0; i < CANDIDATES_SHARDS; i++)
        bytes += table.shard[i].slots * sizeof(uint64_t);
    assert_int_equal(table.bytes, bytes);
    candidates_close(&table);
}

/* ---------------------------------------------------------------- sweeping */

struct sweep {
    uint64_t asked, hints;
};

/* Pages with odd numbers have changed. The tag must be the page's own. */
static bool even_is_current(void *ctx, uint64_t id, uint32_t tag)
{
    struct sweep *sweep = ctx;

    if (!tag) {
        sweep->hints++;
        return true;
    }
    assert_int_equal(tag, wire_tag_of_hash(hash_of(id)));
    sweep->asked++;
    return id % 2 == 0;
}

static void test_sweep_drops_only_stale(void **state)
{
    struct candidates table = {0};
    struct sweep sweep = {0};

    (void)state;
    for (uint64_t n = 1; n <= MANY; n++)
        candidates_insert(&table, hash_of(n), n);
    for (int i = 0; i < 4; i++)
        candidates_sweep(&table, even_is_current, &sweep);
    assert_int_equal(table.used, MANY / 2);
    for (uint64_t n = 1; n <= MANY; n++)
        assert_int_equal(has(&table, hash_of(n), n), n % 2 == 0);
    assert_true(sweep.hints > 0);

    /* nothing stale: a sample is enough */
    sweep = (struct sweep){0};
    candidates_sweep(&table, even_is_current, &sweep);
    assert_true(sweep.asked > 0 && sweep.asked <= 512);
    candidates_close(&table);
}

/* Pages that are written and hashed over and over: the table keeps its size, at a few looks for each. */
static void test_room_is_made(void **state)
{
    struct candidates table = {0};
    struct sweep sweep = {0};
    size_t bytes = 0;

    (void)state;
    for (uint64_t n = 1; n <= 10ull * MANY; n++) {
        uint64_t id = n * 2 + (n % 10 != 0); /* nine of ten go stale */
        candidates_make_room(&table, hash_of(id), even_is_current, &sweep);
        assert_int_equal(candidates_insert(&table, hash_of(id), id), 0);
        if (n == MANY)
            bytes = table.bytes;
    }
    uint64_t current = MANY;
    assert_true(table.used >= current);
    assert_true(table.bytes < bytes * 16); /* a tenth of ten times as many, and a fourth stale at most */
    assert_true(table.bytes < current * 16);
    assert_true(sweep.asked < 10ull * MANY * 5);
    candidates_close(&table);
}

/* ---------------------------------------------------------------- hostile hashes */

static void test_crowded_spot(void **state)
{
    struct candidates table = {0};
    unsigned refused = 0;

    (void)state;
    for (uint64_t n = 1; n <= 1000; n++)
        candidates_insert(&table, hash_of(n), n);
    for (uint64_t id = 1000000; id < 1000000 + 50000; id++)
        refused += candidates_insert(&table, 0x123456789abcdef0ull, id) == -ENOSPC;
    assert_true(refused > 40000);
    assert_int_equal(table.refused, refused);
    assert_true(table.used < 1000 + 10000);
    for (uint64_t n = 1; n <= 1000; n++)
        assert_true(has(&table, hash_of(n), n));
    /* hashes that differ in a few bits only, and the very last home */
    for (uint64_t id = 2000000; id < 2000000 + 50000; id++)
        candidates_insert(&table, ~0ull - (id << 28), id);
    for (uint64_t id = 3000000; id < 3000000 + 50000; id++)
        candidates_insert(&table, ~0ull, id);
    for (uint64_t n = 1; n <= 1000; n++)
        assert_true(has(&table, hash_of(n), n));
    candidates_close(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_same_hash),
        cmocka_unit_test(test_all_found_while_growing),
        cmocka_unit_test(test_removing),
        cmocka_unit_test(test_bytes_per_entry),
        cmocka_unit_test(test_sweep_drops_only_stale),
        cmocka_unit_test(test_room_is_made),
        cmocka_unit_test(test_crowded_spot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
