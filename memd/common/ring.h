/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ring: a single-producer, single-consumer queue of records in shared memory (struct wire_ring,
 * include/memd/wire.h).
 *
 * The peer is untrusted: the producer never reads back what it wrote, the consumer copies a record out before
 * it looks at it, and a nonsensical head or record length is an error, never an access outside the ring. One
 * thread on each side; the two ends share nothing else.
 */
#ifndef MEMD_COMMON_RING_H
#define MEMD_COMMON_RING_H

#include "memd/wire.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct ring {
    struct wire_ring *ctl;
    uint8_t *data;  /* WIRE_RING_BYTES */
    uint32_t pos;   /* producer: end of what is reserved; consumer: start of what is unread */
    uint32_t known; /* producer: head published last */
};

/* Both ends start at position 0: a ring is as new as the memory it lies in. */
void ring_init(struct ring *ring, struct wire_ring *ctl, uint8_t *data);

/* Producer. Room for one record of `bytes` (a multiple of 8, at most WIRE_REC_BYTES_MAX); its header's type
 * and bytes are filled in, region is 0. NULL: no room now. Nothing is visible to the peer before
 * ring_publish(). */
void *ring_reserve(struct ring *ring, uint16_t type, uint32_t bytes);

/* Producer: make everything reserved visible. True: the peer sleeps and must be kicked through its kick fd.
 */
bool ring_publish(struct ring *ring);

/* Producer: free bytes, as of now (the consumer can only make it more). */
uint32_t ring_room(const struct ring *ring);

/* Consumer: copy the next record to buf. Returns its bytes, 0 if there is none, -EPROTO if the ring is
 * malformed (a record longer than `buf_bytes` included). PAD records are skipped. */
int ring_pop(struct ring *ring, void *buf, size_t buf_bytes);

/* Consumer: nothing is unread, as of now. */
bool ring_is_empty(const struct ring *ring);

/* Consumer: announce sleep. True: still empty, the peer will kick. False: there is something, do not sleep.
 */
bool ring_sleep(struct ring *ring);
void ring_awake(struct ring *ring);

#endif
