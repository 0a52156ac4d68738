/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see ring.h; the memory layout and the meaning of head, tail and waiting: memd/wire.h.
 */
#include "memd/common/ring.h"

#include <errno.h>
#include <string.h>

_Static_assert((WIRE_RING_BYTES & (WIRE_RING_BYTES - 1)) == 0, "ring size is a power of two");
_Static_assert(WIRE_REC_BYTES_MAX <= WIRE_RING_BYTES / 4, "several records fit");

void ring_init(struct ring *ring, struct wire_ring *ctl, uint8_t *data)
{
    *ring = (struct ring){.ctl = ctl, .data = data};
}

uint32_t ring_room(const struct ring *ring)
{
    /* acquire: the consumer's copy out of the space we may overwrite happened before it moved tail */
    uint32_t tail = atomic_load_explicit(&ring->ctl->tail, memory_order_acquire);
    uint32_t used = ring->pos - tail;
    return used > WIRE_RING_BYTES ? 0
                                  : WIRE_RING_BYTES - used; /* a hostile tail only makes the ring look full */
}

static void put_header(struct ring *ring, uint16_t type, uint32_t bytes)
{
    struct wire_rec rec = {.type = type, .bytes = (uint16_t)bytes};
    memcpy(ring->data + (ring->pos & (WIRE_RING_BYTES - 1)), &rec, sizeof rec);
}

void *ring_reserve(struct ring *ring, uint16_t type, uint32_t bytes)
{
    uint32_t at = ring->pos & (WIRE_RING_BYTES - 1);
    uint32_t to_end = WIRE_RING_BYTES - at;
    uint32_t pad = to_end < bytes ? to_end : 0;

    if (bytes % 8 || bytes < sizeof(struct wire_rec) || bytes > WIRE_REC_BYTES_MAX ||
        ring_room(ring) < pad + bytes)
        return NULL;
    if (pad) {
        put_header(ring, WIRE_REC_PAD, pad);
        ring->pos += pad;
    }
    put_header(ring, type, bytes);
    void *rec = ring->data + (ring->pos & (WIRE_RING_BYTES - 1));
    ring->pos += bytes;
    return rec;
}

bool ring_publish(struct ring *ring)
{
    if (ring->known == ring->pos)
        return false;
    ring->known = ring->pos;
    /* seq_cst store, then seq_cst load: pairs with ring_sleep(), so that either the consumer sees the new
     * head or we see that it waits */
    atomic_store(&ring->ctl->head, ring->pos);
    return atomic_load(&ring->ctl->waiting) && atomic_exchange(&ring->ctl->waiting, 0);
}

int ring_pop(struct ring *ring, void *buf, size_t buf_bytes)
{
    /* acquire: the producer stored the record before head */
    uint32_t head = atomic_load_explicit(&ring->ctl->head, memory_order_acquire);

    while (head != ring->pos) {
        uint32_t avail = head - ring->pos, at = ring->pos & (WIRE_RING_BYTES - 1);
        struct wire_rec rec;
        if (avail > WIRE_RING_BYTES || avail < sizeof rec || avail % 8)
            return -EPROTO;
        memcpy(&rec, ring->data + at, sizeof rec);
        uint32_t bytes = rec.bytes;
        if (bytes < sizeof rec || bytes % 8 || bytes > avail || bytes > WIRE_RING_BYTES - at)
            return -EPROTO;
        if (rec.type != WIRE_REC_PAD) {
            if (bytes > buf_bytes)
                return -EPROTO;
            memcpy(buf, ring->data + at, bytes);
            /* what was checked is what counts, whatever the peer wrote meanwhile */
            memcpy(buf, &rec, sizeof rec);
        }
        ring->pos += bytes;
        /* release: the copy above is done before the producer may overwrite */
        atomic_store_explicit(&ring->ctl->tail, ring->pos, memory_order_release);
        if (rec.type != WIRE_REC_PAD)
            return (int)bytes;
    }
    return 0;
}

bool ring_is_empty(const struct ring *ring)
{
    return atomic_load_explicit(&ring->ctl->head, memory_order_acquire) == ring->pos;
}

bool ring_sleep(struct ring *ring)
{
    atomic_store(&ring->ctl->waiting, 1);
    if (atomic_load(&ring->ctl->head) == ring->pos)
        return true;
    atomic_store(&ring->ctl->waiting, 0);
    return false;
}

void ring_awake(struct ring *ring)
{
    atomic_store(&ring->ctl->waiting, 0);
}
