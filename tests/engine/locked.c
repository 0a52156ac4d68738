/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VMM that locks its memory (mlockall) while an engine is open, before or after pages were merged: the call
 * returns, nothing is filled that was meant to stay empty, no byte is lost, and all comes home.
 */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES    1024u
#define LIMIT_S   30u
#define STORE_MAX (64ull << 20)

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static void merge_half(struct rig *rig)
{
    EQUALS(rig_merge(rig, 0, 200), 200);
    EQUALS(rig_merge(rig, 300, 100), 100);
    guest_fill(rig_page(rig, 20), unique(20));
    OK(memd_discard(rig->memd, rig->region, 350 * PAGE, PAGE));
    guest_fill(rig_page(rig, 350), unique(350));
}

/* Merged, then locked, then everything has to come home. */
static int lock_after(void *arg)
{
    int how = *(int *)arg;
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};

    alarm(LIMIT_S);
    budget.scan_pages_per_s = 0;
    struct rig rig = rig_open(&options, NPAGES, unique);
    merge_half(&rig);
    CHECK(!syscall(SYS_mlockall, how), "mlockall: %s", strerror(errno));
    rig_check(&rig, unique);
    rig_propose(&rig, 600, script_frames(rig.script, rig_page(&rig, 600), 50), 50); /* as it likes */
    rig_check(&rig, unique);
    EQUALS(script_unmerge(rig.vm), 0);
    rig_check(&rig, unique);
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).file_vmas, 0);
    rig_close(&rig);
    return 0;
}

static void run(int (*fn)(void *), int how)
{
    if (kit_sanitized()) {
        print_message("skipped: a sanitizer's shadow is not to be locked\n");
        skip();
    }
    kit_reap(kit_fork(fn, &how));
}

static void current_after_merging(void **state)
{
    (void)state;
    run(lock_after, MCL_CURRENT);
}

static void future_after_merging(void **state)
{
    (void)state;
    run(lock_after, MCL_FUTURE);
}

static void all_after_merging(void **state)
{
    (void)state;
    run(lock_after, MCL_CURRENT | MCL_FUTURE);
}

/* Locked from the start: the store, which is as large as the host allows, must stay as empty as it is. */
static int lock_before(void *arg)
{
    const int *pipes = arg;
    char run_dir[128] = "", c;

    alarm(LIMIT_S);
    CHECK(!syscall(SYS_mlockall, MCL_FUTURE), "mlockall: %s", strerror(errno));
    CHECK(read(pipes[0], run_dir, sizeof run_dir - 1) > 0, "no run directory");
    struct memd *m = kit_engine("vm", run_dir);
    kit_wait_connected(m);
    CHECK(write(pipes[3], "", 1) == 1 && read(pipes[0], &c, 1) == 1, "pipe");
    OK(memd_close(m, KIT_CLOSE_MS));
    return 0;
}

static void future_before_opening(void **state)
{
    struct script_options options = {.store_blocks = 256};
    struct stat st;
    int pipes[4];
    char c;

    (void)state;
    CHECK(!pipe(pipes) && !pipe(pipes + 2), "pipe");
    pid_t pid = kit_fork(lock_before, pipes);
    struct script *s = script_open(&options);
    CHECK(write(pipes[1], s->run_dir, strlen(s->run_dir)) > 0 && read(pipes[2], &c, 1) == 1, "pipe");
    CHECK(!fstat(s->store_fd, &st), "fstat: %s", strerror(errno));
    CHECK((uint64_t)st.st_blocks * 512 < STORE_MAX, "%llu MiB of the store were filled",
          (unsigned long long)st.st_blocks >> 11);
    CHECK(write(pipes[1], "", 1) == 1, "pipe");
    kit_reap(pid);
    script_close(s);
    for (unsigned i = 0; i < 4; i++)
        close(pipes[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(current_after_merging),
        cmocka_unit_test(future_after_merging),
        cmocka_unit_test(all_after_merging),
        cmocka_unit_test(future_before_opening),
    };

    kit_begin();
    return cmocka_run_group_tests_name("locked", tests, NULL, NULL);
}
