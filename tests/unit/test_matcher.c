/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* matcher and exports: what equals what is found, frames are made once and in guest order, and nothing is
 * lost or leaked when engines fail, lie or leave. */
#include "memd/common/clock.h"
#include "memd/daemon/matcher.h"
#include "tests/unit/world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static int setup(void **state)
{
    *state = world_open(1, true);
    return 0;
}

static int teardown(void **state)
{
    world_close(*state);
    return 0;
}

static struct world_vm *new_vm(struct world *world, uint32_t npages)
{
    return world_vm(world, world->domain[0], npages, 0);
}

static void fill(struct world_vm *vm, uint32_t page, uint32_t count, uint32_t first_content)
{
    for (uint32_t i = 0; i < count; i++)
        world_write(vm, page + i, first_content + i);
}

static const struct candidates *candidates_of(const struct world *world)
{
    return &world->domain[0]->indexes[0].candidates;
}

static uint32_t frames_used(const struct world *world)
{
    return world->domain[0]->stores[0].used;
}

static unsigned merged_pages(const struct world_vm *vm)
{
    unsigned n = 0;
    for (uint32_t page = 0; page < vm->region->npages; page++)
        n += world_frame(vm, page) != 0;
    return n;
}

/* ---------------------------------------------------------------- finding */

static void test_two_guests(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 1024), *b = new_vm(world, 1024);

    fill(a, 0, 1024, 1);
    fill(b, 0, 300, 101); /* what a has at 100 */
    fill(b, 300, 724, 50000);
    world_hash(a, 0, 1024);
    assert_int_equal(candidates_of(world)->used, 1024);
    world_hash(b, 0, 1024);
    world_run(world);
    assert_int_equal(merged_pages(a), 300);
    assert_int_equal(merged_pages(b), 300);
    assert_int_equal(world->domain[0]->frames_shared, 300);
    assert_int_equal(b->exported_pages, 300);
    assert_int_equal(a->exported_pages, 0);
    assert_int_equal(candidates_of(world)->used, 724 + 724);
    /* one frame after the other, so few proposals: 32 pages are exported at a time */
    for (uint32_t i = 1; i < 300; i++)
        assert_int_equal(world_frame(b, i), world_frame(b, 0) + i);
    assert_true(a->merges <= 300 / 32 + 2 && b->merges <= 300 / 32 + 2);
    world_check(world);
}

static void test_third_guest_joins_frames(void **state)
{
    struct world *world = *state;
    struct world_vm *vm[3];

    for (unsigned i = 0; i < 3; i++) {
        vm[i] = new_vm(world, 512);
        fill(vm[i], 0, 512, 1);
        world_hash(vm[i], 0, 512);
        if (i)
            world_run(world);
    }
    assert_int_equal(vm[2]->exports, 0);
    assert_int_equal(vm[2]->merges, 2); /* one for each record of hashes */
    assert_int_equal(world->domain[0]->frames_shared, 512);
    assert_int_equal(world->domain[0]->refs, 3 * 512);
    world_check(world);
}

/* All say so before the first frame is there. */
static void test_joining_an_export(void **state)
{
    struct world *world = *state;
    struct world_vm *vm[6];

    for (unsigned i = 0; i < 6; i++) {
        vm[i] = new_vm(world, 512);
        fill(vm[i], 0, 256, 1);
        world_hash(vm[i], 0, 256);
        for (uint32_t page = 0; i < 4 && page < 256; page++) /* in store mappings: these are brought home */
            vm[i]->map->entry[page] |= WIRE_PAGE_BROKEN;
    }
    world_hash(vm[5], 0, 256); /* and one says it twice */
    world_run(world);
    assert_int_equal(world->domain[0]->frames_shared, 256);
    assert_int_equal(world->domain[0]->refs, 6 * 256);
    for (unsigned i = 0; i < 6; i++)
        assert_true(vm[i]->merges <= 256 / 32 + 1);
    assert_int_equal(world->core->exports.used, 0);
    world_check(world);
}

static void test_within_one_guest(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 1024);

    fill(a, 0, 256, 1);
    fill(a, 700, 256, 1);
    for (uint32_t i = 960; i < 1024; i++)
        world_write(a, i, 7);
    world_hash(a, 0, 256);
    world_hash(a, 700, 324);
    world_run(world);
    assert_int_equal(world->domain[0]->frames_shared, 256);
    assert_int_equal(world->domain[0]->refs, 512 + 60 + 4); /* 956 to 959 belong to the second run */
    world_check(world);
}

static void test_other_domain_is_not_looked_at(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = world_vm(world, world_domain(world), 512, 0);

    fill(a, 0, 512, 1);
    fill(b, 0, 512, 1);
    world_hash(a, 0, 512);
    world_hash(b, 0, 512);
    world_run(world);
    assert_int_equal(a->exports + b->exports + a->merges + b->merges, 0);
}

static void test_nodes(void **state)
{
    struct world *world = world_open(2, false);
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512), *c = new_vm(world, 512);

    (void)state;
    fill(a, 0, 256, 1);
    fill(b, 0, 256, 1);
    fill(c, 0, 256, 1);
    world_hash_on_node(a, 0, 256, 0);
    world_hash_on_node(b, 0, 256, 1);
    world_run(world);
    assert_int_equal(a->merges + b->merges, 0);
    world_hash_on_node(c, 0, 256, 1);
    world_run(world);
    assert_int_equal(merged_pages(a), 0);
    assert_int_equal(merged_pages(b), 256);
    assert_int_equal(world_frame(b, 0) >> WIRE_FRAME_NODE_SHIFT, 1);
    world_check(world);
    world_close(world);
}

static void test_merging_off(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512), *c = new_vm(world, 512);

    fill(a, 0, 256, 1);
    fill(b, 0, 256, 1);
    fill(c, 0, 256, 1);
    world_hash(a, 0, 256);
    a->vm->merge_on = false;
    world_hash(b, 0, 256); /* equals only pages that do not take part: waits for others */
    world_run(world);
    assert_int_equal(a->merges + b->merges + b->exports, 0);
    world_hash(c, 0, 256);
    world_run(world);
    assert_int_equal(merged_pages(a), 0);
    assert_int_equal(merged_pages(b), 256);
    assert_int_equal(merged_pages(c), 256);
    world_check(world);
}

/* ---------------------------------------------------------------- candidates that are none */

static void test_changed_since(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512);

    fill(a, 0, 256, 1);
    fill(b, 0, 256, 1);
    world_hash(a, 0, 256);
    fill(a, 0, 128, 9000);
    world_hash(b, 0, 256);
    world_run(world);
    assert_int_equal(merged_pages(a), 128);
    assert_int_equal(merged_pages(b), 128);
    assert_int_equal(candidates_of(world)->used, 128); /* b's others; a's changed ones are dropped */
    world_check(world);
}

/* Page numbers of a region that is gone belong to a smaller one now. */
static void test_number_beyond_region(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 4096), *b = new_vm(world, 4096);

    fill(a, 0, 4096, 1);
    fill(b, 0, 4096, 1);
    world_hash(a, 0, 4096);
    uint64_t first_id = a->region->first_id;
    world_vm_leave(world, a);
    struct world_vm *c = new_vm(world, 16);
    assert_int_equal(c->region->first_id, first_id);
    assert_false(matcher_check(world->domain[0], first_id + 4000, 1));
    assert_false(matcher_check(world->domain[0], first_id + 4000, 0));
    world_hash(b, 0, 4096);
    world_run(world);
    assert_int_equal(b->exports, 0);
    assert_int_equal(candidates_of(world)->used, 4096);
}

static void test_collision(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512), *c = new_vm(world, 512);
    uint64_t hash = world_content_hash(1);

    world_write(a, 0, 1);
    world_write(b, 0, 1);
    world_write(c, 0, 2);
    world_hash(a, 0, 1);
    world_hash(b, 0, 1);
    world_run(world);
    assert_int_equal(merged_pages(a), 1);
    /* c has the same hash and other bytes: it is asked a few times, no more */
    for (unsigned i = 0; i < 1000; i++) {
        world_hash_as(c, 0, hash);
        world_run(world);
    }
    assert_int_equal(merged_pages(c), 0);
    assert_in_range(c->merges, 1, PROPOSALS_DOUBTS_MAX);
    /* and is free to merge otherwise */
    world_write(c, 1, 1);
    world_hash(c, 1, 1);
    world_run(world);
    assert_int_equal(merged_pages(c), 1);
    world_check(world);
}

/* ---------------------------------------------------------------- frames in guest order */

/* Runs of duplicates between unique pages; the guests' records arrive in turns, and the runs go across them.
 */
static void test_layout(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 2048), *b = new_vm(world, 2048);
    unsigned runs = 0;

    for (uint32_t page = 0; page < 2048; page++) {
        bool shared = page % 20 < 9;
        world_write(a, page, shared ? 1 + page : 10000 + page);
        world_write(b, page, shared ? 1 + page : 20000 + page);
    }
    for (uint32_t page = 0; page < 2048; page += 256) {
        world_hash(page % 512 ? a : b, page, 256);
        world_hash(page % 512 ? b : a, page, 256);
        world_run(world);
    }
    for (uint32_t page = 0; page < 2048; page++) {
        if (page % 20 >= 9)
            continue;
        assert_int_equal(world_frame(a, page), world_frame(b, page));
        assert_int_not_equal(world_frame(a, page), 0);
        runs += !page || world_frame(a, page - 1) + 1 != world_frame(a, page);
    }
    assert_in_range(runs, 1, (2048 + 19) / 20 + 2048 / STORE_LEASE_FRAMES); /* a lease may end in a run */
    world_check(world);
}

/* One after the other in the guest, found at different times. */
static void test_run_is_extended(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512), *c = new_vm(world, 512);

    fill(a, 0, 64, 1);
    fill(b, 0, 64, 1);
    fill(c, 100, 64, 1);
    world_hash(a, 0, 64);
    world_hash(b, 0, 20);
    world_run(world);
    world_hash(c, 130, 34); /* other frames in between, and the end of the run */
    world_run(world);
    world_hash(b, 20, 10);
    world_run(world);
    for (uint32_t page = 1; page < 30; page++)
        assert_int_equal(world_frame(b, page), world_frame(b, page - 1) + 1);
    world_check(world);
}

static void test_address_not_aligned(void **state)
{
    struct world *world = *state;
    struct world_vm *a = world_vm(world, world->domain[0], 2000, 100);
    struct world_vm *b = world_vm(world, world->domain[0], 2000, 300);

    fill(a, 0, 2000, 1);
    fill(b, 0, 2000, 1);
    world_hash(a, 0, 2000);
    world_hash(b, 0, 2000);
    world_run(world); /* which looks at the bounds of every proposal */
    assert_int_equal(merged_pages(a), 2000);
    assert_int_equal(merged_pages(b), 2000);
    world_check(world);
}

/* ---------------------------------------------------------------- exports that fail */

static void test_export_fails(void **state)
{
    struct world *world = *state;
    struct world_vm *vm[4];

    for (unsigned i = 0; i < 4; i++) {
        vm[i] = new_vm(world, 512);
        fill(vm[i], 0, 100, 1);
    }
    vm[1]->exports_fail = true;
    vm[2]->exports_garbage = true;
    for (unsigned i = 0; i < 4; i++)
        world_hash(vm[i], 0, 100);
    world_run(world);
    /* 1 could not, 0 is asked instead; they all get what 0 has */
    assert_int_equal(vm[0]->exported_pages, 100);
    assert_int_equal(merged_pages(vm[0]), 100);
    assert_int_equal(merged_pages(vm[3]), 100);
    world_check(world);
}

static void test_no_export_works(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512);

    a->exports_garbage = b->exports_fail = true;
    fill(a, 0, 512, 1);
    fill(b, 0, 512, 1);
    world_hash(a, 0, 512);
    world_hash(b, 0, 512);
    world_run(world);
    assert_int_equal(frames_used(world), 0);
    assert_int_equal(world->core->exports.used, 0);
    assert_int_equal(world->domain[0]->indexes[0].nframes, 0);
    /* the last one left is a candidate again */
    a->exports_garbage = b->exports_fail = false;
    world_hash(b, 0, 512);
    world_run(world);
    assert_int_equal(merged_pages(a), 512);
    world_check(world);
}

static void test_exporter_dies(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512), *c = new_vm(world, 512);

    fill(a, 0, 512, 1);
    fill(b, 0, 512, 1);
    fill(c, 0, 512, 1);
    b->silent = true;
    world_hash(a, 0, 512);
    world_hash(b, 0, 512);
    world_hash(c, 0, 512);
    world_run(world);
    assert_int_equal(merged_pages(a), 0);
    world_vm_leave(world, b);
    world_run(world);
    assert_int_equal(merged_pages(a), 512);
    assert_int_equal(merged_pages(c), 512);
    assert_int_equal(world->core->exports.used, 0);
    world_check(world);
}

static void test_exporter_is_stopped(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512);

    fill(a, 0, 512, 1);
    fill(b, 0, 512, 1);
    b->silent = true;
    world_hash(a, 0, 512);
    world_hash(b, 0, 512);
    world_run(world);
    assert_int_equal(a->exports, 0);
    b->session->exports.asked_ns -= (EXPORTS_TIMEOUT_MS + 1) * CLOCK_MS;
    world_serve(world, b);
    world_run(world);
    assert_int_equal(merged_pages(a), 512);
    /* it goes on: its late answers are none, its proposals are there */
    b->silent = false;
    world_run(world);
    assert_int_equal(merged_pages(b), 512);
    assert_int_equal(b->session->exports.busy, 0);
    assert_int_equal(world->core->exports.used, 0);
    world_check(world);
}

static void test_answers_not_asked_for(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 512), *b = new_vm(world, 512);
    struct wire_rec_export answer = {.page = 0, .count = 1, .slot = 0};

    assert_int_equal(exports_done(a->session, &answer), -EPROTO);
    answer.slot = WIRE_EXPORT_SLOTS;
    assert_int_equal(exports_done(a->session, &answer), -EPROTO);
    fill(a, 0, 10, 1);
    fill(b, 0, 10, 1);
    b->silent = true;
    world_hash(a, 0, 10);
    world_hash(b, 0, 10);
    world_run(world);
    static const struct wire_rec_export wrong[] = {
        {.page = 0, .count = 9, .slot = 0},
        {.page = 0, .count = 10, .slot = 1},
        {.page = 1, .count = 10, .slot = 0},
        {.r = {.region = 1}, .page = 0, .count = 10, .slot = 0},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(exports_done(b->session, &wrong[i]), -EPROTO);
    b->silent = false;
    world_run(world);
    assert_int_equal(merged_pages(a), 10);
    assert_int_equal(exports_done(b->session, &(struct wire_rec_export){.count = 10}), -EPROTO);
}

/* ---------------------------------------------------------------- shortages */

static void test_store_full(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 1024), *b = new_vm(world, 1024);

    world->core->quota.frames_max = 100;
    fill(a, 0, 1024, 1);
    fill(b, 0, 1024, 1);
    world_hash(a, 0, 1024);
    world_hash(b, 0, 1024);
    world_run(world);
    assert_int_equal(merged_pages(a), 100);
    assert_int_equal(merged_pages(b), 100);
    assert_int_not_equal(world->core->warning[0], 0);
    /* room again: both are still known */
    world->core->quota.frames_max = UINT32_MAX;
    world_hash(b, 0, 1024);
    world_run(world);
    assert_int_equal(merged_pages(a), 1024);
    world_check(world);
}

static void test_hold_back(void **state)
{
    struct world *world = *state;
    const uint32_t npages = EXPORTS_QUEUE_HIGH + 4096;
    struct world_vm *a = new_vm(world, npages), *b = new_vm(world, npages);

    fill(a, 0, npages, 1);
    fill(b, 0, npages, 1);
    world_hash(a, 0, npages);
    world_hash(b, 0, EXPORTS_QUEUE_HIGH - 1);
    assert_false(exports_hold_back(&b->session->exports));
    world_hash(b, EXPORTS_QUEUE_HIGH - 1, 1);
    assert_true(exports_hold_back(&b->session->exports));
    assert_true(b->session->budget_due);
    assert_false(exports_hold_back(&a->session->exports));
    /* what is under way by then is taken all the same */
    world_hash(b, EXPORTS_QUEUE_HIGH, 4096);
    b->session->budget_due = false;
    world_run(world);
    assert_false(exports_hold_back(&b->session->exports));
    assert_true(b->session->budget_due);
    assert_int_equal(merged_pages(a), npages);
    assert_int_equal(merged_pages(b), npages);
    world_check(world);
}

/* A guest that says one hash of very many pages, and never shows the bytes. */
static void test_flood_of_one_hash(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 65536);

    a->silent = true;
    for (uint32_t page = 0; page < 65536; page++)
        world_hash_as(a, page, 12345);
    assert_int_equal(world->core->exports.used, 1);
    assert_true(exports_bytes(&world->core->exports) < 1u << 20);
    assert_true(candidates_of(world)->used < 10000);
    world_vm_leave(world, a);
    assert_int_equal(world->core->exports.used, 0);
    assert_int_equal(frames_used(world), 0);
}

/* As many hashes for each page as agree with what its map says of it: no more memory than the pages call for.
 */
static void test_many_hashes_for_a_page(void **state)
{
    struct world *world = *state;
    struct world_vm *a = world_vm(world, world->domain[0], 512, 0);

    for (uint32_t i = 0; i < 512; i++)
        for (uint64_t page = 0; page < 512; page++)
            world_hash_as(a, (uint32_t)page, page << 55 | page * 37 % 512 << 40 | (uint64_t)i << 28 | page);
    assert_true(candidates_of(world)->used <= 2 * 512 + 4096);
    world_check(world);
}

/* ---------------------------------------------------------------- huge pages */

static void test_survey(void **state)
{
    struct world *world = *state;
    struct world_vm *a = new_vm(world, 4 * 512), *b = new_vm(world, 512);

    fill(b, 0, 512, 1);
    world_hash(b, 0, 512);
    /* 200 zero pages and 55 that b has, of 512: not half */
    fill(a, 0, 55, 1);
    fill(a, 55, 257, 5000);
    world_survey(a, 0);
    assert_int_equal(a->breaks + (unsigned)world_serve(world, a), 0);
    /* one more is */
    fill(a, 512, 56, 101);
    fill(a, 512 + 56, 256, 6000);
    world_survey(a, 512);
    world_run(world);
    assert_int_equal(a->breaks, 1);
    assert_int_equal(a->broken_page, 512);
    /* b's pages are none the worse for it, and nothing is exported or merged */
    assert_int_equal(a->exports + b->exports + a->merges + b->merges, 0);
    /* again the same: asked again, in case it was not possible */
    world_survey(a, 512);
    world_run(world);
    assert_int_equal(a->breaks, 2);
}

/* Pages of a kept huge page that others turn out to equal count later; each once. */
static void test_survey_counts_later(void **state)
{
    struct world *world = *state;
    struct world_vm *a = world_vm(world, world->domain[0], 1024, 256), *b = new_vm(world, 512);
    const uint32_t first = 256; /* of the chunk, by address */

    fill(a, first, 512, 1);
    world_survey(a, first);
    fill(b, 0, 255, 1);
    world_hash(b, 0, 255);
    world_hash(b, 0, 255);
    world_run(world);
    assert_int_equal(a->breaks, 0);
    fill(b, 300, 1, 400);
    world_hash(b, 300, 1);
    world_run(world);
    assert_int_equal(a->breaks, 1);
    assert_int_equal(a->broken_page, first);
    assert_int_equal(a->merges + b->merges, 0);
    /* broken: the engine hashes page by page */
    for (uint32_t page = first; page < first + 512; page++)
        a->map->entry[page] = 0;
    world_hash(a, first, 512);
    world_run(world);
    assert_int_equal(merged_pages(a), 256);
    assert_int_equal(merged_pages(b), 256);
    world_check(world);
}

/* ---------------------------------------------------------------- everything at once */

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void test_random(void **state)
{
    struct world *world = *state;
    struct world_vm *vm[6];
    uint32_t seed = 1;

    for (unsigned i = 0; i < 6; i++) {
        vm[i] = world_vm(world, world->domain[0], 1500, i * 77);
        fill(vm[i], 0, 1500, 1 + next_random(&seed) % 1000);
    }
    for (unsigned step = 0; step < 4000; step++) {
        struct world_vm *w = vm[next_random(&seed) % 6];
        uint32_t page = next_random(&seed) % 1400, n = 1 + next_random(&seed) % 100;
        switch (next_random(&seed) % 8) {
        case 0:
            fill(w, page, n, 1 + next_random(&seed) % 2000);
            break;
        case 1:
            w->silent = next_random(&seed) % 2;
            break;
        case 2:
            w->exports_fail = next_random(&seed) % 4 == 0;
            w->refuses = next_random(&seed) % 4 ? 0 : WIRE_WHY_PINNED;
            break;
        case 3:
            world_run(world);
            break;
        case 4:
            domain_tend_fence(world->domain[0], clock_now_ns() + CLOCK_S);
            for (unsigned i = 0; i < 6; i++)
                if (!vm[i]->silent)
                    vm[i]->vm->fence = world->domain[0]->fence;
            break;
        default:
            world_hash(w, page, n);
        }
    }
    for (unsigned i = 0; i < 6; i++) {
        vm[i]->silent = vm[i]->exports_fail = false;
        vm[i]->refuses = 0;
    }
    world_run(world);
    world_check(world);
    assert_int_equal(world->core->exports.used, 0);
    for (unsigned i = 0; i < 6; i++)
        world_vm_leave(world, vm[i]);
    assert_int_equal(world->domain[0]->refs, 0);
    assert_int_equal(world->domain[0]->frames_shared, 0);
    domain_tend_fence(world->domain[0], clock_now_ns() + CLOCK_S);
    domain_tend_fence(world->domain[0], clock_now_ns() + CLOCK_S);
    assert_int_equal(frames_used(world), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_two_guests),
        TEST(test_third_guest_joins_frames),
        TEST(test_joining_an_export),
        TEST(test_within_one_guest),
        TEST(test_other_domain_is_not_looked_at),
        cmocka_unit_test(test_nodes),
        TEST(test_merging_off),
        TEST(test_changed_since),
        TEST(test_number_beyond_region),
        TEST(test_collision),
        TEST(test_layout),
        TEST(test_run_is_extended),
        TEST(test_address_not_aligned),
        TEST(test_export_fails),
        TEST(test_no_export_works),
        TEST(test_exporter_dies),
        TEST(test_exporter_is_stopped),
        TEST(test_answers_not_asked_for),
        TEST(test_store_full),
        TEST(test_hold_back),
        TEST(test_many_hashes_for_a_page),
        TEST(test_flood_of_one_hash),
        TEST(test_survey),
        TEST(test_survey_counts_later),
        TEST(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
