/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device's side of a split virtqueue (virtio 1.3, section 2.7), without INDIRECT_DESC and EVENT_IDX,
 * which the balloon does not offer. One user at a time.
 *
 * The rings are guest memory and change at any time: every field is read once, checked, and the copy used.
 * Only the used ring is written.
 */
#ifndef BALLOON_DEVICE_QUEUE_H
#define BALLOON_DEVICE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "balloon-driver/device/ram.h"

struct vring_desc;
struct vring_avail;
struct vring_used;

struct queue {
    uint16_t entries; /* 0: disabled */
    uint16_t avail_next, used_next;
    const struct vring_desc *desc;
    const struct vring_avail *avail;
    struct vring_used *used;
};

/* 0, -EINVAL. Both indices start at 0. */
int queue_enable(struct queue *q, struct ram *ram, unsigned entries, uint64_t desc_gpa, uint64_t avail_gpa,
                 uint64_t used_gpa);

/*
 * Buffers made available and not taken yet; -EIO: the driver broke the ring. What it adds from here on comes
 * with a notification of its own, because they are never suppressed: so a caller takes as many and no more.
 */
int queue_pending(const struct queue *q);
/* Take the next of them: its head, or -EIO. */
int queue_take(struct queue *q);

/* A buffer: a chain of descriptors. At most `entries` of them are looked at. */
struct chain {
    const struct queue *queue;
    uint16_t next, left;
    unsigned bad; /* descriptors passed over, and chains that did not end */
};
struct piece {
    uint64_t gpa;
    uint32_t bytes;
};
struct chain queue_chain(const struct queue *q, uint16_t head);
/* The next piece that the device may write (or only read). False: there is no more. */
bool chain_next(struct chain *chain, bool writable, struct piece *ret_piece);

/* Return a buffer, of which nothing was written: the length is always 0. */
void queue_return(struct queue *q, uint16_t head);
/* Show the driver what was returned; does it want an interrupt? */
bool queue_publish(struct queue *q);

#endif
