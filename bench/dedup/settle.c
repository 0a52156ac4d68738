/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see settle.h. After a round every guest checks all its memory: a fast merge that loses
 * a page counts for nothing.
 *
 * Net savings are what PSS and store blocks fell by, less what the kernel keeps for it: KSM's items and the
 * growth of the VMA slabs, on both sides. The whole of memd's own memory is in there. MemAvailable stands
 * beside it; other programs of the machine move it, too.
 */
#include "bench/dedup/settle.h"

#include "bench/common/daemon.h"
#include "bench/common/report.h"
#include "bench/dedup/side.h"

#include <stdio.h>

#define SCALE 8u /* times as many guests */

struct round {
    struct side_curve curve;
    double net, available;          /* bytes */
    double metadata, with_vmas;     /* bytes of a page */
    double write_ns, write_read_ns; /* a first write; the same after a read */
};

static void check(struct side *side)
{
    double wrong = fleet_do(&side->fleet, GUEST_CHECK);

    if (wrong > 0)
        bench_die("%.0f pages of %s's guests do not hold what was written there", wrong,
                  bench_side_name(side->kind));
}

static void time_writes(struct side *side, struct round *round)
{
    const struct guest_order order = {.op = GUEST_FIRST_WRITE};
    double plain[BENCH_GUESTS_MAX], after_read[BENCH_GUESTS_MAX];
    unsigned n = 0;

    for (unsigned i = 0; i < side->fleet.n; i++) {
        struct guest_answer answer = fleet_ask(&side->fleet, i, &order);
        if (answer.value[0] == 0 || answer.value[1] == 0)
            continue; /* nothing merged in this guest */
        plain[n] = answer.value[0];
        after_read[n++] = answer.value[1];
    }
    round->write_ns = bench_median(plain, n);
    round->write_read_ns = bench_median(after_read, n);
}

static void report_round(const struct side *side, const struct round *round, const struct side_cost *cost,
                         unsigned number)
{
    char group[32];

    snprintf(group, sizeof group, "settle_%s_%u", bench_side_name(side->kind), number);
    report_raw(group, round->curve.s, "settled_s");
    report_raw(group, round->curve.cpu_s, "settled_cpu_s");
    report_raw(group, round->curve.end_cpu_s, "end_cpu_s");
    report_raw(group, round->curve.idle_cpus, "idle_cpus");
    report_raw(group, round->curve.samples, "samples");
    if (side->kind == BENCH_KSM)
        report_raw(group, (double)round->curve.full_scans, "full_scans");
    report_raw(group, (double)side->used_before, "used_before_bytes");
    report_raw(group, (double)round->curve.saved, "saved_bytes");
    report_raw(group, round->net, "net_saved_bytes");
    report_raw(group, round->available, "available_gained_bytes");
    report_raw(group, (double)side_unmapped_bytes(side), "unmapped_bytes");
    report_raw(group, (double)cost->items, "ksm_items_bytes");
    report_raw(group, (double)cost->own, "memd_own_bytes");
    report_raw(group, (double)cost->memfds, "memd_memfd_bytes");
    report_raw(group, (double)side->own_before, "own_before_bytes");
    report_raw(group, (double)cost->slabs, "vma_slab_bytes");
    report_raw(group, cost->maps, "mappings_added");
    report_raw(group, round->write_ns, "first_write_ns");
    report_raw(group, round->write_read_ns, "first_write_after_read_ns");
}

static struct round run_round(const struct bench *bench, enum bench_side kind,
                              const struct side_content *content, unsigned number)
{
    double npages = (double)content->guests * (double)content->guest_bytes / BENCH_PAGE_BYTES;
    struct round round = {0};
    struct side side;

    side_begin(bench, kind, content, &side);
    round.curve = side_watch(&side);
    round.available = (double)kernel_available_bytes() - (double)side.available_before;
    struct side_cost cost = side_cost(&side);
    round.net = (double)round.curve.saved - (double)cost.items - (double)cost.slabs;
    round.metadata = (double)(cost.items + cost.own) / npages;
    round.with_vmas = round.metadata + (double)cost.slabs / npages;
    time_writes(&side, &round);
    report_round(&side, &round, &cost, number);
    if (kind == BENCH_MEMD)
        report_status(daemon_status(bench));
    check(&side);
    side_end(&side);
    bench_say("%u guests of %zu MiB, %s: settled in %.2f s with %.2f s of CPU; %.0f MiB saved net, %.1f B of "
              "metadata a page (%.1f with VMAs), first write %.2f us",
              content->guests, content->guest_bytes / BENCH_MIB, bench_side_name(kind), round.curve.s,
              round.curve.cpu_s, round.net / BENCH_MIB, round.metadata, round.with_vmas,
              round.write_ns / 1000);
    return round;
}

static double median_of(const struct round *round, unsigned n, size_t offset)
{
    double value[BENCH_ROUNDS_MAX];

    for (unsigned i = 0; i < n; i++)
        value[i] = *(const double *)((const char *)&round[i] + offset);
    return bench_median(value, n);
}
#define MEDIAN(side, field) median_of(round[side], bench->rounds, offsetof(struct round, field))

static void measure_scaling(const struct bench *bench, double few_cpu_s)
{
    struct side_content content = {.guests = bench->guests * SCALE,
                                   .guest_bytes = bench->guest_bytes / SCALE,
                                   .machine_bytes = bench->guest_bytes,
                                   .kind = CONTENT_PLAIN};
    struct round many[BENCH_ROUNDS_MAX];

    for (unsigned i = 0; i < bench->rounds; i++) {
        many[i] = run_round(bench, BENCH_MEMD, &content, 100 + i);
        report_raw("vm_scaling", many[i].curve.cpu_s, "cpu_s_%u", i);
        report_raw("vm_scaling", many[i].curve.idle_cpus, "idle_cpus_%u", i);
    }
    double many_cpu_s = median_of(many, bench->rounds, offsetof(struct round, curve.cpu_s));
    report_value(SETTLE_SCALE, few_cpu_s, many_cpu_s, many_cpu_s / few_cpu_s);
}

void settle_measure(const struct bench *bench, bool scaling)
{
    struct round round[BENCH_NSIDES][BENCH_ROUNDS_MAX];
    struct side_content content = {.guests = bench->guests,
                                   .guest_bytes = bench->guest_bytes,
                                   .machine_bytes = bench->guest_bytes,
                                   .kind = CONTENT_PLAIN};

    for (unsigned i = 0; i < bench->rounds; i++)
        for (enum bench_side kind = 0; kind < BENCH_NSIDES; kind++)
            round[kind][i] = run_round(bench, kind, &content, i);

    double ksm = MEDIAN(BENCH_KSM, curve.s), memd = MEDIAN(BENCH_MEMD, curve.s);
    report_value("settle_speedup", ksm, memd, ksm / memd);
    ksm = MEDIAN(BENCH_KSM, curve.cpu_s);
    memd = MEDIAN(BENCH_MEMD, curve.cpu_s);
    report_value("settle_cpu_ratio", ksm, memd, ksm / memd);
    if (scaling)
        measure_scaling(bench, memd);
    ksm = MEDIAN(BENCH_KSM, net) / BENCH_MIB;
    memd = MEDIAN(BENCH_MEMD, net) / BENCH_MIB;
    report_value("net_saved_ratio", ksm, memd, memd / ksm);
    memd = MEDIAN(BENCH_MEMD, metadata);
    report_value("metadata_bytes_per_page", MEDIAN(BENCH_KSM, metadata), memd, memd);
    memd = MEDIAN(BENCH_MEMD, with_vmas);
    report_value("metadata_with_vmas_bytes_per_page", MEDIAN(BENCH_KSM, with_vmas), memd, memd);
    ksm = MEDIAN(BENCH_KSM, write_ns) / 1000;
    memd = MEDIAN(BENCH_MEMD, write_ns) / 1000;
    report_value("cow_ratio", ksm, memd, memd / ksm);
}
