/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see advisor.h. */
#include "memd/daemon/advisor.h"

#define COST_WEIGHT    0.3  /* of the latest measurement */
#define COST_PAGES_MIN 4096 /* fewer pages say little about the cost of one */
#define SETTLED_SHARE  0.1  /* of the cap, for all settled VMs together, beside those that digest */

static uint32_t rate(double cpus, double cost_ns)
{
    double pages = cpus * 1e9 / (cost_ns < ADVISOR_COST_MIN_NS ? ADVISOR_COST_MIN_NS : cost_ns);

    return pages >= UINT32_MAX ? UINT32_MAX - 1 : (uint32_t)pages;
}

/* CPUs this VM's engine may use. An engine scans with one thread. */
static double share(const struct advisor_host *host, bool digesting)
{
    uint32_t settled = host->vms - host->digesting;

    if (digesting)
        return host->cpu_cap / (host->digesting ? host->digesting : 1);
    return host->cpu_cap * (host->digesting ? SETTLED_SHARE : 1.0) / (settled ? settled : 1);
}

struct advisor_plan advisor_plan(const struct advisor_host *host, const struct advisor_vm *vm)
{
    double cpus = share(host, vm->digesting);
    unsigned slow = host->round_ms_max * 3 / 10;
    struct advisor_plan plan = {
        .round_ms_max = host->round_ms_max,
        .heal_pages_per_s = host->heal_pages_per_s,
        .vmas_max = (uint32_t)(host->max_map_count * host->vmas_percent / 100),
    };

    slow = slow > ADVISOR_SLOW_QUIET_MS ? ADVISOR_SLOW_QUIET_MS : slow;
    plan.quiet_ms = vm->digesting || slow < host->quiet_ms ? host->quiet_ms : slow;
    if (!vm->merge_on && !vm->estimating)
        return plan;
    /* one engine with a whole CPU to itself needs no brake */
    plan.scan_pages_per_s =
        cpus >= 1.0 ? UINT32_MAX : rate(cpus, vm->cost_ns > 0 ? vm->cost_ns : ADVISOR_COST_NS);
    return plan;
}

double advisor_cost(double cost_ns, uint64_t cpu_ns, uint64_t pages)
{
    if (pages < COST_PAGES_MIN)
        return cost_ns;
    double now = (double)cpu_ns / (double)pages;
    return cost_ns > 0 ? cost_ns * (1 - COST_WEIGHT) + now * COST_WEIGHT : now;
}
