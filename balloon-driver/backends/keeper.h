/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * keeper: the thread of one balloon. For balloons.c.
 *
 * Connect; ask the VMM every refresh_ms, and often while the guest is on its way to a target; carry out what
 * users ask for; reconnect, with pauses that double. What is asked for while there is no connection makes an
 * attempt at once.
 */
#ifndef BALLOON_BACKENDS_KEEPER_H
#define BALLOON_BACKENDS_KEEPER_H

#include "balloon-driver/backends/balloons.h"

#include "memd/common/log.h"

#include <pthread.h>

#define KEEPER_MOVING_MS   200u   /* between looks at a guest on its way */
#define KEEPER_STALLED_MS  10000u /* after which it is no longer taken for one */
#define KEEPER_TAKEN_TIMES 6u     /* the longest pause: until a monitor that is taken is looked at again */
#define KEEPER_WATCHED_MS  1000u  /* between looks at one that is moved by the policy */
#define KEEPER_STATS_S     2u

enum keeper_request {
    KEEPER_IDLE,    /* a user may put one here */
    KEEPER_QUEUED,  /* the keeper takes it from here, or its user gives up and takes it back */
    KEEPER_RUNNING, /* the keeper answers */
    KEEPER_DONE,    /* the user takes the answer */
};

struct keeper {
    /* never change while the thread runs */
    const struct balloon_backend *backend;
    const char *where; /* of spec.address, behind the scheme */
    struct balloon_ctl ctl;
    char proc_root[256];
    unsigned refresh_ms, retry_ms, retry_ms_max;
    pthread_t thread;
    unsigned users; /* guarded by the lock of balloons.c: it may not be freed yet */

    pthread_mutex_t lock; /* guards what follows; taken alone, never across a call into a backend */
    pthread_cond_t answered;
    struct balloons_spec spec;
    enum balloons_state state;
    char reason[BALLOON_REASON_BYTES];
    struct balloon_facts seen;
    uint64_t seen_ns, stats_ns; /* 0: never */
    uint64_t connects, failures, sets;
    bool ended; /* the thread is about to: nobody answers any more */
    enum keeper_request request;
    bool given_up; /* a running one: nobody takes the answer */
    uint64_t request_bytes;
    struct balloon_error answer; /* error 0: done */
    const char *note;            /* balloons_note(); NULL: none */
    uint64_t order_bytes;        /* balloons_order(): 0: none; carried out before what a user asks for */
    uint64_t order_serial;       /* of the last one that was answered ... */
    int order_error;             /* ... a positive errno, or 0 */

    /* the thread's own */
    struct balloon_facts facts;
    bool connected;                 /* the VMM has answered on this connection */
    uint64_t due_ns, full_ns;       /* when to look again, and at everything */
    uint64_t moved_ns, moved_bytes; /* when it last got anywhere, and where */
    struct log_limit log;
};

/* The thread. */
void *keeper_run(void *keeper);

/* The least it may be left with. Under the lock. */
uint64_t keeper_floor(const struct keeper *keeper);

#endif
