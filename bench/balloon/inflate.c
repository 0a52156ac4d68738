/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's memory is filled, then the pages of a trace (trace.h) are handed to the device (driver.h), in
 * turn to QEMU's and to memd's, each in a VMM that has just been started. CPU is that of the VMM while the
 * device works; of memd's that is the engine's, too, and the daemon runs beside it with its merging off.
 */
#include "bench/balloon/inflate.h"

#include "bench/balloon/own.h"
#include "bench/balloon/qemu.h"
#include "bench/common/daemon.h"
#include "bench/common/report.h"

enum side { QEMU, MEMD, SIDES };

static const char *const side_name[SIDES] = {"QEMU", "memd"};
static double ns_of_page[TRACE_KINDS][SIDES][BENCH_ROUNDS_MAX],
    returned[TRACE_KINDS][SIDES][BENCH_ROUNDS_MAX];

static void take(enum trace_kind kind, enum side side, unsigned round, const struct trace *trace)
{
    struct inflated result = side == QEMU ? qemu_inflate(trace) : own_inflate(trace);

    /* per byte that came back: what the device has only been told of is worth nothing */
    if (!result.returned_bytes)
        bench_die("%s has returned nothing", side_name[side]);
    ns_of_page[kind][side][round] =
        (double)result.cpu_ns / ((double)result.returned_bytes / (double)BENCH_PAGE_BYTES);
    returned[kind][side][round] = (double)result.returned_bytes / (double)result.bytes;
    report_raw(trace_name(kind), ns_of_page[kind][side][round], "%s_%u_ns_of_page", side_name[side], round);
    report_raw(trace_name(kind), returned[kind][side][round], "%s_%u_returned", side_name[side], round);
}

static double report_cost(enum trace_kind kind, const char *key, unsigned rounds)
{
    double qemu = bench_median(ns_of_page[kind][QEMU], rounds),
           memd = bench_median(ns_of_page[kind][MEMD], rounds);

    report_value(key, qemu, memd, qemu / memd);
    return qemu / memd;
}

void inflate_measure(const struct bench *bench)
{
    double least[SIDES] = {1, 1};

    daemon_configure("merge = off\n");
    pid_t daemon = daemon_start(bench);
    for (enum trace_kind kind = 0; kind < TRACE_KINDS; kind++) {
        struct trace trace;
        trace_make(kind, DRIVER_PAGES_GPA / BENCH_PAGE_BYTES, DRIVER_PAGES, &trace);
        for (unsigned round = 0; round < bench->rounds; round++)
            for (enum side side = 0; side < SIDES; side++)
                take(kind, side, round, &trace);
        double ratio = report_cost(kind, kind == TRACE_FRESH ? "inflate_ratio" : "inflate_fragmented_ratio",
                                   bench->rounds);
        for (enum side side = 0; side < SIDES; side++) {
            double middle = bench_median(returned[kind][side], bench->rounds);
            least[side] = middle < least[side] ? middle : least[side];
        }
        bench_say("%s: %zu pages given up; QEMU takes %.2f times the CPU time that memd takes",
                  trace_name(kind), trace.n, ratio);
        trace_free(&trace);
    }
    report_value("returned_ratio", least[QEMU], least[MEMD], least[MEMD]);
    daemon_stop(daemon);
    daemon_configure("");
}
