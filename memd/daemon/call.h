/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * call: another thread asks the core's loop to run a function, and waits for its answer.
 *
 * A bounded queue under one mutex, and an eventfd that wakes the loop. The caller may give up waiting while
 * the loop is at it: a call is owned by both, and the last one frees it together with its argument.
 */
#ifndef MEMD_DAEMON_CALL_H
#define MEMD_DAEMON_CALL_H

#include "memd/daemon/loop.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <urcu/list.h>

#define CALLS_MAX 64

struct core;

struct calls {
    pthread_mutex_t lock; /* guards all below, and every queued call; taken alone */
    pthread_cond_t done;
    struct cds_list_head queue;
    unsigned nqueued;
    bool closed;
    struct loop_source wake;
};

int calls_open(struct calls *calls, struct loop *loop);
/* Calls from here on are answered -ESHUTDOWN. Call it when the loop has ended. */
void calls_refuse(struct calls *calls);
void calls_close(struct calls *calls, struct loop *loop);
/* In the loop: carry out what is queued. */
void calls_run(struct calls *calls, struct core *core);

/* Run fn(core, arg) in the loop and wait. `arg_in` of `bytes` is copied in, and what fn made of it is copied
 * back to it unless the call was given up; drop(), if given, then frees what fn put there. Returns what fn
 * returned; -ETIMEDOUT, -EBUSY (queue full), -ESHUTDOWN, -ENOMEM. */
int calls_ask(struct calls *calls, int (*fn)(struct core *core, void *arg), void *arg_inout, size_t bytes,
              void (*drop)(void *arg));

#endif
