/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see budget.h. */
#include "memd/daemon/budget.h"

#include "memd/common/less.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define PAGE_BYTES 4096u
#define MIB        (1ull << 20)
#define RATE_NONE  1e-3 /* pages a second that are as good as none */
#define STEPS      192 /* to find the price, at most: every third halves the range, and a double has 53 bits */

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

const char *budget_excluded_name(enum budget_excluded excluded)
{
    static const char *const names[] = {"no", "job", "lost", "joining", "paused", "closing", "silent"};

    static_assert(sizeof names / sizeof names[0] == BUDGET_EXCLUDED_COUNT, "a name for each reason");
    return names[excluded];
}

const char *budget_by_name(enum budget_by by)
{
    static const char *const names[] = {"limit", "domain", "host"};

    static_assert(sizeof names / sizeof names[0] == BUDGET_BYS, "a name for each");
    return names[by];
}

const char *budget_reason_name(enum budget_reason reason)
{
    static const char *const names[] = {"unasked",      "enough", "excluded", "at-it",     "ineligible",
                                        "nothing-left", "dry",    "refaults", "stalls",    "reserved",
                                        "price",        "small",  "ordered",  "given-back"};

    static_assert(sizeof names / sizeof names[0] == BUDGET_REASONS, "a name for each reason");
    return names[reason];
}

static const struct {
    const char *name;
    uint32_t shares;
    double per_mib;
} classes[] = {{"normal", 0, BUDGET_SHARES_PER_MIB},
               {"low", BUDGET_SHARES_LOW, BUDGET_SHARES_PER_MIB / 2.0},
               {"high", BUDGET_SHARES_HIGH, BUDGET_SHARES_PER_MIB * 2.0}};
#define NCLASSES (sizeof classes / sizeof classes[0])

const char *budget_class_name(uint32_t shares)
{
    for (size_t i = 0; i < NCLASSES; i++)
        if (classes[i].shares == shares)
            return classes[i].name;
    return "custom";
}

bool budget_class_shares(const char *name, uint32_t *ret_shares)
{
    for (size_t i = 0; i < NCLASSES; i++)
        if (!strcmp(classes[i].name, name)) {
            *ret_shares = classes[i].shares;
            return true;
        }
    return false;
}

static double clamp(double value, double min, double max)
{
    return value < min ? min : value > max ? max : value;
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
    if (now->packed == before->packed && now->swapped == before->swapped && rates->packed_per_s < RATE_NONE &&
        rates->swapped_per_s < RATE_NONE && rates->home_per_s < RATE_NONE) {
        *rates = (struct budget_rates){0};
        return;
    }
    measure(&rates->packed_per_s, (double)(now->packed - before->packed) / s, s);
    measure(&rates->swapped_per_s, (double)(now->swapped - before->swapped) / s, s);
    double home = (double)(now->packed - before->packed + now->swapped - before->swapped) / s;
    rates->home_per_s += (home - rates->home_per_s) * (1 - exp(-s / BUDGET_HOME_TAU_S));
}

/* The part the host's waiting has in it. */
static double stall_ease(const struct budget_policy *policy)
{
    double stall = policy->stall_some > 2 * policy->stall_full ? policy->stall_some : 2 * policy->stall_full;

    return policy->stall_percent > 0 ? clamp(1 - stall / policy->stall_percent, 0, 1) : 1;
}

double budget_ease(const struct budget_policy *policy, const struct budget_vm *vm)
{
    uint64_t base = vm->working_set_bytes ? vm->working_set_bytes : vm->resident_bytes;
    double fine = (double)(base / PAGE_BYTES) * policy->refault_percent / 100 / 60;
    double faults = vm->rates.packed_per_s + BUDGET_SWAPPED_WEIGHT * vm->rates.swapped_per_s;
    double ease = 1 - faults / (fine > BUDGET_REFAULTS_FLOOR ? fine : BUDGET_REFAULTS_FLOOR);

    return clamp(ease, 0, 1) * stall_ease(policy);
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
    return !vm->excluded && vm->pending_bytes && vm->pending >= state;
}

/* What it will have when it is through with what it is at. */
static uint64_t has(enum budget_state state, const struct budget_vm *vm)
{
    return less(vm->resident_bytes, vm->inflating_bytes + (is_at_it(state, vm) ? vm->pending_bytes : 0));
}

/* Its reservation, and what leaves besides. */
static uint64_t reserved(const struct budget_vm *vm)
{
    return vm->terms.reservation_bytes ? vm->terms.reservation_bytes + vm->loose_bytes : 0;
}

/* What may leave RAM; its part of frames only for the swap file. */
static uint64_t may_leave(enum budget_state state, const struct budget_vm *vm)
{
    return vm->reclaimable_bytes + (state >= BUDGET_HARD && may_swap(vm) ? vm->merged_bytes : 0);
}

/* Why none of its pages can be asked for in this state; BUDGET_ORDERED: they can. */
static enum budget_reason pages_spared(const struct budget_policy *policy, enum budget_state state,
                                       const struct budget_vm *vm, double ease)
{
    if (vm->excluded)
        return BUDGET_EXCLUDED;
    if (is_at_it(state, vm))
        return BUDGET_AT_IT;
    if (!may_leave(state, vm))
        return vm->ineligible_bytes ? BUDGET_INELIGIBLE : BUDGET_NOTHING_LEFT;
    if (!depth_of(state, vm))
        return BUDGET_DRY;
    if (reserved(vm) && vm->resident_bytes <= reserved(vm))
        return BUDGET_RESERVED;
    if (state == BUDGET_SOFT && ease <= 0)
        return stall_ease(policy) <= 0 ? BUDGET_STALLS : BUDGET_REFAULTS;
    return BUDGET_ORDERED;
}

/* Its balloon can be asked for `bytes`. */
static bool may_inflate(const struct budget_vm *vm, uint64_t bytes)
{
    return bytes && !vm->excluded && (!reserved(vm) || vm->resident_bytes > reserved(vm));
}

/* Why nothing can be asked of it; BUDGET_ORDERED: it can. */
static enum budget_reason spared(const struct budget_policy *policy, enum budget_state state,
                                 const struct budget_vm *vm, double ease)
{
    return may_inflate(vm, vm->balloon_bytes) ? BUDGET_ORDERED : pages_spared(policy, state, vm, ease);
}

/* What it cannot be brought below. */
static uint64_t least_of(enum budget_state state, const struct budget_vm *vm)
{
    uint64_t bytes = has(state, vm), pages = may_leave(state, vm);
    uint64_t least = less(vm->resident_bytes, pages > vm->balloon_bytes ? pages : vm->balloon_bytes);

    if (vm->excluded)
        return bytes;
    if (least < reserved(vm))
        least = reserved(vm);
    return least < bytes ? least : bytes;
}

/* What it cannot be brought below now. */
static uint64_t floor_of(enum budget_reason spared, enum budget_state state, const struct budget_vm *vm)
{
    return spared == BUDGET_ORDERED ? least_of(state, vm) : has(state, vm);
}

/* The floor it has where the price is made. In soft there is time: one that is at an order, or is left alone
 * for a while, will give its part later, and the others are not asked for it. Where memory must come, they
 * are. */
static uint64_t priced_floor(enum budget_reason spared, enum budget_state state, const struct budget_vm *vm)
{
    return state == BUDGET_SOFT ? least_of(state, vm) : floor_of(spared, state, vm);
}

/* The most that one order may ask for. */
static double step_of(enum budget_state state, const struct budget_vm *vm, double ease)
{
    const struct pace *pace = &paces[state];
    double step = (double)vm->resident_bytes * pace->part;

    if (step < (double)pace->least_bytes)
        step = (double)pace->least_bytes;
    return state == BUDGET_SOFT ? step * ease : step;
}

/* An order for its pages. */
static struct budget_order order_for(enum budget_state state, const struct budget_vm *vm, double ease,
                                     uint64_t bytes)
{
    const struct pace *pace = &paces[state];
    double step = bytes ? step_of(state, vm, ease) : 0;
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

/* Who gives `bytes` of a VM: its balloon, its pages, or both. */
static struct budget_order divide(const struct budget_policy *policy, enum budget_state state,
                                  const struct budget_vm *vm, double ease, uint64_t bytes,
                                  uint64_t *ret_balloon_bytes)
{
    bool pages = pages_spared(policy, state, vm, ease) == BUDGET_ORDERED;
    uint64_t balloon = may_inflate(vm, vm->balloon_bytes) ? vm->balloon_bytes : 0, rest = bytes;
    uint64_t soon = may_inflate(vm, vm->spare_bytes) ? vm->spare_bytes : 0;
    struct budget_order none = {0}, order;

    if (balloon > bytes)
        balloon = bytes;
    if (state < BUDGET_LOW && vm->balloon_first) /* the next steps come soon */
        rest = less(bytes, soon > balloon ? soon : balloon);
    order = pages ? order_for(state, vm, ease, rest) : none;
    if (state < BUDGET_LOW && !vm->balloon_first && balloon > bytes - order.pages * PAGE_BYTES)
        balloon = bytes - order.pages * PAGE_BYTES;
    *ret_balloon_bytes = balloon >= (uint64_t)BUDGET_ORDER_LEAST * PAGE_BYTES ? balloon : 0;
    return order;
}

/* What comes home before the next plan. */
static double comes_home(const struct budget_policy *policy, const struct budget_vm *vm)
{
    return vm->rates.home_per_s * policy->look_s * PAGE_BYTES;
}

static double shares_of(const struct budget_vm *vm)
{
    double shares = vm->terms.shares;

    for (size_t i = 0; i < NCLASSES; i++)
        if (classes[i].shares == vm->terms.shares)
            shares = (double)vm->guest_bytes / (double)MIB * classes[i].per_mib;
    return shares < 1 ? 1 : shares;
}

/* What it uses; below 0: all it has. A search that has found nothing cold knows better than samples do, which
 * are of half a minute ago. */
static double active_of(const struct budget_vm *vm)
{
    return vm->working_set_bytes && !vm->dry ? (double)vm->working_set_bytes : -1;
}

/* What a VM is charged for `bytes`: what is idle of them costs k times as much. */
static double charge(double tax, const struct budget_vm *vm, double bytes)
{
    double active = active_of(vm) >= 0 ? active_of(vm) : bytes;

    return bytes <= active ? bytes : active + (bytes - active) / (1 - tax);
}

static bool is_more(const struct budget_order *a, const struct budget_order *b)
{
    return a->state != b->state ? a->state > b->state : a->pages > b->pages;
}

/* What became of it, where `bytes` are more than it may keep. */
static enum budget_reason outcome(enum budget_reason spared, uint64_t bytes, const struct budget_order *order,
                                  uint64_t balloon_bytes)
{
    if (order->pages || balloon_bytes)
        return BUDGET_ORDERED;
    if (spared != BUDGET_ORDERED)
        return spared;
    return bytes ? BUDGET_SMALL : BUDGET_PRICE;
}

/* Of what two scopes decided, one counts. */
static void settle(struct budget_plan *plan, const struct budget_order *order, uint64_t balloon_bytes,
                   const struct budget_why *why)
{
    bool more = (order->pages && is_more(order, &plan->order)) || balloon_bytes > plan->balloon_bytes,
         none = !plan->order.pages && !plan->balloon_bytes;

    if (order->pages && is_more(order, &plan->order))
        plan->order = *order;
    if (balloon_bytes > plan->balloon_bytes)
        plan->balloon_bytes = balloon_bytes;
    if (more || (none && why->state > plan->why.state))
        plan->why = *why;
}

/* ---------------------------------------------------------------- limits */

static void plan_limit(const struct budget_policy *policy, const struct budget_vm *vm,
                       struct budget_plan *plan)
{
    uint64_t limit = vm->terms.limit_bytes;
    bool far = vm->resident_bytes - limit > limit / BUDGET_LIMIT_FAR;
    enum budget_state state = far ? BUDGET_LOW : BUDGET_HARD;
    enum budget_reason why = spared(policy, state, vm, 1);
    uint64_t bytes = has(state, vm), least = floor_of(why, state, vm);
    uint64_t keep = less(limit, (uint64_t)comes_home(policy, vm));
    uint64_t wanted = less(bytes, keep), gives = less(bytes, least > keep ? least : keep);
    uint64_t balloon;
    struct budget_order order = divide(policy, state, vm, 1, gives, &balloon);

    settle(plan, &order, balloon,
           &(struct budget_why){.by = BUDGET_BY_LIMIT,
                                .reason = outcome(why, gives, &order, balloon),
                                .state = state,
                                .budget_bytes = limit,
                                .charged_bytes = vm->resident_bytes,
                                .wanted_bytes = wanted,
                                .has_bytes = bytes,
                                .floor_bytes = least,
                                .shares = shares_of(vm),
                                .taxed_bytes = charge(policy->tax, vm, (double)bytes),
                                .ease = 1,
                                .paced = gives / PAGE_BYTES > order.pages + balloon / PAGE_BYTES});
}

void budget_plan_limits(const struct budget_policy *policy, size_t n, const struct budget_vm *vms,
                        struct budget_plan *ret_plans)
{
    for (size_t i = 0; i < n; i++) {
        ret_plans[i] = (struct budget_plan){.target_bytes = vms[i].resident_bytes,
                                            .why = {.by = BUDGET_BY_HOST,
                                                    .reason = BUDGET_UNASKED,
                                                    .has_bytes = vms[i].resident_bytes,
                                                    .shares = shares_of(&vms[i]),
                                                    .ease = 1}};
        if (!vms[i].terms.limit_bytes || vms[i].resident_bytes <= vms[i].terms.limit_bytes)
            continue;
        ret_plans[i].target_bytes = vms[i].terms.limit_bytes;
        plan_limit(policy, &vms[i], &ret_plans[i]);
    }
}

/* ---------------------------------------------------------------- all of them */

/* What a VM may keep where a share is worth `price`: charge() the other way round. */
static double keeps(double tax, const struct budget_seller *of, double price)
{
    double pays = of->shares * price, active = of->active >= 0 ? of->active : pays;

    return clamp(pays <= active ? pays : active + (pays - active) * (1 - tax), of->floor, of->has);
}

static double all_keep(double tax, size_t n, const bool *member, const struct budget_plan *plans,
                       double price)
{
    double all = 0;

    for (size_t i = 0; i < n; i++)
        all += member[i] ? keeps(tax, &plans[i].seller, price) : 0;
    return all;
}

/* The highest price of a share at which all members together keep no more than `bytes`, to the page. At
 * `high` they keep `most`. What they keep grows with the price in straight pieces, so the line between two
 * prices leads near to it; halves see to it that it comes nearer in any case. */
static double find_price(double tax, size_t n, const bool *member, const struct budget_plan *plans,
                         double high, double most, double bytes)
{
    double low = 0, least = all_keep(tax, n, member, plans, 0), aim = bytes - PAGE_BYTES / 2;

    for (unsigned step = 0; step < STEPS && least < aim && high > low; step++) {
        double part = step % 3 == 2 || most <= least ? 0.5 : clamp((aim - least) / (most - least), 0, 1);
        double price = low + (high - low) * part, all = all_keep(tax, n, member, plans, price);
        if (all > bytes) {
            high = price;
            most = all;
        } else {
            low = price;
            least = all;
        }
        if (all <= bytes && bytes - all < PAGE_BYTES)
            break;
    }
    return low;
}

/* What can be had of each. Returns what is wanted of all, besides what is under way. */
static double open_sale(const struct budget_scope *scope, const struct budget_policy *policy, size_t n,
                        const struct budget_vm *vms, const bool *member, struct budget_plan *plans,
                        double *ret_all, double *ret_price)
{
    double wanted = (double)budget_excess(scope);

    *ret_all = *ret_price = 0;
    for (size_t i = 0; i < n; i++) {
        const struct budget_vm *vm = &vms[i];
        if (!member[i])
            continue;
        uint64_t bytes = has(scope->state, vm);
        double ease = budget_ease(policy, vm);
        enum budget_reason spares = spared(policy, scope->state, vm, ease);
        plans[i].seller = (struct budget_seller){.shares = shares_of(vm),
                                                 .active = active_of(vm),
                                                 .floor = (double)priced_floor(spares, scope->state, vm),
                                                 .has = (double)bytes,
                                                 .ease = ease,
                                                 .spared = spares};
        double price = charge(policy->tax, vm, (double)bytes) / plans[i].seller.shares;
        if (price > *ret_price)
            *ret_price = price;
        *ret_all += (double)bytes;
        wanted -= (double)(vm->resident_bytes - bytes); /* is on its way */
        if (scope->state >= BUDGET_HARD)
            wanted += comes_home(policy, vm);
    }
    return wanted > 0 ? wanted : 0;
}

void budget_plan(const struct budget_scope *scope, enum budget_by by, const struct budget_policy *policy,
                 size_t n, const struct budget_vm *vms, const bool *member, struct budget_plan *plans)
{
    double all, price;

    if (scope->state == BUDGET_HIGH)
        return;
    double wanted = open_sale(scope, policy, n, vms, member, plans, &all, &price);
    if (wanted > 0)
        price = find_price(policy->tax, n, member, plans, price, all, wanted < all ? all - wanted : 0);
    for (size_t i = 0; i < n; i++) {
        const struct budget_vm *vm = &vms[i];
        const struct budget_seller *of = &plans[i].seller;
        if (!member[i])
            continue;
        uint64_t bytes = (uint64_t)of->has, floor = floor_of(of->spared, scope->state, vm);
        uint64_t keep = wanted > 0 ? (uint64_t)keeps(policy->tax, of, price) : bytes;
        keep = keep < floor ? floor : keep;
        if (keep < plans[i].target_bytes)
            plans[i].target_bytes = keep;
        uint64_t balloon;
        struct budget_order order = divide(policy, scope->state, vm, of->ease, less(bytes, keep), &balloon);
        enum budget_reason why = outcome(of->spared, less(bytes, keep), &order, balloon);
        if (why == BUDGET_PRICE && wanted <= 0)
            why = BUDGET_ENOUGH;
        settle(&plans[i], &order, balloon,
               &(struct budget_why){.by = by,
                                    .reason = why,
                                    .state = scope->state,
                                    .budget_bytes = scope->budget_bytes,
                                    .charged_bytes = scope->used_bytes + scope->headroom_bytes,
                                    .wanted_bytes = (uint64_t)wanted,
                                    .has_bytes = bytes,
                                    .floor_bytes = floor,
                                    .shares = of->shares,
                                    .taxed_bytes = charge(policy->tax, vm, of->has),
                                    .price = price,
                                    .ease = of->ease,
                                    .paced =
                                        less(bytes, keep) / PAGE_BYTES > order.pages + balloon / PAGE_BYTES});
    }
}
