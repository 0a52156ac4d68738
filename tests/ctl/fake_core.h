/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fake_core: memd/daemon/core.h without a memory behind it, for the tests of its users. VMs are "alpha" (id
 * 1), "beta" (id 2) and, if more are wanted, "vm3" and so on; jobs end after a set number of polls. A VM of
 * an odd id is settled.
 */
#ifndef TESTS_CTL_FAKE_CORE_H
#define TESTS_CTL_FAKE_CORE_H

#include "memd/daemon/core.h"

struct fake_core {
    int snapshot_error; /* what the calls answer: 0 or -errno */
    int command_error;
    unsigned job_polls; /* a job ends with this poll */
    int job_error;      /* positive: jobs end as failed */
    unsigned nvms;
    /* what was asked last */
    char last_vm[CORE_NAME_BYTES]; /* "(all)" for NULL */
    bool last_on;
    size_t last_nvms;
    struct core_paging last_paging;
    bool alarm, dry_run;
    bool rests; /* core_why_take() has no decisions */
    uint64_t last_budget;
    struct budget_terms last_terms;
    unsigned last_which;
    unsigned commands, cancels, polls;
    /* fake_balloons.c */
    int balloon_error;      /* positive: what setting a target fails with */
    bool balloon_auto;      /* of alpha */
    int balloon_state;      /* enum balloons_state of alpha; 0: ready */
    int balloon_mute;       /* alpha does not say where its balloon is */
    unsigned balloon_steps; /* looks until it is at its target; 0: never */
    uint64_t balloon_target, balloon_actual, balloon_min, balloon_max;
};

struct balloons *fake_balloons(void);

/* The one fake; valid from core_open() or fake_core_reset() on. */
extern struct fake_core fake;
struct core *fake_core_reset(void);

/* Around looks at `fake` and changes to it while a server runs; fake_core_reset() does not need it. */
void fake_core_lock(void);
void fake_core_unlock(void);

#endif
