/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* budget: states, prices and orders for literal situations. */
#include "memd/daemon/budget.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define MIB      (1ull << 20)
#define GIB      (1ull << 30)
#define PAGES(b) ((b) / 4096)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define VMS_MAX  4

static const struct budget_thresholds thresholds = {.soft = 90, .hard = 96, .low = 100, .back = 2};
static const struct budget_policy policy = {
    .tax = 0.75, .refault_percent = 1, .stall_percent = 1, .look_s = 0.1};
static const bool all[VMS_MAX] = {true, true, true, true};

static struct budget_scope scope_of(enum budget_state state, uint64_t budget, uint64_t used)
{
    return (struct budget_scope){
        .budget_bytes = budget, .used_bytes = used, .thresholds = thresholds, .state = state};
}

/* One of which all can go. */
static struct budget_vm vm_of(uint64_t resident)
{
    return (struct budget_vm){
        .guest_bytes = resident, .resident_bytes = resident, .reclaimable_bytes = resident, .can_swap = true};
}

static void make_plans(const struct budget_scope *scope, const struct budget_policy *how, size_t n,
                       const struct budget_vm *vms, struct budget_plan *plans)
{
    budget_plan_limits(how, n, vms, plans);
    budget_plan(scope, BUDGET_BY_HOST, how, n, vms, all, plans);
}

/* Targets may be off by rounding only. */
static void assert_near(const char *what, uint64_t is, uint64_t expected)
{
    if (fabs((double)is - (double)expected) > 8192)
        fail_msg("%s: %.3f MiB, not %.3f", what, (double)is / MIB, (double)expected / MIB);
}

/* ---------------------------------------------------------------- states */

static void a_state_begins_above_where_it_ends(void **state)
{
    static const struct {
        enum budget_state was;
        double percent;
        enum budget_state is;
    } cases[] = {
        {BUDGET_HIGH, 0, BUDGET_HIGH},    {BUDGET_HIGH, 89.9, BUDGET_HIGH}, {BUDGET_HIGH, 90, BUDGET_SOFT},
        {BUDGET_HIGH, 95.9, BUDGET_SOFT}, {BUDGET_HIGH, 96, BUDGET_HARD},   {BUDGET_HIGH, 100, BUDGET_LOW},
        {BUDGET_HIGH, 300, BUDGET_LOW},   {BUDGET_SOFT, 89, BUDGET_SOFT},   {BUDGET_SOFT, 88.1, BUDGET_SOFT},
        {BUDGET_SOFT, 88, BUDGET_HIGH},   {BUDGET_SOFT, 95.9, BUDGET_SOFT}, {BUDGET_SOFT, 96, BUDGET_HARD},
        {BUDGET_HARD, 95, BUDGET_HARD},   {BUDGET_HARD, 94, BUDGET_SOFT},   {BUDGET_HARD, 88.5, BUDGET_SOFT},
        {BUDGET_HARD, 80, BUDGET_HIGH},   {BUDGET_HARD, 99.9, BUDGET_HARD}, {BUDGET_LOW, 99, BUDGET_LOW},
        {BUDGET_LOW, 98, BUDGET_HARD},    {BUDGET_LOW, 94.5, BUDGET_HARD},  {BUDGET_LOW, 90, BUDGET_SOFT},
        {BUDGET_LOW, 10, BUDGET_HIGH},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct budget_scope scope =
            scope_of(cases[i].was, 1000 * MIB, (uint64_t)(cases[i].percent * 10 * MIB));
        if (budget_next_state(&scope) != cases[i].is)
            fail_msg("%s at %.1f%%: %s", budget_state_name(cases[i].was), cases[i].percent,
                     budget_state_name(budget_next_state(&scope)));
    }
}

/* What users are told rises at once, and falls to the most there was in BUDGET_CALM_NS. */
static void what_is_shown_does_not_swing(void **state)
{
    static const struct {
        double s;
        enum budget_state state, shown;
    } cases[] = {
        {1, BUDGET_HIGH, BUDGET_HIGH},    {2, BUDGET_SOFT, BUDGET_SOFT},  {3, BUDGET_LOW, BUDGET_LOW},
        {4, BUDGET_HARD, BUDGET_LOW},     {4.1, BUDGET_LOW, BUDGET_LOW}, /* begins anew */
        {5, BUDGET_HARD, BUDGET_LOW},     {9, BUDGET_SOFT, BUDGET_LOW},   {14.9, BUDGET_HIGH, BUDGET_LOW},
        {15, BUDGET_HIGH, BUDGET_HARD}, /* there was hard in that time */
        {24.9, BUDGET_HIGH, BUDGET_HARD}, {25, BUDGET_HIGH, BUDGET_HIGH}, {26, BUDGET_HARD, BUDGET_HARD},
    };
    struct budget_shown shown = {0};
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        budget_show(&shown, cases[i].state, (uint64_t)(cases[i].s * 1e9));
        if (shown.state != cases[i].shown)
            fail_msg("%s at %.1f s: %s is shown", budget_state_name(cases[i].state), cases[i].s,
                     budget_state_name(shown.state));
    }
}

static void no_budget_is_never_short(void **state)
{
    struct budget_scope scope = scope_of(BUDGET_LOW, 0, GIB);
    (void)state;

    assert_int_equal(budget_next_state(&scope), BUDGET_HIGH);
    assert_int_equal(budget_excess(&scope), 0);
}

static void reclaim_goes_as_far_as_the_state(void **state)
{
    struct budget_scope scope = scope_of(BUDGET_SOFT, 1000 * MIB, 950 * MIB);
    (void)state;

    assert_near("soft", budget_excess(&scope), 70 * MIB);
    scope.state = BUDGET_HARD;
    assert_near("hard", budget_excess(&scope), 10 * MIB);
    scope.state = BUDGET_LOW;
    assert_near("low", budget_excess(&scope), 0);
    scope.headroom_bytes = 100 * MIB; /* is as if it were used */
    assert_near("low", budget_excess(&scope), 70 * MIB);
    assert_int_equal(budget_next_state(&scope), BUDGET_LOW);
    scope.state = BUDGET_HIGH;
    assert_int_equal(budget_excess(&scope), 0);
}

static void headroom_is_a_bounded_share(void **state)
{
    (void)state;
    assert_near("a tenth", budget_headroom(GIB, 8 * GIB, 10), GIB / 10);
    assert_near("a quarter of the budget", budget_headroom(100 * GIB, 8 * GIB, 10), 2 * GIB);
    assert_int_equal(budget_headroom(GIB, 8 * GIB, 0), 0);
    assert_int_equal(budget_headroom(0, 8 * GIB, 100), 0);
}

/* ---------------------------------------------------------------- who gives how much */

/* Waldspurger's formula: where it stops, all who gave have the same rho. */
static double rho(double shares, double bytes, double active)
{
    double f = active < bytes ? active / bytes : 1, k = 1 / (1 - policy.tax);
    return shares / (bytes * (f + k * (1 - f)));
}

static void those_who_give_pay_the_same_in_the_end(void **state)
{
    static const struct {
        const char *what;
        double shares[2];
        uint64_t resident[2], active[2]; /* MiB; active 0: not known */
        uint64_t wanted, left[2];        /* MiB */
    } cases[] = {
        {"alike", {100, 100}, {100, 100}, {0, 0}, 40, {80, 80}},
        {"twice the shares", {200, 100}, {100, 100}, {0, 0}, 50, {100, 50}},
        {"twice the shares, more wanted", {200, 100}, {100, 100}, {0, 0}, 80, {80, 40}},
        {"one has more than its part", {100, 100}, {150, 50}, {0, 0}, 60, {90, 50}},
        {"one is idle: taxed fourfold", {100, 100}, {100, 100}, {100, 20}, 50, {100, 50}},
        {"idle, up to where both pay the same", {100, 100}, {100, 100}, {100, 20}, 70, {92, 38}},
        {"more shares do not save idle memory", {200, 100}, {100, 100}, {10, 100}, 30, {70, 100}},
        {"everything", {100, 100}, {100, 100}, {0, 0}, 200, {0, 0}},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        /* so small a budget that the state ends where `wanted` has gone */
        uint64_t used = (cases[i].resident[0] + cases[i].resident[1]) * MIB;
        struct budget_scope scope = scope_of(BUDGET_LOW, 1, used);
        scope.thresholds = (struct budget_thresholds){50, 50, 50, 0};
        scope.budget_bytes = 2 * (used - cases[i].wanted * MIB);
        if (!scope.budget_bytes)
            scope.budget_bytes = 1;
        struct budget_vm vms[2] = {vm_of(cases[i].resident[0] * MIB), vm_of(cases[i].resident[1] * MIB)};
        struct budget_plan plans[2];
        for (int v = 0; v < 2; v++) {
            vms[v].terms.shares = (uint32_t)cases[i].shares[v];
            vms[v].working_set_bytes = cases[i].active[v] * MIB;
        }
        make_plans(&scope, &policy, 2, vms, plans);
        double paid[2];
        for (int v = 0; v < 2; v++) {
            uint64_t active = cases[i].active[v] ? cases[i].active[v] : cases[i].resident[v];
            if (fabs((double)plans[v].target_bytes / MIB - (double)cases[i].left[v]) > 0.7)
                fail_msg("%s: VM %d is left %.2f MiB", cases[i].what, v, (double)plans[v].target_bytes / MIB);
            paid[v] = rho(cases[i].shares[v], (double)plans[v].target_bytes, (double)(active * MIB));
        }
        bool both = plans[0].order.pages && plans[1].order.pages && plans[0].target_bytes;
        if (both && fabs(paid[0] / paid[1] - 1) > 0.001)
            fail_msg("%s: they pay %g and %g", cases[i].what, paid[0], paid[1]);
    }
}

static void shares_go_by_size_unless_set(void **state)
{
    struct budget_vm vms[2] = {vm_of(GIB), vm_of(GIB)};
    struct budget_scope scope = scope_of(BUDGET_HARD, 2 * GIB, 2 * GIB);
    struct budget_plan plans[2];
    (void)state;

    vms[0].guest_bytes = 4 * GIB; /* has the same, and a right to four times as much */
    make_plans(&scope, &policy, 2, vms, plans);
    assert_int_equal(plans[0].order.pages, 0);
    assert_true(plans[1].order.pages > 0);
    vms[0].terms.shares = BUDGET_SHARES_PER_MIB * 1024; /* as the other one's by size */
    make_plans(&scope, &policy, 2, vms, plans);
    assert_near("both alike", plans[0].target_bytes, plans[1].target_bytes);
}

/* A class says how many there are for its size. */
static void classes_of_shares(void **state)
{
    static const struct {
        const char *name;
        uint32_t per_mib;
    } classes[] = {{"low", 5}, {"normal", 10}, {"high", 20}};
    uint32_t shares = 7;
    (void)state;

    for (int i = 0; i < 3; i++) {
        struct budget_vm vms[2] = {vm_of(GIB), vm_of(GIB)};
        struct budget_scope scope = scope_of(BUDGET_HARD, 2 * GIB, 2 * GIB);
        struct budget_plan plans[2];
        assert_true(budget_class_shares(classes[i].name, &vms[0].terms.shares));
        assert_string_equal(budget_class_name(vms[0].terms.shares), classes[i].name);
        vms[1].terms.shares = classes[i].per_mib * 1024;
        assert_string_equal(budget_class_name(vms[1].terms.shares), "custom");
        make_plans(&scope, &policy, 2, vms, plans);
        assert_true(plans[0].why.shares == classes[i].per_mib * 1024);
        assert_near(classes[i].name, plans[0].target_bytes, plans[1].target_bytes);
    }
    assert_false(budget_class_shares("custom", &shares) || budget_class_shares("", &shares));
    assert_int_equal(shares, 7);
}

static void nobody_is_brought_below_its_reservation(void **state)
{
    struct budget_vm vms[3] = {vm_of(100 * MIB), vm_of(100 * MIB), vm_of(100 * MIB)};
    struct budget_scope scope = scope_of(BUDGET_LOW, 150 * MIB, 300 * MIB);
    struct budget_plan plans[3];
    (void)state;

    vms[0].terms.reservation_bytes = 90 * MIB;
    vms[1].terms.reservation_bytes = 200 * MIB; /* more than it has: all of it */
    make_plans(&scope, &policy, 3, vms, plans);
    assert_near("reserved", plans[0].target_bytes, 90 * MIB);
    assert_int_equal(plans[0].order.pages, PAGES(10 * MIB));
    assert_int_equal(plans[1].order.pages, 0);
    assert_near("all there is", plans[2].target_bytes, 0); /* 153 MiB are wanted */
    vms[0].loose_bytes = 4 * MIB;                          /* goes besides */
    make_plans(&scope, &policy, 3, vms, plans);
    assert_int_equal(plans[0].order.pages, PAGES(6 * MIB));
    vms[2].terms.reservation_bytes = 100 * MIB;
    vms[0].terms.reservation_bytes = 100 * MIB;
    make_plans(&scope, &policy, 3, vms, plans);
    for (int v = 0; v < 3; v++)
        assert_int_equal(plans[v].order.pages, 0);
}

static void limits_count_without_pressure(void **state)
{
    struct budget_vm vm = vm_of(100 * MIB);
    struct budget_scope scope = scope_of(BUDGET_HIGH, GIB, 100 * MIB);
    struct budget_plan plan;
    (void)state;

    vm.terms.limit_bytes = 96 * MIB;
    vm.rates.packed_per_s = 1e6; /* whatever that does to it */
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_int_equal(plan.order.pages, PAGES(4 * MIB));
    assert_int_equal(plan.order.state, BUDGET_HARD);
    assert_true(plan.order.swap);
    assert_int_equal(plan.target_bytes, 96 * MIB);
    vm.terms.swap_never = true;
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_false(plan.order.swap);
    vm.pending_bytes = 4 * MIB; /* is on its way */
    vm.pending = BUDGET_HARD;
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_int_equal(plan.order.pages, 0);
    vm.pending_bytes = 0;
    vm.rates.home_per_s = PAGES(10 * MIB); /* and more comes home meanwhile */
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_int_equal(plan.order.pages, PAGES(5 * MIB));
    vm.rates.home_per_s = 0;
    vm.excluded = BUDGET_JOB;
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_int_equal(plan.order.pages, 0);
    vm.excluded = BUDGET_INCLUDED;
    vm.resident_bytes = 110 * MIB; /* far above it */
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_int_equal(plan.order.state, BUDGET_LOW);
    assert_int_equal(plan.order.pages, PAGES(14 * MIB));
    vm.resident_bytes = 96 * MIB;
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_int_equal(plan.order.pages, 0);
    assert_int_equal(plan.target_bytes, 96 * MIB);
}

/* ---------------------------------------------------------------- how */

static void each_state_has_its_ways(void **state)
{
    static const struct {
        const char *what;
        enum budget_state state, dry;
        bool can_swap, swap_never;
        bool order, all, swap;
    } cases[] = {
        {"high", BUDGET_HIGH, BUDGET_HIGH, true, false, false, false, false},
        {"soft packs what is cold", BUDGET_SOFT, BUDGET_HIGH, true, false, true, false, false},
        {"soft, nothing cold", BUDGET_SOFT, BUDGET_SOFT, true, false, false, false, false},
        {"hard swaps", BUDGET_HARD, BUDGET_HIGH, true, false, true, false, true},
        {"hard, nothing to pack", BUDGET_HARD, BUDGET_SOFT, true, false, true, false, true},
        {"hard, nothing cold", BUDGET_HARD, BUDGET_HARD, true, false, true, true, true},
        {"hard, never swapped", BUDGET_HARD, BUDGET_HIGH, true, true, true, false, false},
        {"hard, never swapped, nothing cold", BUDGET_HARD, BUDGET_SOFT, true, true, true, true, false},
        {"hard, swap file full", BUDGET_HARD, BUDGET_HIGH, false, false, true, false, false},
        {"hard, nothing at all", BUDGET_HARD, BUDGET_LOW, true, false, false, false, false},
        {"low takes anything", BUDGET_LOW, BUDGET_HIGH, true, false, true, true, true},
        {"low, never swapped", BUDGET_LOW, BUDGET_HARD, true, true, true, true, false},
        {"low, nothing at all", BUDGET_LOW, BUDGET_LOW, true, false, false, false, false},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct budget_scope scope = scope_of(cases[i].state, 100 * MIB, 110 * MIB);
        struct budget_vm vm = vm_of(110 * MIB);
        struct budget_plan plan;
        vm.dry = cases[i].dry;
        vm.can_swap = cases[i].can_swap;
        vm.terms.swap_never = cases[i].swap_never;
        make_plans(&scope, &policy, 1, &vm, &plan);
        if (!!plan.order.pages != cases[i].order || plan.order.all != cases[i].all ||
            plan.order.swap != cases[i].swap || (cases[i].order && plan.order.state != cases[i].state))
            fail_msg("%s: %llu pages, all %d, swap %d", cases[i].what, (unsigned long long)plan.order.pages,
                     plan.order.all, plan.order.swap);
    }
}

/* A VM's part of frames is to be had where it may swap, and only there. */
static void merged_pages_leave_for_the_swap_file(void **state)
{
    static const struct {
        enum budget_state state;
        bool can_swap, swap_never, order;
    } cases[] = {
        {BUDGET_SOFT, true, false, false},  {BUDGET_HARD, true, false, true},
        {BUDGET_HARD, false, false, false}, {BUDGET_HARD, true, true, false},
        {BUDGET_LOW, true, false, true},    {BUDGET_LOW, true, true, false},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct budget_scope scope = scope_of(cases[i].state, 100 * MIB, 110 * MIB);
        struct budget_vm vm = vm_of(110 * MIB);
        struct budget_plan plan;
        vm.reclaimable_bytes = 0;
        vm.merged_bytes = 110 * MIB;
        vm.can_swap = cases[i].can_swap;
        vm.terms.swap_never = cases[i].swap_never;
        make_plans(&scope, &policy, 1, &vm, &plan);
        assert_int_equal(!!plan.order.pages, cases[i].order);
        assert_int_equal(plan.order.swap, cases[i].order);
    }
}

static void one_order_is_bounded(void **state)
{
    static const struct {
        enum budget_state state;
        uint64_t resident, most;
        uint32_t park_ms;
    } cases[] = {
        {BUDGET_SOFT, GIB, 32 * MIB, 1000}, {BUDGET_SOFT, 32 * MIB, 2 * MIB, 1000},
        {BUDGET_HARD, GIB, 128 * MIB, 100}, {BUDGET_HARD, 32 * MIB, 8 * MIB, 100},
        {BUDGET_LOW, GIB, 512 * MIB, 0},    {BUDGET_LOW, 40 * MIB, 32 * MIB, 0},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct budget_scope scope = scope_of(cases[i].state, MIB, cases[i].resident);
        struct budget_vm vm = vm_of(cases[i].resident);
        struct budget_plan plan;
        make_plans(&scope, &policy, 1, &vm, &plan);
        assert_int_equal(plan.order.pages, PAGES(cases[i].most));
        assert_int_equal(plan.order.park_ms, cases[i].park_ms);
    }
}

/* In soft a VM gives the less, the more of what has gone it needs back; the others give their own part. */
static void soft_backs_off(void **state)
{
    struct budget_scope scope = scope_of(BUDGET_SOFT, 2 * GIB, 19 * GIB / 10);
    struct budget_vm vms[2] = {vm_of(GIB), vm_of(9 * GIB / 10)};
    struct budget_policy how = policy;
    struct budget_plan plans[2], eased[2];
    const double fine = GIB / 4096 * 0.01 / 60; /* 1% a minute: 43.7 pages a second */
    (void)state;

    make_plans(&scope, &how, 2, vms, plans);
    assert_int_equal(plans[0].order.pages, PAGES(32 * MIB));
    vms[0].rates.packed_per_s = fine / 2;
    make_plans(&scope, &how, 2, vms, eased);
    assert_int_equal(eased[0].order.pages, PAGES(16 * MIB));
    vms[0].rates.packed_per_s = fine;
    make_plans(&scope, &how, 2, vms, eased);
    assert_int_equal(eased[0].order.pages, 0);
    assert_int_equal(eased[0].target_bytes, vms[0].resident_bytes);
    assert_near("the other one does not give in its place", eased[1].target_bytes, plans[1].target_bytes);
    vms[0].rates = (struct budget_rates){.swapped_per_s = fine / BUDGET_SWAPPED_WEIGHT};
    make_plans(&scope, &how, 2, vms, eased);
    assert_int_equal(eased[0].order.pages, 0);
    vms[0].rates = (struct budget_rates){0};

    how.stall_some = 0.5;
    make_plans(&scope, &how, 2, vms, eased);
    assert_int_equal(eased[0].order.pages, PAGES(16 * MIB));
    how.stall_some = 1;
    make_plans(&scope, &how, 2, vms, eased);
    assert_int_equal(eased[0].order.pages + eased[1].order.pages, 0);
    how.stall_full = how.stall_some = 0.5;
    make_plans(&scope, &how, 2, vms, eased);
    assert_int_equal(eased[0].order.pages + eased[1].order.pages, 0);
    how.stall_percent = 0; /* not asked about */
    make_plans(&scope, &how, 2, vms, eased);
    assert_int_equal(eased[0].order.pages, plans[0].order.pages);
}

/* Who has the most for its shares is left alone for a while: in soft that is waited for, and a VM with more
 * shares is not asked in its place. Where memory must come it is. */
static void others_give_in_its_place_if_they_must(void **state)
{
    struct budget_vm vms[2] = {vm_of(GIB), vm_of(GIB)};
    struct budget_scope scope = scope_of(BUDGET_SOFT, 2100 * MIB, 2048 * MIB);
    struct budget_plan plans[2];
    (void)state;

    vms[0].terms.shares = 100; /* has too much for its shares, and nothing cold to be found */
    vms[1].terms.shares = 1000;
    for (int why = 0; why < 3; why++) {
        vms[0].dry = why == 0 ? BUDGET_SOFT : BUDGET_HIGH;
        vms[0].rates.packed_per_s = why == 1 ? 1e4 : 0;
        vms[0].pending_bytes = why == 2 ? 32 * MIB : 0;
        vms[0].pending = BUDGET_SOFT;
        make_plans(&scope, &policy, 2, vms, plans);
        assert_int_equal(plans[0].order.pages, 0);
        assert_int_equal(plans[1].order.pages, 0);
        assert_int_equal(plans[1].why.reason, BUDGET_PRICE);
    }
    vms[0].dry = BUDGET_LOW;
    scope.state = BUDGET_HARD;
    make_plans(&scope, &policy, 2, vms, plans);
    assert_int_equal(plans[0].order.pages, 0);
    assert_true(plans[1].order.pages > 0);
    vms[0].dry = BUDGET_HIGH;
    vms[0].excluded = BUDGET_PAUSED; /* that may be for long: nothing is to be expected of it */
    scope.state = BUDGET_SOFT;
    make_plans(&scope, &policy, 2, vms, plans);
    assert_true(plans[1].order.pages > 0);
}

/* One of which a search has found nothing cold uses what it has, whatever samples said half a minute ago. */
static void what_has_nothing_cold_is_not_idle(void **state)
{
    struct budget_vm vms[2] = {vm_of(GIB), vm_of(GIB)};
    struct budget_scope scope = scope_of(BUDGET_HARD, 2100 * MIB, 2040 * MIB);
    struct budget_plan plans[2];
    (void)state;

    vms[0].working_set_bytes = 16 * MIB;
    vms[1].working_set_bytes = 256 * MIB;
    make_plans(&scope, &policy, 2, vms, plans);
    assert_true(plans[0].order.pages > 0);
    assert_int_equal(plans[1].order.pages, 0);
    vms[0].dry = BUDGET_HARD; /* it could be taken anything of, but it pays for no idle memory now */
    make_plans(&scope, &policy, 2, vms, plans);
    assert_int_equal(plans[0].order.pages, 0);
    assert_int_equal(plans[0].why.reason, BUDGET_PRICE);
    assert_true(plans[1].order.pages > 0);
}

static void small_vms_may_need_some_pages_back(void **state)
{
    struct budget_vm vm = vm_of(64 * MIB);
    (void)state;

    vm.rates.packed_per_s = BUDGET_REFAULTS_FLOOR / 2;
    assert_true(fabs(budget_ease(&policy, &vm) - 0.5) < 1e-9);
    vm.working_set_bytes = MIB;
    assert_true(fabs(budget_ease(&policy, &vm) - 0.5) < 1e-9);
    vm.working_set_bytes = 100 * GIB; /* of a known working set, that counts */
    assert_true(budget_ease(&policy, &vm) > 0.99);
}

static void hard_and_low_do_not_back_off(void **state)
{
    struct budget_policy how = policy;
    struct budget_vm vm = vm_of(GIB);
    struct budget_plan plan;
    (void)state;

    how.stall_some = how.stall_full = 100;
    vm.rates.packed_per_s = vm.rates.swapped_per_s = 1e6;
    for (enum budget_state s = BUDGET_HARD; s <= BUDGET_LOW; s++) {
        struct budget_scope scope = scope_of(s, GIB / 2, GIB);
        make_plans(&scope, &how, 1, &vm, &plan);
        assert_true(plan.order.pages > 0);
    }
}

/* What comes home meanwhile is asked for, too, where the state must hold. */
static void what_comes_home_is_allowed_for(void **state)
{
    struct budget_scope scope = scope_of(BUDGET_HARD, 1000 * MIB, 950 * MIB);
    struct budget_vm vm = vm_of(900 * MIB);
    struct budget_plan plan;
    (void)state;

    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_near("excess", plan.order.pages * 4096, 10 * MIB);
    vm.rates.home_per_s = (double)PAGES(100 * MIB);
    make_plans(&scope, &policy, 1, &vm, &plan);
    assert_near("and a tenth of a second's", plan.order.pages * 4096, 20 * MIB);
}

static void orders_under_way_count(void **state)
{
    struct budget_scope scope = scope_of(BUDGET_HARD, 1000 * MIB, 1000 * MIB);
    struct budget_vm vms[2] = {vm_of(500 * MIB), vm_of(500 * MIB)};
    struct budget_plan plans[2];
    (void)state;

    vms[0].pending_bytes = 20 * MIB;
    vms[0].pending = BUDGET_HARD;
    make_plans(&scope, &policy, 2, vms, plans);
    assert_int_equal(plans[0].order.pages, 0);
    assert_near("the other gives the rest", plans[1].order.pages * 4096, 40 * MIB);
    vms[1].pending_bytes = 40 * MIB;
    vms[1].pending = BUDGET_LOW;
    make_plans(&scope, &policy, 2, vms, plans);
    assert_int_equal(plans[0].order.pages + plans[1].order.pages, 0);
    vms[0].pending = BUDGET_SOFT; /* it takes its time: a more urgent one takes its place */
    make_plans(&scope, &policy, 2, vms, plans);
    assert_near("in its place", plans[0].order.pages * 4096, 20 * MIB);
}

static void the_busy_are_left_alone(void **state)
{
    struct budget_scope scope = scope_of(BUDGET_LOW, 100 * MIB, 110 * MIB);
    struct budget_vm vms[2] = {vm_of(55 * MIB), vm_of(55 * MIB)};
    struct budget_plan plans[2];
    (void)state;

    vms[0].excluded = BUDGET_JOB;
    make_plans(&scope, &policy, 2, vms, plans);
    assert_int_equal(plans[0].order.pages, 0);
    assert_int_equal(plans[0].target_bytes, 55 * MIB);
    assert_near("the other one", plans[1].order.pages * 4096, 12 * MIB);
}

/* Two scopes: members of the one only give to it; the more urgent order counts. */
static void scopes_add_up(void **state)
{
    struct budget_vm vms[2] = {vm_of(100 * MIB), vm_of(100 * MIB)};
    struct budget_scope domain = scope_of(BUDGET_LOW, 90 * MIB, 100 * MIB);
    struct budget_scope host = scope_of(BUDGET_SOFT, 215 * MIB, 200 * MIB);
    const bool first[2] = {true, false};
    struct budget_plan plans[2];
    (void)state;

    budget_plan_limits(&policy, 2, vms, plans);
    budget_plan(&domain, BUDGET_BY_DOMAIN, &policy, 2, vms, first, plans);
    assert_true(plans[0].order.pages > 0);
    assert_int_equal(plans[1].order.pages, 0);
    budget_plan(&host, BUDGET_BY_HOST, &policy, 2, vms, all, plans);
    assert_int_equal(plans[0].order.state, BUDGET_LOW);
    assert_int_equal(plans[1].order.state, BUDGET_SOFT);
    assert_near("the lower target counts", plans[0].target_bytes, 88 * MIB + 205 * MIB / 1000);
}

/* What a balloon can give by its next steps is not asked of pages, unless memory is low. */
static void balloons_take_their_time(void **state)
{
    static const struct {
        enum budget_state state;
        unsigned balloon, spare; /* MiB */
        bool first, pages;
    } cases[] = {
        {BUDGET_HARD, 2, 100, true, false}, {BUDGET_HARD, 0, 100, true, false},
        {BUDGET_HARD, 2, 2, true, true},    {BUDGET_HARD, 2, 100, false, true},
        {BUDGET_SOFT, 2, 100, true, false}, {BUDGET_LOW, 2, 100, true, true},
        {BUDGET_LOW, 0, 100, true, true},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct budget_scope scope = scope_of(cases[i].state, 200 * MIB, 215 * MIB);
        struct budget_vm vm = vm_of(215 * MIB);
        struct budget_plan plan;
        vm.balloon_bytes = cases[i].balloon * MIB;
        vm.spare_bytes = cases[i].spare * MIB;
        vm.balloon_first = cases[i].first;
        make_plans(&scope, &policy, 1, &vm, &plan);
        if (!plan.order.pages != !cases[i].pages)
            fail_msg("case %zu: %llu pages", i, (unsigned long long)plan.order.pages);
        if (cases[i].first && plan.balloon_bytes != vm.balloon_bytes)
            fail_msg("case %zu: %llu bytes of the balloon", i, (unsigned long long)plan.balloon_bytes);
    }
}

/* ---------------------------------------------------------------- rates */

static void rates_rise_at_once_and_fall_slowly(void **state)
{
    struct budget_faults was = {.at_ns = 1}, now = {1 + 1000000000, 100, 10};
    struct budget_rates rates = {0}, before;
    (void)state;

    budget_measure(&rates, &was, &now);
    assert_true(fabs(rates.packed_per_s - 100) < 1e-6 && fabs(rates.swapped_per_s - 10) < 1e-6);
    assert_true(rates.home_per_s > 60 && rates.home_per_s < 80);
    was = now;
    now.at_ns += 1000000000;
    budget_measure(&rates, &was, &now);
    assert_true(rates.packed_per_s > 85 && rates.packed_per_s < 95);
    before = rates;
    budget_measure(&rates, &now, &now);                                         /* no time has passed */
    budget_measure(&rates, &now, &(struct budget_faults){now.at_ns + 1, 1, 1}); /* a new engine */
    assert_memory_equal(&rates, &before, sizeof rates);
    for (int s = 0; s < 100; s++) {
        was = now;
        now.at_ns += 1000000000;
        budget_measure(&rates, &was, &now);
    }
    assert_true(rates.packed_per_s < 0.1);
}

static void nobody_there(void **state)
{
    struct budget_scope scope = scope_of(BUDGET_LOW, MIB, GIB);
    struct budget_plan plan = {0};
    struct budget_vm vm = {0};
    (void)state;

    budget_plan(&scope, BUDGET_BY_HOST, &policy, 0, &vm, all, &plan);
    make_plans(&scope, &policy, 1, &vm, &plan); /* one that has nothing */
    assert_int_equal(plan.order.pages, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_state_begins_above_where_it_ends),
        cmocka_unit_test(what_is_shown_does_not_swing),
        cmocka_unit_test(no_budget_is_never_short),
        cmocka_unit_test(reclaim_goes_as_far_as_the_state),
        cmocka_unit_test(headroom_is_a_bounded_share),
        cmocka_unit_test(those_who_give_pay_the_same_in_the_end),
        cmocka_unit_test(shares_go_by_size_unless_set),
        cmocka_unit_test(classes_of_shares),
        cmocka_unit_test(nobody_is_brought_below_its_reservation),
        cmocka_unit_test(limits_count_without_pressure),
        cmocka_unit_test(each_state_has_its_ways),
        cmocka_unit_test(merged_pages_leave_for_the_swap_file),
        cmocka_unit_test(one_order_is_bounded),
        cmocka_unit_test(soft_backs_off),
        cmocka_unit_test(others_give_in_its_place_if_they_must),
        cmocka_unit_test(what_has_nothing_cold_is_not_idle),
        cmocka_unit_test(small_vms_may_need_some_pages_back),
        cmocka_unit_test(hard_and_low_do_not_back_off),
        cmocka_unit_test(what_comes_home_is_allowed_for),
        cmocka_unit_test(orders_under_way_count),
        cmocka_unit_test(the_busy_are_left_alone),
        cmocka_unit_test(scopes_add_up),
        cmocka_unit_test(balloons_take_their_time),
        cmocka_unit_test(rates_rise_at_once_and_fall_slowly),
        cmocka_unit_test(nobody_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
