/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* index: every frame added is found by its hash and no other is; what is taken out is not found again. */
#include "memd/daemon/index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define MANY 50000u

static uint64_t hash_of(uint64_t n)
{
    n = (n + 1) * 0x9e3779b97f4a7c15ull;
    return n ^ n >> 31;
}

struct fixture {
    struct index index;
    struct frame *frames;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    f->frames = calloc(MANY + 1, sizeof *f->frames);
    assert_int_equal(index_open(&f->index), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (uint32_t n = 0; n <= MANY; n++)
        index_remove(&f->index, &f->frames[n]);
    index_close(&f->index);
    free(f->frames);
    free(f);
    return 0;
}

static void test_found_by_hash(void **state)
{
    struct fixture *f = *state;

    assert_null(index_find(&f->index, hash_of(1)));
    for (uint32_t n = 0; n < MANY; n++)
        assert_ptr_equal(index_add(&f->index, hash_of(n), &f->frames[n]), &f->frames[n]);
    for (uint32_t n = 0; n < 2 * MANY; n++)
        assert_ptr_equal(index_find(&f->index, hash_of(n)), n < MANY ? &f->frames[n] : NULL);
    assert_int_equal(f->index.nframes, MANY);
}

static void test_one_frame_per_hash(void **state)
{
    struct fixture *f = *state;

    assert_ptr_equal(index_add(&f->index, 42, &f->frames[0]), &f->frames[0]);
    assert_ptr_equal(index_add(&f->index, 42, &f->frames[1]), &f->frames[0]);
    assert_int_equal(f->frames[1].indexed, 0);
    index_remove(&f->index, &f->frames[1]); /* is not in it: nothing happens */
    assert_ptr_equal(index_find(&f->index, 42), &f->frames[0]);
    /* the lowest bits, by which the filter goes, are the same */
    assert_null(index_find(&f->index, 42 | 1ull << 60));
}

static void test_removed_and_used_again(void **state)
{
    struct fixture *f = *state;

    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t n = 0; n < MANY; n++)
            index_add(&f->index, hash_of(n + round * MANY), &f->frames[n]);
        for (uint32_t n = 0; n < MANY; n++)
            assert_ptr_equal(index_find(&f->index, hash_of(n + round * MANY)), &f->frames[n]);
        for (uint32_t n = 0; n < MANY; n++)
            index_remove(&f->index, &f->frames[n]);
        assert_null(index_find(&f->index, hash_of(round * MANY)));
    }
    assert_int_equal(f->index.nframes, 0);
}

static void test_memory(void **state)
{
    struct fixture *f = *state;
    size_t empty = index_bytes(&f->index);

    for (uint32_t n = 0; n < MANY; n++)
        index_add(&f->index, hash_of(n), &f->frames[n]);
    /* beside the frame's own record: buckets and filter */
    assert_true(index_bytes(&f->index) - empty < MANY * 24u);
    for (uint32_t n = 0; n < MANY; n++)
        index_remove(&f->index, &f->frames[n]);
    index_trim(&f->index);
    assert_true(index_bytes(&f->index) <= 2 * empty);
    assert_ptr_equal(index_add(&f->index, 1, &f->frames[0]), &f->frames[0]);
    assert_ptr_equal(index_find(&f->index, 1), &f->frames[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_found_by_hash, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_frame_per_hash, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed_and_used_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
