/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* proposals: references are taken with a proposal and given back with everything that is not merged, whoever
 * lies, leaves or has no room. */
#include "memd/daemon/proposals.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "tests/unit/world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define PAGES 65536u

struct fixture {
    struct world *world;
    struct world_vm *vm;
    uint32_t frame; /* first of 512 that follow each other, held by another VM */
};

/* Content of a page and of a frame is its number, from 1 on. */
static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct world_vm *holder, *other;

    f->world = world_open(1, true);
    holder = world_vm(f->world, f->world->domain[0], 512, 0);
    other = world_vm(f->world, f->world->domain[0], 512, 0);
    f->vm = world_vm(f->world, f->world->domain[0], PAGES, 0);
    for (uint32_t page = 0; page < 512; page++) {
        world_write(holder, page, 1 + page);
        world_write(other, page, 1 + page);
    }
    for (uint32_t page = 0; page < PAGES; page++)
        world_write(f->vm, page, 1 + page % 512);
    world_hash(holder, 0, 512);
    world_hash(other, 0, 512);
    world_run(f->world);
    f->frame = world_frame(holder, 0);
    assert_int_equal(world_frame(holder, 255), f->frame + 255);
    world_vm_leave(f->world, other);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    world_close(f->world);
    free(f);
    return 0;
}

static void propose(struct fixture *f, uint32_t page, uint32_t count, uint32_t frame)
{
    struct proposal_run run = {0};

    for (uint32_t i = 0; i < count; i++)
        proposals_add(&run, f->vm->region, page + i, frame + i);
    proposals_send(&run);
}

static uint64_t held(const struct fixture *f)
{
    return f->vm->region->holdings.pages;
}

static struct wire_rec_result result_of(uint32_t page, uint32_t frame, uint16_t count)
{
    return (struct wire_rec_result){.page = page, .frame = frame, .count = count};
}

/* ---------------------------------------------------------------- sending */

static void test_runs(void **state)
{
    struct fixture *f = *state;

    propose(f, 10, 100, f->frame);
    assert_int_equal(held(f), 100);
    world_run(f->world);
    assert_int_equal(f->vm->merges, 1);
    /* across a chunk's end; pages that do not follow each other; frames that do not */
    propose(f, 1000, 100, f->frame);
    world_run(f->world);
    assert_int_equal(f->vm->merges, 3);
    struct proposal_run run = {0};
    proposals_add(&run, f->vm->region, 2000, f->frame);
    proposals_add(&run, f->vm->region, 2002, f->frame + 1);
    proposals_add(&run, f->vm->region, 2003, f->frame + 3);
    proposals_send(&run);
    world_run(f->world);
    assert_int_equal(f->vm->merges, 6);
    world_check(f->world);
}

static void test_twice_is_once(void **state)
{
    struct fixture *f = *state;

    f->vm->silent = true;
    propose(f, 512, 20, f->frame);
    propose(f, 512, 40, f->frame); /* half of it is held */
    propose(f, 512, 40, f->frame);
    assert_int_equal(held(f), 40);
    f->vm->silent = false;
    world_run(f->world);
    assert_int_equal(f->vm->merge_pages, 40);
    world_check(f->world);
}

static void test_dead_frames_are_left_out(void **state)
{
    struct fixture *f = *state;
    struct world_vm *holder = &f->world->vm[0];

    world_write(holder, 5, 9999); /* the only reference to its frame */
    assert_int_equal(domain_frame(f->world->domain[0], f->frame + 5)->state, FRAME_LIMBO);
    propose(f, 512, 10, f->frame);
    assert_int_equal(held(f), 9);
    assert_int_equal(domain_frame(f->world->domain[0], f->frame + 5)->refs, 0);
    world_run(f->world);
    assert_int_equal(f->vm->merge_pages, 9);
    world_check(f->world);
}

static void test_not_to_those_who_cannot(void **state)
{
    struct fixture *f = *state;

    f->vm->vm->merge_on = false;
    propose(f, 0, 10, f->frame);
    f->vm->vm->merge_on = true;
    f->vm->session->state = SESSION_JOINING;
    propose(f, 0, 10, f->frame);
    f->vm->session->state = SESSION_LIVE;
    assert_int_equal(held(f), 0);
}

/* ---------------------------------------------------------------- no room */

static void test_waits_for_room(void **state)
{
    struct fixture *f = *state;
    uint32_t n = 10000;

    f->vm->silent = true;
    for (uint32_t page = 0; page < n; page++)
        propose(f, page, 1, f->frame + page % 512 % 200);
    assert_int_equal(held(f), n);
    assert_true(f->vm->session->proposals.n > 5000);
    f->vm->silent = false;
    world_run(f->world);
    assert_int_equal(f->vm->merges, n); /* pages whose content is another were refused */
    assert_int_equal(f->vm->session->proposals.n, 0);
    assert_int_equal(f->vm->session->proposals.room, 0);
    world_check(f->world);
}

static void test_queue_is_bounded(void **state)
{
    struct fixture *f = *state;

    f->vm->silent = true;
    for (uint32_t page = 0; page < PAGES; page += 2)
        propose(f, page, 1, f->frame);
    assert_int_equal(f->vm->session->proposals.n, PROPOSALS_QUEUE_MAX);
    uint64_t sent = f->vm->session->unanswered;
    assert_int_equal(held(f), PROPOSALS_QUEUE_MAX + sent);
    assert_int_equal(f->vm->vm->dropped_proposals, PAGES / 2 - PROPOSALS_QUEUE_MAX - sent);
    proposals_drop_all(f->vm->session);
    assert_int_equal(held(f), sent);
    assert_int_equal(f->vm->session->pending_pages, sent);
    f->vm->silent = false;
    world_run(f->world);
    world_check(f->world);
}

static void test_session_ends(void **state)
{
    struct fixture *f = *state;
    struct domain *domain = f->world->domain[0];
    uint64_t refs = domain->refs;

    f->vm->silent = true;
    for (uint32_t page = 0; page < 20000; page++)
        propose(f, page, 1, f->frame + page % 100);
    world_serve(f->world, f->vm);
    world_vm_leave(f->world, f->vm);
    assert_int_equal(domain->refs, refs);
    f->vm = NULL;
}

static void test_region_goes_while_proposals_wait(void **state)
{
    struct fixture *f = *state;
    struct domain *domain = f->world->domain[0];
    uint64_t refs = domain->refs;

    f->vm->silent = true;
    for (uint32_t page = 0; page < 10000; page++)
        propose(f, page, 1, f->frame + page % 100);
    uint32_t sent = f->vm->session->unanswered;
    region_detach(f->vm->region);
    region_settle_deleted(f->vm->region); /* stays: there are answers to come */
    assert_ptr_equal(f->vm->vm->region[0], f->vm->region);
    proposals_flush(f->vm->session);
    assert_int_equal(f->vm->session->proposals.n, 0);
    assert_int_equal(f->vm->session->pending_pages, sent);
    for (uint32_t page = 0; page < sent; page++) {
        struct wire_rec_result result = result_of(page, f->frame + page % 100, 1);
        assert_int_equal(proposals_result(f->vm->session, &result), 0);
    }
    assert_null(f->vm->vm->region[0]);
    assert_int_equal(domain->refs, refs);
    /* for the fixture's end */
    f->vm->region = f->vm->vm->region[0] = calloc(1, sizeof *f->vm->region);
    *f->vm->region = (struct region){.vm = f->vm->vm, .map_fd = -1};
}

/* ---------------------------------------------------------------- answers */

static void test_part_merged(void **state)
{
    struct fixture *f = *state;

    f->vm->silent = true;
    propose(f, 512, 200, f->frame);
    struct wire_rec_result result = result_of(512, f->frame, 200);
    for (uint32_t i = 0; i < 200; i++)
        if (i % 50 < 20)
            result.merged[i / 64] |= 1ull << (i % 64);
    result.why = WIRE_WHY_PINNED;
    assert_int_equal(proposals_result(f->vm->session, &result), 0);
    assert_int_equal(held(f), 80);
    assert_int_equal(f->vm->vm->merged_ever, 80);
    assert_int_equal(f->vm->session->unanswered, 0);
    assert_int_equal(f->vm->session->pending_pages, 0);
    assert_null(f->vm->session->proposals.doubts);
}

static void test_lies(void **state)
{
    struct fixture *f = *state;
    struct wire_rec_result result = result_of(512, f->frame, 10);

    /* nothing was asked */
    assert_int_equal(proposals_result(f->vm->session, &result), -EPROTO);
    f->vm->silent = true;
    propose(f, 512, 10, f->frame);
    static const struct {
        const char *what;
        uint32_t page, frame_offset;
        uint16_t count;
    } lies[] = {
        {"other pages", 600, 0, 10},       {"other frames", 512, 1, 10},
        {"more of them", 512, 0, 11},      {"none", 512, 0, 0},
        {"too many", 512, 0, 513},         {"beyond the region", PAGES, 0, 1},
        {"over the end", PAGES - 1, 0, 2}, {"over a chunk", 510, 0, 10},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++)
        for (int merged = 0; merged < 2; merged++) {
            result = result_of(lies[i].page, f->frame + lies[i].frame_offset, lies[i].count);
            for (int w = 0; merged && w < 8; w++)
                result.merged[w] = UINT64_MAX;
            if (proposals_result(f->vm->session, &result) != -EPROTO)
                fail_msg("%s: taken for true", lies[i].what);
        }
    result = result_of(512, f->frame, 10);
    assert_int_equal(proposals_result(f->vm->session, &result), 0);
    assert_int_equal(proposals_result(f->vm->session, &result), -EPROTO); /* once */
    assert_int_equal(held(f), 0);
}

static void test_doubts(void **state)
{
    struct fixture *f = *state;

    f->vm->refuses = WIRE_WHY_DIFFERS;
    for (unsigned i = 0; i < 100; i++) {
        propose(f, 512, 10, f->frame);
        world_run(f->world);
    }
    assert_int_equal(f->vm->merges, PROPOSALS_DOUBTS_MAX);
    assert_int_equal(proposals_bytes(&f->vm->session->proposals), PROPOSALS_DOUBTS_BYTES);
    /* in time, one is tried again; when all is forgotten the memory is free */
    for (unsigned i = 0; i < 3; i++) {
        f->vm->session->proposals.doubts_ns -= (PROPOSALS_DOUBTS_MS + 1) * CLOCK_MS;
        proposals_flush(f->vm->session);
    }
    assert_int_equal(proposals_bytes(&f->vm->session->proposals), 0);
    f->vm->refuses = 0;
    propose(f, 512, 10, f->frame);
    world_run(f->world);
    assert_int_equal(held(f), 10);
    world_check(f->world);
}

/* It takes what it is sent out of the ring and answers nothing: what it holds stays within bounds. */
static void none_without_end_for_an_engine_that_answers_none(void **state)
{
    struct fixture *f = *state;
    _Alignas(8) char buf[WIRE_REC_BYTES_MAX];
    uint32_t sent = 0;

    for (uint32_t i = 0; i < 3 * PAGES; i++) {
        propose(f, i % PAGES, 1, f->frame + (i * 7 + i / PAGES) % 512);
        if (i % 256)
            continue;
        proposals_flush(f->vm->session);
        channel_flush_all(f->world->core);
        for (int n; (n = ring_pop(&f->vm->down, buf, sizeof buf)) > 0;)
            sent += ((struct wire_rec *)buf)->type == WIRE_REC_MERGE;
    }
    assert_true(sent > 4096);
    assert_true(held(f) <= PROPOSALS_QUEUE_MAX + PROPOSALS_UNANSWERED_MAX);
    assert_true(f->vm->session->unanswered <= PROPOSALS_UNANSWERED_MAX);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_runs),
        TEST(test_twice_is_once),
        TEST(test_dead_frames_are_left_out),
        TEST(test_not_to_those_who_cannot),
        TEST(test_waits_for_room),
        TEST(test_queue_is_bounded),
        TEST(test_session_ends),
        TEST(test_region_goes_while_proposals_wait),
        TEST(test_part_merged),
        TEST(test_lies),
        TEST(none_without_end_for_an_engine_that_answers_none),
        TEST(test_doubts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
