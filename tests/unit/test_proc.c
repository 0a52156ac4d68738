/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is read of /proc: from files of the test's own, and of this process. */
#include "memd/daemon/proc.h"
#include "tests/unit/tree.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define REST "1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 3 0 987654 1000 20 18446744073709551615\n"

static void start_times(void **state)
{
    uint64_t start = 0;
    (void)state;

    tree_put("10/stat", "10 (vmm) S " REST);
    assert_int_equal(proc_start_time(tree_root, 10, &start), 0);
    assert_int_equal(start, 987654);
    tree_put("11/stat", "11 (a ) R (b) 5 6) D " REST); /* a name can hold anything */
    start = 0;
    assert_int_equal(proc_start_time(tree_root, 11, &start), 0);
    assert_int_equal(start, 987654);
    tree_put("12/stat", "12 (zombie) Z " REST);
    assert_int_equal(proc_start_time(tree_root, 12, &start), -ESRCH);
    tree_put("13/stat", "13 (cut) S 1 2 3");
    assert_int_equal(proc_start_time(tree_root, 13, &start), -EPROTO);
    tree_put("14/stat", "");
    assert_int_equal(proc_start_time(tree_root, 14, &start), -EPROTO);
    assert_int_equal(proc_start_time(tree_root, 15, &start), -ESRCH);
}

static void cpu_times(void **state)
{
    uint64_t ns = 0, more = 0, tick_ns = 1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK);
    (void)state;

    tree_put("20/stat", "20 (vmm) S " REST);
    assert_int_equal(proc_read_cpu(tree_root, 20, &ns), 0);
    assert_int_equal(ns, 3 * tick_ns);
    assert_int_equal(proc_read_cpu(tree_root, 21, &ns), -ESRCH);
    tree_put("22/stat", "22 (zombie) Z " REST);
    assert_int_equal(proc_read_cpu(tree_root, 22, &ns), -ESRCH);
    assert_int_equal(proc_read_cpu("/proc", getpid(), &ns), 0);
    do {
        assert_int_equal(proc_read_cpu("/proc", getpid(), &more), 0);
    } while (more < ns + 2 * tick_ns);
}

static void memory(void **state)
{
    struct proc_memory m;
    (void)state;

    tree_put("meminfo", "MemTotal:       2048 kB\nMemFree:  1 kB\nMemAvailable:   1024 kB\n");
    assert_int_equal(proc_read_memory(tree_root, &m), 0);
    assert_int_equal(m.total_bytes, 2 << 20);
    assert_int_equal(m.available_bytes, 1 << 20);
    tree_put("meminfo", "MemTotal:       2048 kB\n");
    assert_int_equal(proc_read_memory(tree_root, &m), -EPROTO);
    assert_int_equal(proc_read_memory("/nowhere", &m), -ENOENT);
}

static void anonymous_memory(void **state)
{
    uint64_t bytes = 0, page = (uint64_t)sysconf(_SC_PAGESIZE), more;
    (void)state;

    tree_put("20/statm", "9000 700 200 5 0 300 0\n");
    assert_int_equal(proc_read_anon(tree_root, 20, &bytes), 0);
    assert_int_equal(bytes, 500 * page);
    tree_put("20/statm", "9000 100 200 5 0 300 0\n");
    assert_int_equal(proc_read_anon(tree_root, 20, &bytes), -EPROTO);
    tree_put("20/statm", "9000 700\n");
    assert_int_equal(proc_read_anon(tree_root, 20, &bytes), -EPROTO);
    assert_int_equal(proc_read_anon(tree_root, 21, &bytes), -ENOENT);

    /* of this process: what it has is counted */
    assert_int_equal(proc_read_anon("/proc", getpid(), &bytes), 0);
    /* filled by the kernel: what a sanitizer keeps of accesses is not counted */
    char *memory =
        mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    assert_int_equal(proc_read_anon("/proc", getpid(), &more), 0);
    assert_true(more - bytes > 60 << 20 && more - bytes < 68 << 20);
    munmap(memory, 64 << 20);
}

static void stalls(void **state)
{
    struct proc_stall stall = {0};
    (void)state;

    assert_int_equal(proc_read_stall(tree_root, &stall), -ENOENT);
    tree_put("pressure/memory", "some avg10=1.25 avg60=2.00 avg300=3.00 total=4\n"
                                "full avg10=0.50 avg60=0.00 avg300=0.00 total=1\n");
    assert_int_equal(proc_read_stall(tree_root, &stall), 0);
    assert_true(stall.some > 1.24 && stall.some < 1.26 && stall.full > 0.49 && stall.full < 0.51);
    tree_put("pressure/memory", "some avg10=2.00 avg60=2.00 avg300=3.00 total=4\n");
    assert_int_equal(proc_read_stall(tree_root, &stall), 0);
    assert_true(stall.some > 1.99 && stall.full < 0.01);
    tree_put("pressure/memory", "none\n");
    assert_int_equal(proc_read_stall(tree_root, &stall), -EPROTO);
}

static void map_count(void **state)
{
    (void)state;
    assert_int_equal(proc_max_map_count(tree_root, 7), 7);
    tree_put("sys/vm/max_map_count", "1048576\n");
    assert_int_equal(proc_max_map_count(tree_root, 7), 1048576);
    tree_put("sys/vm/max_map_count", "many\n");
    assert_int_equal(proc_max_map_count(tree_root, 7), 7);
}

static void a_pidfd_names_one_process(void **state)
{
    uint64_t start;
    (void)state;

    pid_t child = fork();
    if (!child) {
        pause();
        _exit(0);
    }
    assert_int_equal(proc_start_time("/proc", child, &start), 0);
    int fd = proc_open_pidfd("/proc", child, start);
    assert_true(fd >= 0);
    assert_false(proc_has_ended(fd));
    assert_int_equal(proc_open_pidfd("/proc", child, start + 1), -ESRCH); /* the pid's earlier owner */
    kill(child, SIGKILL);
    waitid(P_PID, (id_t)child, NULL, WEXITED | WNOWAIT);
    assert_true(proc_has_ended(fd));
    assert_int_equal(proc_open_pidfd("/proc", child, start), -ESRCH); /* not reaped yet, but gone */
    waitpid(child, NULL, 0);
    assert_int_equal(proc_open_pidfd("/proc", child, start), -ESRCH);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_times),
        cmocka_unit_test(cpu_times),
        cmocka_unit_test(memory),
        cmocka_unit_test(anonymous_memory),
        cmocka_unit_test(stalls),
        cmocka_unit_test(map_count),
        cmocka_unit_test(a_pidfd_names_one_process),
    };
    return cmocka_run_group_tests(tests, tree_make, tree_remove);
}
