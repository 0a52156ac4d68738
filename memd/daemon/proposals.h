/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * proposals: tells engines which of their pages equal which frames.
 *
 * A proposal takes its references when it is made, before it is sent, so the frames stay. It goes to the down
 * ring, or waits in the session's queue for room there (and while too many are unanswered), or is dropped:
 * references returned, counted. RESULT gives back what was not merged.
 *
 * A hash proves nothing: a page may have the hash of a frame and other bytes. The engine says so (DIFFERS),
 * and hashes the page again, for it was moved. So that this ends, each session has a table of doubts: a small
 * counter per (page, frame), found by hashing the two, that goes up with every DIFFERS; pairs at
 * PROPOSALS_DOUBTS_MAX are not proposed. All counters are halved now and then: a pair is tried rarely from
 * then on. The table is the session's own, because what an engine says must not keep others from merging.
 */
#ifndef MEMD_DAEMON_PROPOSALS_H
#define MEMD_DAEMON_PROPOSALS_H

#include "memd/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROPOSALS_QUEUE_MAX 16384u /* runs waiting in memory for one session */
/* MERGEs without a RESULT; what an engine and the rings take is less than two thirds of it. */
#define PROPOSALS_UNANSWERED_MAX 32768u
#define PROPOSALS_DOUBTS_MAX     4u
#define PROPOSALS_DOUBTS_BYTES   65536u
#define PROPOSALS_DOUBTS_MS      300000u /* between two halvings */

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
    uint8_t *doubts;    /* NULL: none */
    uint64_t doubts_ns; /* when they were halved */
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
/* The session ends: give up those waiting. */
void proposals_drop_all(struct session *session);

/* RESULT arrived. Returns 0, or -EPROTO: a claim not in the VM's holdings. */
int proposals_result(struct session *session, const struct wire_rec_result *result);

size_t proposals_bytes(const struct proposals *proposals);

#endif
