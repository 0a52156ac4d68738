/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vmballoon: the VM's balloon, between the VMM (memd_balloon_attach() and the like) and the daemon
 * (BALLOON_ASK, the BALLOON record; memd/wire.h).
 *
 * The VMM says how its balloon is at any time, from any thread: that is kept here, and the worker passes on
 * what has changed, at most every VMBALLOON_NEWS_NS unless the daemon waits for it. What the daemon asks is
 * kept, too, and carried out by the worker between two turns, without engine.work: the VMM may hold a lock
 * across calls of the API that its callback wants as well.
 *
 * Lock: vmballoon.lock, innermost; never held across a callback.
 */
#ifndef MEMD_ENGINE_VMBALLOON_H
#define MEMD_ENGINE_VMBALLOON_H

#include "memd/memd.h"
#include "memd/wire.h"

#include <stdbool.h>
#include <stdint.h>

#define VMBALLOON_NEWS_NS 10000000ull

int vmballoon_open(struct memd *m); /* 0 or -ENOMEM */
void vmballoon_close(struct memd *m);

/* All of these: the worker, with work held. */
int vmballoon_asked(struct memd *m, const struct wire_msg_balloon_ask *ask); /* 0 or -EPROTO */
void vmballoon_adopted(struct memd *m); /* a session has begun, with a daemon that may know nothing of it */
void vmballoon_forget(struct memd *m);  /* the session is over, and what it asked for */
void vmballoon_report(struct memd *m);  /* what is due, if there is room */
uint64_t vmballoon_due_ns(struct memd *m);

/* The worker, without work: carry out what was asked for. True: there is something to tell. */
bool vmballoon_call(struct memd *m);

#endif
