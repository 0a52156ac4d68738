/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * lies: what an engine can say wrong, message by message and record by record, and the error memd must end
 * its session with. A VM called "honest" is there, in the domain "common", which is open to us.
 */
#ifndef TESTS_FAULTS_LIES_H
#define TESTS_FAULTS_LIES_H

#include "tests/faults/peer.h"

struct liar {
    const char *name;
    void (*lie)(struct peer *peer);
    int error; /* positive errno */
};

extern const struct liar lies[];
extern const size_t nlies;

/* Where memd is. */
extern char run_dir[108];

#endif
