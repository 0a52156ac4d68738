/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A balloon between its guest and a look: what is known of it, what it offers, what is ordered. */
#include "memd/daemon/balloon_rung.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MIB (1ull << 20)
#define S   1000000000ull
#define NOW (100 * S)

/* A guest of 1 GiB that was heard just now: its reserve is 128 MiB, and 400 can be spared. */
static const struct balloon_seen guest = {.now_ns = NOW,
                                          .ram_bytes = 1024 * MIB,
                                          .actual_bytes = 1024 * MIB,
                                          .min_bytes = 232 * MIB,
                                          .resident_bytes = 900 * MIB,
                                          .heard_ns = NOW,
                                          .speaks_up = true,
                                          .available_bytes = 528 * MIB};
static const struct budget_scope host = {.budget_bytes = 1024 * MIB,
                                         .used_bytes = 1000 * MIB,
                                         .thresholds = {90, 96, 100, 2},
                                         .state = BUDGET_HARD};

static void test_see(void **state)
{
    static const struct {
        enum balloon_excluded excluded;
        bool heard, speaks_up, deflates;
        enum balloon_excluded as;
    } cases[] = {
        {0, true, true, false, BALLOON_INCLUDED},        {0, true, false, true, BALLOON_INCLUDED},
        {0, true, false, false, BALLOON_RISKY},          {0, false, false, true, BALLOON_MUTE},
        {BALLOON_OFF, false, false, false, BALLOON_OFF}, {BALLOON_LOCKED, true, true, false, BALLOON_LOCKED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_rung rung = {.seen.has_room = true};
        struct balloon_seen seen = guest;
        seen.excluded = cases[i].excluded;
        seen.heard_ns = cases[i].heard ? NOW : 0;
        seen.speaks_up = cases[i].speaks_up;
        balloon_rung_see(&rung, &seen, cases[i].deflates);
        assert_int_equal(rung.seen.excluded, cases[i].as);
        assert_int_equal(rung.seen.available_bytes, seen.available_bytes);
        assert_true(rung.seen.has_room); /* as of the last look, until the next verdict */
    }
}

static void test_hidden(void **state)
{
    static const struct {
        enum balloon_excluded excluded;
        uint64_t actual, target, max, hidden;
    } cases[] = {
        {0, 1024, 0, 0, 0},          {0, 700, 0, 0, 324},
        {0, 700, 600, 0, 424},  /* and what it is about to take */
        {0, 700, 1024, 0, 324}, /* on its way back: not there yet */
        {0, 700, 0, 800, 100},  /* it may not have more */
        {0, 700, 0, 2048, 324}, /* than there is */
        {0, 1024, 0, 800, 0},        {BALLOON_MUTE, 700, 0, 0, 324},
        {BALLOON_OFF, 700, 0, 0, 0}, {BALLOON_LOCKED, 700, 0, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_rung rung = {.seen = guest};
        rung.seen.excluded = cases[i].excluded;
        rung.seen.actual_bytes = cases[i].actual * MIB;
        rung.seen.target_bytes = cases[i].target * MIB;
        rung.seen.max_bytes = cases[i].max * MIB;
        assert_int_equal(balloon_rung_hidden(&rung), cases[i].hidden * MIB);
    }
}

static void test_state(void **state)
{
    const struct budget_terms none = {0}, limit = {.limit_bytes = 100};

    (void)state;
    assert_int_equal(balloon_rung_state(BUDGET_SOFT, BUDGET_HIGH, &none, 200), BUDGET_SOFT);
    assert_int_equal(balloon_rung_state(BUDGET_SOFT, BUDGET_LOW, &none, 200), BUDGET_LOW);
    assert_int_equal(balloon_rung_state(BUDGET_SOFT, BUDGET_HIGH, &limit, 100), BUDGET_SOFT);
    assert_int_equal(balloon_rung_state(BUDGET_SOFT, BUDGET_HIGH, &limit, 101), BUDGET_LOW);
    assert_int_equal(balloon_rung_state(BUDGET_LOW, BUDGET_HIGH, &limit, 101), BUDGET_LOW);
}

/* From an offer to an order, to what the host got, to what is offered then. */
static void test_step(void **state)
{
    struct balloon_rung rung = {0};
    struct balloon_seen seen = guest;
    struct budget_plan plan = {0};
    struct policy_answer answer = {0};
    struct budget_vm vm = {0};
    uint64_t bytes;

    (void)state;
    balloon_rung_see(&rung, &seen, false);
    assert_int_equal(balloon_rung_judge(&rung, &host, 0, BUDGET_HARD), 0);
    assert_int_equal(rung.verdict.rule, BALLOON_RULE_SPARE);
    assert_false(rung.seen.has_room);
    assert_int_equal(balloon_rung_gives_back(&rung, false), 0);
    balloon_rung_offer(&rung, &answer, &vm);
    assert_int_equal(vm.balloon_bytes, 200 * MIB);
    assert_true(vm.balloon_first);
    plan.balloon_bytes = MIB; /* no step is as small as that */
    assert_int_equal(balloon_rung_carry_out(&rung, &vm, &plan, true, &bytes), 0);
    assert_int_equal(bytes, 16 * MIB);
    plan.balloon_bytes = 0;

    assert_int_equal(balloon_rung_carry_out(&rung, &vm, &plan, false, &bytes), 0);
    plan.balloon_bytes = 100 * MIB;
    assert_int_equal(balloon_rung_carry_out(&rung, &vm, &plan, true, &bytes), 0);
    assert_int_equal(bytes, 100 * MIB);
    assert_int_equal(balloon_rung_carry_out(&rung, &vm, &plan, false, &bytes), 924 * MIB);
    assert_int_equal(bytes, 100 * MIB);

    /* it is there, and the host sees 10 MiB less: a tenth */
    seen.now_ns = seen.heard_ns = NOW + 2000000000ull;
    seen.actual_bytes = seen.target_bytes = 924 * MIB;
    seen.resident_bytes = 890 * MIB;
    balloon_rung_see(&rung, &seen, false);
    assert_int_equal(balloon_rung_judge(&rung, &host, 100 * MIB, BUDGET_HARD), 10 * MIB);
    assert_int_equal(balloon_rung_judge(&rung, &host, 100 * MIB, BUDGET_HARD), 0); /* once */
    seen.now_ns = seen.heard_ns = NOW + 4000000000ull;
    balloon_rung_see(&rung, &seen, false);
    balloon_rung_judge(&rung, &host, 100 * MIB, BUDGET_HARD);
    balloon_rung_offer(&rung, &answer, &vm);
    /* of 924 MiB it has never touched 34 at most */
    assert_int_equal(vm.balloon_bytes, rung.verdict.offer_bytes - 34 * MIB);
    assert_true(vm.balloon_first);
    seen.resident_bytes = 500 * MIB;
    balloon_rung_see(&rung, &seen, false);
    balloon_rung_judge(&rung, &host, 100 * MIB, BUDGET_HARD);
    balloon_rung_offer(&rung, &answer, &vm);
    assert_int_equal(vm.balloon_bytes, rung.verdict.offer_bytes / 10);
    assert_false(vm.balloon_first);
    answer = (struct policy_answer){.at_ns = NOW, .asked_pages = 100, .returned_pages = 10};
    balloon_rung_offer(&rung, &answer, &vm); /* pages come back as badly */
    assert_true(vm.balloon_first);
    plan.balloon_bytes = 1024 * MIB; /* more than it has offered */
    balloon_rung_carry_out(&rung, &vm, &plan, false, &bytes);
    assert_int_equal(bytes, rung.verdict.offer_bytes);

    vm = balloon_rung_describe(&rung, &(struct budget_terms){.shares = 7});
    assert_int_equal(vm.working_set_bytes, (924 - 528) * MIB);
    assert_int_equal(vm.resident_bytes, 500 * MIB);
    assert_int_equal(vm.terms.shares, 7);
    assert_true(vm.balloon_first);
}

/* Next to nothing came of the last step, so ten times as much as is wanted is asked for now. All of it may
 * come. */
static void test_reserved(void **state)
{
    static const struct {
        uint64_t reservation, loose, pending, order, offers, takes;
    } cases[] = {
        {0, 0, 0, 0, 128, 128},  {500, 0, 0, 0, 128, 128}, {800, 0, 0, 0, 100, 100},
        {800, 30, 0, 0, 70, 70}, {800, 30, 20, 0, 50, 50}, {800, 0, 0, 60, 100, 40},
        {880, 0, 0, 20, 20, 0},  {900, 0, 0, 0, 0, 0},     {1024, 0, 0, 0, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_rung rung = {.memory.returned = 0.1};
        struct policy_answer answer = {0};
        struct budget_plan plan = {.order.pages = cases[i].order * MIB / 4096};
        struct budget_vm vm = {.resident_bytes = guest.resident_bytes,
                               .loose_bytes = cases[i].loose * MIB,
                               .pending_bytes = cases[i].pending * MIB,
                               .terms.reservation_bytes = cases[i].reservation * MIB};
        uint64_t bytes;
        balloon_rung_see(&rung, &guest, false);
        balloon_rung_judge(&rung, &host, 0, BUDGET_SOFT);
        balloon_rung_offer(&rung, &answer, &vm);
        assert_in_range(vm.balloon_bytes + 1, cases[i].offers * MIB / 10, cases[i].offers * MIB / 10 + 1);
        plan.balloon_bytes = 128 * MIB / 10;
        uint64_t target = balloon_rung_carry_out(&rung, &vm, &plan, false, &bytes);
        assert_in_range(bytes + 16, cases[i].takes * MIB, cases[i].takes * MIB + 16);
        assert_int_equal(!target, !cases[i].takes);
    }

    /* it is on its way, a tenth is expected: the rest may come, too */
    struct balloon_rung rung = {.memory.returned = 0.1};
    struct balloon_seen seen = guest;
    struct budget_vm vm = {.resident_bytes = guest.resident_bytes, .loose_bytes = 5 * MIB};
    seen.target_bytes = 924 * MIB;
    balloon_rung_see(&rung, &seen, false);
    balloon_rung_judge(&rung, &host, 0, BUDGET_SOFT);
    assert_int_equal(rung.verdict.rule, BALLOON_RULE_MOVING);
    balloon_rung_offer(&rung, &(struct policy_answer){0}, &vm);
    assert_int_equal(vm.inflating_bytes, 10 * MIB);
    assert_int_equal(vm.loose_bytes, 95 * MIB);
    assert_int_equal(vm.balloon_bytes, 0);
}

/* Of 900 MiB that the host sees. */
static void test_in_use(void **state)
{
    static const struct {
        const char *what;
        uint64_t available, target, samples; /* MiB */
        uint64_t needed_s;                   /* ago; 0: never */
        uint64_t spare, in_use;
    } cases[] = {
        {"samples know nothing", 528, 0, 0, 0, 400, 500},
        {"samples say more", 528, 0, 880, 0, 400, 500},
        {"samples say less", 528, 0, 300, 0, 400, 300},
        {"some is on its way", 528, 924, 880, 0, 300, 600},
        {"it is short, of nothing its balloon has", 30, 0, 100, 0, 0, 100},
        {"it needs what its balloon has", 30, 1000, 100, 0, 0, 900},
        {"it has just needed some", 528, 0, 100, 4, 0, 900},
        {"it has needed some a while ago", 528, 0, 100, 12, 0, 100},
        {"it has nothing to spare", 128, 0, 100, 0, 0, 100},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_rung rung = {0};
        struct balloon_seen seen = guest;
        struct budget_vm vm = {.resident_bytes = 900 * MIB, .working_set_bytes = cases[i].samples * MIB};
        seen.available_bytes = cases[i].available * MIB;
        seen.target_bytes = cases[i].target * MIB;
        if (cases[i].target == 1000)
            seen.actual_bytes = seen.target_bytes; /* it is there */
        if (cases[i].needed_s) {
            rung.memory.backoff_ns = 20000000000ull;
            rung.memory.needed_ns = NOW - cases[i].needed_s * 1000000000ull;
            rung.memory.hold_until_ns = rung.memory.needed_ns + rung.memory.backoff_ns;
        }
        balloon_rung_see(&rung, &seen, false);
        balloon_rung_judge(&rung, &host, 0, BUDGET_HARD);
        balloon_rung_offer(&rung, &(struct policy_answer){0}, &vm);
        if (vm.spare_bytes != cases[i].spare * MIB || vm.working_set_bytes != cases[i].in_use * MIB)
            fail_msg("%s: %llu MiB to spare, %llu in use", cases[i].what,
                     (unsigned long long)vm.spare_bytes >> 20,
                     (unsigned long long)vm.working_set_bytes >> 20);
    }
}

static void test_gives_back(void **state)
{
    const struct budget_scope roomy = {
        .budget_bytes = 8192 * MIB, .used_bytes = 1000 * MIB, .thresholds = {90, 96, 100, 2}};
    struct balloon_rung rung = {0};
    struct balloon_seen seen = guest;
    struct budget_plan plan = {.balloon_bytes = 100 * MIB};
    struct budget_vm vm = {.resident_bytes = 900 * MIB};
    uint64_t bytes;

    (void)state;
    seen.actual_bytes = seen.target_bytes = 600 * MIB;
    balloon_rung_see(&rung, &seen, false);
    assert_false(balloon_rung_is_urgent(&rung));
    balloon_rung_judge(&rung, &roomy, 424 * MIB, BUDGET_HIGH);
    assert_int_equal(rung.verdict.rule, BALLOON_RULE_ROOM);
    assert_int_equal(balloon_rung_gives_back(&rung, false), 1024 * MIB);
    assert_int_equal(balloon_rung_gives_back(&rung, true), 0);

    seen.available_bytes = 10 * MIB;
    balloon_rung_see(&rung, &seen, false);
    assert_true(balloon_rung_is_urgent(&rung));
    balloon_rung_judge(&rung, &host, 424 * MIB, BUDGET_LOW);
    assert_int_equal(rung.verdict.rule, BALLOON_RULE_NEED);
    assert_int_equal(balloon_rung_gives_back(&rung, true), 1024 * MIB); /* a need is none of the budget's */
    assert_int_equal(balloon_rung_carry_out(&rung, &vm, &plan, false, &bytes), 0);

    seen.target_bytes = 1024 * MIB;
    seen.oom_kills++;
    balloon_rung_see(&rung, &seen, false);
    assert_true(balloon_policy_is_needed(&rung.memory, &rung.seen));
    assert_false(balloon_rung_is_urgent(&rung)); /* it is given, whatever it does about it */
    seen.target_bytes = 1000 * MIB;
    balloon_rung_see(&rung, &seen, false);
    assert_true(balloon_rung_is_urgent(&rung)); /* not all of it */
    seen.actual_bytes = seen.target_bytes = 1024 * MIB;
    balloon_rung_see(&rung, &seen, false);
    assert_false(balloon_rung_is_urgent(&rung)); /* nothing more to give back */
}

/* Where memory is low, one that says for ever that it reads again is believed for 10 s, and keeps the rest of
 * its hold, whether it runs or not; given something, it is believed anew. */
static void test_believed(void **state)
{
    static const enum balloon_activity activity[] = {BALLOON_ACTIVITY_UNKNOWN, BALLOON_BUSY, BALLOON_IDLE};
    (void)state;

    for (unsigned i = 0; i < 3; i++) {
        struct balloon_rung rung = {0};
        struct balloon_seen seen = guest;
        uint64_t believed_ms = 0;
        seen.activity = activity[i];
        seen.actual_bytes = seen.target_bytes = 800 * MIB;
        for (unsigned ms = 0; ms < 120000; ms += 100) {
            struct budget_vm vm = {.resident_bytes = 700 * MIB, .working_set_bytes = 100 * MIB};
            seen.now_ns = seen.heard_ns = NOW + ms * (S / 1000);
            seen.reread_bytes += 8 * MIB;
            balloon_rung_see(&rung, &seen, false);
            balloon_rung_judge(&rung, &host, 0, BUDGET_LOW);
            assert_int_equal(rung.verdict.set_bytes, 0);
            balloon_rung_offer(&rung, &(struct policy_answer){0}, &vm);
            believed_ms += vm.working_set_bytes == 700 * MIB ? 100 : 0;
        }
        assert_in_range(believed_ms, 9900, 10100);
        seen.now_ns = seen.heard_ns = seen.now_ns + S / 10;
        seen.reread_bytes += 8 * MIB;
        balloon_rung_see(&rung, &seen, false);
        balloon_rung_judge(&rung, &host, 0, BUDGET_HARD);
        assert_int_equal(rung.verdict.set_bytes, 960 * MIB);
        struct budget_vm vm = {.resident_bytes = 700 * MIB, .working_set_bytes = 100 * MIB};
        balloon_rung_offer(&rung, &(struct policy_answer){0}, &vm);
        assert_int_equal(vm.working_set_bytes, 700 * MIB);
    }
}

/* An agent that is connected again has not said anything yet: what it said before is old. */
static void test_hear(void **state)
{
    static const struct {
        unsigned agent_s, stats_s; /* ago; 0: nobody has been heard */
        bool agent;
        unsigned heard_s;
    } cases[] = {
        {1, 2, true, 1},       {15, 2, true, 15},  {16, 2, false, 2}, {3600, 2, false, 2},
        {3600, 0, true, 3600}, {20, 30, true, 20}, {0, 2, false, 2},  {1, 0, true, 1},
    };
    struct balloon_seen seen = guest;
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct balloon_word agent = {.heard_ns = NOW + 3600 * S - cases[i].agent_s * S,
                                           .available_bytes = 500 * MIB,
                                           .stall_percent = 2,
                                           .reread_bytes = 7,
                                           .oom_kills = 1,
                                           .alloc_stalls = 3},
                                  stats = {.heard_ns = NOW + 3600 * S - cases[i].stats_s * S,
                                           .available_bytes = 400 * MIB,
                                           .oom_kills = 5,
                                           .alloc_stalls = 9},
                                  none = {0};
        seen.now_ns = NOW + 3600 * S;
        balloon_rung_hear(&seen, cases[i].agent_s ? &agent : &none, cases[i].stats_s ? &stats : &none);
        assert_int_equal(seen.speaks_up, cases[i].agent);
        assert_int_equal(seen.heard_ns, seen.now_ns - cases[i].heard_s * S);
        assert_int_equal(seen.available_bytes, cases[i].agent ? 500 * MIB : 400 * MIB);
        assert_int_equal(seen.oom_kills, cases[i].agent ? 1 : 5);
        assert_int_equal(seen.alloc_stalls, cases[i].agent ? 3 : 9);
        assert_int_equal(seen.reread_bytes, cases[i].agent ? 7 : 0);
        assert_int_equal((int)seen.stall_percent, cases[i].agent ? 2 : 0);
    }
    balloon_rung_hear(&seen, &(struct balloon_word){0}, &(struct balloon_word){0});
    assert_int_equal(seen.heard_ns, 0);
    assert_false(seen.speaks_up);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_see),    cmocka_unit_test(test_hidden),   cmocka_unit_test(test_state),
        cmocka_unit_test(test_step),   cmocka_unit_test(test_reserved), cmocka_unit_test(test_gives_back),
        cmocka_unit_test(test_in_use), cmocka_unit_test(test_hear),     cmocka_unit_test(test_believed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
