/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * estimate: from samples to a working set. Pure functions; where the samples come from: sample.c.
 *
 * A share and its error. Samples come in groups, the pages of one chunk, and pages of a chunk are alike. So
 * the error is computed from how much groups differ, not from the number of pages. With few groups that
 * differ in nothing the error would be 0, which nobody believes: 1/(groups + 1) is added (squared).
 *
 * Smoothing. As Waldspurger (Memory Resource Management in VMware ESX Server, OSDI 2002), fast up and slow
 * down: memory taken from a guest that has become busy costs more than memory left for a while to one that
 * has become idle. Taking the higher of two averages, as he does, is wrong upwards by chance alone; here a
 * share that is higher than the estimate by more than two standard errors is taken over for the most part at
 * once, and anything else moves the estimate by an eighth. What chance adds by that is less than half a
 * percentage point (tests/unit/test_estimate.c).
 *
 * Ages. A cohort of samples is looked at again at ages of 1, 2, 4, ... periods: of those untouched until the
 * last of them, so many were touched until this one. The share of memory that is not touched for so long is
 * the product of what was left each time (Kaplan and Meier, 1958), which allows for samples that are given
 * up on the way, as long as they are not chosen by whether they were touched.
 */
#ifndef MEMD_ENGINE_ESTIMATE_H
#define MEMD_ENGINE_ESTIMATE_H

#include "memd/wire.h"

#include <stdbool.h>
#include <stdint.h>

#define ESTIMATE_SLOW 0.125
#define ESTIMATE_FAST 0.75

/* Samples of one chunk, by weight: all of them, and those that were touched. */
struct estimate_group {
    double watched, touched;
};

struct estimate_share {
    double share, variance;
};

struct estimate {
    struct estimate_share is;
    uint64_t periods;
};

/* A level that follows what is measured with the same slowness up and down. */
struct estimate_level {
    double value;
    uint64_t periods;
};

struct estimate_ages {
    double watched[WIRE_AGES], touched[WIRE_AGES];
};

/* False: nothing was watched. */
bool estimate_groups(const struct estimate_group *groups, unsigned ngroups, struct estimate_share *ret_share);
void estimate_add(struct estimate *e, const struct estimate_share *measured);
/* 95% of estimates are as near as this. */
double estimate_error(const struct estimate *e);
void estimate_level_add(struct estimate_level *level, double measured);
/* Of samples untouched at age 2^(i-1) periods (i = 0: of all) some were touched until 2^i. */
void estimate_age(struct estimate_ages *ages, unsigned i, double watched, double touched);
/* ret_share[i]: not touched for 2^i periods, given the share touched within one. Returns how many are known.
 */
unsigned estimate_idle(const struct estimate_ages *ages, double touched, double ret_share[WIRE_AGES]);

#endif
