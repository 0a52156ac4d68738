/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Virtio 1.3, section 5.5: a test for each normative sentence about the device, named after it, and below
 * those one for each other sentence that says what a device is. The section's number stands before its tests.
 * A sentence that says MAY is tested as what this device makes of it.
 *
 * Sentences of 5.5.6.5 (free page hinting) apply if that feature is negotiated, which this device never
 * offers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/balloon/rig.h"

#define STAT(tag, value) \
    {                    \
        tag, value       \
    }
struct stat_entry {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

/* Send statistics and take what the device returned for them, if anything. */
static uint32_t send_stats(struct rig *rig, const void *entries, uint32_t bytes)
{
    struct rig_piece piece = {rig_buffer(rig, entries, bytes), bytes, false};
    uint32_t head = rig_add(rig, Q_STATS, &piece, 1);

    rig_kick(rig, Q_STATS);
    return head;
}

static uint64_t stat_of(struct rig *rig, enum memd_balloon_tag tag)
{
    uint64_t stats[MEMD_BALLOON_TAGS];

    memd_balloon_stats(rig->balloon, stats);
    return stats[tag];
}

/* ---- 5.5.3.2 */

static void device_MAY_fail_FEATURES_OK_if_MUST_TELL_HOST_was_offered_and_not_accepted(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    const uint32_t pfn = FREE_PFN;

    (void)state; /* it does not: such a driver is served */
    assert_true(rig_start_with(rig, MODERN & ~(uint64_t)MEMD_BALLOON_MUST_TELL_HOST, 0x17) & FEATURES_OK);
    rig_send(rig, Q_INFLATE, &pfn, 1);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, PAGE}));
    rig_destroy(rig);
}

static void legacy_device_MUST_support_guests_which_do_not_negotiate_MUST_TELL_HOST(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    const uint32_t pfn = FREE_PFN;

    (void)state;
    rig_start_legacy(rig, 0, 0x3);
    rig_send(rig, Q_INFLATE, &pfn, 1);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, PAGE}));
    rig_send(rig, Q_DEFLATE, &pfn, 1);
    assert_int_equal(rig_info(rig).deflated_pages, 1);
    rig_destroy(rig);
}

static void legacy_device_SHOULD_allow_guest_to_use_memory_before_notifying_host(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    uint32_t pfns[] = {FREE_PFN, FREE_PFN + 1}, other = FREE_PFN + 1;

    (void)state;
    rig_start_legacy(rig, 0, 0x3);
    rig_send(rig, Q_INFLATE, pfns, 2);
    memset(rig_at(rig, FREE_GPA), 0x11, PAGE); /* no deflate before */
    rig_send(rig, Q_INFLATE, &other, 1);
    rig_send(rig, Q_DEFLATE, pfns, 1);
    assert_true(rig_page_is(rig, FREE_PFN, 0x11));
    rig_destroy(rig);
}

/* ---- 5.5.4 */

static void legacy_device_MUST_format_the_configuration_little_endian(void **state)
{
    const uint8_t actual[] = {0x01, 0x02, 0x00, 0x00};
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    uint8_t bytes[16];

    (void)state;
    rig_start_legacy(rig, 0, 0x3);
    assert_int_equal(memd_balloon_set_target(rig->balloon, 0x1234 * PAGE), 0);
    memd_balloon_config_write(rig->balloon, 4, actual, sizeof actual);
    memd_balloon_config_read(rig->balloon, 0, bytes, sizeof bytes);
    assert_memory_equal(bytes, ((uint8_t[]){0x34, 0x12, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), 16);
    assert_int_equal(rig_info(rig).actual_bytes, 0x201 * PAGE);
    rig_destroy(rig);
}

/* ---- 5.5.6.2 */

static void device_MAY_modify_a_page_after_detecting_it_in_an_inflate_request_and_before_acknowledging(
    void **state)
{
    struct rig *rig = rig_start();
    const uint32_t pfns[] = {FREE_PFN, FREE_PFN + 7};

    (void)state; /* it does: both pages are gone when the request comes back, and no page else */
    rig_nothing_discarded(rig);
    rig_send(rig, Q_INFLATE, pfns, 2);
    assert_int_equal(rig->ndiscards, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(rig->discards[i].used_idx[Q_INFLATE], 0); /* discarded before it was returned */
    assert_true(rig_page_is(rig, FREE_PFN, 0) && rig_page_is(rig, FREE_PFN + 7, 0));
    assert_true(rig_page_is(rig, FREE_PFN + 1, 0xa5) && rig_page_is(rig, FREE_PFN + 6, 0xa5));
    rig_destroy(rig);
}

static void device_MAY_modify_a_page_in_the_balloon_until_acknowledging_its_deflate_request(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 4 * PAGE);
    const uint32_t three[] = {FREE_PFN, FREE_PFN + 1, FREE_PFN + 2}, last = FREE_PFN + 3, first = FREE_PFN;

    (void)state; /* it does, when the host page is complete; and never after the acknowledgement */
    rig_start_with(rig, MODERN, 0x17);
    rig_send(rig, Q_INFLATE, three, 3);
    rig_nothing_discarded(rig);
    rig_send(rig, Q_INFLATE, &last, 1);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, 4 * PAGE}));
    rig_send(rig, Q_DEFLATE, &first, 1);
    memset(rig_at(rig, FREE_GPA), 0x11, PAGE);
    rig_send(rig, Q_INFLATE, &last, 1);
    rig_nothing_discarded(rig);
    assert_true(rig_page_is(rig, FREE_PFN, 0x11));
    rig_destroy(rig);
}

static void legacy_device_SHOULD_NOT_use_actual_until_its_most_significant_byte_was_written(void **state)
{
    const uint8_t bytes[] = {0x00, 0x03, 0x00, 0x00};
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;
    rig_start_legacy(rig, 0, 0x3);
    rig_set_config(rig, 4, 0x0101);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(rig_info(rig).actual_bytes, 0x0101 * PAGE);
        memd_balloon_config_write(rig->balloon, 4 + i, &bytes[i], 1);
    }
    assert_int_equal(rig_info(rig).actual_bytes, 0x0300 * PAGE);
    rig_destroy(rig);
}

/* ---- 5.5.6.3.2 */

static void device_MUST_ignore_entries_with_tags_that_it_does_not_recognize(void **state)
{
    const struct stat_entry entries[] = {STAT(200, 1), STAT(4, 77), STAT(65535, 2), STAT(16, 3), STAT(5, 99)};
    struct rig *rig = rig_start();

    (void)state;
    send_stats(rig, entries, sizeof entries);
    assert_int_equal(rig->stats_calls, 1);
    assert_int_equal(stat_of(rig, MEMD_BALLOON_FREE_BYTES), 77);
    assert_int_equal(stat_of(rig, MEMD_BALLOON_TOTAL_BYTES), 99);
    for (int tag = 0; tag < MEMD_BALLOON_TAGS; tag++)
        assert_true(tag == 4 || tag == 5 || stat_of(rig, tag) == MEMD_BALLOON_NO_STAT);
    rig_destroy(rig);
}

static void device_MUST_accept_entries_in_any_order(void **state)
{
    struct rig *rig = rig_start();

    (void)state;
    for (unsigned turn = 0; turn < MEMD_BALLOON_TAGS; turn++) {
        struct stat_entry entries[MEMD_BALLOON_TAGS];
        for (unsigned i = 0; i < MEMD_BALLOON_TAGS; i++) {
            uint16_t tag =
                (uint16_t)((i * 7 + turn) % MEMD_BALLOON_TAGS); /* 7 and 16 have no common divisor */
            entries[i] = (struct stat_entry){tag, tag * 1000u + turn};
        }
        send_stats(rig, entries, sizeof entries);
        for (unsigned tag = 0; tag < MEMD_BALLOON_TAGS; tag++)
            assert_int_equal(stat_of(rig, tag), tag * 1000 + turn);
        assert_int_equal(memd_balloon_ask_stats(rig->balloon), 0);
    }
    rig_destroy(rig);
}

static void legacy_device_MUST_format_statistics_in_the_native_endian_of_the_guest(void **state)
{
    const struct stat_entry first[] = {STAT(4, 1)};
    const uint8_t second[] = {4, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11}; /* of an x86 guest */
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;
    rig_start_legacy(rig, MEMD_BALLOON_STATS_VQ, 0x7);
    send_stats(rig, first, sizeof first);
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), 0);
    send_stats(rig, second, sizeof second);
    assert_int_equal(stat_of(rig, MEMD_BALLOON_FREE_BYTES), 0x1122334455667788);
    rig_destroy(rig);
}

static void legacy_device_SHOULD_ignore_all_values_in_the_first_buffer_after_initialization(void **state)
{
    const struct stat_entry entries[] = {STAT(4, 5)};
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;
    for (int start = 0; start < 2; start++) {
        uint64_t stats[MEMD_BALLOON_TAGS];
        rig_start_legacy(rig, MEMD_BALLOON_STATS_VQ, 0x7);
        send_stats(rig, entries, sizeof entries);
        assert_true(memd_balloon_stats(rig->balloon, stats) < 0);
        assert_int_equal(stats[4], MEMD_BALLOON_NO_STAT);
        assert_int_equal(memd_balloon_ask_stats(rig->balloon), 0); /* the buffer is held all the same */
        send_stats(rig, entries, sizeof entries);
        assert_int_equal(stat_of(rig, MEMD_BALLOON_FREE_BYTES), 5);
        memd_balloon_set_status(rig->balloon, 0);
    }
    rig_destroy(rig);
}

/* ---- 5.5.6.5.2: applies only if negotiated */

static void free_page_hinting_is_never_offered_and_cannot_be_negotiated(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    struct memd_balloon_options options = {.size = sizeof options, .features = 1u << 3};
    struct memd_balloon *balloon;

    (void)state;
    assert_int_equal(memd_balloon_features(rig->balloon) & 1u << 3, 0);
    assert_int_equal(rig_start_with(rig, MODERN | 1u << 3, 0x1f) & FEATURES_OK, 0);
    assert_int_equal(rig_info(rig).running, 0);
    assert_true(memd_balloon_create(&options, &balloon) < 0);
    rig_destroy(rig);
}

/* ---- 5.5.6.6.2 */

static void device_MAY_use_poison_val_as_a_hint_to_guest_behavior(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state; /* it shows it, and see the reports below */
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER);
    memd_balloon_set_features(rig->balloon, MODERN);
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    rig_set_config(rig, 12, 0xaaaaaaaa);
    rig_start_with(rig, MODERN, 0x17);
    assert_int_equal(rig_info(rig).poison_value, 0xaaaaaaaa);
    rig_destroy(rig);
}

/* ---- 5.5.6.7.2 */

static void device_MAY_modify_a_reported_page_before_acknowledging_without_PAGE_POISON(void **state)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    (void)state;                         /* it does */
    rig_set_config(rig, 12, 0xaaaaaaaa); /* not negotiated: means nothing */
    rig_start_with(rig, MODERN & ~(uint64_t)MEMD_BALLOON_PAGE_POISON, 0x17);
    rig_report(rig, FREE_GPA, 64 * PAGE);
    assert_int_equal(rig->discards[0].used_idx[Q_REPORTING], 0);
    rig_discarded(rig, RIG_RANGES({FREE_GPA, 64 * PAGE}));
    rig_destroy(rig);
}

static void device_MUST_NOT_modify_a_reported_page_to_another_value_than_poison_val(void **state)
{
    const uint32_t poisons[] = {0, 0xa5a5a5a5, 1, 0x80000000};

    (void)state;
    for (size_t i = 0; i < sizeof poisons / sizeof *poisons; i++) {
        struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
        rig_set_config(rig, 12, poisons[i]);
        rig_start_with(rig, MODERN, 0x17);
        rig_report(rig, FREE_GPA, 64 * PAGE);
        for (uint32_t page = 0; page < 64; page++)
            assert_true(rig_page_is(rig, FREE_PFN + page, poisons[i] ? 0xa5 : 0));
        assert_int_equal(rig_info(rig).kept_bytes, poisons[i] ? 64 * PAGE : 0);
        rig_destroy(rig);
    }
}

/* ---- what else 5.5 says of a device */

static void statsq_and_reporting_vq_only_exist_if_negotiated(void **state)
{
    const struct stat_entry entries[] = {STAT(4, 5)};
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);
    struct rig_piece piece = {FREE_GPA, PAGE, true};

    (void)state;
    rig_start_with(rig, MEMD_BALLOON_VERSION_1, 0x1f);
    send_stats(rig, entries, sizeof entries);
    assert_int_equal(stat_of(rig, MEMD_BALLOON_FREE_BYTES), MEMD_BALLOON_NO_STAT);
    assert_true(memd_balloon_ask_stats(rig->balloon) < 0);
    for (unsigned index = 3; index < 5; index++) {
        rig_add(rig, index, &piece, 1);
        rig_kick(rig, index);
        assert_int_equal(rig_used(rig, index), NO_USED);
    }
    rig_nothing_discarded(rig);
    rig_destroy(rig);
}

static void num_pages_and_actual_are_always_available(void **state)
{
    struct rig *rig = rig_create(0, 0);

    (void)state;
    assert_int_equal(memd_balloon_config_bytes(rig->balloon), 8);
    assert_int_equal(memd_balloon_set_target(rig->balloon, 9 * PAGE), 0);
    rig_start_with(rig, MEMD_BALLOON_VERSION_1, 0x3);
    assert_int_equal(rig_config(rig, 0), 9);
    rig_set_config(rig, 4, 3);
    assert_int_equal(rig_config(rig, 4), 3);
    assert_int_equal(rig_info(rig).actual_bytes, 3 * PAGE);
    rig_destroy(rig);
}

static void poison_val_is_available_with_PAGE_POISON(void **state)
{
    struct rig *with = rig_create(MEMD_BALLOON_PAGE_POISON, 0), *without = rig_create(0, 0);

    (void)state;
    assert_int_equal(memd_balloon_config_bytes(with->balloon), 16);
    rig_set_config(with, 12, 7);
    rig_set_config(without, 12, 7);
    assert_int_equal(rig_config(with, 12), 7);
    assert_int_equal(rig_config(without, 12), 0);
    rig_destroy(with);
    rig_destroy(without);
}

static void the_device_uses_the_stats_buffer_to_ask_and_retains_the_next(void **state)
{
    const struct stat_entry entries[] = {STAT(4, 5)};
    struct rig *rig = rig_start();
    uint32_t head = send_stats(rig, entries, sizeof entries);

    (void)state;
    assert_int_equal(rig_used(rig, Q_STATS), NO_USED);
    assert_int_equal(rig->interrupts[Q_STATS], 0);
    assert_int_equal(memd_balloon_ask_stats(rig->balloon), 0);
    assert_int_equal(rig_used(rig, Q_STATS), head);
    assert_int_equal(rig->interrupts[Q_STATS], 1);
    assert_true(memd_balloon_ask_stats(rig->balloon) < 0); /* mute so far */
    assert_int_equal(rig_used(rig, Q_STATS), NO_USED);
    rig_destroy(rig);
}

static void page_numbers_count_4096_bytes(void **state)
{
    struct rig *rig = rig_start();
    const uint32_t pfn = FREE_PFN + 5;

    (void)state;
    rig_send(rig, Q_INFLATE, &pfn, 1);
    rig_discarded(rig, RIG_RANGES({FREE_GPA + 5 * 4096, 4096}));
    rig_destroy(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_MAY_fail_FEATURES_OK_if_MUST_TELL_HOST_was_offered_and_not_accepted),
        cmocka_unit_test(legacy_device_MUST_support_guests_which_do_not_negotiate_MUST_TELL_HOST),
        cmocka_unit_test(legacy_device_SHOULD_allow_guest_to_use_memory_before_notifying_host),
        cmocka_unit_test(legacy_device_MUST_format_the_configuration_little_endian),
        cmocka_unit_test(
            device_MAY_modify_a_page_after_detecting_it_in_an_inflate_request_and_before_acknowledging),
        cmocka_unit_test(device_MAY_modify_a_page_in_the_balloon_until_acknowledging_its_deflate_request),
        cmocka_unit_test(legacy_device_SHOULD_NOT_use_actual_until_its_most_significant_byte_was_written),
        cmocka_unit_test(device_MUST_ignore_entries_with_tags_that_it_does_not_recognize),
        cmocka_unit_test(device_MUST_accept_entries_in_any_order),
        cmocka_unit_test(legacy_device_MUST_format_statistics_in_the_native_endian_of_the_guest),
        cmocka_unit_test(legacy_device_SHOULD_ignore_all_values_in_the_first_buffer_after_initialization),
        cmocka_unit_test(free_page_hinting_is_never_offered_and_cannot_be_negotiated),
        cmocka_unit_test(device_MAY_use_poison_val_as_a_hint_to_guest_behavior),
        cmocka_unit_test(device_MAY_modify_a_reported_page_before_acknowledging_without_PAGE_POISON),
        cmocka_unit_test(device_MUST_NOT_modify_a_reported_page_to_another_value_than_poison_val),
        cmocka_unit_test(statsq_and_reporting_vq_only_exist_if_negotiated),
        cmocka_unit_test(num_pages_and_actual_are_always_available),
        cmocka_unit_test(poison_val_is_available_with_PAGE_POISON),
        cmocka_unit_test(the_device_uses_the_stats_buffer_to_ask_and_retains_the_next),
        cmocka_unit_test(page_numbers_count_4096_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
