/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see budget.h. */
#include "memd/daemon/budget.h"

#include <assert.h>
#include <math.h>

#define PAGE_BYTES 4096u
#define MIB        (1ull << 20)
#define HALVINGS   64 /* of the range in which the price lies: a double has no more bits */

/* How fast each state may go: at most `part` of what a VM has in one order, or `least_bytes` if that is more;
 * and for how long a page is left for somebody to touch before it is packed. */
static const struct pace {
    uint64_t least_bytes;
    double part;
    uint32_t park_ms;
} paces[] = {
    [BUDGET_HIGH] = {0, 0, 0},
    [BUDGET_SOFT] = {2 * MIB, 1.0 / 32, 1000},
    [BUDGET_HARD] = {8 * MIB, 1.0 / 8, 100},
    [BUDGET_LOW] = {32 * MIB, 1.0 / 2, 0},
};
static_assert(sizeof paces / sizeof paces[0] == BUDGET_STATES, "a pace for each state");

const char *budget_state_name(enum budget_state state)
{
    static const char *const names[] = {"high", "soft", "hard", "low"};

    static_assert(sizeof names / sizeof names[0] == BUDGET_STATES, "a name for each state");
    return names[state];
}

static double clamp(double value, double min, double max)
{
    return value < min ? min : value > max ? max : value;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* ---------------------------------------------------------------- states */

/* Per cent of the budget, where a state begins. */
static double begins_at(const struct budget_thresholds *t, enum budget_state state)
{
    return state == BUDGET_LOW ? t->low : state == BUDGET_HARD ? t->hard : state == BUDGET_SOFT ? t->soft : 0;
}

static double ends_at(const struct budget_thresholds *t, enum budget_state state)
{
    return clamp(begins_at(t, state) - t->back, 0, 1000);
}

enum budget_state budget_next_state(const struct budget_scope *scope)
{
    if (!scope->budget_bytes)
        return BUDGET_HIGH;
    double charged = (double)scope->used_bytes + (double)scope->headroom_bytes;
    double percent = 100 * charged / (double)scope->budget_bytes;

    for (enum budget_state state = BUDGET_LOW; state > BUDGET_HIGH; state--)
        if (percent >= begins_at(&scope->thresholds, state) ||
            (scope->state >= state && percent > ends_at(&scope->thresholds, state)))
            return state;
    return BUDGET_HIGH;
}

void budget_show(struct budget_shown *shown, enum budget_state state, uint64_t now_ns)
{
    if (state >= shown->state) {
        *shown = (struct budget_shown){.state = state};
        return;
    }
    if (!shown->below_ns)
        *shown = (struct budget_shown){shown->state, now_ns, state};
    if (state > shown->most)
        shown->most = state;
    if (now_ns - shown->below_ns < BUDGET_CALM_NS)
        return;
    *shown = (struct budget_shown){.state = shown->most};
    if (state < shown->state)
        *shown = (struct budget_shown){shown->state, now_ns, state};
}

uint64_t budget_excess(const struct budget_scope *scope)
{
    if (!scope->budget_bytes || scope->state == BUDGET_HIGH)
        return 0;
    double end = (double)scope->budget_bytes * ends_at(&scope->thresholds, scope->state) / 100;
    return less(scope->used_bytes + scope->headroom_bytes, (uint64_t)end);
}

uint64_t budget_headroom(uint64_t sharing_bytes, uint64_t budget_bytes, unsigned percent)
{
    uint64_t bytes = sharing_bytes / 100 * percent, most = budget_bytes / BUDGET_HEADROOM_MOST;
    return bytes < most ? bytes : most;
}

/* ---------------------------------------------------------------- backing off */

static void measure(double *rate, double now, double s)
{
    *rate = now >= *rate ? now : *rate + (now - *rate) * (1 - exp(-s / BUDGET_RATE_TAU_S));
}

void budget_measure(struct budget_rates *rates, const struct budget_faults *before,
                    const struct budget_faults *now)
{
    if (now->at_ns <= before->at_ns || now->packed < before->packed || now->swapped < before->swapped)
        return;
    double s = (double)(now->at_ns - before->at_ns) * 1e-9;
    measure(&rates->packed_per_s, (double)(now->packed - before->packed) / s, s);
    measure(&rates->swapped_per_s, (double)(now->swapped - before->swapped) / s, s);
    double home = (double)(now->packed - before->packed + now->swapped - before->swapped) / s;
    rates->home_per_s += (home - rates->home_per_s) * (1 - exp(-s / BUDGET_HOME_TAU_S));
}

double budget_ease(const struct budget_policy *policy, const struct budget_vm *vm)
{
    uint64_t base = vm->working_set_bytes ? vm->working_set_bytes : vm->resident_bytes;
    double fine = (double)(base / PAGE_BYTES) * policy->refault_percent / 100 / 60;
    double faults = vm->rates.packed_per_s + BUDGET_SWAPPED_WEIGHT * vm->rates.swapped_per_s;
    double stall = policy->stall_some > 2 * policy->stall_full ? policy->stall_some : 2 * policy->stall_full;
    double ease = 1 - faults / (fine > BUDGET_REFAULTS_FLOOR ? fine : BUDGET_REFAULTS_FLOOR);

    if (policy->stall_percent > 0)
        ease = clamp(ease, 0, 1) * clamp(1 - stall / policy->stall_percent, 0, 1);
    return clamp(ease, 0, 1);
}

/* ---------------------------------------------------------------- one VM */

static bool may_swap(const struct budget_vm *vm)
{
    return vm->can_swap && !vm->terms.swap_never;
}

/* How deep to search in a VM; high: there is nothing to be had. */
static enum budget_state depth_of(enum budget_state state, const struct budget_vm *vm)
{
    enum budget_state depth = state == BUDGET_HARD && !may_swap(vm) ? BUDGET_SOFT : state;

    if (state >= BUDGET_HARD && vm->dry >= depth)
        depth = BUDGET_LOW;
    return vm->dry >= depth ? BUDGET_HIGH : depth;
}

/* It is at an order that is urgent enough. */
static bool is_at_it(enum budget_state state, const struct budget_vm *vm)
{
    return vm->pending_bytes && vm->pending >= state;
}

/* What it will have when it is through with what it is at. */
static uint64_t has(enum budget_state state, const struct budget_vm *vm)
{
    return is_at_it(state, vm) ? less(vm->resident_bytes, vm->pending_bytes) : vm->resident_bytes;
}

/* What it cannot be brought below now. */
static uint64_t floor_of(const struct budget_policy *policy, enum budget_state state,
                         const struct budget_vm *vm)
{
    uint64_t bytes = has(state, vm), least = less(vm->resident_bytes, vm->reclaimable_bytes);

    if (state >= BUDGET_HARD && may_swap(vm))
        least = less(least, vm->merged_bytes);

    if (vm->busy || is_at_it(state, vm) || !depth_of(state, vm) ||
        (state == BUDGET_SOFT && budget_ease(policy, vm) <= 0))
        return bytes;
    if (vm->terms.reservation_bytes && least < vm->terms.reservation_bytes + vm->loose_bytes)
        least = vm->terms.reservation_bytes + vm->loose_bytes;
    return least < bytes ? least : bytes;
}

static struct budget_order order_for(const struct budget_policy *policy, enum budget_state state,
                                     const struct budget_vm *vm, uint64_t bytes)
{
    const struct pace *pace = &paces[state];
    double step = (double)vm->resident_bytes * pace->part;

    if (step < (double)pace->least_bytes)
        step = (double)pace->least_bytes;
    if (state == BUDGET_SOFT)
        step *= budget_ease(policy, vm);
    uint64_t pages = (bytes < (uint64_t)step ? bytes : (uint64_t)step) / PAGE_BYTES;
    enum budget_state depth = depth_of(state, vm);
    if (pages < BUDGET_ORDER_LEAST || !depth)
        return (struct budget_order){0};
    return (struct budget_order){.pages = pages,
                                 .state = state,
                                 .depth = depth,
                                 .all = depth == BUDGET_LOW,
                                 .swap = state >= BUDGET_HARD && may_swap(vm),
                                 .park_ms = pace->park_ms};
}

/* What comes home before the next plan. */
static double comes_home(const struct budget_policy *policy, const struct budget_vm *vm)
{
    return vm->rates.home_per_s * policy->look_s * PAGE_BYTES;
}

/* For one that is above its limit. */
static struct budget_order order_to_limit(const struct budget_policy *policy, const struct budget_vm *vm)
{
    uint64_t limit = vm->terms.limit_bytes;
    bool far = vm->resident_bytes - limit > limit / BUDGET_LIMIT_FAR;
    enum budget_state state = far ? BUDGET_LOW : BUDGET_HARD;
    uint64_t bytes = has(state, vm), least = floor_of(policy, state, vm);
    uint64_t keep = less(limit, (uint64_t)comes_home(policy, vm));

    return order_for(policy, state, vm, less(bytes, least > keep ? least : keep));
}

void budget_plan_limits(const struct budget_policy *policy, size_t n, const struct budget_vm *vms,
                        struct budget_plan *ret_plans)
{
    for (size_t i = 0; i < n; i++) {
        ret_plans[i] = (struct budget_plan){.target_bytes = vms[i].resident_bytes};
        if (!vms[i].terms.limit_bytes || vms[i].resident_bytes <= vms[i].terms.limit_bytes)
            continue;
        ret_plans[i].target_bytes = vms[i].terms.limit_bytes;
        ret_plans[i].order = order_to_limit(policy, &vms[i]);
    }
}

/* ---------------------------------------------------------------- all of them */

static double shares_of(const struct budget_vm *vm)
{
    double shares = vm->terms.shares;

    if (!vm->terms.shares)
        shares = (double)vm->guest_bytes / (double)MIB * BUDGET_SHARES_PER_MIB;
    return shares < 1 ? 1 : shares;
}

/* What a VM is charged for `bytes`: what is idle of them costs k times as much. */
static double charge(double tax, const struct budget_vm *vm, double bytes)
{
    double active = vm->working_set_bytes ? (double)vm->working_set_bytes : bytes;

    return bytes <= active ? bytes : active + (bytes - active) / (1 - tax);
}

/* What a VM may keep where a share is worth `price`: the other way round. */
static double affords(double tax, const struct budget_vm *vm, double price)
{
    double pays = shares_of(vm) * price,
           active = vm->working_set_bytes ? (double)vm->working_set_bytes : pays;

    return pays <= active ? pays : active + (pays - active) * (1 - tax);
}

struct sale {
    const struct budget_policy *policy;
    enum budget_state state;
    size_t n;
    const struct budget_vm *vms;
    const bool *member;
};

static double keeps(const struct sale *sale, size_t i, double price)
{
    const struct budget_vm *vm = &sale->vms[i];

    return clamp(affords(sale->policy->tax, vm, price), (double)floor_of(sale->policy, sale->state, vm),
                 (double)has(sale->state, vm));
}

/* The highest price of a share at which all together keep no more than `bytes`. */
static double find_price(const struct sale *sale, double bytes)
{
    double low = 0, high = 0;

    for (size_t i = 0; i < sale->n; i++) {
        const struct budget_vm *vm = &sale->vms[i];
        double price = charge(sale->policy->tax, vm, (double)has(sale->state, vm)) / shares_of(vm);
        if (sale->member[i] && price > high)
            high = price;
    }
    for (unsigned step = 0; step < HALVINGS; step++) {
        double price = low + (high - low) / 2, all = 0;
        for (size_t i = 0; i < sale->n; i++)
            all += sale->member[i] ? keeps(sale, i, price) : 0;
        if (all > bytes)
            high = price;
        else
            low = price;
    }
    return low;
}

static bool is_more(const struct budget_order *a, const struct budget_order *b)
{
    return a->state != b->state ? a->state > b->state : a->pages > b->pages;
}

void budget_plan(const struct budget_scope *scope, const struct budget_policy *policy, size_t n,
                 const struct budget_vm *vms, const bool *member, struct budget_plan *plans)
{
    const struct sale sale = {policy, scope->state, n, vms, member};
    double wanted = (double)budget_excess(scope), all = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = member[i] ? has(scope->state, &vms[i]) : 0;
        all += (double)bytes;
        if (member[i]) /* is on its way */
            wanted -= (double)(vms[i].resident_bytes - bytes);
        if (member[i] && scope->state >= BUDGET_HARD)
            wanted += comes_home(policy, &vms[i]);
    }
    if (wanted <= 0 || scope->state == BUDGET_HIGH)
        return;
    double price = find_price(&sale, wanted < all ? all - wanted : 0);
    for (size_t i = 0; i < n; i++) {
        if (!member[i])
            continue;
        uint64_t keep = (uint64_t)keeps(&sale, i, price), bytes = has(scope->state, &vms[i]);
        if (keep < plans[i].target_bytes)
            plans[i].target_bytes = keep;
        struct budget_order order = order_for(policy, scope->state, &vms[i], less(bytes, keep));
        if (order.pages && is_more(&order, &plans[i].order))
            plans[i].order = order;
    }
}
