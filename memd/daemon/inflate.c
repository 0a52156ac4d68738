/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see inflate.h. */
#include "memd/daemon/inflate.h"

#include "memd/common/clock.h"
#include "memd/common/less.h"
#include "memd/daemon/embed.h"
#include "memd/daemon/inflate_file.h"
#include "memd/daemon/state.h"
#include "memd/daemon/terms.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCKED_PART    8u /* so much of its RAM locked, and it is left alone */
#define LOCKED_LOOK_NS (5 * CLOCK_S)
#define CPU_LOOK_NS    (500 * CLOCK_MS)
#define IDLE_PART      20u           /* of a CPU; less is idling */
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

/* Whether its guest runs: by what its process takes of the CPUs, memd's threads aside. */
static void watch_cpu(const struct core *core, struct inflate_one *one, uint64_t now_ns)
{
    uint64_t since_ns = now_ns - one->cpu.ns, process_ns, engine_ns = one->vm ? one->vm->stats.cpu_ns : 0;

    if (one->cpu.ns && since_ns < CPU_LOOK_NS)
        return;
    if (!pid_of(one) || proc_read_cpu(core->config.proc_root, pid_of(one), &process_ns)) {
        one->activity = BALLOON_ACTIVITY_UNKNOWN;
        one->cpu.ns = 0;
        return;
    }
    uint64_t all = less(process_ns, one->cpu.process_ns), engine = less(engine_ns, one->cpu.engine_ns);
    one->activity = !one->cpu.ns                               ? BALLOON_ACTIVITY_UNKNOWN
                    : less(all, engine) < since_ns / IDLE_PART ? BALLOON_IDLE
                                                               : BALLOON_BUSY;
    one->cpu.ns = now_ns;
    one->cpu.process_ns = process_ns;
    one->cpu.engine_ns = engine_ns;
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

static struct balloon_word word_of_agent(const struct core *core, const struct inflate_one *one,
                                         uint64_t now_ns)
{
    const struct agent_peer *peer = agents_peer(core, one->view.vm);

    if (!peer || agent_peer_state(peer, now_ns) != CORE_AGENT_LIVE ||
        !(peer->present >> AGENT_MEM_AVAILABLE & 1))
        return (struct balloon_word){0};
    return (struct balloon_word){
        .heard_ns = peer->reported_ns,
        .available_bytes = peer->value[AGENT_MEM_AVAILABLE],
        .stall_percent = now_ns - peer->reported_ns < STALL_NEWS_NS ? peer->stall_some_percent : 0,
        .reread_bytes = peer->value[AGENT_REFAULT_ANON] + peer->value[AGENT_REFAULT_FILE],
        .oom_kills = peer->value[AGENT_OOM_KILLS],
        .alloc_stalls = peer->value[AGENT_ALLOC_STALLS]};
}

static struct balloon_word word_of_stats(const struct inflate_one *one, uint64_t now_ns)
{
    const uint64_t *stats = one->view.facts.stats, none = MEMD_BALLOON_NO_STAT;
    uint64_t kills = stats[MEMD_BALLOON_OOM_KILLS], stalls = stats[MEMD_BALLOON_ALLOC_STALLS];

    if (one->view.stats_age_ms == BALLOONS_NEVER || stats[MEMD_BALLOON_AVAILABLE_BYTES] == none)
        return (struct balloon_word){0};
    return (struct balloon_word){.heard_ns = now_ns - one->view.stats_age_ms * CLOCK_MS,
                                 .available_bytes = stats[MEMD_BALLOON_AVAILABLE_BYTES],
                                 .oom_kills = kills != none ? kills : 0,
                                 .alloc_stalls = stalls != none ? stalls : 0};
}

static void see(struct core *core, struct inflate_one *one, uint64_t now_ns)
{
    const struct balloon_facts *facts = &one->view.facts;
    struct balloon_seen seen = {.now_ns = now_ns,
                                .excluded = excluded(core, one, now_ns),
                                .ram_bytes = facts->ram_bytes,
                                .actual_bytes = facts->actual_bytes,
                                .target_bytes = facts->target_bytes,
                                .min_bytes = one->view.floor_bytes,
                                .max_bytes = one->view.max_bytes,
                                .resident_bytes = one->resident_bytes,
                                .activity = one->activity};

    struct balloon_word agent = word_of_agent(core, one, now_ns), stats = word_of_stats(one, now_ns);
    balloon_rung_hear(&seen, &agent, &stats);
    balloon_rung_see(&one->rung, &seen, facts->can & BALLOON_CAN_DEFLATE_ON_OOM);
}

static void measure(struct core *core, struct inflate_one *one, uint64_t now_ns)
{
    balloons_view(core->inflate.balloons, one->balloon, &one->view);
    if (one->view.order_serial != one->order_serial && one->view.order_error)
        balloon_policy_refused(&one->rung.memory, now_ns);
    one->order_serial = one->view.order_serial;
    one->vm = engine_of(core, one->view.vm);
    one->resident_bytes = one->on ? resident_of(core, one) : 0;
    if (one->on)
        watch_cpu(core, one, now_ns);
    see(core, one, now_ns);
}

void inflate_measure(struct core *core, uint64_t now_ns)
{
    struct inflate *inflate = &core->inflate;

    inflate->hidden_bytes = 0;
    for (size_t i = 0; i < inflate->n; i++) {
        if (inflate->one[i].there)
            measure(core, &inflate->one[i], now_ns);
        inflate->hidden_bytes += balloon_rung_hidden(&inflate->one[i].rung);
    }
    if (inflate->balloons)
        balloons_reap(inflate->balloons);
}

uint64_t inflate_used(const struct core *core)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < core->inflate.n; i++)
        if (core->inflate.one[i].on && !core->inflate.one[i].vm)
            bytes += core->inflate.one[i].resident_bytes;
    return bytes;
}

bool inflate_is_out(const struct core *core)
{
    for (size_t i = 0; i < core->inflate.n; i++)
        if (balloon_rung_hidden(&core->inflate.one[i].rung) > BALLOON_NEAR)
            return true;
    return false;
}

/* ---------------------------------------------------------------- a look */

static void give_back(struct core *core, struct inflate_one *one)
{
    const struct balloon_verdict *v = &one->rung.verdict;
    uint64_t target = balloon_rung_gives_back(&one->rung, core->config.dry_run);

    if (!target)
        return;
    log_debug("balloon of %s: %s, %" PRIu64 " MiB; it says that %" PRIu64 " MiB are available, and that it "
              "waits for memory %.0f%% of the time",
              one->view.vm, balloon_rule_name(v->rule), target >> 20, v->available_bytes >> 20,
              one->rung.seen.stall_percent);
    balloons_order(core->inflate.balloons, one->balloon, target);
}

static void judge(struct core *core, struct inflate_one *one)
{
    const struct budget_scope *host = &core->reclaim.host;
    const struct balloon_verdict *v = &one->rung.verdict;

    if (one->vm)
        one->terms = one->vm->reclaim.terms;
    else
        terms_of_rules(&core->config, one->view.vm, &one->terms);
    enum budget_state state = balloon_rung_state(
        host->state, one->vm ? one->vm->domain->memory.state : BUDGET_HIGH, &one->terms, one->resident_bytes);
    core->policy.returned_bytes[CORE_RUNG_BALLOON] +=
        balloon_rung_judge(&one->rung, host, core->inflate.hidden_bytes, state);
    core->policy.balloon_looks[v->rule]++;
    if (v->rule == BALLOON_RULE_EXCLUDED)
        core->policy.balloon_excluded[v->excluded]++;
    balloons_note(core->inflate.balloons, one->balloon,
                  !one->on                           ? "off"
                  : v->rule == BALLOON_RULE_EXCLUDED ? balloon_excluded_name(v->excluded)
                                                     : balloon_rule_name(v->rule));
    give_back(core, one);
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

    if (!one)
        return;
    judge(core, one);
    balloon_rung_offer(&one->rung, &vm->reclaim.policy.answer, vm_inout);
}

void inflate_fill(struct core *core, struct policy_look *look)
{
    for (size_t i = 0; i < core->inflate.n; i++) {
        struct inflate_one *one = &core->inflate.one[i];
        if (!one->on || one->vm)
            continue;
        judge(core, one);
        look->domain[look->n] = SIZE_MAX;
        look->vms[look->n++] = balloon_rung_describe(&one->rung, &one->terms);
    }
}

static void carry_out(struct core *core, struct inflate_one *one, const struct budget_plan *plan,
                      struct why_entry *entry)
{
    const struct balloon_verdict *v = &one->rung.verdict;
    uint64_t target =
        balloon_rung_carry_out(&one->rung, &entry->vm, plan, core->config.dry_run, &entry->balloon_bytes);

    entry->has_balloon = true;
    entry->balloon = *v;
    if (v->set_bytes && v->rule != BALLOON_RULE_STALLED)
        entry->why.reason = BUDGET_GIVEN_BACK;
    if (!target)
        return;
    core->policy.orders[CORE_RUNG_BALLOON]++;
    core->policy.asked_bytes[CORE_RUNG_BALLOON] += entry->balloon_bytes;
    log_debug("balloon of %s: %" PRIu64 " of %" PRIu64 " MiB are to be left to the guest", one->view.vm,
              target >> 20, one->rung.seen.actual_bytes >> 20);
    balloons_order(core->inflate.balloons, one->balloon, target);
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
        core->policy.decisions[entry.why.reason]++;
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
        measure(core, one, now_ns);
        if (balloon_rung_is_urgent(&one->rung))
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
        if (!one->there || (vm && strcmp(one->view.vm, vm) != 0))
            continue;
        found = true;
        one->on = on;
        one->rung.memory = (struct balloon_memory){0};
        balloons_watch(inflate->balloons, one->balloon, on);
        balloons_note(inflate->balloons, one->balloon, on ? "waits" : "off");
        struct inflate_kept *kept = inflate_keep(core, one->view.vm);
        if (kept)
            kept->has_auto = true, kept->on = on;
    }
    if (!found)
        return -ENOENT;
    inflate_file_write(core);
    core->reclaim.looked_ns = 0; /* with the next tick */
    return 0;
}

int inflate_limit(struct core *core, const char *vm, const uint64_t *min_bytes, const uint64_t *max_bytes,
                  struct balloon_error *error)
{
    struct balloons *balloons = core->inflate.balloons;
    int balloon = balloons_find(balloons, vm);
    struct balloons_view view;

    if (balloon < 0)
        return balloon_fail(error, -ENOENT, "no such balloon");
    int result = balloons_limit(balloons, balloon, min_bytes, max_bytes, error);
    if (result || balloons_view(balloons, balloon, &view))
        return result;
    struct inflate_kept *kept = inflate_keep(core, vm);
    if (kept) {
        kept->has_limits = true;
        kept->min_bytes = view.min_bytes;
        kept->max_bytes = view.max_bytes;
        inflate_file_write(core);
    }
    return 0;
}

int inflate_explain(const struct core *core, const char *vm, const struct why_ring **ret_why)
{
    for (size_t i = 0; i < core->inflate.n; i++)
        if (core->inflate.one[i].there && !strcmp(core->inflate.one[i].view.vm, vm)) {
            *ret_why = &core->inflate.one[i].why;
            return 0;
        }
    return -ENOENT;
}

/* ---------------------------------------------------------------- they come and go */

/* A balloon is there: from here on it takes part as the configuration says, or a user has said. */
static void admit(struct core *core, int balloon)
{
    struct inflate *inflate = &core->inflate;
    size_t slot = balloons_slot(balloon);
    struct inflate_one *one = &inflate->one[slot];

    *one = (struct inflate_one){.there = true, .balloon = balloon};
    balloons_view(inflate->balloons, balloon, &one->view);
    const struct inflate_kept *kept = inflate_kept(core, one->view.vm);
    struct balloon_error ignored; /* they were checked when they were set */
    if (kept && kept->has_limits)
        balloons_limit(inflate->balloons, balloon, &kept->min_bytes, &kept->max_bytes, &ignored);
    one->on = kept && kept->has_auto ? kept->on : one->view.is_auto;
    balloons_watch(inflate->balloons, balloon, one->on);
    if (slot >= inflate->n)
        inflate->n = slot + 1;
}

int inflate_embed(struct core *core, const char *vm, struct embedded **ret_port)
{
    struct inflate *inflate = &core->inflate;
    struct balloons_spec spec = {0};

    for (size_t i = 0; i < inflate->nrules; i++)
        if (!fnmatch(inflate->rules[i].vm, vm, 0)) {
            spec = inflate->rules[i];
            break;
        }
    snprintf(spec.vm, sizeof spec.vm, "%s", vm);
    int balloon = balloons_embed(inflate->balloons, &spec, inflate->asks.fd, ret_port);
    if (balloon >= 0)
        admit(core, balloon);
    return balloon;
}

void inflate_leave(struct core *core, int balloon)
{
    struct inflate_one *one = &core->inflate.one[balloons_slot(balloon)];

    balloons_leave(core->inflate.balloons, balloon);
    why_free(&one->why);
    *one = (struct inflate_one){0};
}

/* ---------------------------------------------------------------- open, close */

int inflate_open(struct core *core, struct balloons *balloons, const struct balloons_spec *rules,
                 size_t nrules)
{
    struct inflate *inflate = &core->inflate;
    size_t cursor = 0;
    int balloon;

    inflate->one = calloc(BALLOONS_SLOTS, sizeof *inflate->one);
    if (!inflate->one)
        return -ENOMEM;
    int err = embed_open(core);
    if (err) {
        free(inflate->one);
        inflate->one = NULL;
        return err;
    }
    inflate->balloons = balloons;
    inflate->rules = rules;
    inflate->nrules = nrules;
    inflate_file_read(core);
    while ((balloon = balloons_next(balloons, &cursor)) >= 0)
        admit(core, balloon);
    return 0;
}

void inflate_close(struct core *core)
{
    if (!core->inflate.balloons)
        return;
    embed_close(core);
    for (size_t i = 0; i < core->inflate.n; i++)
        why_free(&core->inflate.one[i].why);
    free(core->inflate.one);
    free(core->inflate.kept);
    core->inflate = (struct inflate){0};
}
