/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From samples to a working set: shares, errors, smoothing, ages. */
#include "memd/engine/estimate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define GROUPS  32
#define PERIODS 20000

static void assert_near(double is, double expected, double within)
{
    if (is < expected - within || is > expected + within)
        fail_msg("%g is not within %g of %g", is, within, expected);
}

static void shares(void **state)
{
    static const struct {
        struct estimate_group groups[3];
        unsigned n;
        bool known;
        double share, variance;
    } cases[] = {
        {{{0}}, 0, false, 0, 0},
        {{{0, 0}}, 1, false, 0, 0},
        {{{4, 0}}, 1, true, 0, 1 / 4.0},
        {{{4, 2}}, 1, true, 0.5, 1 / 4.0 + 1 / 4.0},
        {{{4, 2}, {4, 2}}, 2, true, 0.5, 1 / 9.0},             /* alike */
        {{{4, 4}, {4, 0}}, 2, true, 0.5, 0.5 * 0.5 + 1 / 9.0}, /* differ as much as can be */
        {{{1, 1}, {3, 0}}, 2, true, 0.25, 2 * 2 * 0.75 * 0.75 / 16 + 1 / 9.0},
        {{{4, 2}, {0, 0}, {4, 2}}, 3, true, 0.5, 1 / 9.0}, /* of one group all samples have ended otherwise */
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct estimate_share share = {-1, -1};
        assert_int_equal(estimate_groups(cases[i].groups, cases[i].n, &share), cases[i].known);
        if (!cases[i].known)
            continue;
        assert_near(share.share, cases[i].share, 1e-9);
        assert_near(share.variance, cases[i].variance, 1e-9);
    }
}

/* At first all periods count alike. */
static void mean_at_first(void **state)
{
    struct estimate e = {0};
    (void)state;

    for (unsigned i = 0; i < 4; i++)
        estimate_add(&e, &(struct estimate_share){.share = 0.2 + 0.1 * i, .variance = 0.04});
    assert_near(e.is.share, 0.35, 1e-9);
    assert_near(e.is.variance, 0.04 / 4, 1e-9);
    assert_near(estimate_error(&e), 0.2, 1e-9);
    assert_int_equal(e.periods, 4);
}

static void fast_up_slow_down(void **state)
{
    struct estimate e = {0};
    const struct estimate_share idle = {0.05, 0.001}, busy = {0.9, 0.001}, little_more = {0.1, 0.001};
    (void)state;

    for (unsigned i = 0; i < 50; i++)
        estimate_add(&e, &idle);
    estimate_add(&e, &little_more); /* may be chance */
    assert_near(e.is.share, 0.05 + 0.05 * ESTIMATE_SLOW, 1e-6);
    estimate_add(&e, &busy);
    assert_true(e.is.share > 0.65);
    estimate_add(&e, &busy);
    assert_true(e.is.share > 0.8);
    double before = e.is.share;
    estimate_add(&e, &idle);
    assert_near(e.is.share, before - ESTIMATE_SLOW * (before - 0.05), 1e-6);
    for (unsigned i = 0; i < 40; i++)
        estimate_add(&e, &idle);
    assert_near(e.is.share, 0.05, 0.01);
}

/* Groups of 4 pages, each touched with the same probability: the mean of the estimates must be right, and the
 * error promised must hold. The generator is fixed, so this comes out the same every time. */
static void unbiased_and_as_near_as_promised(void **state)
{
    const double truth = 0.35;
    struct estimate e = {0};
    double sum = 0;
    unsigned far = 0;
    unsigned short seed[3] = {1, 2, 3};
    (void)state;

    for (unsigned p = 0; p < PERIODS; p++) {
        struct estimate_group groups[GROUPS] = {{0}};
        struct estimate_share share;
        for (unsigned g = 0; g < GROUPS; g++)
            for (unsigned k = 0; k < 4; k++) {
                groups[g].watched++;
                groups[g].touched += erand48(seed) < truth;
            }
        assert_true(estimate_groups(groups, GROUPS, &share));
        estimate_add(&e, &share);
        double error = estimate_error(&e);
        far += e.is.share < truth - error || e.is.share > truth + error;
        sum += e.is.share;
    }
    assert_near(sum / PERIODS, truth, 0.005);
    assert_true(far <= PERIODS / 20);
}

static void levels_follow(void **state)
{
    struct estimate_level level = {0};
    (void)state;

    estimate_level_add(&level, 100);
    assert_near(level.value, 100, 1e-9);
    estimate_level_add(&level, 200);
    assert_near(level.value, 150, 1e-9);
    for (unsigned i = 0; i < 40; i++)
        estimate_level_add(&level, 1000);
    assert_near(level.value, 1000, 1);
}

static void ages(void **state)
{
    struct estimate_ages a = {{0}, {0}};
    double idle[WIRE_AGES];
    (void)state;

    assert_int_equal(estimate_idle(&a, 0.5, idle), 0);
    estimate_age(&a, 0, 100, 40);
    estimate_age(&a, 1, 50, 25);
    estimate_age(&a, 2, 0, 0); /* all have ended otherwise: nothing is known */
    assert_int_equal(estimate_idle(&a, 0.4, idle), 2);
    assert_near(idle[0], 0.6, 1e-9);
    assert_near(idle[1], 0.3, 1e-9);
    estimate_age(&a, 2, 10, 0);
    estimate_age(&a, 3, 10, 10);
    assert_int_equal(estimate_idle(&a, 0.4, idle), 4);
    assert_near(idle[2], 0.3, 1e-9);
    assert_near(idle[3], 0, 1e-9);
    for (unsigned i = 0; i < WIRE_AGES; i++)
        estimate_age(&a, i, 10, 1);
    assert_int_equal(estimate_idle(&a, 0.4, idle), WIRE_AGES);
    for (unsigned i = 1; i < WIRE_AGES; i++)
        assert_true(idle[i] <= idle[i - 1]);
}

static void buckets(void **state)
{
    (void)state;
    assert_int_equal(wire_latency_bucket(0), 0);
    assert_int_equal(wire_latency_bucket(UINT64_MAX), WIRE_LATENCY_BUCKETS - 1);
    assert_true(wire_latency_bound(WIRE_LATENCY_BUCKETS - 1) == UINT64_MAX);
    for (unsigned i = 0; i + 1 < WIRE_LATENCY_BUCKETS; i++) {
        assert_int_equal(wire_latency_bucket(wire_latency_bound(i) - 1), i);
        assert_int_equal(wire_latency_bucket(wire_latency_bound(i)), i + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares),
        cmocka_unit_test(mean_at_first),
        cmocka_unit_test(fast_up_slow_down),
        cmocka_unit_test(unbiased_and_as_near_as_promised),
        cmocka_unit_test(levels_follow),
        cmocka_unit_test(ages),
        cmocka_unit_test(buckets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
