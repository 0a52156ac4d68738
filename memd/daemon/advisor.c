/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see advisor.h. */
#include "memd/daemon/advisor.h"

#define WEIGHT_MIN 0.25 /* of a VM that finds nothing, beside 1.25 of one that finds every page */
#define FACTOR_MAX 4.0  /* of one correction */
#define PAGES_MIN  64.0 /* a second: an engine that has any budget gets somewhere */

static double clamp(double value, double min, double max)
{
    return value < min ? min : value > max ? max : value;
}

/* ---------------------------------------------------------------- rates */

void advisor_measure(struct advisor_rates *rates, const struct advisor_counters *before,
                     const struct advisor_counters *now)
{
    if (now->at_ns <= before->at_ns || now->hashed_pages < before->hashed_pages ||
        now->found_pages < before->found_pages)
        return;
    double s = (double)(now->at_ns - before->at_ns) * 1e-9;
    double weight = s / (s + ADVISOR_TAU_S);
    double hashed = (double)(now->hashed_pages - before->hashed_pages) / s;
    double found = (double)(now->found_pages - before->found_pages) / s;
    rates->hashed_per_s += (hashed - rates->hashed_per_s) * weight;
    rates->found_per_s += (found - rates->found_per_s) * weight;
}

bool advisor_digests(const struct advisor_vm *vm)
{
    double pages = (double)vm->guest_pages;

    if (!vm->merge_on)
        return vm->estimating;
    return vm->fresh || vm->hurried || (double)vm->backlog_pages > pages * ADVISOR_BACKLOG ||
           vm->rates.found_per_s > pages * (vm->digests ? ADVISOR_STEADY_FOUND : ADVISOR_DIGEST_FOUND);
}

static bool is_in_vain(const struct advisor_vm *vm)
{
    return vm->rates.hashed_per_s > (double)vm->guest_pages * ADVISOR_VAIN_HASHED &&
           vm->rates.found_per_s < vm->rates.hashed_per_s * ADVISOR_VAIN_FOUND;
}

/* ---------------------------------------------------------------- CPUs */

static double weight_of(const struct advisor_vm *vm)
{
    const struct advisor_rates *r = &vm->rates;

    /* not a page hashed yet: the best is hoped for */
    double yield = r->hashed_per_s > 0 ? clamp(r->found_per_s / r->hashed_per_s, 0, 1) : 1;
    return WEIGHT_MIN + yield;
}

void advisor_count(struct advisor_host *host, const struct advisor_vm *vm)
{
    if (!vm->merge_on && !vm->estimating)
        return;
    host->digesting += vm->digests;
    host->steady += !vm->digests;
    host->weight += vm->digests ? weight_of(vm) : 0;
}

double advisor_cpus(const struct advisor_host *host, const struct advisor_vm *vm)
{
    double steady = host->steady ? host->cpu_cap * ADVISOR_STEADY_CPUS : 0;

    if (vm->digests) {
        double weight = weight_of(vm), all = host->weight > weight ? host->weight : weight;
        /* a CPU for each: what the steady ones use is little */
        return host->digesting <= host->cpu_cap ? 1.0 : (host->cpu_cap - steady) * weight / all;
    }
    return (host->digesting ? steady : host->cpu_cap) / (host->steady ? host->steady : 1);
}

uint32_t advisor_correct(double cpus, double used_cpus, uint32_t pages_per_s)
{
    double pages = cpus * 1e9 / ADVISOR_COST_NS;

    if (pages_per_s)
        pages =
            pages_per_s * clamp(used_cpus > 0 ? cpus / used_cpus : FACTOR_MAX, 1 / FACTOR_MAX, FACTOR_MAX);
    pages = clamp(pages, cpus * 1e9 / ADVISOR_COST_MAX_NS, cpus * 1e9 / ADVISOR_COST_MIN_NS);
    return (uint32_t)clamp(pages, PAGES_MIN, UINT32_MAX - 1);
}

/* ---------------------------------------------------------------- the plan */

static uint32_t quiet_ms(const struct advisor_host *host, const struct advisor_vm *vm)
{
    uint32_t ms = host->round_ms_max < ADVISOR_STEADY_MS ? host->round_ms_max : ADVISOR_STEADY_MS;

    if (vm->digests)
        return host->quiet_ms;
    if (is_in_vain(vm))
        ms = host->round_ms_max;
    return ms > host->quiet_ms ? ms : host->quiet_ms;
}

struct advisor_plan advisor_plan(const struct advisor_host *host, const struct advisor_vm *vm)
{
    double cpus = advisor_cpus(host, vm);
    uint64_t vmas = host->max_map_count * host->vmas_percent / 100;
    struct advisor_plan plan = {
        .quiet_ms = quiet_ms(host, vm),
        .round_ms_max = host->round_ms_max > host->quiet_ms ? host->round_ms_max : host->quiet_ms,
        .vmas_max = vmas > UINT32_MAX ? UINT32_MAX : (uint32_t)vmas,
        .heal_pages_per_s = host->heal_pages_per_s,
    };

    if (vm->merge_on || vm->estimating)
        plan.scan_pages_per_s = cpus >= 1.0       ? UINT32_MAX
                                : vm->pages_per_s ? vm->pages_per_s
                                                  : advisor_correct(cpus, 0, 0);
    return plan;
}
