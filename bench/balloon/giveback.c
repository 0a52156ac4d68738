/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Before each need the guest's balloon is filled, so that little is available in the guest; then a process in
 * it allocates what is available and NEED_MIB more (guest/load.c), and that more is what it waits for. A
 * process that is killed for it has waited for ever: that need counts as KILLED_MS. Guests take turns.
 */
#include "bench/balloon/giveback.h"

#include "bench/balloon/host.h"
#include "bench/common/daemon.h"
#include "bench/common/report.h"

#include <stdio.h>
#include <stdlib.h>

#define NEEDS       102u
#define QUICK_NEEDS 6u
#define NEED_MIB    32u
#define LEFT_MIB    208u /* to the guest, before a need */
#define SETTLE_S    0.5
#define KILLED_MS   60000.0

static double need(struct host *host, unsigned guest, unsigned number)
{
    char words[96], *rest;

    snprintf(words, sizeof words, "balloon set g%u %uM --wait --timeout 30", guest + 1, LEFT_MIB);
    daemon_control(host->bench, words);
    fleet_wait(SETTLE_S, host_tick, host);
    const char *answer = fleet_load(&host->fleet, guest, host_tick, host, "need %u", NEED_MIB);
    double ms = strtod(answer, &rest);
    report_raw("giveback", ms < 0 ? KILLED_MS : ms, "need_%u_ms", number);
    return ms < 0 ? KILLED_MS : ms;
}

unsigned giveback_measure(const struct bench *bench)
{
    unsigned needs = bench->quick ? QUICK_NEEDS : NEEDS;
    double ms[NEEDS];
    struct host host;

    host_start(bench, MEMD, FLEET_GUESTS * bench->guest_bytes, NULL, &host);
    if (!host.policy) {
        bench_say("giveback_ms_p99 is not measured: nobody gives back");
        return host_end(&host);
    }
    for (unsigned i = 0; i < needs; i++)
        ms[i] = need(&host, i % FLEET_GUESTS, i);
    double p50 = bench_percentile(ms, needs, 50), p99 = bench_percentile(ms, needs, 99);
    report_raw("giveback", p50, "p50_ms");
    report_value("giveback_ms_p99", 0, p99, p99);
    unsigned killed = host_end(&host);
    bench_say("%u needs of %u MiB: p50 %.0f ms, p99 %.0f ms; %u OOM kills", needs, NEED_MIB, p50, p99,
              killed);
    return killed;
}
