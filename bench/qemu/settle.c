/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see settle.h. Guests boot, read files and are left alone; merging starts then,
 * everywhere at once. CPU is that of the merger (ksmd, memd), of memd's threads in the QEMUs, and what else
 * the QEMUs take beyond what they took idle just before: faults. Net savings are what PSS and store blocks
 * fell by, less what the kernel keeps for it (KSM's items, VMA slabs), and less what memd had taken before
 * merging started: by how much more the QEMUs weigh outside guest RAM than those of the KSM round, and the
 * daemon.
 */
#include "bench/qemu/settle.h"

#include "bench/common/curve.h"
#include "bench/common/daemon.h"
#include "bench/common/kernel.h"
#include "bench/common/ksm.h"
#include "bench/common/report.h"
#include "bench/qemu/guests.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REST_S         4.0 /* after reading: free pages are reported, caches written */
#define IDLE_S         6.0 /* what guests take when nothing happens */
#define KSM_ITEM_BYTES 64  /* struct ksm_rmap_item, struct ksm_stable_node on 64-bit machines */

struct side {
    const struct bench *bench;
    enum bench_side kind;
    struct guests guests;
    pid_t merger;
    double begun_s;
    /* just before merging starts: */
    struct guests_cpu cpu_before;
    double merger_before_s, idle_cpus;
    uint64_t used_before, own_before, available_before, slabs_before;
    double counted_before; /* memd's net savings */
    unsigned maps_before;
};

struct round {
    struct curve curve;
    double own, net; /* bytes */
    double engines_s, faults_s;
    double vmas, error_pss, error_available; /* memd */
};

static size_t pids(const struct side *side, pid_t *ret_pid)
{
    size_t n = side->guests.n;

    memcpy(ret_pid, side->guests.pid, n * sizeof *ret_pid);
    if (side->kind == BENCH_MEMD)
        ret_pid[n++] = side->merger;
    return n;
}

static uint64_t used_bytes(const struct side *side)
{
    pid_t pid[GUESTS_MAX + 1];
    size_t n = pids(side, pid);

    return kernel_used_bytes(pid, n, side->kind == BENCH_MEMD ? daemon_run_dir() : NULL);
}

static uint64_t own_bytes(const struct side *side)
{
    uint64_t bytes = guests_outside_bytes(&side->guests);

    return side->kind == BENCH_MEMD ? bytes + kernel_pss_outside(side->merger, 0, 0, daemon_run_dir())
                                    : bytes;
}

/* A number of the totals. */
static double counted(const struct side *side, const char *key)
{
    const char *text = strstr(daemon_status(side->bench), "\"totals\"");
    char name[64];

    snprintf(name, sizeof name, "\"%s\": ", key);
    text = text ? strstr(text, name) : NULL;
    if (!text)
        bench_die("memctl status has no %s", key);
    return strtod(text + strlen(name), NULL);
}

/* ---------------------------------------------------------------- a round */

static void prepare(const struct bench *bench, enum bench_side kind, struct side *side)
{
    *side = (struct side){.bench = bench, .kind = kind};
    ksm_reset();
    if (kind == BENCH_MEMD) {
        side->merger = daemon_start(bench);
        daemon_control(bench, "merge off");
    } else {
        side->merger = ksm_pid();
    }
    guests_start(bench, kind == BENCH_MEMD, &side->guests);
    guests_order(&side->guests, "read %d", SETTLE_READ_PERCENT);
    bench_sleep(REST_S);
    double begun_s = bench_now_s(), idle_s = guests_cpu(&side->guests).rest_s;
    bench_sleep(IDLE_S);
    side->idle_cpus = (guests_cpu(&side->guests).rest_s - idle_s) / (bench_now_s() - begun_s);
}

static void look_before(struct side *side)
{
    side->own_before = own_bytes(side);
    side->maps_before = guests_count_maps(&side->guests);
    side->slabs_before = kernel_vma_slab_bytes();
    side->counted_before = side->kind == BENCH_MEMD ? counted(side, "net_saved_bytes") : 0;
    side->available_before = kernel_available_bytes();
    side->used_before = used_bytes(side);
    side->merger_before_s = (double)kernel_cpu_ns(side->merger) * 1e-9;
    side->cpu_before = guests_cpu(&side->guests);
    side->begun_s = bench_now_s();
}

/* What the QEMUs have taken beyond idling, apart from memd's threads. */
static double faults_s(const struct side *side, double rest_s)
{
    double s = rest_s - side->cpu_before.rest_s - side->idle_cpus * (bench_now_s() - side->begun_s);

    return s > 0 ? s : 0;
}

static struct curve_sample take_sample(const void *context)
{
    const struct side *side = context;
    struct guests_cpu cpu = guests_cpu(&side->guests);
    double merger_s = (double)kernel_cpu_ns(side->merger) * 1e-9 - side->merger_before_s;

    return (struct curve_sample){
        .cpu_s = merger_s + cpu.engines_s - side->cpu_before.engines_s + faults_s(side, cpu.rest_s),
        .saved = (double)side->used_before - (double)used_bytes(side),
    };
}

static uint64_t ksm_items_bytes(const struct side *side)
{
    uint64_t items = ksm_value("pages_shared");

    for (unsigned i = 0; i < side->guests.n; i++)
        items += kernel_ksm_items(side->guests.pid[i]);
    return items * KSM_ITEM_BYTES;
}

/* memd's own figures, beside the kernel's. */
static void compare_counters(const struct side *side, const char *group, unsigned maps, struct round *round)
{
    double saved = counted(side, "net_saved_bytes") - side->counted_before;
    double merged = counted(side, "pages_shared") + counted(side, "pages_sharing");
    double fallen = (double)side->used_before - (double)used_bytes(side);
    double available = (double)kernel_available_bytes() - (double)side->available_before;

    round->vmas = maps / merged;
    round->error_pss = fabs(saved - fallen) / fallen;
    round->error_available = fabs(saved - available) / fabs(available);
    report_raw(group, saved, "counted_bytes");
    report_raw(group, merged, "merged_pages");
    report_raw(group, fallen, "fallen_bytes");
    report_raw(group, round->vmas, "vmas_per_merged_page");
    report_raw(group, round->error_pss, "error_against_pss");
    report_raw(group, round->error_available, "error_against_available");
    report_status(daemon_status(side->bench));
}

static void finish(const struct side *side, unsigned number, double bare_own, struct round *round)
{
    uint64_t slabs = kernel_vma_slab_bytes(),
             grown = slabs > side->slabs_before ? slabs - side->slabs_before : 0;
    unsigned maps = guests_count_maps(&side->guests) - side->maps_before;
    double available = (double)kernel_available_bytes() - (double)side->available_before, items = 0;
    struct guests_cpu cpu = guests_cpu(&side->guests);
    char group[32];

    snprintf(group, sizeof group, "%s_%u", bench_side_name(side->kind), number);
    round->own = (double)side->own_before;
    round->engines_s = cpu.engines_s - side->cpu_before.engines_s;
    round->faults_s = faults_s(side, cpu.rest_s);
    if (side->kind == BENCH_KSM)
        items = (double)ksm_items_bytes(side);
    else
        compare_counters(side, group, maps, round);
    double taken = side->kind == BENCH_MEMD ? fmax(round->own - bare_own, 0) : 0;
    round->net = round->curve.saved - items - (double)grown - taken;
    report_raw(group, round->curve.settled.s, "settled_s");
    report_raw(group, round->curve.settled.cpu_s, "settled_cpu_s");
    report_raw(group, round->curve.end.cpu_s, "end_cpu_s");
    report_raw(group, round->curve.idle_cpus, "idle_cpus_after");
    report_raw(group, side->idle_cpus, "guests_idle_cpus");
    report_raw(group, round->engines_s, "engines_cpu_s");
    report_raw(group, round->faults_s, "faults_cpu_s");
    report_raw(group, round->curve.samples, "samples");
    report_raw(group, (double)side->used_before, "used_before_bytes");
    report_raw(group, round->curve.saved, "saved_bytes");
    report_raw(group, round->net, "net_saved_bytes");
    report_raw(group, available, "available_gained_bytes");
    report_raw(group, items, "ksm_items_bytes");
    report_raw(group, taken, "memd_before_bytes");
    report_raw(group, (double)grown, "vma_slab_bytes");
    report_raw(group, maps, "mappings_added");
}

/* bare_own: what QEMUs weigh outside guest RAM without memd. */
static struct round run_round(const struct bench *bench, enum bench_side kind, unsigned number,
                              double bare_own)
{
    struct round round = {0};
    struct side side;

    prepare(bench, kind, &side);
    look_before(&side);
    if (kind == BENCH_MEMD)
        daemon_control(bench, "merge on");
    else
        ksm_run(&ksm_fastest);
    round.curve = curve_watch(take_sample, &side, side.begun_s, bench_side_name(kind));
    finish(&side, number, bare_own, &round);
    guests_order(&side.guests, "verify %d", SETTLE_READ_PERCENT);
    guests_end(&side.guests);
    if (kind == BENCH_MEMD)
        daemon_stop(side.merger);
    else
        ksm_reset();
    bench_say("%s: settled in %.2f s with %.2f s of CPU; %.0f of %.0f MiB saved net", bench_side_name(kind),
              round.curve.settled.s, round.curve.settled.cpu_s, round.net / BENCH_MIB,
              (double)side.used_before / BENCH_MIB);
    return round;
}

/* ---------------------------------------------------------------- all of them */

static double median_of(const struct round *round, unsigned n, size_t offset)
{
    double value[BENCH_ROUNDS_MAX];

    for (unsigned i = 0; i < n; i++)
        value[i] = *(const double *)((const char *)&round[i] + offset);
    return bench_median(value, n);
}
#define MEDIAN(side, field) median_of(round[side], bench->rounds, offsetof(struct round, field))

void settle_measure(const struct bench *bench)
{
    struct round round[BENCH_NSIDES][BENCH_ROUNDS_MAX];

    for (unsigned i = 0; i < bench->rounds; i++) {
        round[BENCH_KSM][i] = run_round(bench, BENCH_KSM, i, 0);
        round[BENCH_MEMD][i] = run_round(bench, BENCH_MEMD, i, round[BENCH_KSM][i].own);
    }
    double ksm = MEDIAN(BENCH_KSM, net) / BENCH_MIB, memd = MEDIAN(BENCH_MEMD, net) / BENCH_MIB;
    report_value("net_saved_ratio", ksm, memd, memd / ksm);
    ksm = MEDIAN(BENCH_KSM, curve.settled.s);
    memd = MEDIAN(BENCH_MEMD, curve.settled.s);
    report_value("settle_speedup", ksm, memd, ksm / memd);
    ksm = MEDIAN(BENCH_KSM, curve.settled.cpu_s);
    memd = MEDIAN(BENCH_MEMD, curve.settled.cpu_s);
    report_value("settle_cpu_ratio", ksm, memd, ksm / memd);
    memd = MEDIAN(BENCH_MEMD, vmas);
    report_value("vmas_per_merged_page", 0, memd, memd);
    memd = fmax(MEDIAN(BENCH_MEMD, error_pss), MEDIAN(BENCH_MEMD, error_available));
    report_value("counter_error", 0, memd, memd);
}
