/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What memory a process can still have, by the files of /proc and of both versions of cgroups. */
#include "memd/engine/memory.h"
#include "tests/unit/tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define MIB  (1ull << 20)
#define HOST (1000 * MIB)

static uint64_t available(void)
{
    char proc[256], cgroups[256];

    snprintf(proc, sizeof proc, "%.200s/proc", tree_root);
    snprintf(cgroups, sizeof cgroups, "%.200s/cg", tree_root);
    return memory_available(proc, cgroups);
}

static void put(const char *dir, const char *name, uint64_t bytes)
{
    char path[256], text[32];

    snprintf(path, sizeof path, "cg/%s/%s", dir, name);
    snprintf(text, sizeof text, "%llu\n", (unsigned long long)bytes);
    tree_put(path, text);
}

static void group_v1(const char *dir, uint64_t limit, uint64_t usage)
{
    put(dir, "memory.limit_in_bytes", limit);
    put(dir, "memory.usage_in_bytes", usage);
}

static void begin(const char *cgroup)
{
    tree_put("proc/meminfo", "MemTotal:        9999 kB\nMemAvailable:    1024000 kB\nBuffers: 1 kB\n");
    tree_put("proc/self/cgroup", cgroup);
}

static void host_alone(void **state)
{
    (void)state;
    begin("4:memory:/nowhere\n0::/\n");
    assert_int_equal(available(), HOST);
    begin("nonsense\n7\n:\n4:memory\n");
    assert_int_equal(available(), HOST);
}

static void version_1(void **state)
{
    (void)state;
    begin("5:cpuset:/x\n4:cpu,memory,pids:/vms/one\n0::/\n");
    group_v1("memory/vms/one", 300 * MIB, 100 * MIB);
    assert_int_equal(available(), 200 * MIB);
    tree_put("cg/memory/vms/one/memory.stat",
             "inactive_file 99999\ntotal_inactive_file 10485760\ntotal_active_file 20971520\n");
    assert_int_equal(available(), 230 * MIB);
    group_v1("memory/vms", 150 * MIB, 140 * MIB); /* the group it is in leaves less */
    assert_int_equal(available(), 10 * MIB);
    group_v1("memory/vms", 100 * MIB, 140 * MIB);
    assert_int_equal(available(), 0);
    group_v1("memory/vms", 9223372036854771712ull, 140 * MIB); /* none */
    group_v1("memory/vms/one", 3000 * MIB, 100 * MIB);
    assert_int_equal(available(), HOST);
}

static void version_2(void **state)
{
    (void)state;
    begin("0::/two/deep\n");
    tree_put("cg/two/deep/memory.max", "max\n");
    put("two/deep", "memory.current", 50 * MIB);
    assert_int_equal(available(), HOST);
    put("two", "memory.max", 80 * MIB);
    put("two", "memory.current", 60 * MIB);
    tree_put("cg/two/memory.stat", "anon 1\ninactive_file 1048576\nactive_file 2097152\n");
    assert_int_equal(available(), 23 * MIB);
    put("two/deep", "memory.max", 55 * MIB);
    assert_int_equal(available(), 5 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_alone),
        cmocka_unit_test(version_1),
        cmocka_unit_test(version_2),
    };

    return cmocka_run_group_tests(tests, tree_make, tree_remove);
}
