/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MOM's rules as the benchmark has them: each line of balloon.rules, by examples worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench/balloon/mom.h"

static void test_decisions(void **state)
{
    static const struct {
        const char *what;
        double host_free;
        struct mom_guest guest; /* min, max, current, averages: current, unused */
        double size;
    } cases[] = {
        {"no pressure, not ballooned: nothing to do", 0.30, {100, 1000, 1000, 1000, 500}, 0},
        {"no pressure: grows by a twentieth", 0.30, {100, 1000, 800, 800, 500}, 840},
        {"no pressure: to a fifth free at least", 0.30, {100, 1000, 800, 800, 40}, 920},
        {"no pressure: not above its maximum", 0.30, {100, 1000, 980, 980, 500}, 1000},
        {"no pressure: so little is not worth it", 0.30, {100, 1000, 998, 998, 500}, 0},
        {"pressure: shrinks by a twentieth", 0.10, {100, 1000, 1000, 1000, 500}, 950},
        {"pressure: a tenth stays free with half of the threshold", 0.10, {100, 1000, 1000, 1000, 120}, 980},
        {"pressure: whoever uses all of it keeps it", 0.10, {100, 1000, 1000, 1000, 50}, 0},
        {"pressure: not below its minimum", 0.10, {490, 1000, 500, 500, 400}, 490},
        {"pressure: at its minimum", 0.10, {500, 1000, 500, 500, 400}, 0},
        {"critical: below what it uses", 0.02, {100, 1000, 1000, 1000, 10}, 960},
        {"critical: by a twentieth at most", 0.00, {100, 1000, 1000, 1000, 400}, 950},
        {"what it used on average counts", 0.10, {100, 1000, 600, 800, 300}, 570},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double size = mom_decide(cases[i].host_free, &cases[i].guest);
        if (fabs(size - cases[i].size) > 1e-6)
            fail_msg("%s: %g, not %g", cases[i].what, size, cases[i].size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_decisions)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
