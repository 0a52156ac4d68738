/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * tick: what the core does from time to time, whether or not anything happens: reads what engines say about
 * themselves, gives each its budget, finds out which VMs are settled, sends fences, trims tables, warns.
 *
 * A pass over a VM is two rounds of its engine that began after the pass did: what was quiet at its start has
 * been hashed at its end. A VM is settled when its last pass found next to nothing. Rounds of a VM at rest
 * are far apart; while somebody waits for the outcome of a pass (VMs that are not settled, jobs), they are
 * asked for.
 */
#include "memd/daemon/tick.h"

#include "memd/common/clock.h"
#include "memd/daemon/advice.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/matcher.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <malloc.h>

#define WARNING_SHOWN_NS (60 * CLOCK_S)
#define SLOW_TICK_NS     CLOCK_S
#define TRIM_NS          (2 * CLOCK_S)
#define IDLE_NS          CLOCK_S /* a session's rings are trimmed after */
#define FREED_SHARE      8u      /* a store that was full has room again when one part in so many is free */
#define RESCAN_REST_NS   (30 * CLOCK_S)
#define REST_NS          CLOCK_S /* of engines, before the core takes longer ticks */
#define SETTLED_SHARE    200u    /* one part in so many of guest pages may be newly found */

/* ---------------------------------------------------------------- settled */

/* Whether somebody waits for the outcome of a pass. */
static bool is_awaited(const struct vm *vm)
{
    return !vm->settled || vm->core->jobs.settling;
}

static void ask_round(struct vm *vm)
{
    vm->session->round_due = true;
    channel_wake(vm->session);
}

/* Everything that was quiet at its start has been hashed, and nothing of it is under way. An engine publishes
 * what a round found before it says that the round is over, so the ring is looked at after that. */
static bool is_over(const struct vm *vm)
{
    const struct session *session = vm->session;

    return vm->stats.prev_started_ns >= vm->pass.started_ns && !vm->stats.backlog_pages &&
           ring_is_empty(&session->up_ring) && !session->unanswered && !session->proposals.n &&
           !session->exports.n && !session->exports.busy && domain_is_ready(vm->domain);
}

static void end_pass(struct vm *vm, uint64_t now_ns)
{
    uint64_t started_ns = vm->pass.started_ns, found = vm_found_ever(vm) - vm->pass.found_before;
    bool settled = found * SETTLED_SHARE < vm_guest_pages(vm);

    if (settled && !vm->settled)
        vm->core->heap_trim_due = true;
    if (settled != vm->settled)
        log_debug("VM %s: %s, %llu pages found in the last pass", vm->engine.name,
                  settled ? "settled" : "not settled", (unsigned long long)found);
    vm_restart_pass(vm, now_ns);
    vm->settled = settled;
    vm->settled_from_ns = settled ? started_ns : 0;
    if (is_awaited(vm))
        ask_round(vm);
}

static void tend_pass(struct vm *vm, uint64_t now_ns)
{
    if (!vm->merge_on)
        return;
    if (is_over(vm)) {
        end_pass(vm, now_ns);
    } else if (!vm->pass.asked && is_awaited(vm) && vm->stats.round_started_ns >= vm->pass.started_ns) {
        vm->pass.asked = true; /* one round is through: the second */
        ask_round(vm);
    }
}

/* ---------------------------------------------------------------- ticks */

static void tick_vms(struct core *core, uint64_t now_ns)
{
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link) {
        if (!session_is_live(vm->session))
            continue;
        vm_read_stats(vm);
        bool is_short = vm_is_short_of_maps(vm);
        if (is_short && !vm->maps_warned)
            core_warn(core,
                      "VM %s has no mappings left for short runs of pages: raise vm.max_map_count or "
                      "vmas-percent",
                      vm->engine.name);
        vm->maps_warned = is_short;
        tend_pass(vm, now_ns);
        if (now_ns - vm->session->last_ns > IDLE_NS)
            channel_trim(vm->session);
    }
}

/* Pages that found no room in a full store are not looked at again by themselves. When some of it has become
 * free, everybody is asked for all hashes. */
static void tend_full(struct domain *domain, uint64_t now_ns)
{
    uint64_t used = domain_used_frames(domain);
    struct vm *vm;

    if (used * FREED_SHARE > domain->full_frames * (FREED_SHARE - 1) ||
        now_ns - domain->rescan_ns < RESCAN_REST_NS || !domain->full_frames)
        return;
    domain->full_frames = 0;
    domain->rescan_ns = now_ns;
    cds_list_for_each_entry (vm, &domain->vms, domain_link)
        if (vm->merge_on && session_is_live(vm->session)) {
            vm->session->rescan_due = true;
            vm_restart_pass(vm, now_ns);
            channel_wake(vm->session);
        }
}

static void slow_tick(struct core *core, uint64_t now_ns)
{
    struct domain *domain;

    cds_list_for_each_entry (domain, &core->domains, link)
        tend_full(domain, now_ns);
    core->slow_tick_ns = now_ns;
    core->max_map_count = proc_max_map_count(core->config.proc_root, core->max_map_count);
    if (core->warning[0] && now_ns > core->warned_ns + WARNING_SHOWN_NS)
        core->warning[0] = '\0';
}

static void trim(struct core *core, uint64_t now_ns)
{
    struct domain *domain;

    core->trimmed_ns = now_ns;
    cds_list_for_each_entry (domain, &core->domains, link)
        for (unsigned i = 0; i < domain->nindexes; i++) {
            candidates_sweep(&domain->indexes[i].candidates, matcher_check, domain);
            candidates_trim(&domain->indexes[i].candidates);
            index_trim(&domain->indexes[i]);
        }
    /* what it took to get a VM settled was freed amid the heap, which keeps it */
    if (core->heap_trim_due)
        malloc_trim(0);
    core->heap_trim_due = false;
}

void core_tick(struct core *core, uint64_t now_ns)
{
    struct session *session, *next;
    struct domain *domain;

    core->tick_ns = now_ns;
    cds_list_for_each_entry_safe (session, next, &core->sessions, link) {
        session_tend(session, now_ns);
        if (!session->ended && session->state == SESSION_LIVE)
            channel_wake(session);
    }
    tick_vms(core, now_ns);
    writes_tick(core, now_ns);
    advice_tick(core, now_ns);
    reclaim_tick(core, now_ns);
    heirs_tick(core, now_ns);
    agents_tick(core, now_ns);
    cds_list_for_each_entry (domain, &core->domains, link)
        domain_tend_fence(domain, now_ns);
    jobs_tick(core);
    if (now_ns - core->slow_tick_ns >= SLOW_TICK_NS)
        slow_tick(core, now_ns);
    if (now_ns - core->trimmed_ns >= TRIM_NS)
        trim(core, now_ns);
}

/* ---------------------------------------------------------------- rest */

static bool vm_rests(const struct vm *vm, uint64_t now_ns)
{
    const struct session *session = vm->session;

    return session_is_live(session) && (vm->settled || !vm->merge_on) && !channel_is_waiting(session) &&
           now_ns - session->last_ns >= REST_NS;
}

bool core_rests(struct core *core, uint64_t now_ns)
{
    const struct domain *domain;
    const struct vm *vm;

    if (core->nsessions != core->nvms || core->heirs.running || !reclaim_rests(core))
        return false;
    cds_list_for_each_entry (vm, &core->vms, link)
        if (!vm_rests(vm, now_ns))
            return false;
    cds_list_for_each_entry (domain, &core->domains, link)
        if (domain->retired.n || domain->fenced.n || domain->heirs.wanted || !domain_is_ready(domain))
            return false;
    for (unsigned i = 0; i < CORE_JOBS_MAX; i++)
        if (jobs_runs(&core->jobs.record[i]))
            return false;
    return true;
}
