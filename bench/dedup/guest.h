/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest: a plain process with a guest's contents in private memory. It does what it is ordered over a socket
 * and answers each order; between orders it sleeps. What it enrols its memory with is one of the orders, so
 * the same guest serves KSM, memd or neither.
 */
#ifndef BENCH_DEDUP_GUEST_H
#define BENCH_DEDUP_GUEST_H

#include "bench/dedup/content.h"
#include "bench/dedup/events.h"

enum guest_op {
    GUEST_FILL,        /* make and fill the memory; answers its address */
    GUEST_OPEN,        /* open memd's engine and wait until it is connected */
    GUEST_ENROL,       /* give the memory to memd, if its engine is open, else to KSM */
    GUEST_PAUSE,       /* memd_pause() */
    GUEST_RESUME,      /* memd_resume() */
    GUEST_FIRST_WRITE, /* answers median ns of first writes to merged pages: not read before, read before */
    GUEST_CHECK,       /* answers the number of pages that hold what they should not */
    GUEST_ACCESS,      /* random accesses; answers seconds of wall clock and of CPU */
    GUEST_WORK,        /* writer.h; answers the longest delay behind its plan, in s */
    GUEST_READ_EVENTS, /* touch the pages of events; answers how many hold what they should not */
    GUEST_END,
};

struct guest_order {
    enum guest_op op;
    union {
        struct {
            uint64_t accesses;
            unsigned writes_percent; /* of them; to unique pages */
        } access;
        struct events_plan plan; /* GUEST_WORK, GUEST_READ_EVENTS */
    };
};

struct guest_answer {
    int error; /* 0 or -errno; the guest has said why */
    double value[2];
};

struct guest_config {
    unsigned number;
    struct content content;
    const char *run_dir; /* of memd */
};

/* Serve orders until GUEST_END or the socket's end. `config`: a struct guest_config. */
void guest_main(const void *config, int socket) __attribute__((noreturn));

#endif
