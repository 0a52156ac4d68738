/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * run: the host of the model, in the daemon's order: each tick VMs and engines go on; when a look is due,
 * what is used is measured, balloons are judged, the policy decides, and balloons and engines get their
 * orders (reclaim.c, inflate.c). A guest that needs memory is not kept waiting for the next look.
 */
#include "bench/policy-sim/sim.h"

#include <stdlib.h>

#define TROUBLE_S      3600.0 /* between two of a VM */
#define QUIET_TICKS    9      /* that a VM in which nothing goes on is left out */
#define MEASURE_FROM   0.5    /* of the run: means are of what comes after */
#define HEADROOM_BYTES 0

struct run {
    const struct sim_config *config;
    struct sim_vm *vms;
    size_t n;
    struct sim_result *result;
    struct policy_look look;
    struct sim_vm **of; /* of the look's VMs */
    struct budget_shown shown;
    uint64_t now_ns, looked_ns;
    bool is_short, is_urgent;
    double read_wanted, write_wanted; /* pages, in the last tick */
};

static double now_s(const struct run *run)
{
    return (double)run->now_ns * 1e-9;
}

/* ---------------------------------------------------------------- what happens to VMs */

/* A user's job, a pause, an engine that does not answer. */
static void make_trouble(struct run *run, struct sim_vm *vm)
{
    static const enum budget_excluded kinds[] = {BUDGET_JOB, BUDGET_PAUSED, BUDGET_SILENT};
    double s = now_s(run);

    if (vm->trouble && s >= vm->trouble_ends_s)
        vm->trouble = BUDGET_INCLUDED;
    if (!run->config->troubles || vm->trouble || !sim_happens(&vm->random, SIM_TICK_S / TROUBLE_S))
        return;
    vm->trouble = kinds[(size_t)sim_uniform(&vm->random, 0, 3) % 3];
    vm->trouble_ends_s = s + sim_uniform(&vm->random, 5, 60);
    if (vm->trouble == BUDGET_JOB) /* ends what the daemon has ordered */
        vm->order = (struct budget_order){0};
}

static void end_vm(struct sim_vm *vm)
{
    vm->present = false;
    vm->touched = vm->hot = vm->cooling = vm->cold = vm->packed = vm->swapped = 0;
    vm->owed_packed = vm->owed_swapped = 0;
    vm->kernel.balloon = vm->kernel.processes = vm->kernel.cache = vm->kernel.cache_used = 0;
    vm->order = (struct budget_order){0};
}

/* It begins when it is time, and is let in while memory is not low. */
static bool is_there(struct run *run, struct sim_vm *vm)
{
    bool was = vm->present;

    if (!was && vm->load.start_s <= now_s(run)) {
        if (run->shown.state == BUDGET_LOW) {
            run->result->refused++;
            vm->load.start_s += 5; /* it asks again */
            return false;
        }
        vm->present = vm->load.kind != SIM_TRACED || vm->load.point[vm->load.at].guest > 0;
    }
    if (vm->present && !sim_load_now(vm, now_s(run)))
        end_vm(vm);
    if (vm->present && !was)
        sim_guest_begin(vm);
    return vm->present;
}

static void tick_vm(struct run *run, struct sim_vm *vm, struct sim_share *share)
{
    const struct sim_before before = {sim_resident(vm), vm->taken, vm->balloons.filled, vm->balloons.kills};
    double home = vm->packed_faults + vm->swapped_faults;

    sim_vm_tick(vm, &run->config->device, share, run->now_ns, run->result->waits);
    run->result->moved_home += vm->packed_faults + vm->swapped_faults - home;
    run->result->reclaimed += vm->taken - before.taken;
    run->result->vm_seconds += share->s;
    sim_check_tick(run->result, now_s(run), vm, &before);
    if (vm->kernel.spoke && !run->is_urgent) { /* as inflate_heard() */
        sim_guest_see(vm, run->now_ns);
        run->is_urgent = balloon_rung_is_urgent(&vm->kernel.rung);
    }
}

static void tick(struct run *run)
{
    const struct sim_device *d = &run->config->device;
    double read = d->read_pages_per_s * SIM_TICK_S, write = d->write_pages_per_s * SIM_TICK_S;
    struct sim_share share = {.read_part = run->read_wanted > read ? read / run->read_wanted : 1,
                              .write_part = run->write_wanted > write ? write / run->write_wanted : 1};
    bool half = now_s(run) - SIM_TICK_S < run->config->seconds * MEASURE_FROM;

    for (size_t i = 0; i < run->n; i++) {
        struct sim_vm *vm = &run->vms[i];
        if (!is_there(run, vm))
            continue;
        make_trouble(run, vm);
        bool quiet = sim_vm_is_quiet(vm);
        if (quiet && vm->skipped < QUIET_TICKS) {
            vm->skipped++;
            continue;
        }
        share.s = SIM_TICK_S * (quiet ? vm->skipped + 1 : 1);
        vm->skipped = 0;
        tick_vm(run, vm, &share);
        if (half) {
            vm->taken_before = vm->taken;
            vm->home_before = vm->packed_faults + vm->swapped_faults;
            vm->lost_before_s = vm->lost_s;
        }
    }
    run->read_wanted = share.read_wanted;
    run->write_wanted = share.write_wanted;
}

/* ---------------------------------------------------------------- looks */

/* What is known of balloons and their guests. Returns the bytes that all balloons hold. */
static uint64_t see_balloons(struct run *run)
{
    uint64_t hidden = 0;

    for (size_t i = 0; i < run->n; i++) {
        struct sim_vm *vm = &run->vms[i];
        if (!vm->present)
            continue;
        sim_guest_see(vm, run->now_ns);
        hidden += balloon_rung_hidden(&vm->kernel.rung);
    }
    return hidden;
}

static void measure_host(struct run *run)
{
    double used = 0;

    for (size_t i = 0; i < run->n; i++)
        if (run->vms[i].present) {
            used += sim_resident(&run->vms[i]);
            sim_vm_measure(&run->vms[i], run->now_ns);
        }
    struct budget_scope *host = &run->look.host;
    enum budget_state was = host->state;
    *host = (struct budget_scope){(uint64_t)(run->config->host * SIM_PAGE), (uint64_t)(used * SIM_PAGE),
                                  HEADROOM_BYTES, run->config->thresholds, was};
    host->state = budget_next_state(host);
    budget_show(&run->shown, host->state, run->now_ns);
    run->result->state_changes += host->state != was;
}

/* What it has to give back is ordered at once. */
static void judge(struct run *run, struct sim_vm *vm, uint64_t hidden)
{
    struct balloon_rung *rung = &vm->kernel.rung;
    enum budget_state state =
        balloon_rung_state(run->look.host.state, BUDGET_HIGH, &vm->terms, rung->seen.resident_bytes);

    vm->balloons.returned += (double)balloon_rung_judge(rung, &run->look.host, hidden, state) / SIM_PAGE;
    uint64_t target = balloon_rung_gives_back(rung, false);
    if (!target)
        return;
    if (rung->verdict.rule != BALLOON_RULE_STALLED)
        vm->balloons.given_back[rung->verdict.rule] += vm->kernel.balloon;
    sim_guest_aim(vm, target);
}

static void fill(struct run *run, uint64_t hidden)
{
    struct policy_look *look = &run->look;

    look->n = 0;
    for (size_t i = 0; i < run->n; i++) {
        struct sim_vm *vm = &run->vms[i];
        if (!vm->present)
            continue;
        judge(run, vm, hidden);
        struct budget_vm *seen = &look->vms[look->n];
        *seen = vm->no_engine ? balloon_rung_describe(&vm->kernel.rung, &vm->terms)
                              : sim_vm_describe(vm, run->now_ns);
        if (!vm->no_engine)
            balloon_rung_offer(&vm->kernel.rung, &vm->memory.answer, seen);
        look->domain[look->n] = SIZE_MAX;
        run->of[look->n++] = vm;
    }
}

static void count(struct run *run, double s)
{
    const struct policy_look *look = &run->look;
    struct sim_result *result = run->result;
    double over = (double)look->host.used_bytes / (double)look->host.budget_bytes - 1;

    result->looks++;
    result->state_s[look->host.state] += s;
    if (over > 0)
        result->over_s += s;
    if (over > result->overshoot)
        result->overshoot = over;
    if (now_s(run) < run->config->seconds * MEASURE_FROM)
        return;
    for (size_t i = 0; i < look->n; i++) {
        struct sim_vm *vm = run->of[i];
        vm->resident_sum += sim_resident(vm) * s;
        vm->hot_sum += (vm->hot + vm->owed_packed + vm->owed_swapped) * s;
        vm->balloon_sum += vm->kernel.balloon * s;
        vm->seconds += s;
    }
}

/* Its balloon is asked before its pages are. */
static void carry_out(struct run *run, struct sim_vm *vm, const struct budget_vm *seen,
                      const struct budget_plan *plan)
{
    uint64_t bytes, target = balloon_rung_carry_out(&vm->kernel.rung, seen, plan, false, &bytes);

    if (target) {
        sim_guest_aim(vm, target);
        vm->balloons.asked += (double)bytes / SIM_PAGE;
        vm->balloons.steps++;
    }
    if (!plan->order.pages)
        return;
    sim_vm_order(vm, &plan->order, run->now_ns);
    run->result->orders++;
}

static void look_now(struct run *run)
{
    struct policy_look *look = &run->look;
    double s = (double)(run->now_ns - run->looked_ns) * 1e-9;

    run->looked_ns = run->now_ns;
    uint64_t hidden = see_balloons(run);
    measure_host(run);
    fill(run, hidden);
    policy_decide(look);
    run->is_short = policy_is_short(look);
    sim_check_sum(run->result, now_s(run), look);
    count(run, s);
    for (size_t i = 0; i < look->n; i++) {
        sim_check_plan(run->result, now_s(run), run->of[i], &look->vms[i], &look->plans[i]);
        sim_check_limit(run->result, now_s(run), run->of[i], &look->vms[i], s);
        carry_out(run, run->of[i], &look->vms[i], &look->plans[i]);
    }
}

/* The host, SIM_SAMPLES times. */
static void sample(struct run *run)
{
    struct sim_result *result = run->result;

    if (now_s(run) < run->config->seconds * (double)(result->nsamples + 1) / SIM_SAMPLES - SIM_TICK_S / 2)
        return;
    struct sim_sample *now = &result->sample[result->nsamples++];
    *now = (struct sim_sample){.second = now_s(run), .state = run->look.host.state};
    for (size_t i = 0; i < run->n; i++) {
        const struct sim_vm *vm = &run->vms[i];
        now->used += sim_resident(vm);
        now->balloons += vm->kernel.balloon;
        now->packed += vm->packed + vm->owed_packed;
        now->swapped += vm->swapped + vm->owed_swapped;
    }
}

static void add_up(struct sim_result *result, const struct sim_vm *vm)
{
    struct sim_balloons *all = &result->balloons;
    const struct sim_balloons *b = &vm->balloons;

    result->refaults_packed += vm->packed_faults;
    result->refaults_swapped += vm->swapped_faults;
    result->taken_hot += vm->taken_hot;
    result->written += vm->written;
    result->parked += vm->parked;
    result->unparked += vm->unparked;
    all->asked += b->asked;
    all->filled += b->filled;
    all->returned += b->returned;
    all->emptied += b->emptied;
    all->dropped += b->dropped;
    all->read_again += b->read_again;
    all->on_oom += b->on_oom;
    all->steps += b->steps;
    all->needs += b->needs;
    all->kills += b->kills;
    all->kills_own += b->kills_own;
    all->longest_s = b->longest_s > all->longest_s ? b->longest_s : all->longest_s;
    for (int i = 0; i < BALLOON_RULES; i++)
        all->given_back[i] += b->given_back[i];
    for (int i = 0; i < SIM_WAITS; i++)
        all->waits[i] += b->waits[i];
}

int sim_run(const struct sim_config *config, struct sim_vm *vms, size_t n, struct sim_result *ret_result)
{
    struct run run = {.config = config, .vms = vms, .n = n, .result = ret_result};

    *ret_result = (struct sim_result){.seconds = config->seconds};
    run.of = calloc(n + 1, sizeof *run.of);
    if (!run.of || policy_look_open(&run.look, n, 0)) {
        free(run.of);
        return -1;
    }
    run.look.policy = config->policy;
    while (now_s(&run) < config->seconds) {
        run.now_ns += SIM_TICK_NS;
        tick(&run);
        if (run.is_urgent || run.now_ns - run.looked_ns >= (run.is_short ? POLICY_SHORT_NS : POLICY_BUSY_NS))
            look_now(&run);
        run.is_urgent = false;
        sample(&run);
    }
    for (size_t i = 0; i < n; i++)
        add_up(ret_result, &vms[i]);
    policy_look_close(&run.look);
    free(run.of);
    return 0;
}
