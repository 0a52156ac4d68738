/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see rewrite.h. A guest goes out to its swap file and comes back, both by memctl. What
 * is written is the kernel's count for the process (write_bytes of /proc/PID/io), which writes to nothing
 * else.
 */
#include "bench/pager/rewrite.h"

#include "bench/common/daemon.h"
#include "bench/common/join.h"
#include "bench/common/report.h"
#include "bench/pager/content.h"
#include "bench/pager/vm.h"

#include <inttypes.h>
#include <stdio.h>

#define NPAGES 16384u
#define ROUNDS 10u
#define MOST   0.99

static double written_bytes(pid_t pid)
{
    char path[64], line[128];
    uint64_t bytes;
    double sum = -1;

    snprintf(path, sizeof path, "/proc/%d/io", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "write_bytes: %" SCNu64, &bytes) == 1)
            sum = (double)bytes;
    if (f)
        fclose(f);
    if (sum < 0)
        bench_die("%s tells nothing: the kernel counts no I/O (CONFIG_TASK_IO_ACCOUNTING)", path);
    return sum;
}

static double out_and_in(const struct bench *bench, const struct vm *vm)
{
    double before = written_bytes(vm->child.pid);

    vm_control(bench, vm, "pageout", "");
    double swapped = vm_stat(vm, STAT_SWAPPED);
    if (swapped < MOST * (double)vm->npages)
        bench_die("only %.0f of %zu pages went to the swap file", swapped, vm->npages);
    vm_control(bench, vm, "pagein", "");
    vm_check(vm);
    return written_bytes(vm->child.pid) - before;
}

void rewrite_measure(const struct bench *bench)
{
    const char *image = vm_image_path("rewrite");
    double first = 0, all = 0;
    struct vm vm;

    content_packable(image, NPAGES);
    daemon_configure("");
    pid_t daemon = daemon_start(bench);
    vm_start(&vm, 0, image, NPAGES);
    vm_enrol(&vm, JOIN_ANY_CPU);
    for (unsigned round = 0; round < ROUNDS; round++) {
        double bytes = out_and_in(bench, &vm);
        report_raw("rewrite", bytes, "written_bytes_%u", round);
        first = round ? first : bytes;
        all += bytes;
    }
    double counted = vm_stat(&vm, STAT_SWAP_WRITTEN_BYTES);
    vm_end(&vm);
    daemon_stop(daemon);
    if (first <= 0)
        bench_die("nothing was written");
    report_raw("rewrite", counted, "counted_bytes");
    bench_say("swap file: %.1f MiB written in the first round, %.1f MiB in all %u", first / BENCH_MIB,
              all / BENCH_MIB, ROUNDS);
    report_value("silent_write_ratio", first / BENCH_MIB, all / BENCH_MIB, all / first);
}
