/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What drivers in the field do and what other devices got wrong: both ways to number queues, page numbers
 * above 4 GiB, bad numbers, large buffers, two statistics buffers, guests that do not answer, resets,
 * hugetlbfs.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/balloon/rig.h"

#define WITHOUT(feature) (MODERN & ~(uint64_t)(feature))

struct stat_entry {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

static uint32_t send_stats(struct rig *rig, const void *bytes, uint32_t n)
{
    struct rig_piece piece = {rig_buffer(rig, bytes, n), n, false};
    uint32_t head = rig_add(rig, Q_STATS, &piece, 1);

    rig_kick(rig, Q_STATS);
    return head;
}

/* ---- numbering of queues */

/* Enable these queues; which of them takes reports, which statistics? -1: none. */
static void numbered(uint64_t features, unsigned queues, int reporting, bool stats)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    struct rig_piece piece = {FREE_GPA, 8 * PAGE, true};

    assert_true(rig_start_with(rig, features, queues) & FEATURES_OK);
    for (unsigned index = 2; index < MEMD_BALLOON_QUEUES; index++) {
        if (!(queues & 1u << index))
            continue;
        uint32_t head = rig_add(rig, index, &piece, 1);
        rig_kick(rig, index);
        if ((int)index == reporting) {
            assert_int_equal(rig_used(rig, index), head);
            rig_discarded(rig, RIG_RANGES({FREE_GPA, 8 * PAGE}));
        } else {
            assert_int_equal(rig_used(rig, index), NO_USED);
            rig_nothing_discarded(rig);
        }
    }
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), stats ? 0 : -ENOTSUP);
    rig_destroy(rig);
}

static void takes_both_ways_to_number_queues(void **state)
{
    (void)state;
    numbered(MODERN, 0x17, 4, true); /* as specified */
    numbered(WITHOUT(MEMD_BALLOON_STATS_VQ), 0x13, 4, false);
    numbered(MODERN, 0x0f, 3, true); /* one after the other, as Linux counts */
    numbered(WITHOUT(MEMD_BALLOON_STATS_VQ), 0x07, 2, false);
    numbered(WITHOUT(MEMD_BALLOON_STATS_VQ), 0x0b, 3, false); /* counted by what is offered */
    numbered(MODERN, 0x07, -1, true);
    numbered(WITHOUT(MEMD_BALLOON_PAGE_REPORTING), 0x17, -1, true);
}

/* ---- features and configuration */

static void offers_what_it_is_told_to(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_STATS_VQ, 0);

    (void)state;
    assert_int_equal(memd_balloon_features(rig->balloon), MEMD_BALLOON_STATS_VQ | MEMD_BALLOON_VERSION_1);
    assert_int_equal(rig_start_with(rig, MODERN, 0x3) & FEATURES_OK, 0);
    assert_int_equal(rig_info(rig).running, 0);
    rig_destroy(rig);
}

static void the_guest_writes_actual_and_poison_and_nothing_else(void **state)
{
    const uint8_t ones[40] = {[0 ... 39] = 0xff};
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;
    assert_int_equal(memd_balloon_set_target(rig->balloon, 5 * PAGE), 0);
    for (uint64_t offset = 0; offset < 4; offset++)
        memd_balloon_config_write(rig->balloon, offset, ones, 4 - offset);
    assert_int_equal(rig_config(rig, 0), 5); /* num_pages */
    rig_set_config(rig, 8, 7);
    assert_int_equal(rig_config(rig, 8), 0); /* free_page_hint_cmd_id */
    rig_set_config(rig, 12, 7);
    rig_start_with(rig, MODERN, 0x17);
    rig_set_config(rig, 12, 9);
    assert_int_equal(rig_config(rig, 12), 7); /* poison_val: not after DRIVER_OK */
    memd_balloon_config_write(rig->balloon, 0, ones, sizeof ones);
    memd_balloon_config_write(rig->balloon, 13, ones, sizeof ones);
    memd_balloon_config_write(rig->balloon, UINT64_MAX, ones, sizeof ones);
    assert_int_equal(rig_config(rig, 0), 5);
    assert_int_equal(rig_config(rig, 12), 7);
    assert_int_equal(rig_config(rig, 4), UINT32_MAX);
    assert_int_equal(rig_info(rig).actual_bytes, 2 * PART_BYTES); /* no more than there is */
    assert_int_equal(rig_config(rig, 16), 0);
    assert_int_equal(rig_config(rig, UINT64_MAX - 1), 0);
    rig_destroy(rig);
}

static void a_new_target_interrupts_once(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;
    assert_int_equal(memd_balloon_set_target(rig->balloon, PAGE), 0);
    assert_int_equal(rig->config_interrupts, 0); /* no driver yet: it will read */
    rig_start_with(rig, MODERN, 0x17);
    assert_int_equal(memd_balloon_set_target(rig->balloon, 3 * PAGE + 4095), 0);
    assert_int_equal(memd_balloon_set_target(rig->balloon, 3 * PAGE), 0);
    assert_int_equal(rig->config_interrupts, 1);
    assert_int_equal(rig_config(rig, 0), 3);
    assert_int_equal(memd_balloon_set_target(rig->balloon, 2 * PART_BYTES + 1), -EINVAL);
    assert_int_equal(memd_balloon_set_target(rig->balloon, UINT64_MAX), -EINVAL);
    assert_int_equal(rig_info(rig).target_bytes, 3 * PAGE);
    rig_destroy(rig);
}

/* ---- page numbers */

static void page_numbers_of_2_to_the_20_and_more_are_above_4_gib(void **state)
{
    struct rig *rig = rig_start();
    const uint32_t pfns[] = {HIGH_PFN + 3, HIGH_PFN + PART_PAGES - 1, FREE_PFN + 3};

    (void)state;
    rig_send(rig, Q_INFLATE, pfns, 3);
    rig_discarded(rig, RIG_RANGES({FREE_GPA + 3 * PAGE, PAGE}, {HIGH_GPA + 3 * PAGE, PAGE},
                                  {HIGH_GPA + PART_BYTES - PAGE, PAGE}));
    assert_true(rig_page_is(rig, HIGH_PFN + 3, 0));
    rig_destroy(rig);
}

static void bad_page_numbers_are_skipped_one_by_one(void **state)
{
    struct rig *rig = rig_start();
    const uint32_t pfns[] = {FREE_PFN,     PART_PAGES,   FREE_PFN + 1,          UINT32_MAX,
                             HIGH_PFN - 1, FREE_PFN + 2, HIGH_PFN + PART_PAGES, HIGH_PFN};

    (void)state;
    rig_send(rig, Q_INFLATE, pfns, sizeof pfns / sizeof *pfns);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, 3 * PAGE}, {HIGH_GPA, PAGE}));
    assert_int_equal(rig_info(rig).skipped_pages, 4);
    assert_int_equal(rig_info(rig).inflated_pages, 4);
    rig_send(rig, Q_DEFLATE, pfns, sizeof pfns / sizeof *pfns);
    assert_int_equal(rig_info(rig).skipped_pages, 8);
    assert_int_equal(rig_info(rig).deflated_pages, 4);
    rig_destroy(rig);
}

/* Each length up to past what is copied at once, and what Linux (256) and Windows (1024) send. */
static void buffers_of_any_length_come_back(void **state)
{
    static const unsigned lengths[] = {0, 1, 255, 256, 257, 1023, 1024, 1025, 3000, 16384, 16385, 20000};
    struct rig *rig = rig_start();
    uint32_t *pfns = calloc(20000, sizeof *pfns);
    uint64_t skipped = 0;

    (void)state;
    for (uint32_t i = 0; i < 20000; i++)
        pfns[i] = HIGH_PFN + i % PART_PAGES;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned n = lengths[i];
        rig_send(rig, Q_INFLATE, pfns, n);
        if (n == 0) {
            rig_nothing_discarded(rig);
        } else {
            assert_int_equal(rig->discards[0].gpa, HIGH_GPA);
            assert_int_equal(rig->discards[0].bytes, (n < PART_PAGES ? n : PART_PAGES) * PAGE);
            assert_int_equal(rig->ndiscards, 1);
            rig->ndiscards = 0;
        }
        skipped += n > 16384 ? n - 16384 : 0;
        assert_int_equal(rig_info(rig).skipped_pages, skipped);
    }
    free(pfns);
    rig_destroy(rig);
}

static void numbers_may_be_cut_anywhere_into_pieces(void **state)
{
    struct rig *rig = rig_start();
    const uint32_t pfns[] = {FREE_PFN, FREE_PFN + 1, HIGH_PFN + 2, FREE_PFN + 3};
    uint64_t gpa = rig_buffer(rig, pfns, sizeof pfns);

    (void)state;
    for (uint32_t cut = 0; cut <= sizeof pfns; cut++) {
        struct rig_piece pieces[] = {
            {gpa, cut, false}, {gpa + cut, (uint32_t)sizeof pfns - cut, false}, {gpa, 3, false}};
        uint32_t head = rig_add(rig, Q_INFLATE, pieces, 3);
        rig_kick(rig, Q_INFLATE);
        assert_int_equal(rig_used(rig, Q_INFLATE), head);
        rig_discarded(
            rig, RIG_RANGES({FREE_GPA, 2 * PAGE}, {FREE_GPA + 3 * PAGE, PAGE}, {HIGH_GPA + 2 * PAGE, PAGE}));
    }
    rig_destroy(rig);
}

static void buffers_that_wait_are_discarded_together(void **state)
{
    struct rig *rig = rig_start();
    uint32_t pfns[ENTRIES], heads[ENTRIES];

    (void)state;
    for (unsigned i = 0; i < ENTRIES; i++)
        pfns[i] = FREE_PFN + (i * 37) % ENTRIES; /* every one, in disorder */
    uint64_t gpa = rig_buffer(rig, pfns, sizeof pfns);
    for (unsigned i = 0; i < ENTRIES; i++) {
        struct rig_piece piece = {gpa + i * sizeof *pfns, sizeof *pfns, false};
        heads[i] = rig_add(rig, Q_INFLATE, &piece, 1);
    }
    rig_kick(rig, Q_INFLATE);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, ENTRIES * PAGE}));
    for (unsigned i = 0; i < ENTRIES; i++)
        assert_int_equal(rig_used(rig, Q_INFLATE), heads[i]);
    assert_int_equal(rig->interrupts[Q_INFLATE], 1);
    rig_destroy(rig);
}

static void runs_end_where_parts_of_ram_do(void **state)
{
    struct rig *rig = rig_start();

    (void)state;
    rig_report(rig, PART_BYTES - 4 * PAGE, 8 * PAGE);
    rig_discarded(rig, RIG_RANGES({PART_BYTES - 4 * PAGE, 4 * PAGE}));
    assert_int_equal(rig_info(rig).bad_descriptors, 1);
    rig_report(rig, HIGH_GPA - PAGE, 8 * PAGE); /* begins outside */
    rig_nothing_discarded(rig);
    rig_report(rig, FREE_GPA + 100, 4 * PAGE); /* whole pages only */
    rig_discarded(rig, RIG_RANGES({FREE_GPA + PAGE, 3 * PAGE}));
    rig_report(rig, FREE_GPA + 100, 200);
    rig_nothing_discarded(rig);
    rig_report(rig, HIGH_GPA, UINT32_MAX);
    rig_discarded(rig, RIG_RANGES({HIGH_GPA, PART_BYTES}));
    rig_destroy(rig);
}

static void reports_of_32_ranges_come_back_once(void **state)
{
    struct rig *rig = rig_start();
    struct rig_piece pieces[32];

    (void)state;
    for (uint64_t i = 0; i < 32; i++) /* Linux's PAGE_REPORTING_CAPACITY; every other range a neighbour */
        pieces[i] = (struct rig_piece){FREE_GPA + (i + i / 2) * 16 * PAGE, 16 * PAGE, true};
    uint32_t head = rig_add(rig, Q_REPORTING, pieces, 32);
    rig_kick(rig, Q_REPORTING);
    assert_int_equal(rig_used(rig, Q_REPORTING), head);
    assert_int_equal(rig_used(rig, Q_REPORTING), NO_USED);
    assert_int_equal(rig->ndiscards, 16);
    assert_int_equal(rig_info(rig).discarded_bytes, 32 * 16 * PAGE);
    rig_destroy(rig);
}

/* ---- what cannot be discarded */

#define CHUNK (2ull << 20)

static int pinned_chunk(uint64_t gpa, uint64_t bytes)
{
    return gpa < HIGH_GPA + 2 * CHUNK && gpa + bytes > HIGH_GPA + CHUNK ? -EBUSY : 0;
}

static void what_is_pinned_is_left_and_the_rest_discarded(void **state)
{
    struct rig *rig = rig_start();

    (void)state;
    rig->refuse = pinned_chunk;
    rig_report(rig, HIGH_GPA + CHUNK / 2, 3 * CHUNK);
    rig_discarded(rig, RIG_RANGES({HIGH_GPA + CHUNK / 2, CHUNK / 2}, {HIGH_GPA + 2 * CHUNK, CHUNK},
                                  {HIGH_GPA + 3 * CHUNK, CHUNK / 2}));
    assert_int_equal(rig_info(rig).failed_bytes, CHUNK);
    assert_int_equal(rig_info(rig).discarded_bytes, 2 * CHUNK);
    rig_report(rig, HIGH_GPA + CHUNK, PAGE);
    rig_nothing_discarded(rig);
    assert_int_equal(rig_info(rig).failed_bytes, CHUNK + PAGE);
    rig_destroy(rig);
}

#define ODD_PAGES 600u

static int one_page(uint64_t gpa, uint64_t bytes)
{
    return gpa <= HIGH_GPA + 8 * PAGE && gpa + bytes > HIGH_GPA + 8 * PAGE ? -EBUSY : 0;
}

/* Pages without neighbours, a part after the other, many at once; where one is refused, the others go. */
static void single_pages_are_discarded_together(void **state)
{
    uint32_t pfns[ODD_PAGES];

    for (unsigned way = 0; way < 3; way++) { /* together; one of them refused; one by one */
        rig_singly = way == 2;
        struct rig *rig = rig_start();
        rig_singly = false;
        rig->refuse = way == 1 ? one_page : NULL;
        for (uint32_t i = 0; i < ODD_PAGES; i++)
            pfns[i] = (i < ODD_PAGES / 2 ? HIGH_PFN + 2 * i : FREE_PFN + 2 * (i - ODD_PAGES / 2));
        rig_send(rig, Q_INFLATE, pfns, ODD_PAGES);
        /* 300 pages of each part, 256 at a time */
        assert_int_equal(rig->range_calls, way == 2 ? 0 : 4);
        assert_int_equal(rig->ndiscards, ODD_PAGES - (way == 1));
        assert_int_equal(rig_info(rig).discarded_bytes, (ODD_PAGES - (way == 1)) * PAGE);
        assert_int_equal(rig_info(rig).failed_bytes, way == 1 ? PAGE : 0);
        for (uint32_t i = 0; i < ODD_PAGES; i++)
            assert_true(rig_page_is(rig, pfns[i], way == 1 && pfns[i] == HIGH_PFN + 8 ? FILLED : 0));
        rig_destroy(rig);
    }
    (void)state;
}

/* ---- host pages larger than the guest's */

static void large_host_pages_go_when_they_are_complete(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, CHUNK);
    uint32_t pfns[512];

    (void)state;
    rig_start_with(rig, MODERN, 0x17);
    for (uint32_t i = 0; i < 512; i++)
        pfns[i] = HIGH_PFN + (i * 11 + 300) % 512;
    for (uint32_t i = 0; i < 512; i++) {
        rig_nothing_discarded(rig);
        rig_send(rig, Q_INFLATE, &pfns[i], 1);
    }
    rig_discarded(rig, RIG_RANGES({HIGH_GPA, CHUNK}));
    rig_send(rig, Q_DEFLATE, &pfns[7], 1);
    rig_send(rig, Q_INFLATE, &pfns[8], 1);
    rig_nothing_discarded(rig);
    rig_send(rig, Q_INFLATE, &pfns[7], 1);
    rig_discarded(rig, RIG_RANGES({HIGH_GPA, CHUNK}));
    memd_balloon_set_status(rig->balloon, 0); /* the balloon is empty after a reset */
    rig_start_with(rig, MODERN, 0x17);
    rig_send(rig, Q_INFLATE, &pfns[7], 1);
    rig_nothing_discarded(rig);
    rig_report(rig, FREE_GPA + PAGE, 2 * CHUNK); /* of a report only whole ones */
    rig_discarded(rig, RIG_RANGES({FREE_GPA + CHUNK, CHUNK}));
    assert_int_equal(rig_info(rig).kept_bytes, CHUNK);
    rig_destroy(rig);
}

static void large_host_pages_are_not_collected_from_drivers_that_do_not_tell(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 4 * PAGE);
    const uint32_t half[] = {FREE_PFN, FREE_PFN + 1}, other[] = {FREE_PFN + 2, FREE_PFN + 3};
    const uint32_t all[] = {FREE_PFN + 7, FREE_PFN + 4, FREE_PFN + 6, FREE_PFN + 5};

    (void)state;
    rig_start_with(rig, WITHOUT(MEMD_BALLOON_MUST_TELL_HOST), 0x17);
    rig_send(rig, Q_INFLATE, half, 2);
    memset(rig_at(rig, FREE_GPA), 0x11, PAGE); /* used again, and not told yet */
    rig_send(rig, Q_INFLATE, other, 2);
    rig_nothing_discarded(rig);
    rig_send(rig, Q_INFLATE, all, 4);
    rig_discarded(rig, RIG_RANGES({FREE_GPA + 4 * PAGE, 4 * PAGE}));
    assert_true(rig_page_is(rig, FREE_PFN, 0x11));
    rig_destroy(rig);
}

/* ---- statistics */

static void a_second_stats_buffer_gives_the_first_one_back(void **state)
{
    const struct stat_entry one[] = {{4, 1}}, two[] = {{5, 2}};
    struct rig *rig = rig_start();
    uint32_t first = send_stats(rig, one, sizeof one), second = send_stats(rig, two, sizeof two);
    uint64_t stats[MEMD_BALLOON_TAGS];

    (void)state;
    assert_int_equal(rig_used(rig, Q_STATS), first);
    assert_int_equal(rig_used(rig, Q_STATS), NO_USED);
    assert_int_equal(memd_balloon_stats(rig->balloon, stats), 0);
    assert_int_equal(stats[5], 2);
    assert_int_equal(stats[4], MEMD_BALLOON_NO_STAT); /* nothing old is left */
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), 0);
    assert_int_equal(rig_used(rig, Q_STATS), second);
    rig_destroy(rig);
}

static void odd_stats_buffers_are_taken_as_far_as_they_make_sense(void **state)
{
    struct rig *rig = rig_start();
    struct stat_entry many[1000];
    uint64_t stats[MEMD_BALLOON_TAGS];

    (void)state;
    send_stats(rig, many, 0); /* the empty one at the start */
    assert_int_equal(memd_balloon_stats(rig->balloon, stats), -ENODATA);
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), 0);
    for (uint64_t i = 0; i < 1000; i++)
        many[i] = (struct stat_entry){4, i};
    send_stats(rig, many, 19); /* an entry and most of another */
    memd_balloon_stats(rig->balloon, stats);
    assert_int_equal(stats[4], 0);
    send_stats(rig, many, sizeof many); /* the first 4096 bytes: 409 entries */
    memd_balloon_stats(rig->balloon, stats);
    assert_int_equal(stats[4], 408);
    rig_destroy(rig);
}

static void a_mute_guest_is_asked_once(void **state)
{
    struct rig *rig = rig_start();

    (void)state;
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), -EAGAIN); /* it has not even begun */
    assert_int_equal(rig->interrupts[Q_STATS], 0);
    rig_destroy(rig);
}

/* ---- reset */

static void reset_forgets_all_but_the_target(void **state)
{
    const struct stat_entry entries[] = {{4, 1}};
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    uint64_t stats[MEMD_BALLOON_TAGS];
    const uint32_t pfn = FREE_PFN;

    (void)state;
    rig_set_config(rig, 12, 7);
    rig_start_with(rig, MODERN, 0x17);
    assert_int_equal(memd_balloon_set_target(rig->balloon, 8 * PAGE), 0);
    rig_set_config(rig, 4, 8);
    send_stats(rig, entries, sizeof entries);
    struct rig_piece piece = {rig_buffer(rig, &pfn, sizeof pfn), sizeof pfn, false};
    rig_add(rig, Q_INFLATE, &piece, 1);

    memd_balloon_set_status(rig->balloon, 0);
    for (unsigned i = 0; i < MEMD_BALLOON_QUEUES; i++)
        rig_kick(rig, i);
    assert_int_equal(rig_used(rig, Q_INFLATE), NO_USED); /* no queue is touched */
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), -ENOTSUP);
    assert_int_equal(rig_used(rig, Q_STATS), NO_USED);
    assert_int_equal(memd_balloon_stats(rig->balloon, stats), -ENODATA);
    assert_int_equal(stats[4], MEMD_BALLOON_NO_STAT);
    assert_int_equal(memd_balloon_status(rig->balloon), 0);
    assert_int_equal(rig_config(rig, 0), 8);
    assert_int_equal(rig_config(rig, 4), 0);
    assert_int_equal(rig_config(rig, 12), 0);
    assert_int_equal(rig_info(rig).features, 0);
    assert_int_equal(rig_info(rig).target_bytes, 8 * PAGE);
    rig_nothing_discarded(rig);

    rig_start_with(rig, MODERN, 0x17);
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), -EAGAIN); /* the old buffer is not returned */
    rig_send(rig, Q_INFLATE, &pfn, 1);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, PAGE}));
    rig_destroy(rig);
}

static void what_waits_at_driver_ok_is_served(void **state)
{
    const uint32_t pfn = FREE_PFN;
    const struct stat_entry entries[] = {{4, 9}};
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    uint64_t stats[MEMD_BALLOON_TAGS];

    (void)state;
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER);
    memd_balloon_set_features(rig->balloon, MODERN);
    memd_balloon_set_status(rig->balloon, FEATURES_OK);
    for (unsigned i = 0; i < 3; i++)
        rig_enable(rig, i);
    struct rig_piece piece = {rig_buffer(rig, &pfn, sizeof pfn), sizeof pfn, false};
    rig_add(rig, Q_INFLATE, &piece, 1);
    rig_kick(rig, Q_INFLATE);
    rig_nothing_discarded(rig);
    struct rig_piece stat = {FREE_GPA + PAGE, sizeof entries, false};
    memcpy(rig_at(rig, stat.gpa), entries, sizeof entries);
    rig_add(rig, Q_STATS, &stat, 1);
    memd_balloon_set_status(rig->balloon, DRIVER_OK);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, PAGE}));
    assert_int_equal(memd_balloon_stats(rig->balloon, stats), 0);
    assert_int_equal(stats[4], 9);
    assert_int_equal(memd_balloon_set_queue(rig->balloon, 0, 0, 0, 0, 0), -EBUSY);
    rig_destroy(rig);
}

static void options_are_checked(void **state)
{
    struct rig *rig = rig_create(0, 0);
    struct memd_balloon_ram good = {0, PART_BYTES, rig->part[0], 0};
    const struct memd_balloon_ram bad[][2] = {
        {{0, 0, rig->part[0], 0}, {HIGH_GPA, PAGE, rig->part[1], 0}},
        {{0, PAGE + 1, rig->part[0], 0}, {HIGH_GPA, PAGE, rig->part[1], 0}},
        {{1, PAGE, rig->part[0], 0}, {HIGH_GPA, PAGE, rig->part[1], 0}},
        {{0, PAGE, NULL, 0}, {HIGH_GPA, PAGE, rig->part[1], 0}},
        {{0, PAGE, rig->part[0], 3 * PAGE}, {HIGH_GPA, PAGE, rig->part[1], 0}},
        {{0, PAGE, rig->part[0], 2 * PAGE}, {HIGH_GPA, PAGE, rig->part[1], 0}},
        {{0, PAGE, rig->part[0], 512}, {HIGH_GPA, PAGE, rig->part[1], 0}},
        {{PAGE, 2 * PAGE, rig->part[0], 0}, {0, 2 * PAGE, rig->part[1], 0}}, /* overlap */
        {{0, PAGE, rig->part[0], 0}, {-PAGE, 2 * PAGE, rig->part[1], 0}},
    };
    struct memd_balloon_options options = {.size = sizeof options, .ram = &good, .nram = 1};
    struct memd_balloon *balloon;

    (void)state;
    assert_int_equal(memd_balloon_create(&options, &balloon), -EINVAL); /* no callbacks */
    memd_balloon_destroy(rig->balloon);
    options.discard = (int (*)(void *, unsigned, uint64_t, uint64_t))abort;
    options.interrupt = (void (*)(void *, int))abort;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        options.ram = bad[i];
        options.nram = 2;
        assert_int_equal(memd_balloon_create(&options, &balloon), -EINVAL);
    }
    options.nram = 0;
    assert_int_equal(memd_balloon_create(&options, &balloon), -EINVAL);
    options.ram = &good;
    options.nram = 1;
    assert_int_equal(memd_balloon_create(&options, &rig->balloon), 0);
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_both_ways_to_number_queues),
        cmocka_unit_test(offers_what_it_is_told_to),
        cmocka_unit_test(the_guest_writes_actual_and_poison_and_nothing_else),
        cmocka_unit_test(a_new_target_interrupts_once),
        cmocka_unit_test(page_numbers_of_2_to_the_20_and_more_are_above_4_gib),
        cmocka_unit_test(bad_page_numbers_are_skipped_one_by_one),
        cmocka_unit_test(buffers_of_any_length_come_back),
        cmocka_unit_test(numbers_may_be_cut_anywhere_into_pieces),
        cmocka_unit_test(buffers_that_wait_are_discarded_together),
        cmocka_unit_test(runs_end_where_parts_of_ram_do),
        cmocka_unit_test(reports_of_32_ranges_come_back_once),
        cmocka_unit_test(what_is_pinned_is_left_and_the_rest_discarded),
        cmocka_unit_test(single_pages_are_discarded_together),
        cmocka_unit_test(large_host_pages_go_when_they_are_complete),
        cmocka_unit_test(large_host_pages_are_not_collected_from_drivers_that_do_not_tell),
        cmocka_unit_test(a_second_stats_buffer_gives_the_first_one_back),
        cmocka_unit_test(odd_stats_buffers_are_taken_as_far_as_they_make_sense),
        cmocka_unit_test(a_mute_guest_is_asked_once),
        cmocka_unit_test(reset_forgets_all_but_the_target),
        cmocka_unit_test(what_waits_at_driver_ok_is_served),
        cmocka_unit_test(options_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
