/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * exports: gets the bytes of a new frame from an engine, and publishes the frame.
 *
 * When two pages are believed equal, a frame is reserved and the engine of the newer page asked to copy it to
 * the session's export slots. Bytes are pushed, never pulled: reading a VMM's memory from outside can block
 * for ever. The daemon copies a slot before it looks at it, hashes the copy, and only what has the expected
 * hash becomes a frame. All pages waiting for it are then told to merge; each engine compares for itself.
 *
 * While an export is under way the frame is in the index, RESERVED: further equal pages join it. When it
 * fails (the page has changed, the engine has gone or does not answer), another of the pages waiting is
 * exported instead. With one page left there is nothing to share: it becomes a candidate again.
 *
 * Frames follow each other as the pages do: a page whose neighbour has a frame, or the page it equals, gets
 * the next one if that is free, else the next of the session's lease.
 *
 * Engines hash faster than frames are made. A session with many exports waiting is told not to hash until
 * they are done (exports_hold_back()); what it had in its ring by then still finds a place.
 */
#ifndef MEMD_DAEMON_EXPORTS_H
#define MEMD_DAEMON_EXPORTS_H

#include "memd/daemon/store.h"
#include "memd/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORTS_QUEUE_HIGH  4096u  /* of one session, waiting for slots: hash no more */
#define EXPORTS_QUEUE_LOW   1024u  /* go on */
#define EXPORTS_QUEUE_MAX   24576u /* and the hashes of a ring and of one step of the engine */
#define EXPORTS_MAX         262144u
#define EXPORTS_WAITERS_MAX 4096u    /* pages that wait for one frame */
#define EXPORTS_WAITING_MAX 1048576u /* pages beyond the first two that wait for any */
#define EXPORTS_TIMEOUT_MS  2000u    /* without an answer other engines are asked */
#define EXPORTS_NONE        UINT32_MAX

struct core;
struct domain;
struct session;
struct region;

struct export;

/* All exports of the daemon, by number. */
struct exports {
    struct export *at;
    uint32_t room, used, free; /* free: first of a list */
    uint32_t waiting;          /* room for waiters beyond the first two of each, all together */
};

/* Of one session: numbers in the order in which they will be asked for, and by slot those asked for. */
struct exports_queue {
    uint32_t first, last, n;
    uint32_t slot[WIRE_EXPORT_SLOTS]; /* EXPORTS_NONE: given to another engine meanwhile */
    uint8_t group[WIRE_EXPORT_SLOTS]; /* at the first slot of an EXPORT record: its count; else 0 */
    uint32_t region[WIRE_EXPORT_SLOTS], page[WIRE_EXPORT_SLOTS]; /* there, too: what was asked for */
    uint32_t busy;                                               /* a bit for each slot in use */
    bool held_back;
    uint64_t asked_ns; /* when the engine last answered, or was first asked */
};

void exports_queue_init(struct exports_queue *queue);

/* Page `page` of `region` equals `other` (a page number, pages.h): start an export of it. `hash` is the
 * page's. Returns 0; -ENOSPC (no frame), -EAGAIN (too many under way), -ENOMEM. */
int exports_start(struct region *region, uint32_t page, uint64_t hash, unsigned node, uint64_t other);
/* A page with the hash of a RESERVED frame turned up. Returns 0; -EAGAIN (too many wait), -ENOMEM. */
int exports_join(struct core *core, struct frame *frame, uint64_t page_id);

/* Ask for as many as there are slots and room. */
void exports_flush(struct session *session);
/* EXPORTED arrived. Returns 0 or -EPROTO. */
int exports_done(struct session *session, const struct wire_rec_export *answer);
/* The session ends: its exports move to other pages' engines or are given up. */
void exports_abandon(struct session *session);
/* Whether the engine is to stop hashing for now: its BUDGET then allows none. The budget becomes due when
 * this changes. */
static inline bool exports_hold_back(const struct exports_queue *queue)
{
    return queue->held_back;
}

void exports_close(struct exports *exports);
size_t exports_bytes(const struct exports *exports);

#endif
