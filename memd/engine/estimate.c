/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see estimate.h. */
#include "memd/engine/estimate.h"

#define LEVEL_SLOW 0.25
#define ROOT_STEPS 40
#define CONFIDENCE 2 /* standard errors: 95% */

bool estimate_groups(const struct estimate_group *groups, unsigned ngroups, struct estimate_share *ret_share)
{
    double watched = 0, touched = 0, squares = 0, n = 0;

    for (unsigned i = 0; i < ngroups; i++) {
        watched += groups[i].watched;
        touched += groups[i].touched;
        n += groups[i].watched > 0;
    }
    if (watched <= 0)
        return false;
    double share = touched / watched;
    for (unsigned i = 0; i < ngroups; i++) {
        double d = groups[i].touched - share * groups[i].watched;
        squares += d * d;
    }
    double between = n > 1 ? squares * n / (n - 1) / (watched * watched) : share * (1 - share);
    *ret_share = (struct estimate_share){.share = share, .variance = between + 1 / ((n + 1) * (n + 1))};
    return true;
}

/* Until there are so many that the share of a new one is the slowest, all count alike. */
static double weight_of(uint64_t periods, double slowest)
{
    double alike = 1 / (double)(periods ? periods : 1);

    return alike > slowest ? alike : slowest;
}

void estimate_add(struct estimate *e, const struct estimate_share *measured)
{
    double rise = measured->share - e->is.share, by = weight_of(++e->periods, ESTIMATE_SLOW);
    bool by_chance = rise <= 0 || rise * rise <= 4 * (measured->variance + e->is.variance);

    if (e->periods > 1 && !by_chance && by < ESTIMATE_FAST)
        by = ESTIMATE_FAST;
    e->is.share += by * rise;
    e->is.variance = (1 - by) * (1 - by) * e->is.variance + by * by * measured->variance;
}

/* Newton's, of numbers up to 1: whoever embeds the engine need not link the mathematical library for it. */
static double root(double square)
{
    double x = 1;

    for (unsigned i = 0; i < ROOT_STEPS && square > 0; i++)
        x = (x + square / x) / 2;
    return square > 0 ? x : 0;
}

double estimate_error(const struct estimate *e)
{
    return CONFIDENCE * root(e->is.variance);
}

void estimate_level_add(struct estimate_level *level, double measured)
{
    level->value += weight_of(++level->periods, LEVEL_SLOW) * (measured - level->value);
}

void estimate_age(struct estimate_ages *ages, unsigned i, double watched, double touched)
{
    if (watched <= 0)
        return;
    ages->watched[i] = (1 - ESTIMATE_SLOW) * ages->watched[i] + watched;
    ages->touched[i] = (1 - ESTIMATE_SLOW) * ages->touched[i] + touched;
}

unsigned estimate_idle(const struct estimate_ages *ages, double touched, double ret_share[WIRE_AGES])
{
    double left = 1 - touched;
    unsigned i = 0;

    for (; i < WIRE_AGES && ages->watched[i] > 0; i++) {
        if (i)
            left *= 1 - ages->touched[i] / ages->watched[i];
        ret_share[i] = left;
    }
    return i;
}
