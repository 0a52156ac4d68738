/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see side.h. Taking a sample keeps the mmap lock of each process for a while, which
 * holds up whoever changes mappings: samples are spaced so that they take a fifth of the time at most. The
 * 95% point is interpolated between two of them.
 */
#include "bench/dedup/side.h"

#include "bench/dedup/daemon.h"

#include <stdlib.h>

#define QUIET_S        1.5 /* guests rest before their memory is enrolled */
#define SETTLED_S      6.0 /* savings are final when they did not grow by GROWTH for so long, */
#define GROWTH         0.005
#define LIMIT_S        120.0
#define SAMPLE_S       0.04
#define SAMPLE_SHARE   5 /* pause at least so many times the cost of a sample */
#define SAMPLES_MAX    4000
#define SETTLED_SHARE  0.95
#define IDLE_S         3.0
#define KSM_ITEM_BYTES 64 /* struct ksm_rmap_item, struct ksm_stable_node on 64-bit machines */

static size_t pids(const struct side *side, pid_t *ret_pid)
{
    size_t n = 0;

    for (unsigned i = 0; i < side->fleet.n; i++)
        ret_pid[n++] = side->fleet.guest[i].pid;
    if (side->kind == BENCH_MEMD && side->merger)
        ret_pid[n++] = side->merger;
    return n;
}

static uint64_t tmpfs_bytes(const struct side *side)
{
    pid_t pid[BENCH_GUESTS_MAX + 1];

    if (side->kind == BENCH_KSM)
        return 0;
    return kernel_tree_bytes(daemon_run_dir()) + kernel_memfd_bytes(pid, pids(side, pid));
}

struct kernel_rollup side_rollup(const struct side *side)
{
    struct kernel_rollup rollup = {0};
    pid_t pid[BENCH_GUESTS_MAX + 1];
    size_t n = pids(side, pid);

    for (size_t i = 0; i < n; i++)
        kernel_add_rollup(pid[i], &rollup);
    return rollup;
}

/* Shared memory that is neither store nor memfd would be missed by counting blocks, so the larger counts. */
uint64_t side_used_bytes(const struct side *side)
{
    struct kernel_rollup rollup = side_rollup(side);
    uint64_t blocks = tmpfs_bytes(side);

    return rollup.pss_anon + rollup.pss_file + (blocks > rollup.pss_shmem ? blocks : rollup.pss_shmem);
}

uint64_t side_unmapped_bytes(const struct side *side)
{
    uint64_t blocks = tmpfs_bytes(side), mapped = side_rollup(side).pss_shmem;

    return blocks > mapped ? blocks - mapped : 0;
}

static uint64_t own_bytes(const struct side *side)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < side->fleet.n; i++)
        bytes += kernel_pss_outside(side->fleet.guest[i].pid, side->fleet.guest[i].ram,
                                    side->fleet.guest_bytes, daemon_run_dir());
    if (side->kind == BENCH_MEMD)
        bytes += kernel_pss_outside(side->merger, 0, 0, daemon_run_dir());
    return bytes;
}

static unsigned count_maps(const struct side *side)
{
    unsigned n = 0;

    for (unsigned i = 0; i < side->fleet.n; i++)
        n += kernel_count_maps(side->fleet.guest[i].pid);
    return n;
}

double side_cpu_s(const struct side *side)
{
    return (double)(fleet_cpu_ns(&side->fleet) + kernel_cpu_ns(side->merger)) * 1e-9;
}

/* ---------------------------------------------------------------- begin and end */

void side_begin(const struct bench *bench, enum bench_side kind, const struct side_content *content,
                struct side *side)
{
    *side = (struct side){.bench = bench, .kind = kind};
    if (kind == BENCH_MEMD) {
        ksm_stop();
        side->merger = daemon_start(bench);
    } else {
        ksm_reset();
        side->merger = ksm_pid();
    }
    fleet_start(&side->fleet, content->guests, content->guest_bytes, content->machine_bytes, content->kind,
                kind == BENCH_MEMD ? daemon_run_dir() : NULL);
    side->own_before = own_bytes(side);
    side->maps_before = count_maps(side);
    side->slabs_before = kernel_vma_slab_bytes();
    side->available_before = kernel_available_bytes();
    struct kernel_rollup guests = {0};
    for (unsigned i = 0; i < side->fleet.n; i++)
        kernel_add_rollup(side->fleet.guest[i].pid, &guests);
    side->used_before = guests.pss;
    if (kind == BENCH_MEMD)
        fleet_do(&side->fleet, GUEST_OPEN);
    else
        ksm_run(&ksm_fastest);
    bench_sleep(QUIET_S);
}

void side_enrol(struct side *side)
{
    fleet_do(&side->fleet, GUEST_ENROL);
}

void side_end(struct side *side)
{
    if (side->kind == BENCH_KSM)
        ksm_stop();
    fleet_end(&side->fleet);
    if (side->kind == BENCH_MEMD)
        daemon_stop(side->merger);
    else
        ksm_reset();
}

struct side_cost side_cost(const struct side *side)
{
    struct side_cost cost = {0};
    pid_t pid[BENCH_GUESTS_MAX + 1];
    uint64_t slabs = kernel_vma_slab_bytes();

    cost.maps = count_maps(side) - side->maps_before;
    cost.slabs = slabs > side->slabs_before ? slabs - side->slabs_before : 0;
    if (side->kind == BENCH_KSM) {
        uint64_t items = ksm_value("pages_shared");
        for (unsigned i = 0; i < side->fleet.n; i++)
            items += kernel_ksm_items(side->fleet.guest[i].pid);
        cost.items = items * KSM_ITEM_BYTES;
    } else {
        uint64_t own = own_bytes(side);
        cost.own = own > side->own_before ? own - side->own_before : 0;
        cost.memfds = kernel_memfd_bytes(pid, pids(side, pid));
    }
    return cost;
}

/* ---------------------------------------------------------------- the curve */

struct sample {
    double s, cpu_s, saved;
};

static struct sample take_sample(const struct side *side, double begun_s, double cpu_before_s)
{
    struct sample sample;
    double before_s = bench_now_s();

    sample.cpu_s = side_cpu_s(side) - cpu_before_s;
    sample.saved = (double)side->used_before - (double)side_used_bytes(side);
    sample.s = (before_s + bench_now_s()) / 2 - begun_s;
    return sample;
}

/* Samples until savings are final; returns how many. */
static unsigned sample_all(const struct side *side, double begun_s, double cpu_before_s,
                           struct sample *sample)
{
    double grown_s = 0, grown = 0;
    unsigned n = 0;

    for (;;) {
        double before_s = bench_now_s();
        struct sample *now = &sample[n++];
        *now = take_sample(side, begun_s, cpu_before_s);
        if (now->saved > grown * (1 + GROWTH) + BENCH_MIB) {
            grown = now->saved;
            grown_s = now->s;
        }
        if ((grown > 0 && now->s - grown_s > SETTLED_S) || n == SAMPLES_MAX)
            return n;
        if (now->s > LIMIT_S)
            bench_die("%s has not settled within %.0f s", bench_side_name(side->kind), LIMIT_S);
        double cost_s = bench_now_s() - before_s;
        bench_sleep(cost_s * (SAMPLE_SHARE - 1) > SAMPLE_S ? cost_s * (SAMPLE_SHARE - 1) : SAMPLE_S);
    }
}

/* The first point of the curve with so much saved. */
static struct sample point_of(const struct sample *sample, unsigned n, double saved)
{
    unsigned i = 0;

    while (i < n - 1 && sample[i].saved < saved)
        i++;
    if (i == 0)
        return sample[0];
    const struct sample *a = &sample[i - 1], *b = &sample[i];
    double part = b->saved > a->saved ? (saved - a->saved) / (b->saved - a->saved) : 1;
    return (struct sample){
        .s = a->s + part * (b->s - a->s), .cpu_s = a->cpu_s + part * (b->cpu_s - a->cpu_s), .saved = saved};
}

struct side_curve side_watch(struct side *side)
{
    static struct sample sample[SAMPLES_MAX];
    uint64_t scans = ksm_value("full_scans");
    double cpu_before_s = side_cpu_s(side), begun_s = bench_now_s();

    side_enrol(side);
    unsigned n = sample_all(side, begun_s, cpu_before_s, sample);
    double saved = sample[n - 1].saved;
    struct sample settled = point_of(sample, n, SETTLED_SHARE * saved),
                  end = point_of(sample, n, 0.999 * saved);
    unsigned idle = n - 1;
    while (idle > 0 && sample[n - 1].s - sample[idle].s < IDLE_S)
        idle--;
    return (struct side_curve){
        .s = settled.s,
        .cpu_s = settled.cpu_s,
        .end_cpu_s = end.cpu_s,
        .idle_cpus = (sample[n - 1].cpu_s - sample[idle].cpu_s) / (sample[n - 1].s - sample[idle].s),
        .saved = (uint64_t)(saved > 0 ? saved : 0),
        .full_scans = side->kind == BENCH_KSM ? ksm_value("full_scans") - scans : 0,
        .samples = n,
    };
}
