/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see inflate.h. */
#include "memd/daemon/inflate.h"

#include "memd/common/clock.h"
#include "memd/daemon/inflate_file.h"
#include "memd/daemon/state.h"
#include "memd/daemon/terms.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOCKED_PART    8u /* so much of its RAM locked, and it is left alone */
#define LOCKED_LOOK_NS (5 * CLOCK_S)
#define STALL_NEWS_NS  (3 * CLOCK_S) /* so old, what a guest said of its stalls says nothing any more */

/* ---------------------------------------------------------------- what is known */

static const struct vm *engine_of(struct core *core, const char *name)
{
    const struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link)
        if (!strcmp(vm->engine.name, name))
            return vm;
    return NULL;
}

static pid_t pid_of(const struct inflate_one *one)
{
    return one->vm ? one->vm->engine.pid : (pid_t)one->view.facts.pid;
}

static uint64_t resident_of(const struct core *core, const struct inflate_one *one)
{
    uint64_t bytes;

    if (one->vm)
        return one->vm->reclaim.usage.resident_bytes;
    if (pid_of(one) && !proc_read_anon(core->config.proc_root, pid_of(one), &bytes))
        return bytes;
    return one->view.state == BALLOONS_READY || one->view.state == BALLOONS_NO_DRIVER
               ? one->view.facts.actual_bytes
               : 0;
}

/* Whether so much of its memory is locked or pinned that a balloon would return nothing: mlock, VFIO. */
static bool is_locked(const struct core *core, struct inflate_one *one, uint64_t now_ns)
{
    uint64_t bytes;

    if (!pid_of(one))
        return false;
    if (!one->locked_look_ns || now_ns - one->locked_look_ns >= LOCKED_LOOK_NS) {
        one->locked_look_ns = now_ns;
        one->locked = !proc_read_locked(core->config.proc_root, pid_of(one), &bytes) &&
                      bytes > one->view.facts.ram_bytes / LOCKED_PART;
    }
    return one->locked;
}

static enum balloon_excluded excluded(const struct core *core, struct inflate_one *one, uint64_t now_ns)
{
    const struct balloons_view *view = &one->view;

    if (!one->on)
        return BALLOON_OFF;
    if (view->state != BALLOONS_READY || !view->facts.ram_bytes)
        return BALLOON_NOT_READY;
    if (!(view->facts.can & BALLOON_CAN_ACTUAL) || !(view->facts.can & BALLOON_CAN_TARGET))
        return BALLOON_BLIND;
    if (view->facts.migrating)
        return BALLOON_MIGRATING;
    if (is_locked(core, one, now_ns))
        return BALLOON_LOCKED;
    return BALLOON_INCLUDED;
}

/* What the guest says: its agent, or else the statistics of its balloon. */
static void hear(struct core *core, const struct inflate_one *one, struct balloon_seen *seen)
{
    const struct agent_peer *peer = agents_peer(core, one->view.vm);
    const struct balloon_facts *facts = &one->view.facts;

    if (peer && agent_peer_state(peer, seen->now_ns) == CORE_AGENT_LIVE && peer->reported_ns &&
        peer->present >> AGENT_MEM_AVAILABLE & 1) {
        seen->heard_ns = peer->reported_ns;
        seen->speaks_up = true;
        seen->available_bytes = peer->value[AGENT_MEM_AVAILABLE];
        seen->oom_kills = peer->value[AGENT_OOM_KILLS];
        seen->alloc_stalls = peer->value[AGENT_ALLOC_STALLS];
        if (seen->now_ns - peer->reported_ns < STALL_NEWS_NS)
            seen->stall_percent = peer->stall_some_percent;
        return;
    }
    if (one->view.stats_age_ms == BALLOONS_NEVER ||
        facts->stats[MEMD_BALLOON_AVAILABLE_BYTES] == MEMD_BALLOON_NO_STAT)
        return;
    seen->heard_ns = seen->now_ns - one->view.stats_age_ms * CLOCK_MS;
    seen->available_bytes = facts->stats[MEMD_BALLOON_AVAILABLE_BYTES];
    if (facts->stats[MEMD_BALLOON_OOM_KILLS] != MEMD_BALLOON_NO_STAT)
        seen->oom_kills = facts->stats[MEMD_BALLOON_OOM_KILLS];
    if (facts->stats[MEMD_BALLOON_ALLOC_STALLS] != MEMD_BALLOON_NO_STAT)
        seen->alloc_stalls = facts->stats[MEMD_BALLOON_ALLOC_STALLS];
}

static void see(struct core *core, struct inflate_one *one, uint64_t now_ns)
{
    const struct balloon_facts *facts = &one->view.facts;

    one->seen = (struct balloon_seen){.now_ns = now_ns,
                                      .excluded = excluded(core, one, now_ns),
                                      .ram_bytes = facts->ram_bytes,
                                      .actual_bytes = facts->actual_bytes,
                                      .target_bytes = facts->target_bytes,
                                      .min_bytes = one->view.floor_bytes,
                                      .max_bytes = one->view.max_bytes,
                                      .resident_bytes = one->resident_bytes,
                                      .has_room = one->seen.has_room};
    hear(core, one, &one->seen);
    if (!one->seen.excluded && !one->seen.heard_ns)
        one->seen.excluded = BALLOON_MUTE;
    else if (!one->seen.excluded && !one->seen.speaks_up && !(facts->can & BALLOON_CAN_DEFLATE_ON_OOM))
        one->seen.excluded = BALLOON_RISKY;
}

static void measure(struct core *core, struct inflate_one *one, size_t i, uint64_t now_ns)
{
    balloons_view(core->inflate.balloons, i, &one->view);
    if (one->view.order_serial != one->order_serial && one->view.order_error)
        balloon_policy_refused(&one->memory, now_ns);
    one->order_serial = one->view.order_serial;
    one->vm = engine_of(core, one->view.vm);
    one->resident_bytes = one->on ? resident_of(core, one) : 0;
    see(core, one, now_ns);
}

void inflate_measure(struct core *core, uint64_t now_ns)
{
    struct inflate *inflate = &core->inflate;

    for (size_t i = 0; i < inflate->n; i++)
        measure(core, &inflate->one[i], i, now_ns);
}

uint64_t inflate_used(const struct core *core)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < core->inflate.n; i++)
        if (core->inflate.one[i].on && !core->inflate.one[i].vm)
            bytes += core->inflate.one[i].resident_bytes;
    return bytes;
}

static uint64_t hidden_bytes(const struct inflate_one *one)
{
    uint64_t max = one->seen.max_bytes && one->seen.max_bytes < one->seen.ram_bytes ? one->seen.max_bytes
                                                                                    : one->seen.ram_bytes;
    uint64_t has = one->seen.target_bytes && one->seen.target_bytes < one->seen.actual_bytes
                       ? one->seen.target_bytes
                       : one->seen.actual_bytes;

    return balloon_policy_returns(one->seen.excluded) && max > has ? max - has : 0;
}

bool inflate_is_out(const struct core *core)
{
    for (size_t i = 0; i < core->inflate.n; i++)
        if (hidden_bytes(&core->inflate.one[i]) > BALLOON_NEAR)
            return true;
    return false;
}

/* ---------------------------------------------------------------- a look */

/* The most urgent of those that may ask it. */
static enum budget_state state_of(const struct core *core, const struct inflate_one *one)
{
    enum budget_state state = core->reclaim.host.state;

    if (one->vm && one->vm->domain->memory.state > state)
        state = one->vm->domain->memory.state;
    if (one->terms.limit_bytes && one->resident_bytes > one->terms.limit_bytes && state < BUDGET_HARD)
        state = BUDGET_HARD;
    return state;
}

static void give_back(struct core *core, struct inflate_one *one)
{
    const struct balloon_verdict *v = &one->verdict;

    if (!v->set_bytes || (core->config.dry_run && v->rule == BALLOON_RULE_ROOM))
        return;
    log_debug("balloon of %s: %s, %" PRIu64 " MiB; it says that %" PRIu64 " MiB are available, and that it "
              "waits for memory %.0f%% of the time",
              one->view.vm, balloon_rule_name(v->rule), v->set_bytes >> 20, v->available_bytes >> 20,
              one->seen.stall_percent);
    balloons_order(core->inflate.balloons, (size_t)(one - core->inflate.one), v->set_bytes);
}

static void judge(struct core *core, struct inflate_one *one)
{
    uint64_t hidden = 0;

    for (size_t i = 0; i < core->inflate.n; i++)
        hidden += hidden_bytes(&core->inflate.one[i]);
    if (one->vm)
        one->terms = one->vm->reclaim.terms;
    else
        terms_of_rules(&core->config, one->view.vm, &one->terms);
    one->seen.has_room = balloon_policy_has_room(&core->reclaim.host, hidden);
    balloon_policy_look(&one->memory, &one->seen, state_of(core, one), &one->verdict);
    balloons_note(core->inflate.balloons, (size_t)(one - core->inflate.one),
                  one->on ? one->verdict.rule == BALLOON_RULE_EXCLUDED
                                ? balloon_excluded_name(one->verdict.excluded)
                                : balloon_rule_name(one->verdict.rule)
                          : "off");
    give_back(core, one);
}

static void offer(const struct inflate_one *one, double paged, struct budget_vm *vm)
{
    const struct balloon_verdict *v = &one->verdict;

    vm->balloon_bytes = (uint64_t)((double)v->offer_bytes * v->returned);
    vm->inflating_bytes = v->pending_bytes;
    vm->balloon_first = balloon_policy_is_first(v->returned, paged);
}

static struct inflate_one *of_engine(struct core *core, const struct vm *vm)
{
    for (size_t i = 0; i < core->inflate.n; i++)
        if (core->inflate.one[i].on && core->inflate.one[i].vm == vm)
            return &core->inflate.one[i];
    return NULL;
}

void inflate_describe(struct core *core, const struct vm *vm, struct budget_vm *vm_inout)
{
    struct inflate_one *one = of_engine(core, vm);
    const struct policy_answer *answer = &vm->reclaim.policy.answer;

    if (!one)
        return;
    judge(core, one);
    offer(one, answer->asked_pages ? (double)answer->returned_pages / (double)answer->asked_pages : 1,
          vm_inout);
}

/* One that takes part by its balloon alone. What its guest does not say to be available it uses. */
static struct budget_vm describe(const struct inflate_one *one)
{
    const struct balloon_seen *seen = &one->seen;
    bool known = seen->heard_ns && seen->actual_bytes > seen->available_bytes;
    struct budget_vm vm = {.guest_bytes = seen->ram_bytes,
                           .resident_bytes = one->resident_bytes,
                           .working_set_bytes = known ? seen->actual_bytes - seen->available_bytes : 0,
                           .terms = one->terms};

    offer(one, BALLOON_RETURNED_MIN, &vm); /* there is no other means */
    return vm;
}

void inflate_fill(struct core *core, struct policy_look *look)
{
    for (size_t i = 0; i < core->inflate.n; i++) {
        struct inflate_one *one = &core->inflate.one[i];
        if (!one->on || one->vm)
            continue;
        judge(core, one);
        look->domain[look->n] = SIZE_MAX;
        look->vms[look->n++] = describe(one);
    }
}

static void carry_out(struct core *core, struct inflate_one *one, const struct budget_plan *plan,
                      struct why_entry *entry)
{
    const struct balloon_verdict *v = &one->verdict;
    uint64_t bytes = plan->balloon_bytes ? (uint64_t)((double)plan->balloon_bytes / v->returned) : 0;

    entry->has_balloon = true;
    if (v->set_bytes && v->rule != BALLOON_RULE_STALLED)
        entry->why.reason = BUDGET_GIVEN_BACK;
    if (bytes > v->offer_bytes)
        bytes = v->offer_bytes;
    entry->balloon = *v;
    entry->balloon_bytes = bytes;
    if (!bytes || v->set_bytes || core->config.dry_run)
        return;
    uint64_t target = balloon_policy_step(&one->memory, &one->seen, bytes);
    log_debug("balloon of %s: %" PRIu64 " of %" PRIu64 " MiB are to be left to the guest", one->view.vm,
              target >> 20, one->seen.actual_bytes >> 20);
    balloons_order(core->inflate.balloons, (size_t)(one - core->inflate.one), target);
}

void inflate_carry_out_vm(struct core *core, const struct vm *vm, const struct budget_plan *plan,
                          struct why_entry *entry)
{
    struct inflate_one *one = of_engine(core, vm);

    if (one)
        carry_out(core, one, plan, entry);
}

void inflate_carry_out(struct core *core, const struct policy_look *look, size_t from)
{
    for (size_t i = 0; i < core->inflate.n && from < look->n; i++) {
        struct inflate_one *one = &core->inflate.one[i];
        if (!one->on || one->vm)
            continue;
        struct why_entry entry =
            why_of(look, from, &one->policy, core->config.dry_run, core->reclaim.looked_ns);
        carry_out(core, one, &look->plans[from++], &entry);
        why_note(&one->why, &entry);
    }
}

void inflate_heard(struct core *core, const char *vm)
{
    struct inflate *inflate = &core->inflate;
    uint64_t now_ns = clock_now_ns();

    for (size_t i = 0; i < inflate->n; i++) {
        struct inflate_one *one = &inflate->one[i];
        if (!one->on || strcmp(one->view.vm, vm) != 0)
            continue;
        measure(core, one, i, now_ns);
        if (hidden_bytes(one) > BALLOON_NEAR && balloon_policy_is_needed(&one->memory, &one->seen))
            reclaim_look_now(core, now_ns);
        return;
    }
}

/* ---------------------------------------------------------------- for users */

int inflate_set(struct core *core, const char *vm, bool on)
{
    struct inflate *inflate = &core->inflate;
    bool found = !vm;

    for (size_t i = 0; i < inflate->n; i++) {
        struct inflate_one *one = &inflate->one[i];
        if (vm && strcmp(one->view.vm, vm) != 0)
            continue;
        found = one->is_set = true;
        one->on = on;
        one->memory = (struct balloon_memory){0};
        balloons_watch(inflate->balloons, i, on);
        balloons_note(inflate->balloons, i, on ? "waits" : "off");
    }
    if (!found)
        return -ENOENT;
    inflate_file_write(core);
    core->reclaim.looked_ns = 0; /* with the next tick */
    return 0;
}

int inflate_explain(const struct core *core, const char *vm, const struct why_ring **ret_why)
{
    for (size_t i = 0; i < core->inflate.n; i++)
        if (!strcmp(core->inflate.one[i].view.vm, vm)) {
            *ret_why = &core->inflate.one[i].why;
            return 0;
        }
    return -ENOENT;
}

/* ---------------------------------------------------------------- open, close */

int inflate_open(struct core *core, struct balloons *balloons)
{
    struct inflate *inflate = &core->inflate;
    size_t n = balloons_count(balloons);

    inflate->one = calloc(n + 1, sizeof *inflate->one);
    if (!inflate->one)
        return -ENOMEM;
    inflate->balloons = balloons;
    inflate->n = n;
    for (size_t i = 0; i < n; i++) {
        balloons_view(balloons, i, &inflate->one[i].view);
        inflate->one[i].on = inflate->one[i].view.is_auto;
    }
    inflate_file_read(core);
    for (size_t i = 0; i < n; i++)
        balloons_watch(balloons, i, inflate->one[i].on);
    return 0;
}

void inflate_close(struct core *core)
{
    for (size_t i = 0; i < core->inflate.n; i++)
        why_free(&core->inflate.one[i].why);
    free(core->inflate.one);
    core->inflate = (struct inflate){0};
}
