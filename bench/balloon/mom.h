/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mom: the rules by which oVirt's Memory Overcommitment Manager moves balloons, as published with it:
 * https://github.com/oVirt/mom/blob/master/doc/balloon.rules (its constants are in mom.c), with the times of
 * doc/mom-balloon.conf beside it: a look each 5 s, averages over ten of them, a decision each 10 s.
 */
#ifndef BENCH_BALLOON_MOM_H
#define BENCH_BALLOON_MOM_H

#define MOM_LOOK_S     5.0
#define MOM_DECISION_S 10.0
#define MOM_SAMPLES    10u

/* What it goes by: sizes in one unit, averages where it says so. */
struct mom_guest {
    double min, max;                /* of the guest's memory */
    double current;                 /* now */
    double current_avg, unused_avg; /* guest memory; what of it the guest's kernel has free, without caches */
};

/* host_free: of the host's memory, without its caches, the part that is free, on average. The guest's memory
 * as it shall be, or 0: as it is. */
double mom_decide(double host_free, const struct mom_guest *guest);

#endif
