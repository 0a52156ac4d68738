/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All of the interface from all sides at once, as vCPUs and a control plane do: a driver thread for each
 * queue, one that notifies whatever it likes, one that resets the device and starts it again, and the host's
 * side. For ThreadSanitizer above all; the sums must be right in any case.
 *
 * memd-test: timeout=120
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/balloon/rig.h"

#define PFNS 64u

static struct rig *rig;
static pthread_rwlock_t started = PTHREAD_RWLOCK_INITIALIZER; /* for writing: the driver is being restarted */
static _Atomic bool over;
static _Atomic uint64_t sent[MEMD_BALLOON_QUEUES];

/* Where a queue's thread keeps its contents: nobody gives these pages up. */
static uint64_t contents_gpa(unsigned index)
{
    return 0x100000 + index * PAGE;
}

/* One buffer there and back. Some other thread may be the one whose notification serves it. */
static void there_and_back(unsigned index)
{
    struct rig_piece piece = {contents_gpa(index), PFNS * sizeof(uint32_t), false};

    if (index == Q_REPORTING)
        piece = (struct rig_piece){HIGH_GPA + PART_BYTES / 2, 16 * PAGE, true};
    pthread_rwlock_rdlock(&started);
    rig_add(rig, index, &piece, 1);
    do
        rig_kick(rig, index);
    while (rig_used(rig, index) == NO_USED);
    atomic_fetch_add(&sent[index], 1);
    pthread_rwlock_unlock(&started);
}

static void *drive(void *arg)
{
    unsigned index = (unsigned)(uintptr_t)arg;
    uint32_t *pfns = rig_at(rig, contents_gpa(index));

    for (uint32_t i = 0; i < PFNS; i++)
        pfns[i] = HIGH_PFN + i * 2;
    while (!atomic_load(&over))
        there_and_back(index);
    return NULL;
}

/* The driver's part of statistics: a buffer for each that is returned. */
static void *drive_stats(void *arg)
{
    struct rig_piece piece = {contents_gpa(Q_STATS), 20, false};
    bool sent_one = false;

    (void)arg;
    while (!atomic_load(&over)) {
        pthread_rwlock_rdlock(&started);
        if (rig->queue[Q_STATS].next_desc == 0)
            sent_one = false; /* started anew */
        if (!sent_one || rig_used(rig, Q_STATS) != NO_USED) {
            rig_add(rig, Q_STATS, &piece, 1);
            rig_kick(rig, Q_STATS);
            sent_one = true;
            atomic_fetch_add(&sent[Q_STATS], 1);
        }
        pthread_rwlock_unlock(&started);
    }
    return NULL;
}

static void *kick_anything(void *arg)
{
    (void)arg;
    for (unsigned i = 0; !atomic_load(&over); i++)
        rig_kick(rig, i % 7);
    return NULL;
}

static void *restart(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        pthread_rwlock_wrlock(&started);
        memd_balloon_set_status(rig->balloon, 0);
        for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index++)
            rig->queue[index].used_seen = 0;
        rig_start_with(rig, MODERN, 0x17);
        pthread_rwlock_unlock(&started);
        for (unsigned i = 0; i < 50 && !atomic_load(&over); i++) {
            rig_config(rig, 0);
            rig_set_config(rig, 4, i);
            memd_balloon_status(rig->balloon);
        }
    }
    return NULL;
}

static void *host(void *arg)
{
    uint64_t stats[MEMD_BALLOON_TAGS];

    (void)arg;
    for (uint64_t i = 0; !atomic_load(&over); i++) {
        memd_balloon_set_target(rig->balloon, i % 1000 * PAGE);
        memd_balloon_ask_stats(rig->balloon);
        memd_balloon_stats(rig->balloon, stats);
        rig_info(rig);
    }
    return NULL;
}

static void from_all_sides(void **state)
{
    static const struct {
        void *(*run)(void *arg);
        uintptr_t arg;
    } sides[] = {{drive, Q_INFLATE}, {drive, Q_DEFLATE}, {drive, Q_REPORTING},
                 {drive_stats, 0},   {kick_anything, 0}, {restart, 0},
                 {host, 0}};
    pthread_t threads[7];
    const char *scale = getenv("MEMD_TEST_SCALE");
    uint64_t wanted = (uint64_t)(20000 * (scale ? atof(scale) : 1)) + 100;
    struct memd_balloon_info info;

    (void)state;
    rig = rig_start();
    rig->unlisted = true;
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sides[i].run, (void *)sides[i].arg), 0);
    for (unsigned index = 0; index < MEMD_BALLOON_QUEUES; index++) {
        while (index != 3 && atomic_load(&sent[index]) < wanted)
            sched_yield();
    }
    atomic_store(&over, true);
    for (size_t i = 0; i < 7; i++)
        pthread_join(threads[i], NULL);
    info = rig_info(rig);
    assert_int_equal(info.inflated_pages, sent[Q_INFLATE] * PFNS);
    assert_int_equal(info.deflated_pages, sent[Q_DEFLATE] * PFNS);
    assert_int_equal(info.reported_bytes, sent[Q_REPORTING] * 16 * PAGE);
    assert_int_equal(info.discarded_bytes, info.inflated_pages * PAGE + info.reported_bytes);
    assert_int_equal(info.needs_reset + info.bad_descriptors + info.skipped_pages + info.failed_bytes, 0);
    assert_true(info.stats_updates > 0);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_all_sides),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
