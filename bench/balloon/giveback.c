/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's balloon is filled by hand, so that little is available in it. Filling makes the guest wait for
 * memory, so that it is the policy's again only when that is over and forgotten (FORGET_S). The budget is
 * such that the policy leaves the balloon where it is: what guests use and need fits, with a tenth of it to
 * spare, and what the balloon has besides does not, so there is no room to give it back (soft begins at 90%
 * and ends at 88%). Then a process in the guest allocates what is available and NEED_MIB more (guest/load.c),
 * and that more is what it waits for. A process that is killed for it has waited for ever: that need counts
 * as KILLED_MS. Guests take turns; a balloon is filled again after its guest's need.
 */
#include "bench/balloon/giveback.h"

#include "bench/balloon/host.h"
#include "bench/common/daemon.h"
#include "bench/common/report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define NEEDS       102u
#define QUICK_NEEDS 6u
#define NEED_MIB    32u
#define LEFT_MIB    208u /* to the guest, before a need */
#define BUDGET_MIB  340u /* beside what is in use at first */
#define SETTLE_S    0.3
#define FORGET_S    3.5 /* memd/daemon/inflate.c has 3 s */
#define KILLED_MS   60000.0
#define TRIES_MAX   5u
#define TOO_MUCH    (-2.0) /* said by a guest that has more than it should */

__attribute__((format(printf, 2, 3))) static void control(const struct host *host, const char *format, ...)
{
    char words[128];
    va_list args;

    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    daemon_control(host->bench, words);
}

static double filled_s[FLEET_GUESTS];

static void fill(const struct host *host, unsigned guest)
{
    control(host, "balloon auto off g%u", guest + 1);
    control(host, "balloon set g%u %uM --wait --timeout 120", guest + 1, LEFT_MIB);
    filled_s[guest] = bench_now_s();
}

/* The balloon is to be full when the need begins: a guest that had to wait for memory while it was filled may
 * have got it back for that. */
static double need(struct host *host, unsigned guest, unsigned number)
{
    unsigned tries = 0;
    const char *answer;
    char *rest;
    double ms;

    do {
        if (tries == TRIES_MAX)
            bench_die("the balloon of g%u does not stay as it was filled", guest + 1);
        if (tries++)
            fill(host, guest);
        bench_sleep_until(filled_s[guest] + FORGET_S);
        control(host, "balloon auto on g%u", guest + 1);
        fleet_wait(SETTLE_S, host_tick, host);
        answer =
            fleet_load(&host->fleet, guest, host_tick, host, "need %u %u", NEED_MIB, LEFT_MIB + NEED_MIB);
        ms = strtod(answer, &rest);
    } while (ms <= TOO_MUCH);
    double there_ms = strtod(rest, &rest);
    ms = ms < 0 ? KILLED_MS : ms;
    report_raw("giveback", ms, "need_%u_ms", number);
    report_raw("giveback", there_ms, "need_%u_there_ms", number);
    report_raw("giveback", strtod(rest, NULL), "need_%u_available_mib", number);
    fill(host, guest);
    return ms;
}

/* As memd counts it, of all: in its status, what is in a domain comes later. */
static uint64_t used_bytes(const struct bench *bench)
{
    uint64_t bytes;

    if (!line_number(daemon_status(bench), "used_bytes", &bytes))
        bench_die("memd does not tell how much is in use");
    return bytes;
}

unsigned giveback_measure(const struct bench *bench)
{
    unsigned needs = bench->quick ? QUICK_NEEDS : NEEDS;
    uint64_t guests = FLEET_GUESTS * bench->guest_bytes;
    double ms[NEEDS];
    struct host host;

    host_start(bench, MEMD, guests, NULL, &host);
    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        fill(&host, i);
    bench_sleep_until(bench_now_s() + FORGET_S); /* what booting and filling left is merged, or counted */
    control(&host, "budget %" PRIu64, used_bytes(bench) + BUDGET_MIB * BENCH_MIB);
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
