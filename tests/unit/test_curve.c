/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* curve: when savings were settled, from samples; watching them until they stop growing. */
#include "bench/common/curve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct curve_sample samples[] = {
    {.s = 1, .cpu_s = 0.1, .saved = 0},   {.s = 2, .cpu_s = 0.5, .saved = 100},
    {.s = 4, .cpu_s = 0.7, .saved = 200}, {.s = 5, .cpu_s = 0.8, .saved = 150}, /* guests write */
    {.s = 6, .cpu_s = 0.9, .saved = 200},
};

static void test_point(void **state)
{
    static const struct {
        double saved, s, cpu_s;
        unsigned n;
    } cases[] = {
        {50, 1.5, 0.3, 5}, {100, 2, 0.5, 5}, {150, 3, 0.6, 5}, {200, 4, 0.7, 5}, /* the first time */
        {-10, 1, 0.1, 5},                                                        /* before the first sample */
        {300, 6, 0.9, 5},                                                        /* never: the last one */
        {200, 1, 0.1, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct curve_sample point = curve_point(samples, cases[i].n, cases[i].saved);
        assert_float_equal(point.s, cases[i].s, 1e-9);
        assert_float_equal(point.cpu_s, cases[i].cpu_s, 1e-9);
    }
}

/* Savings that are complete half a second after the start, for half a CPU. */
static struct curve_sample take_grown(const void *context)
{
    double s = bench_now_s() - *(const double *)context;

    s = s < 0.5 ? s : 0.5;
    return (struct curve_sample){.cpu_s = s / 2, .saved = s * 200 * BENCH_MIB};
}

static void test_watch(void **state)
{
    double begun_s = bench_now_s();
    struct curve curve = curve_watch(take_grown, &begun_s, begun_s, "test");

    (void)state;
    assert_float_equal(curve.saved, 100 * BENCH_MIB, 1);
    assert_true(curve.samples > 10);
    assert_float_equal(curve.settled.saved, 95 * BENCH_MIB, 1);
    assert_float_equal(curve.settled.cpu_s, 0.95 / 4, 0.01);
    assert_true(curve.settled.s >= 0.45 && curve.settled.s <= curve.end.s);
    assert_float_equal(curve.idle_cpus, 0, 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_point),
        cmocka_unit_test(test_watch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
