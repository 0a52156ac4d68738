/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A round: each side's guests boot, are used for a while, rest, and then have a job each, one after the
 * other (guest/load.c); the time of a side is that of the three jobs. Without a bound the QEMUs themselves
 * are weighed: the budget leaves 60% of the guests' memory beside that. Which static division is the best is
 * found in the first round, where all of them run.
 */
#include "bench/balloon/phased.h"

#include "bench/balloon/host.h"
#include "bench/common/daemon.h"
#include "bench/common/report.h"

#include <stdio.h>
#include <stdlib.h>

#define BUDGET_SHARE 0.60
#define JOB_ANON_MIB 112u
#define JOB_READS    24000u
#define QUICK_READS  3000u
#define REST_S       8.0
#define QUICK_REST_S 3.0
#define PAUSE_S      1.0
#define DIVISIONS    2u

/* All the same; and one that has what a job can use, while the others share the rest. */
static const double division[DIVISIONS][FLEET_GUESTS] = {{0.60, 0.60, 0.60}, {0.80, 0.50, 0.50}};

static double total_s[MANAGERS][BENCH_ROUNDS_MAX];
static unsigned kills[MANAGERS];
static uint64_t own_bytes; /* of the QEMUs of the round */

static double run_jobs(struct host *host, const char *group)
{
    struct host_disk disk = host_disk(host->bench);
    double sum_s = 0;

    for (unsigned i = 0; i < FLEET_GUESTS; i++) {
        char *rest;
        const char *answer =
            fleet_load(&host->fleet, i, host_tick, host, "job %u %u %u %u %u", i + 1, disk.old_mib,
                       disk.job_mib, JOB_ANON_MIB, host->bench->quick ? QUICK_READS : JOB_READS);
        double s = strtod(answer, &rest);
        if (s <= 0)
            bench_die("a job says '%s'", answer);
        sum_s += s;
        report_raw(group, s, "job_%u_s", i);
        report_raw(group, strtod(rest, NULL), "job_%u_killed", i);
        fleet_wait(PAUSE_S, host_tick, host);
    }
    return sum_s;
}

static double run_side(const struct bench *bench, enum manager manager, unsigned round, unsigned choice)
{
    struct host host;
    char group[32];
    uint64_t guests = FLEET_GUESTS * bench->guest_bytes,
             budget = (uint64_t)(BUDGET_SHARE * (double)guests) + own_bytes;

    snprintf(group, sizeof group, manager == STATIC ? "%s_%u_%u" : "%s_%u", manager_name[manager], round,
             choice);
    host_start(bench, manager, manager == UNLIMITED ? 0 : budget, division[choice], &host);
    host_warm(&host);
    fleet_wait(bench->quick ? QUICK_REST_S : REST_S, host_tick, &host);
    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        report_raw(group, (double)fleet_balloon(&host.fleet, i), "balloon_%u_before_bytes", i);
    double s = run_jobs(&host, group);
    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        report_raw(group, (double)fleet_balloon(&host.fleet, i), "balloon_%u_after_bytes", i);
    if (manager == UNLIMITED)
        own_bytes = fleet_own_bytes(&host.fleet);
    if (manager == MEMD)
        report_status(daemon_status(bench));
    unsigned killed = host_end(&host);
    kills[manager] += killed;
    report_raw(group, (double)host.budget, "budget_bytes");
    report_raw(group, (double)host.held_max, "held_max_bytes");
    report_raw(group, (double)host.swapped_max, "swapped_max_bytes");
    report_raw(group, killed, "oom_kills");
    bench_say("%s: jobs of %.2f s; at most %.0f MiB held, %.0f MiB swapped by the host; %u OOM kills", group,
              s, (double)host.held_max / BENCH_MIB, (double)host.swapped_max / BENCH_MIB, killed);
    return s;
}

/* The best division, once it is known. */
static double run_static(const struct bench *bench, unsigned round)
{
    static unsigned best;
    double least_s = 0;

    for (unsigned choice = 0; choice < DIVISIONS; choice++) {
        if (round ? choice != best : bench->quick && choice)
            continue;
        double s = run_side(bench, STATIC, round, choice);
        if (!least_s || s < least_s) {
            least_s = s;
            best = choice;
        }
    }
    return least_s;
}

static void report_against(const char *key, enum manager manager, unsigned rounds, bool over_memd)
{
    double other = bench_median(total_s[manager], rounds), memd = bench_median(total_s[MEMD], rounds);

    report_value(key, other, memd, over_memd ? other / memd : memd / other);
}

unsigned phased_measure(const struct bench *bench, unsigned *ret_other)
{
    unsigned rounds = (bench->rounds + 1) / 2; /* they take long */

    for (unsigned round = 0; round < rounds; round++) {
        total_s[UNLIMITED][round] = run_side(bench, UNLIMITED, round, 0);
        total_s[MEMD][round] = run_side(bench, MEMD, round, 0);
        total_s[MOM][round] = run_side(bench, MOM, round, 0);
        total_s[STATIC][round] = run_static(bench, round);
    }
    report_against("phased_slowdown", UNLIMITED, rounds, false);
    report_against("vs_mom", MOM, rounds, true);
    report_against("vs_static", STATIC, rounds, true);
    *ret_other = kills[MOM] + kills[STATIC] + kills[UNLIMITED];
    return kills[MEMD];
}
