/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * proposals: tells engines which of their pages equal which frames.
 *
 * A proposal takes its references when it is made, before it is sent, so the frames stay. It goes to the down
 * ring, or waits in the session's queue for room there, or is dropped: references returned, counted. RESULT
 * gives back what was not merged.
 */
#ifndef MEMD_DAEMON_PROPOSALS_H
#define MEMD_DAEMON_PROPOSALS_H

#include "memd/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROPOSALS_QUEUE_MAX 16384u /* runs waiting in memory for one session */

struct session;
struct region;

struct proposal {
    uint32_t region, page, frame;
    uint16_t count, pad;
};

/* A ring of runs in memory that grows and shrinks by powers of two. */
struct proposals {
    struct proposal *at;
    uint32_t head, n, room;
};

/* A run in the making: pages and frames that follow each other become one MERGE. */
struct proposal_run {
    struct region *region;
    uint32_t page, frame, count;
};

/* Append a page to the run, sending what went before if it does not follow. */
void proposals_add(struct proposal_run *run, struct region *region, uint32_t page, uint32_t frame);
/* Send the run. */
void proposals_send(struct proposal_run *run);

/* Move waiting proposals into the ring. */
void proposals_flush(struct session *session);
/* Give up those waiting: the session ends, or merging is switched off. */
void proposals_drop_all(struct session *session);

/* RESULT arrived. Returns 0, or -EPROTO: a claim not in the VM's holdings. */
int proposals_result(struct session *session, const struct wire_rec_result *result);

#endif
