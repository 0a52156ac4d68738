/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see slowdown.h. Two fleets of the same guests are alive, one under memd. With memd a
 * job starts when merging does, with nothing merged: it has the merging of all guests beside it, and the
 * faults on what is merged of its own. Then merging is off and everything unmerged, so that the other job
 * runs without memd, and the next pair begins as this one. Which of a pair goes first alternates.
 */
#include "bench/qemu/slowdown.h"

#include "bench/common/daemon.h"
#include "bench/common/ksm.h"
#include "bench/common/report.h"
#include "bench/qemu/guests.h"
#include "bench/qemu/settle.h"

#define PAIRS_OF_ROUND 3u
#define JOB_MIB        64
#define REST_S         2.0

struct job {
    double s;              /* in the guest */
    struct guests_cpu cpu; /* of all guests meanwhile; the others are idle */
};

static struct job run_job(const struct guests *guests)
{
    struct guests_cpu before = guests_cpu(guests);
    double s = guests_order(guests, "job 1 %d", JOB_MIB);
    struct guests_cpu after = guests_cpu(guests);

    return (struct job){
        .s = s,
        .cpu = {.engines_s = after.engines_s - before.engines_s, .rest_s = after.rest_s - before.rest_s}};
}

static struct job run_merging(const struct bench *bench, const struct guests *guests)
{
    daemon_control(bench, "merge on");
    struct job job = run_job(guests);
    daemon_control(bench, "merge off");
    daemon_control(bench, "unmerge all --timeout 120");
    bench_sleep(REST_S);
    return job;
}

void slowdown_measure(const struct bench *bench)
{
    unsigned pairs = bench->quick ? 1 : PAIRS_OF_ROUND * bench->rounds;
    double with_s[PAIRS_OF_ROUND * BENCH_ROUNDS_MAX], without_s[PAIRS_OF_ROUND * BENCH_ROUNDS_MAX],
        ratio[PAIRS_OF_ROUND * BENCH_ROUNDS_MAX];
    struct guests under_memd, bare;

    ksm_reset();
    pid_t memd = daemon_start(bench);
    daemon_control(bench, "merge off");
    guests_start(bench, false, &bare);
    guests_start(bench, true, &under_memd);
    guests_order(&bare, "read %d", SETTLE_READ_PERCENT);
    guests_order(&under_memd, "read %d", SETTLE_READ_PERCENT);
    run_job(&bare); /* code is translated, files are read: not counted */
    run_job(&under_memd);
    for (unsigned i = 0; i < pairs; i++) {
        struct job without = {0}, with;
        if (i % 2 == 0)
            without = run_job(&bare);
        with = run_merging(bench, &under_memd);
        if (i % 2 == 1)
            without = run_job(&bare);
        with_s[i] = with.s;
        without_s[i] = without.s;
        ratio[i] = with.s / without.s;
        report_raw("slowdown", without.s, "bare_s_%u", i);
        report_raw("slowdown", with.s, "memd_s_%u", i);
        report_raw("slowdown", without.cpu.rest_s, "bare_cpu_s_%u", i);
        report_raw("slowdown", with.cpu.rest_s, "memd_cpu_s_%u", i);
        report_raw("slowdown", with.cpu.engines_s, "engines_cpu_s_%u", i);
        bench_say("a job of %.2f s took %.2f s under memd: %.3f", without.s, with.s, ratio[i]);
    }
    guests_order(&under_memd, "verify %d", SETTLE_READ_PERCENT);
    guests_end(&under_memd);
    guests_end(&bare);
    daemon_stop(memd);
    report_value("guest_slowdown", bench_median(without_s, pairs), bench_median(with_s, pairs),
                 bench_median(ratio, pairs));
}
