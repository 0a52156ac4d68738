/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see advice.h; what the numbers mean: advisor.h. */
#include "memd/daemon/advice.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/state.h"

#define CORRECT_NS (300 * CLOCK_MS) /* engines sample their CPU time every 100 ms */

static struct advisor_host host_of(const struct core *core)
{
    return (struct advisor_host){.cpu_cap = core->config.cpu_cap,
                                 .quiet_ms = core->config.quiet_ms,
                                 .round_ms_max = core->config.round_ms_max,
                                 .heal_pages_per_s = core->config.heal_pages_per_s,
                                 .vmas_percent = core->config.vmas_percent,
                                 .max_map_count = core->max_map_count,
                                 .digesting = core->advice.digesting,
                                 .steady = core->advice.steady,
                                 .weight = core->advice.weight};
}

static struct advisor_vm snapshot(const struct vm *vm)
{
    return (struct advisor_vm){.merge_on = vm->merge_on,
                               .estimating = vm->estimate_job && !vm->merge_on,
                               .fresh = !vm->advice.was_settled,
                               .hurried = vm->core->jobs.settling,
                               .digests = vm->advice.digests,
                               .guest_pages = vm_guest_pages(vm),
                               .backlog_pages = vm->stats.backlog_pages,
                               .rates = vm->advice.rates,
                               .pages_per_s = vm->advice.pages_per_s};
}

void advice_make(struct vm *vm)
{
    struct advisor_host host = host_of(vm->core);
    struct advisor_vm in = snapshot(vm);

    if (!vm->advice.sent.r.type) { /* it has just joined: not counted yet */
        in.digests = vm->advice.digests = advisor_digests(&in);
        advisor_count(&host, &in);
    }
    struct advisor_plan plan = advisor_plan(&host, &in);
    vm->advice.sent = (struct wire_rec_budget){
        .r = {.type = WIRE_REC_BUDGET, .bytes = sizeof(struct wire_rec_budget)},
        .flags = (in.merge_on ? WIRE_BUDGET_MERGE : 0) | (in.estimating ? WIRE_BUDGET_ESTIMATE : 0),
        .scan_pages_per_s = plan.scan_pages_per_s,
        .quiet_ms = plan.quiet_ms,
        .round_ms_max = plan.round_ms_max,
        .vmas_max = plan.vmas_max,
        .heal_pages_per_s = plan.heal_pages_per_s,
        .sample_pages = vm->core->config.sample_pages,
        .sample_ms = vm->core->config.sample_ms};
}

/* A fifth more or less is not worth waking an engine for. */
static bool has_changed(const struct wire_rec_budget *a, const struct wire_rec_budget *b)
{
    double was = a->scan_pages_per_s, is = b->scan_pages_per_s;

    return a->flags != b->flags || a->quiet_ms != b->quiet_ms || a->round_ms_max != b->round_ms_max ||
           a->vmas_max != b->vmas_max || is > was * 1.2 || is < was * 0.8;
}

static void measure(struct vm *vm, uint64_t now_ns)
{
    struct advice *a = &vm->advice;
    struct advisor_counters now = {now_ns, vm->stats.hashed_pages, vm_found_ever(vm)};

    if (a->seen.at_ns)
        advisor_measure(&a->rates, &a->seen, &now);
    a->seen = now;
    a->was_settled |= vm->settled;
    struct advisor_vm in = snapshot(vm);
    a->digests = advisor_digests(&in);
}

/* The rate is right when the engine uses the CPU it may. */
static void correct(struct vm *vm, const struct advisor_host *host, uint64_t now_ns)
{
    struct advice *a = &vm->advice;
    uint64_t ns = now_ns - a->used_ns, cpu_ns = vm->stats.cpu_ns;

    if (a->used_ns && ns < CORRECT_NS)
        return;
    struct advisor_vm in = snapshot(vm);
    double used = a->used_ns && cpu_ns >= a->used_cpu_ns ? (double)(cpu_ns - a->used_cpu_ns) / (double)ns : 0;
    a->pages_per_s = advisor_correct(advisor_cpus(host, &in), used, a->used_ns ? a->pages_per_s : 0);
    a->used_ns = now_ns;
    a->used_cpu_ns = cpu_ns;
}

void advice_tick(struct core *core, uint64_t now_ns)
{
    struct advisor_host host = {0};
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link) {
        if (!session_is_live(vm->session))
            continue;
        measure(vm, now_ns);
        struct advisor_vm in = snapshot(vm);
        advisor_count(&host, &in);
    }
    core->advice = (struct advice_shares){host.digesting, host.steady, host.weight};
    host = host_of(core);
    cds_list_for_each_entry (vm, &core->vms, link) {
        if (!session_is_live(vm->session))
            continue;
        struct wire_rec_budget before = vm->advice.sent;
        correct(vm, &host, now_ns);
        advice_make(vm);
        if (!before.r.type || !has_changed(&before, &vm->advice.sent)) {
            vm->advice.sent = before;
            continue;
        }
        vm->session->budget_due = true;
        channel_wake(vm->session);
    }
}
