/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Quantiles of waiting times. */
#include "memd/daemon/latency.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void quantiles(void **state)
{
    static const struct {
        uint64_t buckets[WIRE_LATENCY_BUCKETS];
        unsigned per_mille;
        uint64_t ns;
    } cases[] = {
        {{0}, 500, 0},
        {{1}, 500, 512},
        {{1}, 1000, 1024},
        {{0, 4}, 250, 1024 + 256},
        {{2, 2}, 500, 1024},
        {{2, 2}, 750, 1536},
        {{99, 0, 1}, 990, 1024},
        {{98, 0, 2}, 990, 3072},
        {{1, [WIRE_LATENCY_BUCKETS - 1] = 99}, 500, 1ull << (WIRE_LATENCY_SHIFT + WIRE_LATENCY_BUCKETS - 2)},
        {{1ull << 48, 1ull << 48}, 500, 1024}, /* as much as is let in */
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(latency_quantile(cases[i].buckets, cases[i].per_mille), cases[i].ns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(quantiles)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
