/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see idle.h. memd as shipped, merging on; the guest's own thread sleeps, so all CPU of
 * its process is the engine's.
 */
#include "bench/pager/idle.h"

#include "bench/common/daemon.h"
#include "bench/common/join.h"
#include "bench/common/kernel.h"
#include "bench/common/report.h"
#include "bench/pager/content.h"
#include "bench/pager/vm.h"

#include <stdio.h>

#define NPAGES 65536u
#define REST_S 3.0
#define IDLE_S 24.0
#define MOST   0.9 /* of the half must be out */

void idle_measure(const struct bench *bench)
{
    const char *image = vm_image_path("idle");
    char bytes[32];
    struct vm vm;

    content_packable(image, NPAGES);
    daemon_configure("");
    pid_t daemon = daemon_start(bench);
    vm_start(&vm, 0, image, NPAGES);
    vm_enrol(&vm, JOIN_ANY_CPU);
    daemon_control(bench, "settle --timeout 60");
    snprintf(bytes, sizeof bytes, "--bytes %luM", NPAGES / 2 * BENCH_PAGE_BYTES / BENCH_MIB);
    vm_control(bench, &vm, "pageout", bytes);
    bench_sleep(REST_S);
    double out = vm_stat(&vm, STAT_PACKED), faults = vm_stat(&vm, STAT_FAULTS);
    double engine_ns = (double)kernel_cpu_ns(vm.child.pid), daemon_ns = (double)kernel_cpu_ns(daemon);
    bench_sleep(IDLE_S);
    engine_ns = (double)kernel_cpu_ns(vm.child.pid) - engine_ns;
    daemon_ns = (double)kernel_cpu_ns(daemon) - daemon_ns;
    faults = vm_stat(&vm, STAT_FAULTS) - faults;
    vm_check(&vm);
    vm_end(&vm);
    daemon_stop(daemon);
    if (out < MOST * NPAGES / 2)
        bench_die("only %.0f pages of the half that should go went out", out);
    if (faults > 0)
        bench_die("there were %.0f faults while nobody touched anything", faults);
    report_raw("idle", out, "packed_pages");
    report_raw("idle", engine_ns / IDLE_S * 1e-9, "engine_cpus");
    report_raw("idle", daemon_ns / IDLE_S * 1e-9, "daemon_cpus");
    bench_say("idle: %.0f pages out, engine %.5f CPUs, daemon %.5f CPUs", out, engine_ns / IDLE_S * 1e-9,
              daemon_ns / IDLE_S * 1e-9);
    report_value("idle_cpu", 0, (engine_ns + daemon_ns) / IDLE_S * 1e-9,
                 (engine_ns + daemon_ns) / IDLE_S * 1e-9);
}
