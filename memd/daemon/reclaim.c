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

#define BUSY_NS     (250 * CLOCK_MS) /* between two looks, where there is something to keep */
#define SHORT_NS    (CORE_TICK_MS * CLOCK_MS)
#define IDLE_NS     CLOCK_S
#define DRY_COLD_NS (2 * CLOCK_S) /* rounds find out meanwhile what is cold */
#define DRY_ANY_NS  CLOCK_S
#define NO_SWAP_NS  (10 * CLOCK_S) /* until a swap file that was full is tried again */
#define BUDGET_BACK 2              /* per cent of a budget between where a state begins and ends */
#define FREE_BACK   1              /* of the host's memory */

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
    r->used_bytes = usage_measure(core);
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
    struct reclaim_vm *r = &vm->reclaim;
    struct budget_faults now = {now_ns, vm->stats.packed_faults, vm->stats.swapped_faults};

    if (r->seen.at_ns)
        budget_measure(&r->rates, &r->seen, &now);
    r->seen = now;
    r->target_bytes = r->usage.resident_bytes;
    if (r->dry && now_ns - r->dry_ns > (r->dry == BUDGET_LOW ? DRY_ANY_NS : DRY_COLD_NS))
        r->dry = BUDGET_HIGH;
    if (r->no_swap_ns && now_ns - r->no_swap_ns > NO_SWAP_NS)
        r->no_swap_ns = 0;
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
        core_warn(core,
                  "%s%s%smemory is low (%s of %" PRIu64 " MiB): everything is paged out that can be, and no "
                  "new VM is let in",
                  of, name, colon, core->config.budget_bytes || domain ? "a budget" : "a host",
                  scope->budget_bytes >> 20);
    }
    if (shown->state != was && scope->budget_bytes && log_allowed(&core->reclaim.log))
        log_info("%s%s%smemory is %s: %" PRIu64 " of %" PRIu64 " MiB are in use, %" PRIu64 " are kept free",
                 of, name, colon, budget_state_name(shown->state), scope->used_bytes >> 20,
                 scope->budget_bytes >> 20, scope->headroom_bytes >> 20);
}

static bool is_short(const struct core *core)
{
    const struct domain *domain;
    const struct vm *vm;

    if (core->reclaim.host.state >= BUDGET_HARD)
        return true;
    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm->reclaim.terms.limit_bytes && vm->reclaim.usage.resident_bytes > vm->reclaim.terms.limit_bytes)
            return true;
    cds_list_for_each_entry (domain, &core->domains, link)
        if (domain->memory.state >= BUDGET_HARD)
            return true;
    return false;
}

bool reclaim_rests(const struct core *core)
{
    const struct core_config *c = &core->config;
    const struct vm *vm;

    if (c->budget_bytes || core->reclaim.host.state)
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
    return is_short(core) ? SHORT_NS : reclaim_rests(core) ? IDLE_NS : BUSY_NS;
}

/* ---------------------------------------------------------------- plans */

struct planning {
    struct budget_policy policy;
    size_t n;
    struct budget_vm *vms;
    struct budget_plan *plans;
    bool *member;
};

static bool planning_open(struct planning *p, const struct core *core)
{
    size_t n = core->nvms + 1; /* so that there is one */

    p->policy = (struct budget_policy){core->config.idle_tax_percent / 100.0,
                                       core->config.refault_percent,
                                       core->config.stall_percent,
                                       SHORT_NS * 1e-9,
                                       core->reclaim.stall_some,
                                       core->reclaim.stall_full};
    p->vms = calloc(n, sizeof *p->vms);
    p->plans = calloc(n, sizeof *p->plans);
    p->member = calloc(n, sizeof *p->member);
    return p->vms && p->plans && p->member;
}

static void planning_close(struct planning *p)
{
    free(p->vms);
    free(p->plans);
    free(p->member);
}

static struct budget_vm describe(const struct vm *vm)
{
    const struct reclaim_vm *r = &vm->reclaim;
    const struct budget_order *own = &vm->paging.own;
    bool can_swap = vm->core->config.swap && !r->no_swap_ns && writes_allowed(vm);

    return (struct budget_vm){.guest_bytes = vm_guest_pages(vm) * WIRE_PAGE_BYTES,
                              .resident_bytes = r->usage.resident_bytes,
                              .reclaimable_bytes = r->usage.reclaimable_bytes,
                              .merged_bytes = r->usage.merged_bytes,
                              .loose_bytes = vm->stats.parked_pages * WIRE_PAGE_BYTES +
                                             (can_swap ? vm->stats.pool_bytes : 0),
                              .working_set_bytes = vm_working_set_pages(vm) * WIRE_PAGE_BYTES,
                              .rates = r->rates,
                              .terms = r->terms,
                              .can_swap = can_swap,
                              .busy = vm->paging.job || !session_is_live(vm->session),
                              .pending_bytes = own->pages * WIRE_PAGE_BYTES,
                              .pending = own->state,
                              .dry = r->dry};
}

static void plan(struct planning *p, struct core *core)
{
    struct domain *domain;
    struct vm *vm;
    size_t i;

    cds_list_for_each_entry (vm, &core->vms, link)
        p->vms[p->n++] = describe(vm);
    budget_plan_limits(&p->policy, p->n, p->vms, p->plans);
    cds_list_for_each_entry (domain, &core->domains, link) {
        if (!domain->memory.state)
            continue;
        i = 0;
        cds_list_for_each_entry (vm, &core->vms, link)
            p->member[i++] = vm->domain == domain;
        budget_plan(&domain->memory, &p->policy, p->n, p->vms, p->member, p->plans);
    }
    memset(p->member, true, p->n * sizeof *p->member);
    budget_plan(&core->reclaim.host, &p->policy, p->n, p->vms, p->member, p->plans);
}

static void carry_out(const struct planning *p, struct core *core)
{
    struct vm *vm;
    size_t i = 0;

    cds_list_for_each_entry (vm, &core->vms, link) {
        const struct budget_plan *of = &p->plans[i++];
        vm->reclaim.target_bytes = of->target_bytes;
        if (!of->order.pages)
            continue;
        log_debug("VM %s: %s, %" PRIu64 " pages%s%s", vm->engine.name, budget_state_name(of->order.state),
                  of->order.pages, of->order.all ? ", any" : "", of->order.swap ? ", swap" : "");
        paging_order_own(vm, &of->order);
    }
}

void reclaim_tick(struct core *core, uint64_t now_ns)
{
    struct planning p = {0};
    struct domain *domain;
    struct vm *vm;

    if (now_ns - core->reclaim.looked_ns < look_ns(core))
        return;
    core->reclaim.looked_ns = now_ns;
    core->reclaim.alarm = false;
    measure_host(core);
    measure_stall(core);
    cds_list_for_each_entry (vm, &core->vms, link)
        measure_vm(vm, now_ns);
    look(core, &core->reclaim.host, &core->reclaim.shown, NULL);
    cds_list_for_each_entry (domain, &core->domains, link) {
        measure_domain(domain);
        look(core, &domain->memory, &domain->shown, domain);
    }
    if (!reclaim_rests(core) && planning_open(&p, core)) {
        plan(&p, core);
        carry_out(&p, core);
    }
    planning_close(&p);
}

/* ---------------------------------------------------------------- answers */

void reclaim_answered(struct vm *vm, const struct budget_order *own, uint64_t pages, int error)
{
    struct reclaim_vm *r = &vm->reclaim;

    if (error == ENOSPC) {
        r->no_swap_ns = clock_now_ns();
        core_warn(vm->core, "VM %s: its swap file is full, or cannot be written", vm->engine.name);
    }
    if ((!error || error == ENOSPC || error == EDQUOT) && pages < own->pages / 2) {
        r->dry = own->depth;
        r->dry_ns = clock_now_ns();
    }
}

bool reclaim_refuses(struct core *core, const struct domain *domain, char *ret_why, size_t bytes)
{
    bool host = core->reclaim.shown.state == BUDGET_LOW;
    const struct budget_scope *scope = host ? &core->reclaim.host : &domain->memory;

    if (!host && domain->shown.state != BUDGET_LOW)
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
