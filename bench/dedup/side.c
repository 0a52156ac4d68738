/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see side.h. */
#include "bench/dedup/side.h"

#include "bench/common/curve.h"
#include "bench/common/daemon.h"

#include <stdlib.h>

#define QUIET_S        1.5 /* guests rest before their memory is enrolled */
#define KSM_ITEM_BYTES 64  /* struct ksm_rmap_item, struct ksm_stable_node on 64-bit machines */

static size_t pids(const struct side *side, pid_t *ret_pid)
{
    size_t n = 0;

    for (unsigned i = 0; i < side->fleet.n; i++)
        ret_pid[n++] = side->fleet.guest[i].child.pid;
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

uint64_t side_used_bytes(const struct side *side)
{
    pid_t pid[BENCH_GUESTS_MAX + 1];
    size_t n = pids(side, pid);

    return kernel_used_bytes(pid, n, side->kind == BENCH_MEMD ? daemon_run_dir() : NULL);
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
        bytes += kernel_pss_outside(side->fleet.guest[i].child.pid, side->fleet.guest[i].ram,
                                    side->fleet.guest_bytes, daemon_run_dir());
    if (side->kind == BENCH_MEMD)
        bytes += kernel_pss_outside(side->merger, 0, 0, daemon_run_dir());
    return bytes;
}

static unsigned count_maps(const struct side *side)
{
    unsigned n = 0;

    for (unsigned i = 0; i < side->fleet.n; i++)
        n += kernel_count_maps(side->fleet.guest[i].child.pid);
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
        kernel_add_rollup(side->fleet.guest[i].child.pid, &guests);
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
            items += kernel_ksm_items(side->fleet.guest[i].child.pid);
        cost.items = items * KSM_ITEM_BYTES;
    } else {
        uint64_t own = own_bytes(side),
                 not_own = side->own_before + daemon_total(side->bench, "sampled_pages") * BENCH_PAGE_BYTES;
        cost.own = own > not_own ? own - not_own : 0;
        cost.memfds = kernel_memfd_bytes(pid, pids(side, pid));
    }
    return cost;
}

/* ---------------------------------------------------------------- the curve */

struct watched {
    const struct side *side;
    double cpu_before_s;
};

static struct curve_sample take_sample(const void *context)
{
    const struct watched *watched = context;

    return (struct curve_sample){.cpu_s = side_cpu_s(watched->side) - watched->cpu_before_s,
                                 .saved = (double)watched->side->used_before -
                                          (double)side_used_bytes(watched->side)};
}

struct side_curve side_watch(struct side *side)
{
    uint64_t scans = ksm_value("full_scans");
    struct watched watched = {.side = side, .cpu_before_s = side_cpu_s(side)};
    double begun_s = bench_now_s();

    side_enrol(side);
    struct curve curve = curve_watch(take_sample, &watched, begun_s, bench_side_name(side->kind));
    return (struct side_curve){
        .s = curve.settled.s,
        .cpu_s = curve.settled.cpu_s,
        .end_cpu_s = curve.end.cpu_s,
        .idle_cpus = curve.idle_cpus,
        .saved = (uint64_t)(curve.saved > 0 ? curve.saved : 0),
        .full_scans = side->kind == BENCH_KSM ? ksm_value("full_scans") - scans : 0,
        .samples = curve.samples,
    };
}
