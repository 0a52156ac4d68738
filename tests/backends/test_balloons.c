/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The set of balloons with its threads, over VMMs of the test's own: what users see and may ask for, VMMs
 * that come, go and hang, limits, addresses. */
#include "balloon-driver/backends/balloons.h"
#include "memd/common/clock.h"
#include "tests/backends/vmm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_S 30
#define DIGITS     "1234567890123456789012345678901234567890"

static struct vmm vmms[VMM_KINDS];
static struct balloons_spec specs[VMM_KINDS];
static struct balloons *balloons;
static struct balloon_error error;
static char paths[VMM_KINDS][48], cwd[32];

static int group_setup(void **state)
{
    (void)state;
    /* addresses are absolute, and short */
    strcpy(cwd, "/tmp/memd-test.XXXXXX");
    if (!mkdtemp(cwd))
        return -1;
    for (int k = 0; k < VMM_KINDS; k++)
        snprintf(paths[k], sizeof paths[k], "%s/%d", cwd, k);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(cwd);
}

static int setup(void **state)
{
    const struct balloons_options options = {.specs = specs,
                                             .nspecs = VMM_KINDS,
                                             .proc_root = "/nowhere",
                                             .call_ms = 20000,
                                             .refresh_ms = 100,
                                             .retry_ms = 10,
                                             .retry_ms_max = 40};
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        specs[k] = (struct balloons_spec){.min_bytes = 0};
        snprintf(specs[k].vm, sizeof specs[k].vm, "vm-%s", vmm_scheme((enum vmm_kind)k));
        snprintf(specs[k].address, sizeof specs[k].address, "%s:%.47s", vmm_scheme((enum vmm_kind)k),
                 paths[k]);
        vmm_start(&vmms[k], (enum vmm_kind)k, paths[k]);
    }
    return balloons_open(&options, &balloons);
}

static int teardown(void **state)
{
    (void)state;
    balloons_close(balloons);
    for (int k = 0; k < VMM_KINDS; k++)
        vmm_stop(&vmms[k]);
    return 0;
}

static struct balloons_view view_of(int k)
{
    struct balloons_view view;

    balloons_view(balloons, (size_t)k, &view);
    return view;
}

/* Wait for CONDITION, which may use `v`, the balloon of VMM `k`. */
#define AWAIT(k, condition)                                                                                 \
    do {                                                                                                    \
        struct balloons_view v = view_of(k);                                                                \
        for (uint64_t end = clock_now_ns() + PATIENCE_S * CLOCK_S; !(condition); v = view_of(k)) {          \
            if (clock_now_ns() > end)                                                                       \
                fail_msg("%s: waited for %s; it is %s: %s", v.vm, #condition, balloons_state_name(v.state), \
                         v.reason);                                                                         \
            usleep(2000);                                                                                   \
        }                                                                                                   \
    } while (0)

#define AWAIT_STATE(k, s) AWAIT(k, v.state == (s))

static void get_ready_and_follow_targets(void **state)
{
    (void)state;
    assert_int_equal(balloons_count(balloons), VMM_KINDS);
    assert_int_equal(balloons_find(balloons, "vm-firecracker"), VMM_FIRECRACKER);
    assert_int_equal(balloons_find(balloons, "vm-"), -ENOENT);
    for (int k = 0; k < VMM_KINDS; k++) {
        AWAIT_STATE(k, BALLOONS_READY);
        assert_int_equal(view_of(k).facts.ram_bytes, 1024 * MIB);
        assert_int_equal(view_of(k).floor_bytes, 232 * MIB);
        vmm_lock(&vmms[k]);
        vmms[k].step = 171 * MIB;
        vmm_unlock(&vmms[k]);
        assert_int_equal(balloons_set(balloons, (size_t)k, 512 * MIB, &error), 0);
        assert_int_equal(view_of(k).facts.target_bytes, 512 * MIB);
        AWAIT(k, v.facts.actual_bytes == 512 * MIB);
        assert_int_equal(balloons_set(balloons, (size_t)k, 1024 * MIB, &error), 0);
        AWAIT(k, v.facts.actual_bytes == 1024 * MIB);
        assert_int_equal(view_of(k).sets, 2);
    }
}

static void bad_sizes_are_refused(void **state)
{
    uint64_t min = 300 * MIB, max = 800 * MIB, none = 0, more = 1025 * MIB, less = 100 * MIB;

    (void)state;
    for (size_t k = 0; k < VMM_KINDS; k++) {
        AWAIT_STATE((int)k, BALLOONS_READY);
        assert_int_equal(balloons_set(balloons, k, 1025 * MIB, &error), -ERANGE);
        assert_non_null(strstr(error.reason, "1025 MiB are more than the 1024 MiB of RAM"));
        assert_int_equal(balloons_set(balloons, k, UINT64_MAX, &error), -ERANGE);
        assert_int_equal(balloons_set(balloons, k, 231 * MIB, &error), -ERANGE);
        assert_non_null(strstr(error.reason, "below the floor of 232 MiB"));
        assert_int_equal(balloons_set(balloons, k, 0, &error), -ERANGE);
        assert_int_equal(balloons_set(balloons, k, 232 * MIB, &error), 0);

        assert_int_equal(balloons_limit(balloons, k, &min, &max, &error), 0);
        assert_int_equal(view_of((int)k).floor_bytes, min);
        assert_int_equal(balloons_set(balloons, k, 299 * MIB, &error), -ERANGE);
        assert_int_equal(balloons_set(balloons, k, 801 * MIB, &error), -ERANGE);
        assert_non_null(strstr(error.reason, "above the limit of 800 MiB"));
        assert_int_equal(balloons_set(balloons, k, 800 * MIB, &error), 0);
        assert_int_equal(balloons_limit(balloons, k, &more, NULL, &error), -ERANGE);
        assert_int_equal(balloons_limit(balloons, k, NULL, &less, &error), -ERANGE);
        assert_int_equal(view_of((int)k).max_bytes, max); /* as it was */
        assert_int_equal(balloons_limit(balloons, k, NULL, &none, &error), 0);
        assert_int_equal(view_of((int)k).min_bytes, min);
        assert_int_equal(balloons_set(balloons, k, 1024 * MIB, &error), 0);
    }
}

static void without_a_driver_nothing_is_taken(void **state)
{
    (void)state;
    AWAIT_STATE(VMM_QMP, BALLOONS_READY);
    assert_int_equal(balloons_set(balloons, VMM_QMP, 512 * MIB, &error), 0);
    AWAIT(VMM_QMP, v.facts.actual_bytes == 512 * MIB);
    vmm_lock(&vmms[VMM_QMP]);
    vmms[VMM_QMP].driver = false;
    vmm_unlock(&vmms[VMM_QMP]);
    AWAIT_STATE(VMM_QMP, BALLOONS_NO_DRIVER);
    assert_int_equal(balloons_set(balloons, VMM_QMP, 500 * MIB, &error), -ENXIO);
    assert_int_equal(balloons_set(balloons, VMM_QMP, 1024 * MIB, &error), 0); /* letting go is always right */
    vmm_lock(&vmms[VMM_QMP]);
    vmms[VMM_QMP].driver = true;
    vmm_unlock(&vmms[VMM_QMP]);
    AWAIT_STATE(VMM_QMP, BALLOONS_READY);
    assert_int_equal(view_of(VMM_QMP).facts.actual_bytes, 1024 * MIB);
}

static void a_missing_device_is_said(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        vmm_lock(&vmms[k]);
        vmms[k].device = false;
        vmm_unlock(&vmms[k]);
        AWAIT_STATE(k, BALLOONS_NO_DEVICE);
        assert_int_equal(balloons_set(balloons, (size_t)k, 512 * MIB, &error), -ENODEV);
        assert_non_null(strstr(error.reason, "no "));
        vmm_lock(&vmms[k]);
        vmms[k].device = true;
        vmm_unlock(&vmms[k]);
        AWAIT_STATE(k, BALLOONS_READY);
    }
}

static void vmms_end_and_come_back(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        AWAIT_STATE(k, BALLOONS_READY);
        uint64_t connects = view_of(k).connects;
        vmm_stop(&vmms[k]);
        AWAIT_STATE(k, BALLOONS_GONE);
        assert_int_equal(view_of(k).facts.ram_bytes, 0); /* of another VM than the next */
        assert_int_equal(balloons_set(balloons, (size_t)k, 512 * MIB, &error), -ENOTCONN);
        vmm_start(&vmms[k], (enum vmm_kind)k, paths[k]);
        AWAIT_STATE(k, BALLOONS_READY);
        assert_true(view_of(k).connects > connects);
        assert_int_equal(balloons_set(balloons, (size_t)k, 512 * MIB, &error), 0);
    }
}

/* What hangs, lies or floods harms only itself. */
static void a_bad_vmm_is_left_and_tried_again(void **state)
{
    static const enum vmm_misdeed misdeeds[] = {VMM_TRUNCATES, VMM_ENDLESS, VMM_NOISE, VMM_DEEP,
                                                VMM_WRONG_TYPES};

    (void)state;
    for (size_t i = 0; i < sizeof misdeeds / sizeof misdeeds[0]; i++)
        for (int k = 0; k < VMM_KINDS; k++) {
            int other = (k + 1) % VMM_KINDS;
            AWAIT_STATE(k, BALLOONS_READY);
            vmm_lock(&vmms[k]);
            vmms[k].misdeed = misdeeds[i];
            vmm_unlock(&vmms[k]);
            AWAIT(k, v.state == BALLOONS_FAILED || v.state == BALLOONS_GONE);
            AWAIT_STATE(other, BALLOONS_READY);
            assert_int_equal(balloons_set(balloons, (size_t)other, 512 * MIB, &error), 0);
            vmm_lock(&vmms[k]);
            vmms[k].misdeed = VMM_GOOD;
            vmm_unlock(&vmms[k]);
            AWAIT_STATE(k, BALLOONS_READY);
        }
}

/* A flood of events is not listened to for long; what it said stays within RAM. */
static void floods_end(void **state)
{
    (void)state;
    AWAIT_STATE(VMM_QMP, BALLOONS_READY);
    uint64_t failures = view_of(VMM_QMP).failures;
    vmm_lock(&vmms[VMM_QMP]);
    vmms[VMM_QMP].misdeed = VMM_FLOODS;
    vmm_unlock(&vmms[VMM_QMP]);
    AWAIT(VMM_QMP, v.failures > failures);
    assert_true(view_of(VMM_QMP).facts.actual_bytes <= view_of(VMM_QMP).facts.ram_bytes);
}

/* Absurd numbers are cut to what there can be. */
static void absurd_numbers_are_clamped(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        vmm_lock(&vmms[k]);
        vmms[k].misdeed = VMM_ABSURD;
        vmms[k].misdeed_from = 2;
        vmm_unlock(&vmms[k]);
    }
    usleep(300 * 1000);
    for (int i = 0; i < 100; i++)
        for (int k = 0; k < VMM_KINDS; k++) {
            struct balloons_view v = view_of(k);
            assert_true(v.facts.ram_bytes <= BALLOON_RAM_MAX);
            assert_true(v.facts.actual_bytes <= v.facts.ram_bytes);
            assert_true(v.facts.target_bytes <= v.facts.ram_bytes);
            usleep(1000);
        }
}

/* A call that hangs is nobody else's, and does not keep memd from ending. */
static void the_end_does_not_wait_for_a_vmm(void **state)
{
    struct balloons_spec one = specs[VMM_QMP];
    const struct balloons_options options = {
        .specs = &one, .nspecs = 1, .proc_root = "/nowhere", .call_ms = 3600 * 1000};
    struct balloons *patient;
    struct vmm silent;

    (void)state;
    snprintf(one.address, sizeof one.address, "qmp:%s/silent", cwd);
    vmm_start(&silent, VMM_QMP, one.address + 4);
    vmm_lock(&silent);
    silent.misdeed = VMM_SILENT;
    vmm_unlock(&silent);
    assert_int_equal(balloons_open(&options, &patient), 0);
    while (!vmm_connections(&silent))
        usleep(1000);
    uint64_t begun = clock_now_ns();
    balloons_close(patient);
    assert_true(clock_now_ns() - begun < PATIENCE_S * CLOCK_S);
    vmm_stop(&silent);
}

static void addresses(void **state)
{
    static const char *const good[] = {"qmp:/run/a", "firecracker:/a", "cloud-hypervisor:/run/ch.sock",
                                       "libvirt:qemu:///system/web1", "libvirt:test:///default/test"};
    static const char *const bad[] = {"",
                                      "qmp",
                                      "qmp:",
                                      "qmp:relative",
                                      "/run/a",
                                      "xen:/a",
                                      "qmp /run/a",
                                      "libvirt:",
                                      "libvirt:web1",
                                      "libvirt:qemu:///system/",
                                      "QMP:/run/a",
                                      "qmp:/run/\xc3\xa4",
                                      "qmp:/run/a\n",
                                      "qmp:/" DIGITS DIGITS DIGITS};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(balloons_check_address(good[i], &error), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(balloons_check_address(bad[i], &error), -EINVAL);
        assert_true(error.reason[0]);
    }
}

static void floors(void **state)
{
    static const struct {
        uint64_t ram_mib, floor_mib;
    } cases[] = {{0, 8},      {64, 40},    {128, 72},     {512, 168},
                 {2048, 360}, {8192, 744}, {32768, 1512}, {1 << 20, 33256}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(balloons_floor(cases[i].ram_mib * MIB), cases[i].floor_mib * MIB);
}

static void every_ability_and_state_has_a_name(void **state)
{
    unsigned bits = 0;

    (void)state;
    while (balloons_can_name(bits))
        bits++;
    assert_int_equal(bits, 7);
    for (int s = 0; s < BALLOONS_STATES; s++)
        assert_true(balloons_state_name((enum balloons_state)s)[0]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(get_ready_and_follow_targets),
        TEST(bad_sizes_are_refused),
        TEST(without_a_driver_nothing_is_taken),
        TEST(a_missing_device_is_said),
        TEST(vmms_end_and_come_back),
        TEST(a_bad_vmm_is_left_and_tried_again),
        TEST(floods_end),
        TEST(absurd_numbers_are_clamped),
        TEST(the_end_does_not_wait_for_a_vmm),
        cmocka_unit_test(addresses),
        cmocka_unit_test(floors),
        cmocka_unit_test(every_ability_and_state_has_a_name),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
