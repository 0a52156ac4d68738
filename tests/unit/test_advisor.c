/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* advisor: plans for literal situations. */
#include "memd/daemon/advisor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define GIB      262144u /* pages */
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct advisor_host defaults = {.cpu_cap = 1.0,
                                             .quiet_ms = 100,
                                             .round_ms_max = 10000,
                                             .heal_pages_per_s = 1000,
                                             .vmas_percent = 50,
                                             .max_map_count = 65530};

static void test_who_digests(void **state)
{
    static const struct {
        const char *what;
        struct advisor_vm vm;
        bool digests;
    } cases[] = {
        {"off", {.fresh = true, .guest_pages = GIB}, false},
        {"dry run", {.estimating = true, .guest_pages = GIB}, true},
        {"new", {.merge_on = true, .fresh = true, .guest_pages = GIB}, true},
        {"nothing to do", {.merge_on = true, .guest_pages = GIB}, false},
        {"a user waits", {.merge_on = true, .hurried = true, .guest_pages = GIB}, true},
        {"backlog", {.merge_on = true, .guest_pages = GIB, .backlog_pages = GIB / 100}, true},
        {"small backlog", {.merge_on = true, .guest_pages = GIB, .backlog_pages = 100}, false},
        {"finds 1%/s, was steady",
         {.merge_on = true, .guest_pages = GIB, .rates = {3000, GIB * 0.01}},
         false},
        {"finds 1%/s, was digesting",
         {.merge_on = true, .digests = true, .guest_pages = GIB, .rates = {3000, GIB * 0.01}},
         true},
        {"finds 3%/s", {.merge_on = true, .guest_pages = GIB, .rates = {9000, GIB * 0.03}}, true},
        {"keeps up with 0.1%/s",
         {.merge_on = true, .digests = true, .guest_pages = GIB, .rates = {300, GIB * 0.001}},
         false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        if (advisor_digests(&cases[i].vm) != cases[i].digests)
            fail_msg("%s: expected %d", cases[i].what, cases[i].digests);
}

static void test_rounds(void **state)
{
    static const struct {
        const char *what;
        unsigned quiet_ms, round_ms_max;
        struct advisor_vm vm;
        unsigned expect_quiet_ms;
    } cases[] = {
        {"digests", 100, 10000, {.merge_on = true, .digests = true, .guest_pages = GIB}, 100},
        {"steady", 100, 10000, {.merge_on = true, .guest_pages = GIB}, 3500},
        {"0.1%/s of new duplicates",
         100,
         10000,
         {.merge_on = true, .guest_pages = GIB, .rates = {300, 262}},
         3500},
        {"duplicates among much that is not",
         100,
         10000,
         {.merge_on = true, .guest_pages = GIB, .rates = {5000, 262}},
         3500},
        {"rewritten all the time, nothing found",
         100,
         10000,
         {.merge_on = true, .guest_pages = GIB, .rates = {5000, 20}},
         10000},
        {"configured short", 100, 1000, {.merge_on = true, .guest_pages = GIB}, 1000},
        {"configured long", 6000, 10000, {.merge_on = true, .guest_pages = GIB}, 6000},
        {"quiet for longer than a round", 500, 100, {.merge_on = true, .guest_pages = GIB}, 500},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct advisor_host host = defaults;
        host.quiet_ms = cases[i].quiet_ms;
        host.round_ms_max = cases[i].round_ms_max;
        struct advisor_plan plan = advisor_plan(&host, &cases[i].vm);
        if (plan.quiet_ms != cases[i].expect_quiet_ms || plan.round_ms_max < plan.quiet_ms)
            fail_msg("%s: quiet %u ms, rounds up to %u ms", cases[i].what, plan.quiet_ms, plan.round_ms_max);
    }
}

/* 95% of pages that become duplicates between two rounds must be hashed within 10 s, with time left to merge.
 */
static void test_latency(void **state)
{
    struct advisor_plan plan =
        advisor_plan(&defaults, &(struct advisor_vm){.merge_on = true, .guest_pages = GIB});

    (void)state;
    assert_true(1.95 * plan.quiet_ms <= 8000);
}

static void test_shares(void **state)
{
    static const struct {
        const char *what;
        double cap;
        unsigned digesting, steady;
        double expect_digesting, expect_steady; /* CPUs of each */
    } cases[] = {
        {"one new VM", 1, 1, 0, 1, 0},
        {"two new VMs, two CPUs", 2, 2, 0, 1, 0},
        {"eight new VMs", 1, 8, 0, 0.125, 0},
        {"half a CPU", 0.5, 1, 0, 0.5, 0},
        {"all steady", 1, 0, 10, 0, 0.1},
        {"one new among steady ones", 1, 1, 9, 1, 0.2 / 9},
        {"two new among steady ones", 1, 2, 8, 0.4, 0.025},
        {"many CPUs", 16, 4, 60, 1, 3.2 / 60},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct advisor_host host = defaults;
        const struct advisor_vm digesting = {.merge_on = true, .digests = true, .guest_pages = GIB};
        const struct advisor_vm steady = {.merge_on = true, .guest_pages = GIB};
        host.cpu_cap = cases[i].cap;
        for (unsigned n = 0; n < cases[i].digesting; n++)
            advisor_count(&host, &digesting);
        for (unsigned n = 0; n < cases[i].steady; n++)
            advisor_count(&host, &steady);
        advisor_count(&host, &(struct advisor_vm){.guest_pages = GIB}); /* off: does not count */
        double a = cases[i].digesting ? advisor_cpus(&host, &digesting) : 0;
        double b = cases[i].steady ? advisor_cpus(&host, &steady) : 0;
        if (fabs(a - cases[i].expect_digesting) > 1e-6 || fabs(b - cases[i].expect_steady) > 1e-6)
            fail_msg("%s: %f and %f CPUs", cases[i].what, a, b);
    }
}

/* Who finds more of what is hashed gets more, and nobody nothing; together not more than there is. */
static void test_yield(void **state)
{
    struct advisor_host host = defaults;
    const struct advisor_vm good = {
        .merge_on = true, .digests = true, .guest_pages = GIB, .rates = {10000, 8000}};
    const struct advisor_vm poor = {
        .merge_on = true, .digests = true, .guest_pages = GIB, .rates = {10000, 0}};

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        advisor_count(&host, i ? &good : &poor);
    double a = advisor_cpus(&host, &good), b = advisor_cpus(&host, &poor);
    assert_true(a > 3 * b && b > 0.05);
    assert_true(fabs(2 * a + b - 1.0) < 1e-6);
}

static void test_correction(void **state)
{
    static const struct {
        const char *what;
        double cpus, used;
        uint32_t before, expect;
    } cases[] = {
        {"first guess", 0.5, 0, 0, 1250000},
        {"right", 0.5, 0.5, 700000, 700000},
        {"dearer than thought", 0.5, 1.0, 1000000, 500000},
        {"cheaper than thought", 0.5, 0.25, 1000000, 2000000},
        {"idle: up, but not beyond what hashing costs", 0.5, 0, 1000000, 3333333},
        {"much too dear: down step by step", 0.125, 1.0, 400000, 100000},
        {"not below what the dearest page costs", 0.001, 1.0, 10, 64},
        {"a share that has grown", 0.9, 0.1, 10000, 40000},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint32_t rate = advisor_correct(cases[i].cpus, cases[i].used, cases[i].before);
        if (rate != cases[i].expect)
            fail_msg("%s: %u pages a second", cases[i].what, rate);
    }
}

static void test_rates(void **state)
{
    struct advisor_rates rates = {0};
    struct advisor_counters was = {.at_ns = 1000}, is = was;

    (void)state;
    for (int tick = 0; tick < 100; tick++, was = is) {
        is = (struct advisor_counters){was.at_ns + 100000000, was.hashed_pages + 100, was.found_pages + 30};
        advisor_measure(&rates, &was, &is);
    }
    assert_true(fabs(rates.hashed_per_s - 1000) < 1 && fabs(rates.found_per_s - 300) < 1);
    /* a new session counts from nothing; no time has passed */
    struct advisor_rates before = rates;
    is = (struct advisor_counters){was.at_ns + 100000000, 5, 5};
    advisor_measure(&rates, &was, &is);
    advisor_measure(&rates, &was, &was);
    assert_memory_equal(&rates, &before, sizeof rates);
    /* and it forgets */
    for (int tick = 0; tick < 100; tick++, was = is) {
        is = was;
        is.at_ns += 100000000;
        advisor_measure(&rates, &was, &is);
    }
    assert_true(rates.hashed_per_s < 1);
}

static void test_the_rest_of_the_plan(void **state)
{
    struct advisor_host host = defaults;
    struct advisor_plan off = advisor_plan(&host, &(struct advisor_vm){.guest_pages = GIB});
    const struct advisor_vm new_vm = {.merge_on = true, .digests = true, .fresh = true, .guest_pages = GIB};

    (void)state;
    assert_int_equal(off.scan_pages_per_s, 0);
    assert_int_equal(off.vmas_max, 32765);
    assert_int_equal(off.heal_pages_per_s, 1000);
    host.max_map_count = 1ull << 40;
    assert_int_equal(advisor_plan(&host, &new_vm).vmas_max, UINT32_MAX);
    advisor_count(&host, &new_vm);
    assert_int_equal(advisor_plan(&host, &new_vm).scan_pages_per_s, UINT32_MAX);
    advisor_count(&host, &new_vm);
    assert_int_equal(advisor_plan(&host, &new_vm).scan_pages_per_s, 1250000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_digests), cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_latency),     cmocka_unit_test(test_shares),
        cmocka_unit_test(test_yield),       cmocka_unit_test(test_correction),
        cmocka_unit_test(test_rates),       cmocka_unit_test(test_the_rest_of_the_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
