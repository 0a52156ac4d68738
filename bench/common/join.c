/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see join.h. */
#include "bench/common/join.h"

#include "bench/common/bench.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#define CONNECT_S 10.0

int join_memd(const char *name, const char *run_dir, int cpu, struct memd **ret_memd, const char **ret_what)
{
    struct memd_stats stats = {.size = sizeof stats};
    struct memd_options options = {
        .size = sizeof options, .name = name, .domain = "bench", .run_dir = run_dir};
    double until_s = bench_now_s() + CONNECT_S;
    cpu_set_t set;

    CPU_ZERO(&set);
    if (cpu != JOIN_ANY_CPU) {
        CPU_SET(cpu, &set);
        options.cpu_set = &set;
        options.cpu_set_bytes = sizeof set;
    }
    *ret_what = "opening memd's engine";
    int error = memd_open(&options, ret_memd);
    if (error)
        return error;
    do {
        bench_sleep(0.005);
        *ret_what = "memd's engine";
        error = memd_stats(*ret_memd, &stats);
        if (error)
            return error;
    } while (!stats.connected && bench_now_s() < until_s);
    *ret_what = "memd's engine did not reach the daemon";
    return stats.connected ? 0 : -ETIMEDOUT;
}

int join_enrol(struct memd *memd, void *ram, size_t bytes, const char **ret_what)
{
    struct memd_region_desc desc = {
        .size = sizeof desc, .hva = ram, .bytes = bytes, .node = -1, .name = "ram"};
    uint32_t region;

    *ret_what = memd ? "memd_region_add" : "MADV_MERGEABLE";
    if (!memd)
        return madvise(ram, bytes, MADV_MERGEABLE) ? -errno : 0;
    return memd_region_add(memd, &desc, &region);
}
