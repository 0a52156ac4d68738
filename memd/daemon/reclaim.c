/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see reclaim.h. */
#include "memd/daemon/reclaim.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/state.h"
#include "memd/daemon/terms.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUDGET_BACK 2 /* per cent of a budget between where a state begins and ends */
#define FREE_BACK   1 /* of the host's memory */
#define LOOK_RESTS  9 /* times as long as a look takes: guests may ask for as many as they like */

/* ---------------------------------------------------------------- what there is */

static struct budget_thresholds budget_thresholds(const struct core_config *c)
{
    return (struct budget_thresholds){c->budget_soft_percent, c->budget_hard_percent, c->budget_low_percent,
                                      BUDGET_BACK};
}

static uint64_t sharing_bytes(const struct domain *domain)
{
    uint64_t refs = domain->refs, frames = domain->frames_shared;
    return refs > frames ? (refs - frames) * WIRE_PAGE_BYTES : 0;
}

/* The host's scope: what the budget is compared with, or, without one, the memory of all. */
static void measure_host(struct core *core)
{
    struct reclaim *r = &core->reclaim;
    const struct core_config *c = &core->config;
    enum budget_state state = r->host.state;
    struct domain *domain;
    uint64_t sharing = 0;

    cds_list_for_each_entry (domain, &core->domains, link)
        sharing += sharing_bytes(domain);
    r->used_bytes = usage_measure(core) + inflate_used(core);
    if (c->budget_bytes) {
        r->headroom_bytes = budget_headroom(sharing, c->budget_bytes, c->headroom_percent);
        r->host = (struct budget_scope){c->budget_bytes, r->used_bytes, r->headroom_bytes,
                                        budget_thresholds(c), state};
        return;
    }
    proc_read_memory(c->proc_root, &core->memory);
    uint64_t total = core->memory.total_bytes, available = core->memory.available_bytes;
    r->headroom_bytes = budget_headroom(sharing, total, c->headroom_percent);
    r->host = (struct budget_scope){
        total,
        total > available ? total - available : 0,
        r->headroom_bytes,
        {100.0 - c->free_soft_percent, 100.0 - c->free_hard_percent, 100.0 - c->free_low_percent, FREE_BACK},
        state};
}

static void measure_domain(struct domain *domain)
{
    const struct core_domain_config *config = NULL;
    const struct core_config *c = &domain->core->config;
    enum budget_state state = domain->memory.state;

    if (domain->configured)
        config = terms_of_domain(domain->core, domain->name);
    uint64_t budget = config ? config->budget_bytes : 0;
    domain->memory = (struct budget_scope){
        budget, budget ? usage_of_domain(domain) : 0,
        budget_headroom(sharing_bytes(domain), budget, c->headroom_percent), budget_thresholds(c), state};
}

static void measure_vm(struct vm *vm, uint64_t now_ns)
{
    const struct vm_stats *s = &vm->stats;
    struct policy_seen now = {.faults = {now_ns, s->packed_faults, s->swapped_faults},
                              .moved =
                                  s->page_outs + s->parked_pages + s->swap_written_bytes / WIRE_PAGE_BYTES,
                              .periods = s->sample_periods,
                              .at_it = vm->paging.own.pages};

    policy_measure(&vm->reclaim.policy, &now);
    vm->reclaim.target_bytes = vm->reclaim.usage.resident_bytes;
}

static void measure_stall(struct core *core)
{
    struct proc_stall stall = {0};

    if (core->config.stall_percent > 0)
        proc_read_stall(core->config.proc_root, &stall); /* a kernel without PSI: nobody stalls */
    core->reclaim.stall_some = stall.some;
    core->reclaim.stall_full = stall.full;
}

/* ---------------------------------------------------------------- states */

/* What a scope is called in messages: "" or "domain NAME: ". */
static void look(struct core *core, struct budget_scope *scope, struct budget_shown *shown,
                 const struct domain *domain)
{
    enum budget_state was = shown->state;
    const char *of = domain ? "domain " : "", *name = domain ? domain->name : "", *colon = domain ? ": " : "";

    scope->state = budget_next_state(scope);
    budget_show(shown, scope->state, core->reclaim.looked_ns);
    if (shown->state == BUDGET_LOW) {
        core->reclaim.alarm = true;
        core_warn(core, "%s%s%smemory is low (%s of %" PRIu64 " MiB): %s", of, name, colon,
                  core->config.budget_bytes || domain ? "a budget" : "a host", scope->budget_bytes >> 20,
                  core->config.dry_run ? "nothing is done about it, this is a dry run"
                                       : "everything is paged out that can be, and no new VM is let in");
    }
    if (shown->state != was && scope->budget_bytes && log_allowed(&core->reclaim.log))
        log_info("%s%s%smemory is %s: %" PRIu64 " of %" PRIu64 " MiB are in use, %" PRIu64 " are kept free",
                 of, name, colon, budget_state_name(shown->state), scope->used_bytes >> 20,
                 scope->budget_bytes >> 20, scope->headroom_bytes >> 20);
}

bool reclaim_rests(const struct core *core)
{
    const struct core_config *c = &core->config;
    const struct vm *vm;

    if (c->budget_bytes || core->reclaim.host.state || inflate_is_out(core))
        return false;
    for (unsigned i = 0; i < c->ndomains; i++)
        if (c->domains[i].budget_bytes)
            return false;
    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm->reclaim.terms.limit_bytes)
            return false;
    return true;
}

/* From one look to the next. */
static uint64_t look_ns(const struct core *core)
{
    return core->reclaim.is_short ? POLICY_SHORT_NS : reclaim_rests(core) ? POLICY_REST_NS : POLICY_BUSY_NS;
}

/* ---------------------------------------------------------------- plans */

static enum budget_excluded excluded(const struct vm *vm, uint64_t now_ns)
{
    if (!vm->session)
        return BUDGET_LOST;
    if (!session_is_live(vm->session))
        return BUDGET_JOINING;
    if (vm->stats.state == WIRE_VM_CLOSING)
        return BUDGET_CLOSING;
    if (vm->stats.state == WIRE_VM_PAUSED)
        return BUDGET_PAUSED;
    if (vm->paging.job)
        return BUDGET_JOB;
    return policy_is_silent(&vm->reclaim.policy, now_ns) ? BUDGET_SILENT : BUDGET_INCLUDED;
}

static struct budget_vm describe(const struct vm *vm, uint64_t now_ns)
{
    const struct reclaim_vm *r = &vm->reclaim;
    const struct budget_order *own = &vm->paging.own;
    bool can_swap = vm->core->config.swap && !r->policy.no_swap_ns && writes_allowed(vm);

    return (struct budget_vm){
        .guest_bytes = vm_guest_pages(vm) * WIRE_PAGE_BYTES,
        .resident_bytes = r->usage.resident_bytes,
        .reclaimable_bytes = r->usage.reclaimable_bytes,
        .merged_bytes = r->usage.merged_bytes,
        .ineligible_bytes = r->usage.ineligible_bytes,
        .loose_bytes = vm->stats.parked_pages * WIRE_PAGE_BYTES + (can_swap ? vm->stats.pool_bytes : 0),
        .working_set_bytes = policy_working_set(&r->policy, vm_working_set_pages(vm) * WIRE_PAGE_BYTES),
        .rates = r->policy.rates,
        .terms = r->terms,
        .can_swap = can_swap,
        .excluded = excluded(vm, now_ns),
        .pending_bytes = own->pages * WIRE_PAGE_BYTES,
        .pending = own->state,
        .dry = r->policy.dry};
}

/* What the policy is to know. Only domains that have a budget are in it. */
static void fill(struct policy_look *look, struct core *core)
{
    const struct core_config *c = &core->config;
    struct domain *domain;
    struct vm *vm;

    look->policy = (struct budget_policy){
        c->idle_tax_percent / 100.0, c->refault_percent,       c->stall_percent,
        POLICY_SHORT_NS * 1e-9,      core->reclaim.stall_some, core->reclaim.stall_full};
    look->host = core->reclaim.host;
    cds_list_for_each_entry (domain, &core->domains, link)
        if (domain->memory.budget_bytes && look->ndomains < CORE_DOMAINS_MAX) {
            domain->memory_index = look->ndomains;
            look->domains[look->ndomains++] = domain->memory;
        }
    cds_list_for_each_entry (vm, &core->vms, link) {
        look->domain[look->n] = vm->domain->memory.budget_bytes ? vm->domain->memory_index : SIZE_MAX;
        look->vms[look->n] = describe(vm, core->reclaim.looked_ns);
        inflate_describe(core, vm, &look->vms[look->n++]);
    }
    inflate_fill(core, look);
}

static void carry_out(const struct policy_look *look, struct core *core)
{
    bool dry_run = core->config.dry_run;
    struct vm *vm;
    size_t i = 0;

    cds_list_for_each_entry (vm, &core->vms, link) {
        const struct budget_plan *of = &look->plans[i];
        struct why_entry why = why_of(look, i++, &vm->reclaim.policy, dry_run, core->reclaim.looked_ns);
        inflate_carry_out_vm(core, vm, of, &why);
        why_note(&vm->reclaim.why, &why);
        core->policy.decisions[why.why.reason]++;
        vm->reclaim.target_bytes = of->target_bytes;
        if (!of->order.pages || dry_run)
            continue;
        log_debug("VM %s: %s, %" PRIu64 " pages%s%s", vm->engine.name, budget_state_name(of->order.state),
                  of->order.pages, of->order.all ? ", any" : "", of->order.swap ? ", swap" : "");
        policy_ordered(&vm->reclaim.policy, core->reclaim.looked_ns);
        paging_order_own(vm, &of->order);
        core->policy.orders[CORE_RUNG_PAGER]++;
        core->policy.asked_bytes[CORE_RUNG_PAGER] += of->order.pages * WIRE_PAGE_BYTES;
    }
    inflate_carry_out(core, look, i);
}

static void decide(struct core *core)
{
    struct policy_look look;

    core->reclaim.is_short = false;
    if (reclaim_rests(core) || policy_look_open(&look, core->nvms + core->inflate.n, CORE_DOMAINS_MAX))
        return;
    fill(&look, core);
    policy_decide(&look);
    core->reclaim.is_short = policy_is_short(&look);
    carry_out(&look, core);
    policy_look_close(&look);
}

void reclaim_set_dry_run(struct core *core, bool on)
{
    struct vm *vm;

    core->config.dry_run = on;
    core->reclaim.looked_ns = 0; /* with the next tick */
    cds_list_for_each_entry (vm, &core->vms, link)
        if (on && !vm->paging.job) /* what was ordered is not wanted any more */
            paging_leave(vm);
}

void reclaim_tick(struct core *core, uint64_t now_ns)
{
    uint64_t begun_ns = clock_now_ns();
    struct domain *domain;
    struct vm *vm;

    if (now_ns - core->reclaim.looked_ns < look_ns(core))
        return;
    core->reclaim.looked_ns = now_ns;
    core->reclaim.alarm = false;
    inflate_measure(core, now_ns);
    measure_host(core);
    measure_stall(core);
    cds_list_for_each_entry (vm, &core->vms, link)
        measure_vm(vm, now_ns);
    look(core, &core->reclaim.host, &core->reclaim.shown, NULL);
    cds_list_for_each_entry (domain, &core->domains, link) {
        measure_domain(domain);
        look(core, &domain->memory, &domain->shown, domain);
    }
    decide(core);
    uint64_t ended_ns = clock_now_ns();
    core->reclaim.rest_until_ns = ended_ns + LOOK_RESTS * (ended_ns - begun_ns);
}

void reclaim_look_now(struct core *core, uint64_t now_ns)
{
    core->reclaim.looked_ns = 0;
    if (now_ns >= core->reclaim.rest_until_ns)
        reclaim_tick(core, now_ns);
}

/* ---------------------------------------------------------------- answers */

void reclaim_answered(struct vm *vm, const struct budget_order *own, uint64_t pages, int error)
{
    struct core_policy *policy = &vm->core->policy;

    policy_answered(&vm->reclaim.policy, own, pages, error, clock_now_ns());
    policy->returned_bytes[CORE_RUNG_PAGER] += (pages < own->pages ? pages : own->pages) * WIRE_PAGE_BYTES;
    if (error == ENOSPC)
        core_warn(vm->core, "VM %s: its swap file is full, or cannot be written", vm->engine.name);
}

bool reclaim_refuses(struct core *core, const struct domain *domain, char *ret_why, size_t bytes)
{
    bool host = core->reclaim.shown.state == BUDGET_LOW;
    const struct budget_scope *scope = host ? &core->reclaim.host : &domain->memory;

    if (core->config.dry_run || (!host && domain->shown.state != BUDGET_LOW))
        return false;
    snprintf(ret_why, bytes, "memory is low: %" PRIu64 " of %" PRIu64 " MiB of %s%.40s are in use",
             scope->used_bytes >> 20, scope->budget_bytes >> 20,
             !host                       ? "the budget of domain "
             : core->config.budget_bytes ? "the budget"
                                         : "the host",
             host ? "" : domain->name);
    return true;
}

/* ---------------------------------------------------------------- for users */

int reclaim_explain(struct core *core, const char *name, struct core_why **ret_why)
{
    const struct vm *vm = vm_find(core, name);
    const struct why_ring *ring = vm ? &vm->reclaim.why : NULL;
    struct core_why *why;

    if (!vm && inflate_explain(core, name, &ring))
        return -ENOENT;
    why = calloc(1, sizeof *why);
    if (!why)
        return -ENOMEM;
    snprintf(why->vm, sizeof why->vm, "%s", vm ? vm->engine.name : name);
    snprintf(why->domain, sizeof why->domain, "%s", vm ? vm->domain->name : "");
    why->dry_run = core->config.dry_run;
    why->rests = reclaim_rests(core);
    why->now_ns = clock_now_ns();
    while (why->n < WHY_KEPT && why_entry_at(ring, why->n)) {
        why->entry[why->n] = *why_entry_at(ring, why->n);
        why->n++;
    }
    *ret_why = why;
    return 0;
}

void reclaim_show(const struct core *core, struct core_memory *ret_memory)
{
    *ret_memory = (struct core_memory){core->reclaim.shown.state, core->config.budget_bytes,
                                       core->reclaim.used_bytes, core->reclaim.headroom_bytes};
}

void reclaim_show_domain(const struct domain *domain, struct core_memory *ret_memory)
{
    *ret_memory = (struct core_memory){domain->shown.state, domain->memory.budget_bytes,
                                       usage_of_domain(domain), domain->memory.headroom_bytes};
}
