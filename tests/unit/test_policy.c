/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* policy and why: what is remembered from look to look, which rule decided, and how that reads. */
#include "memd/daemon/policy.h"
#include "memd/daemon/why.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MIB      (1ull << 20)
#define S        1000000000ull
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct budget_policy policy = {
    .tax = 0.75, .refault_percent = 1, .stall_percent = 1, .look_s = 0.1};
static const struct budget_thresholds thresholds = {.soft = 90, .hard = 96, .low = 100, .back = 2};

static struct policy_look look;

static int open_look(void **state)
{
    (void)state;
    look = (struct policy_look){.policy = policy};
    return policy_look_open(&look, 4, 2);
}

static int close_look(void **state)
{
    (void)state;
    policy_look_close(&look);
    return 0;
}

static struct budget_scope scope_of(enum budget_state state, uint64_t budget, uint64_t used)
{
    return (struct budget_scope){budget, used, 0, thresholds, state};
}

static struct budget_vm *add_vm(uint64_t resident, size_t domain)
{
    look.domain[look.n] = domain;
    look.vms[look.n] = (struct budget_vm){
        .guest_bytes = resident, .resident_bytes = resident, .reclaimable_bytes = resident, .can_swap = true};
    return &look.vms[look.n++];
}

/* ---------------------------------------------------------------- the rule that decided */

/* Of two VMs in a budget of 190 MiB, the first has all this of it; the second is like it, and plain. */
static const struct reason_case {
    const char *what;
    enum budget_state state;
    struct budget_vm vm; /* 0: 100 MiB, all reclaimable */
    double stall_some;
    enum budget_by by;
    enum budget_reason reason;
    const char *words; /* in the text */
} reasons[] = {
    {"nothing is short", BUDGET_HIGH, {0}, 0, BUDGET_BY_HOST, BUDGET_UNASKED, "not asked: no budget"},
    {"it gives",
     BUDGET_SOFT,
     {0},
     0,
     BUDGET_BY_HOST,
     BUDGET_ORDERED,
     "asked for 3.1 MiB (the most at a time), cold"},
    {"hard", BUDGET_HARD, {0}, 0, BUDGET_BY_HOST, BUDGET_ORDERED, "cold pages, packed and swapped"},
    {"low", BUDGET_LOW, {0}, 0, BUDGET_BY_HOST, BUDGET_ORDERED, "any pages, packed and swapped"},
    {"gently",
     BUDGET_SOFT,
     {.rates.packed_per_s = 16},
     0,
     BUDGET_BY_HOST,
     BUDGET_ORDERED,
     "gently (50%) for what it needs back"},
    {"a user's job",
     BUDGET_LOW,
     {.excluded = BUDGET_JOB},
     0,
     BUDGET_BY_HOST,
     BUDGET_EXCLUDED,
     "excluded (job)"},
    {"not there", BUDGET_LOW, {.excluded = BUDGET_LOST}, 0, BUDGET_BY_HOST, BUDGET_EXCLUDED, "not connected"},
    {"joins", BUDGET_LOW, {.excluded = BUDGET_JOINING}, 0, BUDGET_BY_HOST, BUDGET_EXCLUDED, "(joining)"},
    {"a forked child",
     BUDGET_LOW,
     {.excluded = BUDGET_PAUSED},
     0,
     BUDGET_BY_HOST,
     BUDGET_EXCLUDED,
     "because a forked child shares its memory"},
    {"leaves", BUDGET_LOW, {.excluded = BUDGET_CLOSING}, 0, BUDGET_BY_HOST, BUDGET_EXCLUDED, "it is leaving"},
    {"silent",
     BUDGET_LOW,
     {.excluded = BUDGET_SILENT},
     0,
     BUDGET_BY_HOST,
     BUDGET_EXCLUDED,
     "nothing has moved"},
    {"at it",
     BUDGET_SOFT,
     {.pending_bytes = 2 * MIB, .pending = BUDGET_SOFT},
     0,
     BUDGET_BY_HOST,
     BUDGET_AT_IT,
     "order of 2.0 MiB is not answered"},
    {"at less",
     BUDGET_HARD,
     {.pending_bytes = 2 * MIB, .pending = BUDGET_SOFT},
     0,
     BUDGET_BY_HOST,
     BUDGET_ORDERED,
     "asked for"},
    {"locked",
     BUDGET_LOW,
     {.resident_bytes = 100 * MIB, .ineligible_bytes = 99 * MIB},
     0,
     BUDGET_BY_HOST,
     BUDGET_INELIGIBLE,
     "99.0 MiB of it are locked"},
    {"merged",
     BUDGET_LOW,
     {.resident_bytes = 100 * MIB},
     0,
     BUDGET_BY_HOST,
     BUDGET_NOTHING_LEFT,
     "no pages of its"},
    {"nothing cold",
     BUDGET_SOFT,
     {.dry = BUDGET_SOFT},
     0,
     BUDGET_BY_HOST,
     BUDGET_DRY,
     "cold pages to pack came"},
    {"nothing at all",
     BUDGET_LOW,
     {.dry = BUDGET_LOW},
     0,
     BUDGET_BY_HOST,
     BUDGET_DRY,
     "back-off: a search for any"},
    {"needs them back",
     BUDGET_SOFT,
     {.rates.packed_per_s = 40},
     0,
     BUDGET_BY_HOST,
     BUDGET_REFAULTS,
     "needs back 40 packed and 0 swapped"},
    {"whoever needs them",
     BUDGET_HARD,
     {.rates.packed_per_s = 40},
     0,
     BUDGET_BY_HOST,
     BUDGET_ORDERED,
     "asked"},
    {"the host waits", BUDGET_SOFT, {0}, 1.5, BUDGET_BY_HOST, BUDGET_STALLS, "some 1.50%"},
    {"reserved",
     BUDGET_LOW,
     {.terms.reservation_bytes = 99 * MIB, .loose_bytes = 2 * MIB},
     0,
     BUDGET_BY_HOST,
     BUDGET_RESERVED,
     "of which 99.0 are reserved and 2.0 may leave anyway"},
    {"more shares",
     BUDGET_SOFT,
     {.terms.shares = 5000},
     0,
     BUDGET_BY_HOST,
     BUDGET_PRICE,
     "others have more for their"},
    {"in use",
     BUDGET_SOFT,
     {.working_set_bytes = 90 * MIB, .terms.shares = 5000},
     0,
     BUDGET_BY_HOST,
     BUDGET_PRICE,
     "90.0 MiB of its 100.0 are in use"},
    {"next to nothing",
     BUDGET_SOFT,
     {.terms.reservation_bytes = 100 * MIB - 40960},
     0,
     BUDGET_BY_HOST,
     BUDGET_SMALL,
     "less than an order is worth"},
    {"above its limit",
     BUDGET_HIGH,
     {.terms.limit_bytes = 95 * MIB},
     0,
     BUDGET_BY_LIMIT,
     BUDGET_ORDERED,
     "limit: it has 100.0 MiB, its limit is 95.0"},
    {"above its limit, and excluded",
     BUDGET_HIGH,
     {.terms.limit_bytes = 95 * MIB, .excluded = BUDGET_PAUSED},
     0,
     BUDGET_BY_LIMIT,
     BUDGET_EXCLUDED,
     "excluded (paused)"},
    {"far above it: more urgent than soft",
     BUDGET_SOFT,
     {.terms.limit_bytes = 50 * MIB},
     0,
     BUDGET_BY_LIMIT,
     BUDGET_ORDERED,
     "its limit is 50.0"},
};

static void every_plan_says_which_rule_decided(void **state)
{
    char text[WHY_TEXT_BYTES];
    bool seen[BUDGET_REASONS] = {0};
    (void)state;

    for (size_t i = 0; i < COUNT(reasons); i++) {
        const struct reason_case *c = &reasons[i];
        struct policy_vm memory = {.answer = {.at_ns = 1, .asked_pages = 100, .returned_pages = 10}};
        look.n = 0;
        look.policy.stall_some = c->stall_some;
        look.host = scope_of(c->state, 190 * MIB, 200 * MIB);
        struct budget_vm *vm = add_vm(100 * MIB, 0);
        add_vm(100 * MIB, 0);
        if (c->vm.resident_bytes)
            vm->reclaimable_bytes = 0;
        vm->working_set_bytes = c->vm.working_set_bytes;
        vm->ineligible_bytes = c->vm.ineligible_bytes;
        vm->loose_bytes = c->vm.loose_bytes;
        vm->pending_bytes = c->vm.pending_bytes;
        vm->pending = c->vm.pending;
        vm->rates = c->vm.rates;
        vm->terms = c->vm.terms;
        vm->excluded = c->vm.excluded;
        vm->dry = c->vm.dry;
        policy_decide(&look);
        const struct budget_why *why = &look.plans[0].why;
        struct why_entry entry = why_of(&look, 0, &memory, false, S);
        why_text(&entry, S, text);
        seen[why->reason] = true;
        if (why->reason != c->reason || why->by != c->by)
            fail_msg("%s: %s by the %s, not %s by the %s", c->what, budget_reason_name(why->reason),
                     budget_by_name(why->by), budget_reason_name(c->reason), budget_by_name(c->by));
        if (!strstr(text, c->words))
            fail_msg("%s: '%s' is not in '%s'", c->what, c->words, text);
        if ((why->reason == BUDGET_ORDERED) != !!look.plans[0].order.pages)
            fail_msg("%s: %s, with an order of %llu pages", c->what, budget_reason_name(why->reason),
                     (unsigned long long)look.plans[0].order.pages);
        if (c->vm.excluded && look.plans[0].target_bytes < vm->resident_bytes && why->by != BUDGET_BY_LIMIT)
            fail_msg("%s: excluded, with a target", c->what);
    }
    seen[BUDGET_ENOUGH] = true;     /* below */
    seen[BUDGET_GIVEN_BACK] = true; /* by no plan: test_balloon_policy.c */
    for (int r = 0; r < BUDGET_REASONS; r++)
        if (!seen[r])
            fail_msg("no case for %s", budget_reason_name(r));
}

static void what_is_under_way_may_be_enough(void **state)
{
    char text[WHY_TEXT_BYTES];
    struct policy_vm memory = {0};
    (void)state;

    look.host = scope_of(BUDGET_SOFT, 200 * MIB, 180 * MIB);
    struct budget_vm *vm = add_vm(90 * MIB, 0);
    add_vm(90 * MIB, 0);
    vm->pending_bytes = 20 * MIB;
    vm->pending = BUDGET_SOFT;
    policy_decide(&look);
    assert_int_equal(look.plans[0].why.reason, BUDGET_AT_IT);
    assert_int_equal(look.plans[0].target_bytes, 70 * MIB); /* that is what it is coming down to */
    assert_int_equal(look.plans[1].why.reason, BUDGET_ENOUGH);
    assert_int_equal(look.plans[1].target_bytes, 90 * MIB);
    struct why_entry entry = why_of(&look, 1, &memory, false, S);
    assert_non_null(strstr(why_text(&entry, S, text), "enough: "));

    vm->excluded = BUDGET_SILENT; /* it is not: nobody can tell when it comes */
    policy_decide(&look);
    assert_int_equal(look.plans[0].why.reason, BUDGET_EXCLUDED);
    assert_int_equal(look.plans[0].target_bytes, 90 * MIB);
    assert_int_equal(look.plans[1].why.reason, BUDGET_ORDERED);
}

/* A VM is in one domain at most, and in the host's scope. The more urgent one's word counts. */
static void of_two_scopes_the_more_urgent_explains(void **state)
{
    (void)state;
    look.ndomains = 2;
    look.domains[0] = scope_of(BUDGET_HARD, 100 * MIB, 98 * MIB);
    look.domains[1] = scope_of(BUDGET_HIGH, 1000 * MIB, 98 * MIB);
    look.host = scope_of(BUDGET_SOFT, 200 * MIB, 196 * MIB);
    add_vm(98 * MIB, 0);
    add_vm(98 * MIB, 1);
    add_vm(98 * MIB, SIZE_MAX); /* in no domain with a budget */
    policy_decide(&look);
    assert_int_equal(look.plans[0].why.by, BUDGET_BY_DOMAIN);
    assert_int_equal(look.plans[0].order.state, BUDGET_HARD);
    assert_true(policy_is_short(&look));
    for (int v = 1; v < 3; v++) {
        assert_int_equal(look.plans[v].why.by, BUDGET_BY_HOST);
        assert_int_equal(look.plans[v].order.state, BUDGET_SOFT);
    }
    look.vms[0].excluded = BUDGET_JOB;
    policy_decide(&look);
    assert_int_equal(look.plans[0].why.by, BUDGET_BY_DOMAIN);
    assert_int_equal(look.plans[0].why.reason, BUDGET_EXCLUDED);
    look.domains[0].state = BUDGET_HIGH;
    policy_decide(&look);
    assert_int_equal(look.plans[0].why.by, BUDGET_BY_HOST);
    assert_false(policy_is_short(&look));
    look.vms[1].terms.limit_bytes = 97 * MIB; /* a little above its limit it is all the time */
    assert_false(policy_is_short(&look));
    look.vms[1].terms.limit_bytes = 95 * MIB;
    assert_true(policy_is_short(&look));
}

/* ---------------------------------------------------------------- from look to look */

static void measure(struct policy_vm *vm, uint64_t at_ns, uint64_t moved, bool at_it)
{
    policy_measure(vm, &(struct policy_seen){.faults = {.at_ns = at_ns}, .moved = moved, .at_it = at_it});
}

static void too_little_is_remembered_for_a_while(void **state)
{
    static const struct {
        enum budget_state depth;
        uint64_t pages;
        int error;
        enum budget_state dry;
        uint64_t for_ns;
    } cases[] = {
        {BUDGET_SOFT, 50, 0, BUDGET_HIGH, 0},
        {BUDGET_SOFT, 49, 0, BUDGET_SOFT, POLICY_DRY_COLD_NS},
        {BUDGET_HARD, 0, 0, BUDGET_HARD, POLICY_DRY_COLD_NS},
        {BUDGET_LOW, 0, 0, BUDGET_LOW, POLICY_DRY_ANY_NS},
        {BUDGET_HARD, 0, ENOSPC, BUDGET_HARD, POLICY_DRY_COLD_NS},
        {BUDGET_HARD, 0, ECANCELED, BUDGET_HIGH, 0}, /* it was not given the time */
    };
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct budget_order order = {.pages = 100, .state = cases[i].depth, .depth = cases[i].depth};
        struct policy_vm vm = {0};
        policy_answered(&vm, &order, cases[i].pages, cases[i].error, 5 * S);
        assert_int_equal(vm.dry, cases[i].dry);
        assert_int_equal(vm.answer.returned_pages, cases[i].pages);
        assert_int_equal(!!vm.no_swap_ns, cases[i].error == ENOSPC);
        if (!cases[i].dry)
            continue;
        assert_int_equal(policy_dry_until_ns(&vm), 5 * S + cases[i].for_ns);
        measure(&vm, 5 * S + cases[i].for_ns - 1, 0, false);
        assert_int_equal(vm.dry, cases[i].dry);
        measure(&vm, 5 * S + cases[i].for_ns, 0, false);
        assert_int_equal(vm.dry, BUDGET_HIGH);
        assert_int_equal(policy_dry_until_ns(&vm), 0);
        measure(&vm, 5 * S + POLICY_NO_SWAP_NS + 1, 0, false);
        assert_int_equal(vm.no_swap_ns, 0);
    }
}

static void an_order_that_moves_nothing_is_not_counted_on(void **state)
{
    struct policy_vm vm = {0};
    uint64_t t = 100 * S;
    (void)state;

    measure(&vm, t, 7, false);
    assert_false(policy_is_silent(&vm, t + 100 * S)); /* it has no order */
    policy_ordered(&vm, t);
    measure(&vm, t + POLICY_SILENT_NS, 7, true);
    assert_false(policy_is_silent(&vm, t + POLICY_SILENT_NS));
    assert_true(policy_is_silent(&vm, t + POLICY_SILENT_NS + 1));
    measure(&vm, t + 2 * POLICY_SILENT_NS, 8, true); /* a page has moved */
    assert_false(policy_is_silent(&vm, t + 2 * POLICY_SILENT_NS));
    assert_true(policy_is_silent(&vm, t + 3 * POLICY_SILENT_NS + 1));
    policy_ordered(&vm, t + 4 * POLICY_SILENT_NS); /* a more urgent one has its own time */
    assert_false(policy_is_silent(&vm, t + 4 * POLICY_SILENT_NS + S));
    policy_answered(&vm, &(struct budget_order){.pages = 1}, 1, 0, t + 5 * POLICY_SILENT_NS);
    assert_false(policy_is_silent(&vm, t + 9 * POLICY_SILENT_NS));
}

/* What a VM brings home it uses, whether or not samples know of that yet. */
static void what_came_home_is_in_use(void **state)
{
    static const struct {
        uint64_t packed, swapped, periods, home; /* home: pages that count then */
    } cases[] = {
        {1000, 500, 3, 0}, /* before it was looked at */
        {1010, 500, 3, 10}, {1010, 520, 3, 30}, {1010, 520, 4, 30}, {1015, 520, 4, 35},
        {1015, 520, 5, 5},  {1015, 520, 6, 0},  {1020, 520, 6, 5},  {1, 0, 6, 5}, /* a new engine */
        {3, 1, 6, 8},
    };
    struct policy_vm vm = {0};
    (void)state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        policy_measure(&vm, &(struct policy_seen){.faults = {(i + 1) * S, cases[i].packed, cases[i].swapped},
                                                  .periods = cases[i].periods});
        if (policy_working_set(&vm, MIB) != MIB + cases[i].home * 4096)
            fail_msg("case %zu: %llu", i, (unsigned long long)(policy_working_set(&vm, MIB) - MIB) / 4096);
        assert_int_equal(policy_working_set(&vm, 0), 0); /* nothing is known: all of it is */
    }
}

/* ---------------------------------------------------------------- the ring */

static struct why_entry entry_of(enum budget_reason reason, enum budget_state state, uint64_t s)
{
    bool ordered = reason == BUDGET_ORDERED;

    return (struct why_entry){
        .first_ns = s * S,
        .last_ns = s * S,
        .looks = 1,
        .orders = ordered,
        .ordered_bytes = ordered ? MIB : 0,
        .why = {.by = BUDGET_BY_HOST, .reason = reason, .state = state, .wanted_bytes = s}};
}

static void alike_decisions_are_one_entry(void **state)
{
    static const struct {
        enum budget_reason reason;
        enum budget_state state;
        unsigned n; /* entries then */
        uint64_t looks, orders;
    } cases[] = {
        {BUDGET_UNASKED, BUDGET_HIGH, 1, 1, 0}, {BUDGET_UNASKED, BUDGET_HIGH, 1, 2, 0},
        {BUDGET_ORDERED, BUDGET_SOFT, 2, 1, 1}, {BUDGET_AT_IT, BUDGET_SOFT, 2, 2, 1},
        {BUDGET_ORDERED, BUDGET_SOFT, 2, 3, 2}, {BUDGET_PRICE, BUDGET_SOFT, 3, 1, 0},
        {BUDGET_AT_IT, BUDGET_SOFT, 4, 1, 0},   {BUDGET_ORDERED, BUDGET_HARD, 5, 1, 1},
        {BUDGET_AT_IT, BUDGET_SOFT, 6, 1, 0},
    };
    struct why_ring ring = {0};
    (void)state;

    assert_null(why_entry_at(&ring, 0));
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct why_entry entry = entry_of(cases[i].reason, cases[i].state, i + 1);
        why_note(&ring, &entry);
        const struct why_entry *last = why_entry_at(&ring, 0);
        assert_int_equal(ring.n, cases[i].n);
        assert_int_equal(last->looks, cases[i].looks);
        assert_int_equal(last->orders, cases[i].orders);
        assert_int_equal(last->ordered_bytes, cases[i].orders * MIB);
        assert_int_equal(last->last_ns, (i + 1) * S);
        assert_int_equal(last->first_ns, (i + 1) * S - (last->looks - 1) * S);
    }
    assert_int_equal(why_entry_at(&ring, 4)->why.reason, BUDGET_ORDERED); /* not "at it", which it was last */
    struct why_entry dry_run = entry_of(BUDGET_AT_IT, BUDGET_SOFT, 20), paused = dry_run;
    dry_run.dry_run = true;
    why_note(&ring, &dry_run);
    assert_int_equal(ring.n, 7);
    paused.dry_run = true;
    paused.vm.excluded = BUDGET_PAUSED;
    why_note(&ring, &paused);
    assert_int_equal(ring.n, 8);
    why_free(&ring);
    assert_int_equal(why_bytes(&ring), 0);
}

static void the_oldest_goes_first(void **state)
{
    struct why_ring ring = {0};
    (void)state;

    for (unsigned i = 0; i < 3 * WHY_KEPT + 5; i++) {
        struct why_entry entry = entry_of(i % 2 ? BUDGET_PRICE : BUDGET_DRY, BUDGET_SOFT, i);
        why_note(&ring, &entry);
        assert_int_equal(ring.n, i < WHY_KEPT ? i + 1 : WHY_KEPT);
        for (unsigned back = 0; back < ring.n; back++)
            assert_int_equal(why_entry_at(&ring, back)->first_ns, (i - back) * S);
        assert_null(why_entry_at(&ring, ring.n));
    }
    assert_int_equal(why_bytes(&ring), WHY_KEPT * sizeof(struct why_entry));
    why_free(&ring);
}

/* However large the numbers, it is text with an end. */
static void words_have_room(void **state)
{
    char text[WHY_TEXT_BYTES];
    struct why_entry entry;
    (void)state;

    for (int reason = 0; reason < BUDGET_REASONS; reason++)
        for (int excluded = 0; excluded < BUDGET_EXCLUDED_COUNT; excluded++) {
            memset(&entry, 0x7f, sizeof entry);
            entry.why.reason = (enum budget_reason)reason;
            entry.why.by = BUDGET_BY_DOMAIN;
            entry.why.state = BUDGET_SOFT;
            entry.vm.excluded = (enum budget_excluded)excluded;
            entry.vm.dry = BUDGET_LOW;
            entry.has_balloon = true;
            entry.balloon.rule = (enum balloon_rule)((reason + excluded) % BALLOON_RULES);
            entry.balloon.excluded = (enum balloon_excluded)(excluded % BALLOON_EXCLUDED_COUNT);
            entry.order.all = entry.order.swap = entry.dry_run = entry.why.paced = true;
            entry.why.ease = 0.5;
            memset(text, 'x', sizeof text);
            why_text(&entry, 0, text);
            assert_in_range(strnlen(text, sizeof text), 10, sizeof text - 1);
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_look, close_look)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_plan_says_which_rule_decided),
        TEST(what_is_under_way_may_be_enough),
        TEST(of_two_scopes_the_more_urgent_explains),
        TEST(too_little_is_remembered_for_a_while),
        TEST(an_order_that_moves_nothing_is_not_counted_on),
        TEST(what_came_home_is_in_use),
        TEST(alike_decisions_are_one_entry),
        TEST(the_oldest_goes_first),
        TEST(words_have_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
