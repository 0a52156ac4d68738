/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memd-test: san=address
 *
 * The libvirt backend over libvirt's own test driver, whose domain "test" lives in this process. What libvirt
 * does for QEMU and others is not tested here. Not under ThreadSanitizer: libvirt's locks are its own.
 */
#include "balloon-driver/backends/backend.h"
#include "balloon-driver/backends/balloons.h"
#include "memd/common/clock.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB        (UINT64_C(1) << 20)
#define DOMAIN     "test:///default/test"
#define PATIENCE_S 30

static const struct balloon_ctl ctl = {.stop_fd = -1, .wake_fd = -1, .call_ms = 20000, .stats_every_s = 2};
static struct balloon_facts facts;
static struct balloon_error error;
static void *peer;

static void sees_and_moves_a_domain(void **state)
{
    (void)state;
    if (balloon_libvirt.open(&ctl, DOMAIN, &peer, &error))
        fail_msg("%s", error.reason);
    assert_int_equal(balloon_libvirt.refresh(peer, false, &facts, &error), 0);
    assert_int_equal(facts.ram_bytes, 8192 * MIB);
    assert_int_equal(facts.actual_bytes, 2048 * MIB);
    assert_true(facts.can & BALLOON_CAN_TARGET && facts.can & BALLOON_CAN_ACTUAL);
    assert_int_equal(balloon_libvirt.set(peer, 3072 * MIB, &facts, &error), 0);
    assert_int_equal(facts.target_bytes, 3072 * MIB);
    assert_int_equal(balloon_libvirt.refresh(peer, true, &facts, &error), 0);
    assert_int_equal(facts.actual_bytes, 3072 * MIB);
    assert_int_equal(balloon_libvirt.set(peer, 9000 * MIB, &facts, &error), -ERANGE); /* as libvirt says */
    assert_non_null(strstr(error.reason, "libvirt: "));
    assert_int_equal(balloon_libvirt.set(peer, 2048 * MIB, &facts, &error), 0);
    balloon_libvirt.close(peer);
}

static void nobody_there(void **state)
{
    (void)state;
    assert_int_equal(balloon_libvirt.open(&ctl, "test:///default/nobody", &peer, &error), -ENOTCONN);
    assert_non_null(strstr(error.reason, "libvirt: "));
    assert_int_equal(balloon_libvirt.open(&ctl, "nonsense://nowhere/x", &peer, &error), -ENOTCONN);
    assert_true(error.reason[strlen("libvirt: ")]);
}

static void a_set_of_balloons_uses_it(void **state)
{
    struct balloons_spec spec = {.vm = "test", .address = "libvirt:" DOMAIN};
    const struct balloons_options options = {
        .specs = &spec, .nspecs = 1, .proc_root = "/nowhere", .refresh_ms = 50};
    struct balloons_view view;
    struct balloons *balloons;

    (void)state;
    assert_int_equal(balloons_open(&options, &balloons), 0);
    uint64_t end = clock_now_ns() + PATIENCE_S * CLOCK_S;
    do {
        assert_true(clock_now_ns() < end);
        usleep(2000);
        balloons_view(balloons, 0, &view);
    } while (view.state != BALLOONS_READY);
    assert_int_equal(balloons_set(balloons, 0, 4096 * MIB, &error), 0);
    assert_int_equal(balloons_set(balloons, 0, 700 * MIB, &error), -ERANGE); /* the floor of 8 GiB */
    do {
        assert_true(clock_now_ns() < end);
        usleep(2000);
        balloons_view(balloons, 0, &view);
    } while (view.facts.actual_bytes != 4096 * MIB);
    balloons_close(balloons);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sees_and_moves_a_domain),
        cmocka_unit_test(nobody_there),
        cmocka_unit_test(a_set_of_balloons_uses_it),
    };

    if (!dlopen("libvirt.so.0", RTLD_NOW)) {
        puts("skip: needs libvirt0");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
