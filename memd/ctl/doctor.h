/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * doctor: the checks of memctl doctor. Each looks at one thing of the machine, through the roots of struct
 * ctl, and finds it ok, doubtful (memd works, but less well) or failed (memd cannot work).
 */
#ifndef MEMD_CTL_DOCTOR_H
#define MEMD_CTL_DOCTOR_H

#include "memd/ctl/ctl.h"
#include "memd/ctl/probe.h"

#include <stddef.h>

enum finding_level { FINDING_OK, FINDING_WARN, FINDING_FAIL };

struct finding {
    enum finding_level level;
    char text[160]; /* what was found */
    char fix[200];  /* the command, or what to do; "" with FINDING_OK */
};

/* What the checks share, gathered once. */
struct doctor {
    struct ctl *ctl;
    struct probe probe;
    enum ctl_result daemon; /* CTL_DONE: it answers; CTL_NO_DAEMON; CTL_FAILED: it refuses us */
    uint64_t guest_bytes;   /* of the largest guest */
    uint64_t mem_bytes;     /* of the machine */
    bool swap;
    int kernel[3]; /* 6.12.38 */
    char release[80];
};

struct doctor_check {
    const char *name;
    void (*check)(const struct doctor *doctor, struct finding *ret_finding);
};
extern const struct doctor_check doctor_checks[];
extern const size_t doctor_nchecks;

/* Reads /proc and asks the daemon, if there is one. */
void doctor_gather(struct ctl *ctl, struct doctor *ret_doctor);

#endif
