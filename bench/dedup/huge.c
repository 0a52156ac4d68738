/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see huge.h. Half as many guests on each side, because both live at the same time: one
 * after the other they settle, then their guests do the job in turns, so that what else happens on the
 * machine hits both. KSM is stopped for that; memd is paused while a guest of KSM is at work, and works on
 * while its own are.
 */
#include "bench/dedup/huge.h"

#include "bench/common/report.h"
#include "bench/dedup/side.h"

#define TURNS          7u
#define ACCESSES       20000000ull
#define ACCESSES_QUICK 4000000ull

struct turn {
    const char *name;
    unsigned writes_percent;
};

static void settle(const struct bench *bench, enum bench_side kind, struct side *side, double *ret_kept_bytes)
{
    struct side_content content = {.guests = bench->guests / 2,
                                   .guest_bytes = bench->guest_bytes,
                                   .machine_bytes = bench->guest_bytes,
                                   .kind = CONTENT_HUGE};
    const char *name = bench_side_name(kind);

    side_begin(bench, kind, &content, side);
    double before = (double)side_rollup(side).anon_huge;
    if (before == 0)
        bench_die("the guests got no huge pages; see /sys/kernel/mm/transparent_hugepage/enabled");
    struct side_curve curve = side_watch(side);
    *ret_kept_bytes = (double)side_rollup(side).anon_huge;
    report_raw("huge", before, "%s_huge_before_bytes", name);
    report_raw("huge", *ret_kept_bytes, "%s_huge_kept_bytes", name);
    report_raw("huge", (double)curve.saved, "%s_saved_bytes", name);
    report_raw("huge", curve.s, "%s_settled_s", name);
    bench_say("huge pages, %s: %.0f of %.0f MiB are still mapped; %.0f MiB saved in %.2f s", name,
              *ret_kept_bytes / BENCH_MIB, before / BENCH_MIB, (double)curve.saved / BENCH_MIB, curve.s);
}

/* Each turn is another guest's; the first of a guest pays for its first accesses, too. */
static double take_turn(struct side *side, unsigned turn, const struct guest_order *order)
{
    return fleet_ask(&side->fleet, turn % side->fleet.n, order).value[0];
}

/* memd's time over KSM's, medians over turns taken one after the other. */
static double compare(const struct bench *bench, struct side *side, const char *name, unsigned writes_percent,
                      double ret_s[BENCH_NSIDES])
{
    const struct guest_order order = {
        .op = GUEST_ACCESS,
        .access = {.accesses = bench->quick ? ACCESSES_QUICK : ACCESSES, .writes_percent = writes_percent}};
    double s[BENCH_NSIDES][TURNS];

    for (unsigned turn = 0; turn < TURNS; turn++) {
        fleet_do(&side[BENCH_MEMD].fleet, GUEST_PAUSE);
        s[BENCH_KSM][turn] = take_turn(&side[BENCH_KSM], turn, &order);
        fleet_do(&side[BENCH_MEMD].fleet, GUEST_RESUME);
        s[BENCH_MEMD][turn] = take_turn(&side[BENCH_MEMD], turn, &order);
    }
    for (enum bench_side kind = 0; kind < BENCH_NSIDES; kind++) {
        for (unsigned turn = 0; turn < TURNS; turn++)
            report_raw("access", s[kind][turn], "%s_%s_%u_s", bench_side_name(kind), name, turn);
        ret_s[kind] = bench_median(s[kind], TURNS);
    }
    return ret_s[BENCH_MEMD] / ret_s[BENCH_KSM];
}

void huge_measure(const struct bench *bench)
{
    struct side side[BENCH_NSIDES];
    double kept[BENCH_NSIDES], s[BENCH_NSIDES];

    settle(bench, BENCH_KSM, &side[BENCH_KSM], &kept[BENCH_KSM]);
    ksm_stop();
    settle(bench, BENCH_MEMD, &side[BENCH_MEMD], &kept[BENCH_MEMD]);
    report_value("huge_kept_ratio", kept[BENCH_KSM] / BENCH_MIB, kept[BENCH_MEMD] / BENCH_MIB,
                 kept[BENCH_MEMD] / kept[BENCH_KSM]);
    double ratio = compare(bench, side, "read", 0, s);
    report_value("access_ratio", s[BENCH_KSM], s[BENCH_MEMD], ratio);
    bench_say("random accesses: KSM %.3f s, memd %.3f s", s[BENCH_KSM], s[BENCH_MEMD]);
    ratio = compare(bench, side, "write", 10, s);
    report_raw("access", ratio, "ratio_with_writes");
    bench_say("the same, some of them writes: KSM %.3f s, memd %.3f s", s[BENCH_KSM], s[BENCH_MEMD]);
    side_end(&side[BENCH_MEMD]);
    side_end(&side[BENCH_KSM]);
}
