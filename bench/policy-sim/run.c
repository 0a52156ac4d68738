/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * run: the host of the model, in the daemon's order: each tick VMs and engines go on; when a look is due,
 * what is used is measured, the policy decides, and engines get their orders.
 *
 * What must hold, whatever the load: nobody excluded gets an order; no order asks for what is reserved, and
 * no VM is brought below its reservation by one; where it can be done, all targets together are within what
 * the state reclaims to; a VM above its limit comes down to it soon. A run in which it did not has
 * violations.
 */
#include "bench/policy-sim/sim.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_SLACK    1.10   /* of its limit, what a VM may have while pages come home */
#define LIMIT_S        60.0   /* it may be above that for so long */
#define TARGET_SLACK   1e-6   /* of all memory, for rounding */
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
    bool is_short;
    double read_wanted, write_wanted; /* pages, in the last tick */
};

__attribute__((format(printf, 2, 3))) static void violated(struct run *run, const char *format, ...)
{
    char text[120];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!run->result->violations++)
        snprintf(run->result->first_violation, sizeof run->result->first_violation, "%.1f s: %s",
                 (double)run->now_ns * 1e-9, text);
}

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
    vm->order = (struct budget_order){0};
}

/* It begins when it is time, and is let in while memory is not low. */
static bool is_there(struct run *run, struct sim_vm *vm)
{
    if (!vm->present && vm->load.start_s <= now_s(run)) {
        if (run->shown.state == BUDGET_LOW) {
            run->result->refused++;
            vm->load.start_s += 5; /* it asks again */
            return false;
        }
        vm->present = vm->load.kind != SIM_TRACED || vm->load.point[vm->load.at].guest > 0;
    }
    if (vm->present && !sim_load_now(vm, now_s(run)))
        end_vm(vm);
    return vm->present;
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
        double before = vm->packed_faults + vm->swapped_faults, taken = vm->taken;
        sim_vm_tick(vm, d, &share, run->now_ns, run->result->waits);
        run->result->moved_home += vm->packed_faults + vm->swapped_faults - before;
        run->result->reclaimed += vm->taken - taken;
        run->result->vm_seconds += share.s;
        double reserved = (double)vm->terms.reservation_bytes / SIM_PAGE, has = sim_resident(vm);
        if (vm->taken > taken && has + 1 < reserved && has + 1 < vm->touched)
            violated(run, "%s was brought to %.0f of %.0f reserved pages", vm->name, has, reserved);
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

static void measure(struct run *run)
{
    struct policy_look *look = &run->look;
    double used = 0;

    look->n = 0;
    for (size_t i = 0; i < run->n; i++) {
        struct sim_vm *vm = &run->vms[i];
        if (!vm->present)
            continue;
        sim_vm_measure(vm, run->now_ns);
        look->domain[look->n] = SIZE_MAX;
        look->vms[look->n] = sim_vm_describe(vm, run->now_ns);
        run->of[look->n++] = vm;
        used += sim_resident(vm);
    }
    enum budget_state was = look->host.state;
    look->host = (struct budget_scope){(uint64_t)(run->config->host * SIM_PAGE), (uint64_t)(used * SIM_PAGE),
                                       HEADROOM_BYTES, run->config->thresholds, was};
    look->host.state = budget_next_state(&look->host);
    budget_show(&run->shown, look->host.state, run->now_ns);
    run->result->state_changes += look->host.state != was;
}

/* What no plan may do. */
static void check_plan(struct run *run, size_t i)
{
    const struct budget_vm *vm = &run->look.vms[i];
    const struct budget_plan *plan = &run->look.plans[i];
    uint64_t reserved = vm->terms.reservation_bytes, asked = plan->order.pages * (uint64_t)SIM_PAGE;

    if (vm->excluded && asked)
        violated(run, "%s is excluded (%s) and was asked for %.0f MiB", run->of[i]->name,
                 budget_excluded_name(vm->excluded), (double)asked / (1 << 20));
    if (asked && reserved && vm->resident_bytes < reserved + vm->loose_bytes + asked)
        violated(run, "%s has %.0f MiB and was asked for %.0f of the %.0f reserved", run->of[i]->name,
                 (double)vm->resident_bytes / (1 << 20), (double)asked / (1 << 20),
                 (double)reserved / (1 << 20));
    if (plan->target_bytes < reserved && plan->target_bytes < vm->resident_bytes - vm->pending_bytes)
        violated(run, "%s has a target below its reservation", run->of[i]->name);
    if ((plan->why.reason == BUDGET_ORDERED) != !!asked)
        violated(run, "%s: an order and its reason differ", run->of[i]->name);
}

/* Where all targets together are to end, if what cannot be had leaves that. */
static void check_sum(struct run *run)
{
    const struct policy_look *look = &run->look;
    double targets = 0, floors = 0, all = (double)look->host.budget_bytes;
    double end = (double)(look->host.used_bytes + look->host.headroom_bytes - budget_excess(&look->host));

    if (look->host.state < BUDGET_HARD) /* in soft those that are left alone have time */
        return;
    for (size_t i = 0; i < look->n; i++) {
        targets += (double)look->plans[i].target_bytes;
        floors += look->plans[i].seller.floor;
    }
    if (floors <= end && targets > end + all * TARGET_SLACK)
        violated(run, "targets add up to %.0f MiB, and %.0f could be kept", targets / (1 << 20),
                 end / (1 << 20));
}

static void check_limit(struct run *run, struct sim_vm *vm, const struct budget_vm *seen, double s)
{
    double limit = (double)vm->terms.limit_bytes / SIM_PAGE;

    bool stays = vm->terms.swap_never || !seen->can_swap; /* what is packed is in RAM, and may be more */

    if (!limit || stays || seen->excluded || vm->trouble || sim_resident(vm) <= limit * LIMIT_SLACK) {
        vm->above_limit_s = 0;
        return;
    }
    vm->above_limit_s += s;
    if (vm->above_limit_s > LIMIT_S && vm->above_limit_s - s <= LIMIT_S)
        violated(run, "%s is above its limit of %.0f MiB for long: %.0f", vm->name, limit / 256,
                 sim_resident(vm) / 256);
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
        vm->seconds += s;
    }
}

static void look_now(struct run *run)
{
    struct policy_look *look = &run->look;
    double s = (double)(run->now_ns - run->looked_ns) * 1e-9;

    run->looked_ns = run->now_ns;
    measure(run);
    policy_decide(look);
    run->is_short = policy_is_short(look);
    check_sum(run);
    count(run, s);
    for (size_t i = 0; i < look->n; i++) {
        check_plan(run, i);
        check_limit(run, run->of[i], &look->vms[i], s);
        if (!look->plans[i].order.pages)
            continue;
        sim_vm_order(run->of[i], &look->plans[i].order, run->now_ns);
        run->result->orders++;
    }
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
        if (run.now_ns - run.looked_ns >= (run.is_short ? POLICY_SHORT_NS : POLICY_BUSY_NS))
            look_now(&run);
    }
    for (size_t i = 0; i < n; i++) {
        ret_result->refaults_packed += vms[i].packed_faults;
        ret_result->refaults_swapped += vms[i].swapped_faults;
        ret_result->taken_hot += vms[i].taken_hot;
    }
    policy_look_close(&run.look);
    free(run.of);
    return 0;
}
