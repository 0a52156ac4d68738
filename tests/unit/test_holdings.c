/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The account of who refers to what, held against a plain list of pairs. */
#include "memd/daemon/holdings.h"

#include "memd/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHUNK  WIRE_CHUNK_PAGES
#define PAGES  (3 * CHUNK)
#define FRAMES 600u

/* pair[page][frame] */
struct model {
    bool pair[PAGES][FRAMES];
    uint64_t n;
};

struct both {
    struct holdings holdings;
    struct model *model;
};

static void open_both(struct both *b)
{
    assert_int_equal(holdings_open(&b->holdings, PAGES), 0);
    b->model = calloc(1, sizeof *b->model);
    assert_non_null(b->model);
}

static void close_both(struct both *b)
{
    holdings_close(&b->holdings);
    free(b->model);
}

static bool model_has(const struct model *m, uint32_t page, uint32_t count, uint32_t frame, bool any)
{
    for (uint32_t i = 0; i < count; i++)
        if (m->pair[page + i][frame + i] == any)
            return any;
    return !any;
}

static void model_set(struct model *m, uint32_t page, uint32_t count, uint32_t frame, bool on)
{
    for (uint32_t i = 0; i < count; i++)
        m->pair[page + i][frame + i] = on;
    m->n = on ? m->n + count : m->n - count;
}

static void add(struct both *b, uint32_t page, uint32_t count, uint32_t frame)
{
    int want = model_has(b->model, page, count, frame, true) ? -EEXIST : 0;

    assert_int_equal(holdings_add(&b->holdings, page, count, frame), want);
    if (!want)
        model_set(b->model, page, count, frame, true);
    assert_int_equal(b->holdings.pages, b->model->n);
}

static void take(struct both *b, uint32_t page, uint32_t count, uint32_t frame)
{
    int want = model_has(b->model, page, count, frame, false) ? 0 : -ENOENT;

    assert_int_equal(holdings_remove(&b->holdings, page, count, frame), want);
    if (!want)
        model_set(b->model, page, count, frame, false);
    assert_int_equal(b->holdings.pages, b->model->n);
}

struct seen {
    struct model *model;
    uint64_t n;
};

static void see(void *ctx, uint32_t page, uint32_t count, uint32_t frame)
{
    struct seen *seen = ctx;

    assert_true(model_has(seen->model, page, count, frame, false));
    seen->n += count;
}

static void compare(struct both *b)
{
    struct seen seen = {.model = b->model};

    holdings_each(&b->holdings, see, &seen);
    assert_int_equal(seen.n, b->model->n);
    for (uint32_t page = 0; page < PAGES; page++) {
        bool any = false;
        uint32_t frame = holdings_frame(&b->holdings, page);
        for (uint32_t f = 0; f < FRAMES; f++)
            any |= b->model->pair[page][f];
        assert_int_equal(frame != 0, any);
        assert_true(!frame || b->model->pair[page][frame]);
    }
}

static void runs_join_and_part(void **state)
{
    struct both b;
    (void)state;

    open_both(&b);
    size_t empty = b.holdings.bytes;
    add(&b, 10, 5, 100);
    add(&b, 20, 5, 110);
    add(&b, 15, 5, 105); /* closes the gap: one run now */
    assert_true(holdings_has(&b.holdings, 10, 15, 100));
    assert_false(holdings_has(&b.holdings, 10, 16, 100));
    assert_false(holdings_has(&b.holdings, 10, 15, 101));
    add(&b, 12, 2, 102); /* twice the same pair */
    add(&b, 12, 2, 200); /* another frame for the same page, for a while */
    take(&b, 13, 3, 103);
    compare(&b);
    take(&b, 13, 3, 103);
    take(&b, 12, 3, 102);
    take(&b, 12, 2, 200);
    take(&b, 10, 3, 100);
    take(&b, 16, 9, 106);
    compare(&b);
    assert_int_equal(b.holdings.pages, 0);
    assert_int_equal(b.holdings.bytes, empty);
    close_both(&b);
}

static void claims_out_of_range_are_refused(void **state)
{
    struct both b;
    (void)state;

    open_both(&b);
    add(&b, CHUNK - 1, 1, 50);
    add(&b, CHUNK, 1, 51);
    assert_int_equal(holdings_remove(&b.holdings, CHUNK - 1, 2, 50), -ENOENT);
    assert_int_equal(holdings_remove(&b.holdings, PAGES, 1, 1), -ENOENT);
    assert_int_equal(holdings_remove(&b.holdings, UINT32_MAX, 1, 1), -ENOENT);
    assert_false(holdings_has(&b.holdings, PAGES, 1, 1));
    assert_int_equal(holdings_frame(&b.holdings, PAGES), 0);
    compare(&b);
    close_both(&b);
}

/* Few pages and frames, so that everything meets everything. */
static void any_order_of_changes_is_the_same_as_pairs(void **state)
{
    struct both b;
    unsigned seed = 1;
    (void)state;

    open_both(&b);
    for (int i = 0; i < 200000; i++) {
        uint32_t page = (uint32_t)rand_r(&seed) % 96, count = 1 + (uint32_t)rand_r(&seed) % 12;
        uint32_t frame = 1 + page + (uint32_t)rand_r(&seed) % 3 * 16;
        page += (uint32_t)rand_r(&seed) % 2 * CHUNK;
        if (rand_r(&seed) % 2)
            add(&b, page, count, frame);
        else
            take(&b, page, count, frame);
        if (i % 1000 == 0)
            compare(&b);
    }
    close_both(&b);
}

/* A VM that is proposed things and never answers: none may be forgotten, and it is not for ever more. */
static void one_chunk_takes_only_so_many(void **state)
{
    struct holdings h;
    uint64_t taken = 0, removed = 0;

    (void)state;
    assert_int_equal(holdings_open(&h, CHUNK), 0);
    for (uint32_t f = 0; f < 140; f++)
        for (uint32_t page = 0; page < CHUNK; page++) {
            int err = holdings_add(&h, page, 1, 1 + f * 4096 + page * 3);
            assert_true(!err || err == -ENOMEM);
            taken += !err;
        }
    assert_int_equal(h.pages, taken);
    assert_true(h.bytes < 1u << 16);
    for (uint32_t f = 0; f < 140; f++)
        for (uint32_t page = 0; page < CHUNK; page++)
            removed += !holdings_remove(&h, page, 1, 1 + f * 4096 + page * 3);
    assert_int_equal(removed, taken);
    assert_int_equal(h.pages, 0);
    holdings_close(&h);
}

/* Long ones, of which every second page is taken out: all of it, or nothing. */
static void one_chunk_is_cut_only_so_often(void **state)
{
    struct holdings h;
    uint64_t taken = 0, removed = 0;

    (void)state;
    assert_int_equal(holdings_open(&h, CHUNK), 0);
    for (uint32_t f = 0; f < 600; f++)
        taken += holdings_add(&h, 0, CHUNK, 1 + f * 4096) ? 0 : CHUNK;
    for (uint32_t f = 0; f < 600; f++)
        for (uint32_t page = 1; page < CHUNK; page += 2) {
            int err = holdings_remove(&h, page, 1, 1 + f * 4096 + page);
            assert_true(!err || err == -ENOMEM);
            removed += !err;
        }
    assert_int_equal(h.pages, taken - removed);
    for (uint32_t f = 0; f < 600; f++)
        if (f * CHUNK < taken)
            assert_true(holdings_has(&h, 0, 1, 1 + f * 4096));
    holdings_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_join_and_part),
        cmocka_unit_test(claims_out_of_range_are_refused),
        cmocka_unit_test(one_chunk_takes_only_so_many),
        cmocka_unit_test(one_chunk_is_cut_only_so_often),
        cmocka_unit_test(any_order_of_changes_is_the_same_as_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
