/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each backend against a VMM that keeps to its API, and against VMMs that do not: see vmm.h. */
#include "balloon-driver/backends/backend.h"
#include "memd/common/clock.h"
#include "tests/backends/vmm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH       "vmm"
#define PATIENCE_S 20 /* more than any call may take here, on a loaded machine */

static const struct balloon_backend *const backends[VMM_KINDS] = {&balloon_qmp, &balloon_firecracker,
                                                                  &balloon_cloud_hypervisor};
static struct vmm vmm;
static struct balloon_ctl ctl;
static struct balloon_facts facts;
static struct balloon_error error;
static void *peer;

static int setup(void **state)
{
    (void)state;
    mkdir("proc", 0755);
    mkdir("proc/net", 0755);
    unlink("proc/net/unix");
    ctl = (struct balloon_ctl){.stop_fd = eventfd(0, EFD_CLOEXEC),
                               .wake_fd = eventfd(0, EFD_CLOEXEC),
                               .proc_root = "proc",
                               .call_ms = 20000,
                               .stats_every_s = 2};
    vmm.listen_fd = -1;
    peer = NULL;
    facts = (struct balloon_facts){0};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vmm_stop(&vmm);
    close(ctl.stop_fd);
    close(ctl.wake_fd);
    return 0;
}

static void refresh(const struct balloon_backend *b, bool quick)
{
    if (b->refresh(peer, quick, &facts, &error))
        fail_msg("%s: %s", b->scheme, error.reason);
}

static void begin(enum vmm_kind kind)
{
    vmm_start(&vmm, kind, PATH);
    if (backends[kind]->open(&ctl, PATH, &peer, &error))
        fail_msg("%s: %s", backends[kind]->scheme, error.reason);
    facts = (struct balloon_facts){0};
}

static void end(enum vmm_kind kind)
{
    backends[kind]->close(peer);
    vmm_stop(&vmm);
}

/* ---------------------------------------------------------------- who keeps to the API */

static void declares_what_it_can(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        assert_int_equal(backends[k]->version, BALLOON_BACKEND_VERSION);
        assert_int_equal(backends[k]->size, sizeof(struct balloon_backend));
        assert_string_equal(backends[k]->scheme, vmm_scheme((enum vmm_kind)k));
        assert_true(backends[k]->can & BALLOON_CAN_TARGET);
        assert_int_equal(!backends[k]->wait, !(backends[k]->can & BALLOON_CAN_EVENTS));
    }
}

static void sees_and_moves_a_balloon(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        const struct balloon_backend *b = backends[k];
        begin((enum vmm_kind)k);
        refresh(b, false);
        assert_int_equal(facts.ram_bytes, 1024 * MIB);
        assert_int_equal(facts.actual_bytes, 1024 * MIB);
        assert_false(facts.can & ~b->can);
        assert_true(facts.can & BALLOON_CAN_ACTUAL);
        assert_false(facts.can & (BALLOON_CAN_REPORTING | BALLOON_CAN_DEFLATE_ON_OOM));

        vmm_lock(&vmm);
        vmm.step = 100 * MIB;
        vmm_unlock(&vmm);
        assert_int_equal(b->set(peer, 600 * MIB, &facts, &error), 0);
        assert_int_equal(facts.target_bytes, 600 * MIB);
        refresh(b, true);
        assert_int_equal(facts.actual_bytes, 924 * MIB);
        for (int i = 0; i < 5; i++)
            refresh(b, i % 2);
        assert_int_equal(facts.actual_bytes, 600 * MIB);
        assert_int_equal(facts.target_bytes, 600 * MIB);
        assert_int_equal(b->set(peer, 1024 * MIB, &facts, &error), 0);
        for (int i = 0; i < 6; i++)
            refresh(b, false);
        assert_int_equal(facts.actual_bytes, 1024 * MIB);
        end((enum vmm_kind)k);
    }
}

static void sees_how_the_device_is_set_up(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        begin((enum vmm_kind)k);
        vmm_lock(&vmm);
        vmm.deflate_on_oom = vmm.reporting = true;
        vmm_unlock(&vmm);
        refresh(backends[k], false);
        assert_true(facts.can & BALLOON_CAN_REPORTING);
        assert_true(facts.can & BALLOON_CAN_DEFLATE_ON_OOM);
        end((enum vmm_kind)k);
    }
}

static void a_device_may_be_missing_and_come(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        begin((enum vmm_kind)k);
        vmm_lock(&vmm);
        vmm.device = false;
        vmm_unlock(&vmm);
        assert_int_equal(backends[k]->refresh(peer, false, &facts, &error), -ENODEV);
        assert_non_null(strstr(error.reason, "balloon device"));
        vmm_lock(&vmm);
        vmm.device = true;
        vmm_unlock(&vmm);
        refresh(backends[k], false);
        vmm_lock(&vmm);
        vmm.device = false; /* unplugged */
        vmm_unlock(&vmm);
        assert_int_equal(backends[k]->refresh(peer, false, &facts, &error), -ENODEV);
        end((enum vmm_kind)k);
    }
}

static void a_refusal_is_passed_on_and_made_printable(void **state)
{
    (void)state;
    for (int k = VMM_FIRECRACKER; k < VMM_KINDS; k++) {
        begin((enum vmm_kind)k);
        refresh(backends[k], false);
        vmm_lock(&vmm);
        vmm.refuse_above = 100 * MIB;
        vmm_unlock(&vmm);
        assert_int_equal(backends[k]->set(peer, 500 * MIB, &facts, &error), -ERANGE);
        assert_non_null(strstr(error.reason, "refuses"));
        assert_null(strchr(error.reason, 7));
        refresh(backends[k], false);
        assert_int_equal(facts.actual_bytes, 1024 * MIB);
        end((enum vmm_kind)k);
    }
    begin(VMM_QMP);
    assert_int_equal(balloon_qmp.set(peer, 0, &facts, &error), -ENOTSUP);
    assert_string_equal(error.reason, "QEMU refuses: no?[31m");
    end(VMM_QMP);
}

/* ---------------------------------------------------------------- of one VMM */

static void qmp_statistics_are_switched_on_and_come(void **state)
{
    (void)state;
    begin(VMM_QMP);
    vmm_lock(&vmm);
    vmm.driver = false;
    vmm_unlock(&vmm);
    refresh(&balloon_qmp, false);
    vmm_lock(&vmm);
    assert_int_equal(vmm.stats_interval, 2);
    vmm_unlock(&vmm);
    assert_true(facts.no_driver && facts.can & BALLOON_CAN_STATS);
    assert_int_equal(facts.stats_serial, 0);
    assert_true(facts.stats[MEMD_BALLOON_FREE_BYTES] == MEMD_BALLOON_NO_STAT);
    vmm_lock(&vmm);
    vmm.driver = true;
    vmm_unlock(&vmm);
    refresh(&balloon_qmp, false);
    uint64_t serial = facts.stats_serial;
    assert_true(serial > 0 && !facts.no_driver);
    assert_int_equal(facts.stats[MEMD_BALLOON_FREE_BYTES], 512 * MIB);
    assert_int_equal(facts.stats[MEMD_BALLOON_TOTAL_BYTES], 1024 * MIB);
    assert_true(facts.stats[MEMD_BALLOON_SWAP_IN_BYTES] == MEMD_BALLOON_NO_STAT); /* 2^64-1 */
    refresh(&balloon_qmp, true);
    assert_int_equal(facts.stats_serial, serial); /* quick: not asked for */
    refresh(&balloon_qmp, false);
    assert_true(facts.stats_serial != serial);
    end(VMM_QMP);

    /* an interval somebody has set is left alone */
    vmm_start(&vmm, VMM_QMP, PATH);
    vmm_lock(&vmm);
    vmm.stats_interval = 30;
    vmm_unlock(&vmm);
    assert_int_equal(balloon_qmp.open(&ctl, PATH, &peer, &error), 0);
    refresh(&balloon_qmp, false);
    vmm_lock(&vmm);
    assert_int_equal(vmm.stats_interval, 30);
    vmm_unlock(&vmm);
    end(VMM_QMP);
}

static void qmp_of_an_old_qemu_does_not_know_the_driver(void **state)
{
    (void)state;
    begin(VMM_QMP);
    vmm_lock(&vmm);
    vmm.old = true;
    vmm.driver = vmm.stats = false;
    vmm_unlock(&vmm);
    refresh(&balloon_qmp, false);
    assert_false(facts.no_driver);
    assert_false(facts.can & (BALLOON_CAN_DRIVER | BALLOON_CAN_STATS));
    end(VMM_QMP);
}

static void qmp_stays_away_from_a_monitor_that_is_taken(void **state)
{
    (void)state;
    vmm_start(&vmm, VMM_QMP, PATH);
    FILE *file = fopen("proc/net/unix", "w");
    fputs("Num       RefCount Protocol Flags    Type St Inode Path\n"
          "0000000016d4422e: 00000002 00000000 00010000 0001 01 67169 " PATH "\n"
          "0000000016d4422f: 00000003 00000000 00000000 0001 03 67170 /other/" PATH "\n"
          "0000000016d44230: 00000003 00000000 00000000 0001 03 67171\n",
          file);
    fclose(file);
    assert_int_equal(balloon_qmp.open(&ctl, PATH, &peer, &error), 0); /* listening only */
    balloon_qmp.close(peer);
    while (vmm_connections(&vmm) != 1)
        usleep(1000);
    file = fopen("proc/net/unix", "a");
    fputs("0000000016d44231: 00000003 00000000 00000000 0001 03 67172 " PATH "\n", file);
    fclose(file);
    assert_int_equal(balloon_qmp.open(&ctl, PATH, &peer, &error), -EBUSY);
    assert_non_null(strstr(error.reason, "another client"));
    assert_int_equal(vmm_connections(&vmm), 1); /* it did not even queue */

    /* one that it cannot see that way does not greet */
    unlink("proc/net/unix");
    void *first, *second;
    assert_int_equal(balloon_qmp.open(&ctl, PATH, &first, &error), 0);
    ctl.call_ms = 300;
    assert_int_equal(balloon_qmp.open(&ctl, PATH, &second, &error), -EBUSY);
    assert_non_null(strstr(error.reason, "no greeting"));
    balloon_qmp.close(first);
}

static void firecracker_without_statistics_does_not_know_the_actual_size(void **state)
{
    (void)state;
    begin(VMM_FIRECRACKER);
    vmm_lock(&vmm);
    vmm.stats = false;
    vmm_unlock(&vmm);
    refresh(&balloon_firecracker, false);
    assert_int_equal(facts.can & (BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS), 0);
    assert_int_equal(facts.actual_bytes, 0);
    assert_int_equal(facts.target_bytes, 1024 * MIB);
    end(VMM_FIRECRACKER);

    begin(VMM_FIRECRACKER);
    refresh(&balloon_firecracker, false);
    assert_int_equal(facts.stats[MEMD_BALLOON_FREE_BYTES], 512 * MIB);
    assert_true(facts.stats[MEMD_BALLOON_SWAP_IN_BYTES] == MEMD_BALLOON_NO_STAT);
    assert_int_equal(balloon_firecracker.set(peer, 600 * MIB + 5, &facts, &error), 0);
    assert_int_equal(facts.target_bytes, 601 * MIB); /* whole MiB of balloon */
    end(VMM_FIRECRACKER);
}

/* ---------------------------------------------------------------- who does not */

/* Everything a keeper does, until something fails. */
static int live(const struct balloon_backend *b)
{
    int result = b->open(&ctl, PATH, &peer, &error);

    if (result)
        return result;
    for (int i = 0; i < 3 && !result; i++) {
        result = b->refresh(peer, i == 1, &facts, &error);
        assert_true(facts.stats_serial || facts.stats[0] == MEMD_BALLOON_NO_STAT || !facts.stats[0]);
        if (!result && facts.ram_bytes)
            result = b->set(peer, facts.ram_bytes / 2 + 1, &facts, &error);
        if (!result && b->wait)
            result = b->wait(peer, 10, &facts, &error);
    }
    b->close(peer);
    return result;
}

static bool is_allowed(int result)
{
    static const int allowed[] = {ENODEV, ENOTCONN, EBUSY, ETIMEDOUT, EPROTO, ENOTSUP, ERANGE};

    for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++)
        if (result == -allowed[i])
            return true;
    return false;
}

/* Each misdeed from each answer on. Whatever it is, it ends in time, as an error of the list, with a reason
 * of one line; but for lies that cannot be told from the truth. */
static void hostile(enum vmm_kind kind)
{
    for (int misdeed = VMM_SILENT; misdeed < VMM_MISDEEDS; misdeed++)
        for (unsigned from = 0; from < 9; from++) {
            vmm_start(&vmm, kind, PATH);
            vmm_lock(&vmm);
            vmm.misdeed = (enum vmm_misdeed)misdeed;
            vmm.misdeed_from = from;
            vmm_unlock(&vmm);
            facts = (struct balloon_facts){0};
            memset(&error, 0, sizeof error);
            ctl.call_ms = 120;
            uint64_t begun = clock_now_ns();
            int result = live(backends[kind]);
            uint64_t took_s = (clock_now_ns() - begun) / CLOCK_S;
            bool may_pass = misdeed == VMM_ABSURD || misdeed == VMM_EMPTY || misdeed == VMM_WRONG_TYPES ||
                            misdeed == VMM_NEGATIVE || misdeed == VMM_FLOODS || from > 5;
            if (result ? !is_allowed(result) || result != -error.error || !error.reason[0] : !may_pass)
                fail_msg("%s, misdeed %d from %u on: %d, %s", vmm_scheme(kind), misdeed, from, result,
                         error.reason);
            for (const char *c = error.reason; *c; c++)
                assert_in_range(*c, 0x20, 0x7e);
            assert_true(took_s < PATIENCE_S);
            vmm_stop(&vmm);
        }
}

static void qmp_survives_everything(void **state)
{
    (void)state;
    hostile(VMM_QMP);
}

static void firecracker_survives_everything(void **state)
{
    (void)state;
    hostile(VMM_FIRECRACKER);
}

static void cloud_hypervisor_survives_everything(void **state)
{
    (void)state;
    hostile(VMM_CLOUD_HYPERVISOR);
}

/* What it is told to do has no deadline here but the end of memd. */
static void the_end_of_memd_ends_every_call(void **state)
{
    uint64_t one = 1;

    (void)state;
    ctl.call_ms = 3600 * 1000;
    assert_int_equal(write(ctl.stop_fd, &one, sizeof one), sizeof one);
    for (int k = 0; k < VMM_KINDS; k++) {
        vmm_start(&vmm, (enum vmm_kind)k, PATH);
        vmm_lock(&vmm);
        vmm.misdeed = VMM_SILENT;
        vmm_unlock(&vmm);
        int result = backends[k]->open(&ctl, PATH, &peer, &error);
        if (!result) {
            result = backends[k]->refresh(peer, false, &facts, &error);
            backends[k]->close(peer);
        }
        assert_int_equal(result, -ESHUTDOWN);
        vmm_stop(&vmm);
    }
}

static void nobody_there(void **state)
{
    (void)state;
    for (int k = 0; k < VMM_KINDS; k++) {
        int result = backends[k]->open(&ctl, "nothing-here", &peer, &error);
        if (!result) {
            result = backends[k]->refresh(peer, false, &facts, &error);
            backends[k]->close(peer);
        }
        assert_int_equal(result, -ENOTCONN);
        assert_non_null(strstr(error.reason, "nobody listens at nothing-here"));
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(declares_what_it_can),
        TEST(sees_and_moves_a_balloon),
        TEST(sees_how_the_device_is_set_up),
        TEST(a_device_may_be_missing_and_come),
        TEST(a_refusal_is_passed_on_and_made_printable),
        TEST(qmp_statistics_are_switched_on_and_come),
        TEST(qmp_of_an_old_qemu_does_not_know_the_driver),
        TEST(qmp_stays_away_from_a_monitor_that_is_taken),
        TEST(firecracker_without_statistics_does_not_know_the_actual_size),
        TEST(qmp_survives_everything),
        TEST(firecracker_survives_everything),
        TEST(cloud_hypervisor_survives_everything),
        TEST(the_end_of_memd_ends_every_call),
        TEST(nobody_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
