/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * side: what KSM and memd have in common, so that the same rules hold for both. A side is begun with its
 * guests filled and quiet and its merger running but without memory: ksmd with nothing mergeable, memd with
 * engines connected. Merging starts when the guests enrol their memory: that is time 0.
 */
#ifndef BENCH_DEDUP_SIDE_H
#define BENCH_DEDUP_SIDE_H

#include "bench/common/kernel.h"
#include "bench/common/ksm.h"
#include "bench/dedup/fleet.h"

struct side {
    const struct bench *bench;
    enum bench_side kind;
    struct fleet fleet;
    pid_t merger; /* ksmd or memd */
    /* before anything of memd was in the guests, with neither memd nor KSM's items: */
    uint64_t used_before, available_before, slabs_before;
    uint64_t own_before; /* memory of the guests' processes beside guest RAM, and of memd */
    unsigned maps_before;
};

struct side_content {
    unsigned guests;
    size_t guest_bytes, machine_bytes;
    enum content_kind kind;
};

void side_begin(const struct bench *bench, enum bench_side kind, const struct side_content *content,
                struct side *side);
void side_enrol(struct side *side);
void side_end(struct side *side);

/* CPU of the merger and of the guests' processes, all threads, since they began. */
double side_cpu_s(const struct side *side);

/* kernel_used_bytes() of all guests and of memd. */
uint64_t side_used_bytes(const struct side *side);
struct kernel_rollup side_rollup(const struct side *side);
/* Of that, store blocks and memfds that nobody maps. */
uint64_t side_unmapped_bytes(const struct side *side);

/* What merging itself takes. */
struct side_cost {
    uint64_t items;  /* KSM: its items, one for every page it has looked at, and its tree nodes */
    uint64_t own;    /* memd: growth of engines and daemon, beside guest RAM and frames */
    uint64_t slabs;  /* growth of the kernel's VMA, anon_vma and maple slabs */
    unsigned maps;   /* growth of the guests' numbers of mappings */
    uint64_t memfds; /* of own: page maps, rings */
};
struct side_cost side_cost(const struct side *side);

/* Watch memory and CPU until savings stop growing. */
struct side_curve {
    double s, cpu_s;     /* from enrolment to 95% of what is saved in the end */
    double end_cpu_s;    /* and to 99.9% */
    double idle_cpus;    /* CPUs used at the end of the watch */
    uint64_t saved;      /* bytes, in the end; not net of what the kernel keeps */
    uint64_t full_scans; /* KSM: passes begun and ended meanwhile */
    unsigned samples;
};
struct side_curve side_watch(struct side *side);

#endif
