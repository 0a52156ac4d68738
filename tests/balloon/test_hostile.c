/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A driver that means harm, or has lost its mind: rings that lie, chains without an end, descriptors that
 * point anywhere. Whatever has a valid head comes back, nothing outside of RAM is touched (the rig's callback
 * looks at every discard), and a ring that cannot be trusted stops the device until its reset. And a driver
 * that rewrites its rings while the device reads them.
 *
 * memd-test: timeout=120 san=address
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/balloon/rig.h"

static const uint32_t one_pfn = FREE_PFN;

static struct rig_piece one_page(struct rig *rig)
{
    return (struct rig_piece){rig_buffer(rig, &one_pfn, sizeof one_pfn), sizeof one_pfn, false};
}

static void queues_must_lie_in_ram_and_be_aligned(void **state)
{
    static const struct {
        unsigned index, entries;
        uint64_t desc, avail, used;
    } bad[] = {
        {5, 64, 0x10000, 0x14000, 0x18000},
        {UINT32_MAX, 64, 0x10000, 0x14000, 0x18000},
        {0, 63, 0x10000, 0x14000, 0x18000},
        {0, 512, 0x10000, 0x14000, 0x18000},
        {0, 1u << 31, 0x10000, 0x14000, 0x18000},
        {0, 64, 0x10008, 0x14000, 0x18000},
        {0, 64, 0x10000, 0x14001, 0x18000},
        {0, 64, 0x10000, 0x14000, 0x18002},
        {0, 64, PART_BYTES - 64 * 16 + 16, 0x14000, 0x18000},
        {0, 64, 0x10000, PART_BYTES - 64 * 2 - 2, 0x18000},
        {0, 64, 0x10000, 0x14000, PART_BYTES - 64 * 8},
        {0, 64, HIGH_GPA - 16, 0x14000, 0x18000},
        {0, 64, -16ull, 0x14000, 0x18000},
        {0, 64, 0x10000, -2ull, -4ull},
    };
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(memd_balloon_set_queue(rig->balloon, bad[i].index, bad[i].entries, bad[i].desc,
                                                bad[i].avail, bad[i].used),
                         -EINVAL);
    assert_int_equal(memd_balloon_set_queue(rig->balloon, 0, 64, PART_BYTES - 64 * 16, 0x14000, 0x18000), 0);
    assert_int_equal(memd_balloon_set_queue(rig->balloon, 0, 64, HIGH_GPA, 0x14000, 0x18004), 0);
    assert_int_equal(memd_balloon_set_queue(rig->balloon, 0, 0, 1, 1, 1), 0);
    for (unsigned index = 0; index < 8; index++)
        rig_kick(rig, index); /* nothing there */
    rig_kick(rig, UINT32_MAX);
    rig_destroy(rig);
}

/* The device has said that it needs a reset, touches nothing, and works again after one. */
static void is_broken_and_mends(struct rig *rig)
{
    struct rig_piece piece = one_page(rig);
    unsigned before = rig->ndiscards;

    assert_true(memd_balloon_status(rig->balloon) & NEEDS_RESET);
    assert_int_equal(rig->config_interrupts, 1);
    assert_int_equal(rig_info(rig).needs_reset, 1);
    rig_add(rig, Q_DEFLATE, &piece, 1);
    rig_kick(rig, Q_DEFLATE);
    rig_kick(rig, Q_INFLATE);
    assert_int_equal(rig_used(rig, Q_DEFLATE), NO_USED);
    assert_int_equal(rig->ndiscards, before);
    assert_int_equal(rig->config_interrupts, 1);
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), -ENOTSUP);
    memd_balloon_set_status(rig->balloon, 0);
    assert_true(rig_start_with(rig, MODERN, 0x17) == (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK));
    rig->ndiscards = 0;
    rig_send(rig, Q_INFLATE, &one_pfn, 1);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, PAGE}));
    rig_destroy(rig);
}

static void an_index_that_leaps_breaks_the_ring(void **state)
{
    (void)state;
    for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index++) {
        struct rig *rig = rig_start();
        if (index == 3) { /* not used */
            rig_destroy(rig);
            continue;
        }
        rig->queue[index].avail->idx += ENTRIES + 1;
        rig_kick(rig, index);
        is_broken_and_mends(rig);
    }
}

static void a_head_out_of_the_table_breaks_the_ring(void **state)
{
    (void)state;
    for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index += 2) {
        struct rig *rig = rig_start();
        struct rig_piece piece = one_page(rig);
        uint32_t head = rig_add(rig, index, &piece, 1);
        rig_add(rig, index, &piece, 1);
        rig->queue[index].avail->ring[1] = ENTRIES;
        rig_kick(rig, index);
        if (index != Q_STATS)
            assert_int_equal(rig_used(rig, index), head); /* what came before is returned */
        is_broken_and_mends(rig);
    }
}

static void chains_in_a_circle_come_back(void **state)
{
    (void)state;
    for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index += 4) {
        struct rig *rig = rig_start();
        struct rig_piece piece = {FREE_GPA, 8, index == Q_REPORTING};
        uint32_t head = rig_add(rig, index, &piece, 1);
        rig->queue[index].desc[head].flags |= DESC_NEXT;
        rig->queue[index].desc[head].next = (uint16_t)head;
        rig_kick(rig, index);
        assert_int_equal(rig_used(rig, index), head);
        assert_int_equal(rig_info(rig).bad_descriptors, 1);
        assert_int_equal(memd_balloon_status(rig->balloon) & NEEDS_RESET, 0);
        rig_destroy(rig);
    }
}

static void chains_out_of_the_table_come_back(void **state)
{
    struct rig *rig = rig_start();
    struct rig_piece piece = one_page(rig);
    uint32_t head = rig_add(rig, Q_INFLATE, &piece, 1);
    const uint32_t other = FREE_PFN + 9; /* what a device that looked there would find */

    (void)state;
    memcpy(rig_at(rig, FREE_GPA + PAGE), &other, sizeof other);
    rig->queue[Q_INFLATE].desc[ENTRIES] = (struct ring_desc){.addr = FREE_GPA + PAGE, .len = sizeof other};
    rig->queue[Q_INFLATE].desc[head].flags |= DESC_NEXT;
    rig->queue[Q_INFLATE].desc[head].next = ENTRIES;
    rig_kick(rig, Q_INFLATE);
    assert_int_equal(rig_used(rig, Q_INFLATE), head);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, PAGE})); /* the part that could be read */
    rig_destroy(rig);
}

static void bad_descriptors_are_passed_over(void **state)
{
    struct rig *rig = rig_start();
    struct rig_piece good = one_page(rig);
    const struct rig_piece pieces[] = {
        {PART_BYTES - 2, 4, false}, {HIGH_GPA - 4, 4, false},      {-4ull, 8, false},
        {good.gpa, 4, true},        {good.gpa, UINT32_MAX, false}, {-1ull, UINT32_MAX, false},
        {PART_BYTES, 0, false},     {good.gpa, good.bytes, false},
    };

    (void)state;
    for (unsigned index = Q_INFLATE; index <= Q_STATS; index++) {
        uint32_t head = rig_add(rig, index, pieces, sizeof pieces / sizeof *pieces);
        rig_kick(rig, index);
        if (index != Q_STATS)
            assert_int_equal(rig_used(rig, index), head);
        assert_int_equal(rig_info(rig).bad_descriptors, 7 * (index + 1));
    }
    rig_discarded(rig, RIG_RANGES({FREE_GPA, PAGE}));

    uint32_t head = rig_add(rig, Q_INFLATE, &good, 1);
    rig->queue[Q_INFLATE].desc[head].flags |= DESC_INDIRECT; /* not offered */
    rig_kick(rig, Q_INFLATE);
    assert_int_equal(rig_used(rig, Q_INFLATE), head);
    rig_nothing_discarded(rig);
    rig_destroy(rig);
}

static void rings_and_buffers_may_be_given_up_too(void **state)
{
    struct rig *rig = rig_start();
    uint32_t pfns[FREE_PFN];

    (void)state;
    for (uint32_t i = 0; i < FREE_PFN; i++)
        pfns[i] = i;
    struct rig_piece piece = {rig_buffer(rig, pfns, sizeof pfns), sizeof pfns, false};
    rig_add(rig, Q_INFLATE, &piece, 1);
    rig_kick(rig, Q_INFLATE);
    rig_discarded(rig, RIG_RANGES({0, FREE_GPA}));
    assert_int_equal(rig->queue[Q_INFLATE].used->idx, 1); /* written into the fresh page */
    rig_kick(rig, Q_INFLATE); /* its index has gone back from 1 to 0: that is 65535 buffers */
    assert_true(memd_balloon_status(rig->balloon) & NEEDS_RESET);
    rig_destroy(rig);
}

static void no_interrupt_is_sent_to_a_driver_that_wants_none(void **state)
{
    struct rig *rig = rig_start();
    struct rig_piece piece = one_page(rig);

    (void)state;
    rig->queue[Q_INFLATE].avail->flags = 1;
    uint32_t head = rig_add(rig, Q_INFLATE, &piece, 1);
    rig_kick(rig, Q_INFLATE);
    assert_int_equal(rig_used(rig, Q_INFLATE), head);
    assert_int_equal(rig->interrupts[Q_INFLATE], 0);
    rig_destroy(rig);
}

static void indices_wrap(void **state)
{
    struct rig *rig = rig_start();

    (void)state;
    for (uint32_t round = 0; round < 70000; round++) {
        rig_send(rig, Q_DEFLATE, &one_pfn, 1);
        if (round % 1000 == 0)
            rig_send(rig, Q_INFLATE, &one_pfn, 1);
    }
    assert_int_equal(rig_info(rig).deflated_pages, 70000);
    rig_destroy(rig);
}

static void status_bits_stay_and_failed_stops(void **state)
{
    struct rig *rig = rig_start();
    struct rig_piece piece = one_page(rig);

    (void)state;
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE);
    assert_int_equal(memd_balloon_status(rig->balloon), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    memd_balloon_set_features(rig->balloon, 0);
    assert_int_equal(rig_info(rig).features, MODERN);
    memd_balloon_set_status(rig->balloon, FAILED | NEEDS_RESET | 0xffff0000);
    assert_int_equal(memd_balloon_status(rig->balloon),
                     ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
    rig_add(rig, Q_INFLATE, &piece, 1);
    rig_kick(rig, Q_INFLATE);
    assert_int_equal(rig_used(rig, Q_INFLATE), NO_USED);
    rig_destroy(rig);
}

static void a_modern_driver_needs_features_ok(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;
    memd_balloon_set_features(rig->balloon, MODERN);
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_int_equal(rig_info(rig).running, 0);
    rig_destroy(rig);
}

/* ---- a driver that changes its rings while they are read */

struct scribbler {
    struct rig *rig;
    _Atomic bool over;
};

static void *scribble(void *arg)
{
    struct scribbler *s = arg;
    uint64_t x = 88172645463325252ull;

    while (!atomic_load_explicit(&s->over, memory_order_relaxed)) {
        for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index++) {
            struct rig_queue *q = &s->rig->queue[index];
            if (!q->desc)
                continue;
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            struct ring_desc *desc = &q->desc[x % ENTRIES];
            __atomic_store_n(&desc->addr, x % 3 ? FREE_GPA + (x >> 8) % (1 << 20) : x, __ATOMIC_RELAXED);
            __atomic_store_n(&desc->len, x % 5 ? (uint32_t)(x >> 20) % 5000 : (uint32_t)x, __ATOMIC_RELAXED);
            __atomic_store_n(&desc->flags, (uint16_t)(x >> 40) & 7, __ATOMIC_RELAXED);
            __atomic_store_n(&desc->next, (uint16_t)(x >> 50) % (ENTRIES + 2), __ATOMIC_RELAXED);
            __atomic_store_n(&q->avail->ring[x % ENTRIES], (uint16_t)((x >> 13) % ENTRIES), __ATOMIC_RELAXED);
            __atomic_store_n(&q->avail->idx, (uint16_t)(q->used->idx + x % 4), __ATOMIC_RELAXED);
        }
    }
    return NULL;
}

static void rings_that_change_while_they_are_read(void **state)
{
    struct rig *rig = rig_start();
    struct scribbler scribbler = {.rig = rig};
    unsigned rounds = 0, resets = 0;
    const char *scale = getenv("MEMD_TEST_SCALE");
    uint64_t wanted = (uint64_t)(200000 * (scale ? atof(scale) : 1)) + 2000;
    pthread_t thread;

    (void)state;
    for (uint32_t i = 0; i < (1u << 20) / sizeof i; i++) /* where its descriptors often point */
        ((uint32_t *)rig_at(rig, FREE_GPA))[i] = FREE_PFN + i % 512;
    assert_int_equal(pthread_create(&thread, NULL, scribble, &scribbler), 0);
    while (rounds < wanted || rig_info(rig).inflated_pages == 0 || rig_info(rig).reported_bytes == 0) {
        for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index++) {
            rig_kick(rig, index);
            rig->ndiscards = 0;
        }
        memd_balloon_ask_stats(rig->balloon);
        rounds++;
        if (memd_balloon_status(rig->balloon) & NEEDS_RESET || rounds % 5000 == 0) {
            memd_balloon_set_status(rig->balloon, 0);
            memd_balloon_set_features(rig->balloon, MODERN);
            memd_balloon_set_status(rig->balloon, FEATURES_OK);
            for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index++) {
                uint64_t gpa = 0x10000 * (index + 1ull);
                if (index != 3)
                    memd_balloon_set_queue(rig->balloon, index, ENTRIES, gpa, gpa + 0x4000, gpa + 0x8000);
            }
            memd_balloon_set_status(rig->balloon, DRIVER_OK);
            resets++;
        }
    }
    atomic_store(&scribbler.over, true);
    pthread_join(thread, NULL);
    print_message("%u rounds, %u resets, %llu pages inflated, %llu bytes reported\n", rounds, resets,
                  (unsigned long long)rig_info(rig).inflated_pages,
                  (unsigned long long)rig_info(rig).reported_bytes);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queues_must_lie_in_ram_and_be_aligned),
        cmocka_unit_test(an_index_that_leaps_breaks_the_ring),
        cmocka_unit_test(a_head_out_of_the_table_breaks_the_ring),
        cmocka_unit_test(chains_in_a_circle_come_back),
        cmocka_unit_test(chains_out_of_the_table_come_back),
        cmocka_unit_test(bad_descriptors_are_passed_over),
        cmocka_unit_test(rings_and_buffers_may_be_given_up_too),
        cmocka_unit_test(no_interrupt_is_sent_to_a_driver_that_wants_none),
        cmocka_unit_test(indices_wrap),
        cmocka_unit_test(status_bits_stay_and_failed_stops),
        cmocka_unit_test(a_modern_driver_needs_features_ok),
        cmocka_unit_test(rings_that_change_while_they_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
