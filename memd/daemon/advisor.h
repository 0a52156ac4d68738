/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * advisor: how fast each engine scans. Pure functions: what is known in, a plan out.
 *
 * All engines and the daemon together may use the configured number of CPUs. A VM with much to find (new, or
 * whose last pass found much) is digested at once: rounds follow each other as soon as pages have been quiet
 * for the shortest time allowed, and the CPUs are shared among such VMs. A settled one is looked at in long
 * rounds: pages that are rewritten now and then are not hashed for nothing, and new duplicates are still found
 * within two rounds.
 */
#ifndef MEMD_DAEMON_ADVISOR_H
#define MEMD_DAEMON_ADVISOR_H

#include <stdbool.h>
#include <stdint.h>

#define ADVISOR_SLOW_QUIET_MS 3000u /* quiet time asked for in a settled VM, at most */
#define ADVISOR_COST_NS       1500.0 /* CPU for a page hashed and dealt with, until it has been measured */
#define ADVISOR_COST_MIN_NS   150.0

struct advisor_host {
    double cpu_cap; /* CPUs */
    unsigned ncpus;
    unsigned quiet_ms, round_ms_max, heal_pages_per_s, vmas_percent;
    uint64_t max_map_count;
    uint32_t digesting; /* VMs that are, the one asked about included */
    uint32_t vms;
};

struct advisor_vm {
    bool merge_on, estimating, digesting;
    double cost_ns; /* measured CPU per hashed page; 0: not known */
};

struct advisor_plan {
    uint32_t scan_pages_per_s, quiet_ms, round_ms_max, vmas_max, heal_pages_per_s;
};

struct advisor_plan advisor_plan(const struct advisor_host *host, const struct advisor_vm *vm);

/* The cost per page, smoothed: `cpu_ns` spent on `pages` since the last look. */
double advisor_cost(double cost_ns, uint64_t cpu_ns, uint64_t pages);

#endif
