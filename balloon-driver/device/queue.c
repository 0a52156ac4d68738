/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see queue.h. Indices run freely over 16 bits. avail->idx is loaded with acquire before
 * entries and descriptors, used->idx is stored with release after the elements.
 */
#include "balloon-driver/device/queue.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>

#define DESC_NEXT          1u
#define DESC_WRITE         2u
#define DESC_INDIRECT      4u
#define AVAIL_NO_INTERRUPT 1u

struct vring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
static_assert(sizeof(struct vring_desc) == 16, "vring_desc");

struct vring_avail {
    uint16_t flags, idx;
    uint16_t ring[];
};
static_assert(offsetof(struct vring_avail, ring) == 4, "vring_avail");

struct used_elem {
    uint32_t id, len;
};
struct vring_used {
    uint16_t flags, idx;
    struct used_elem ring[];
};
static_assert(offsetof(struct vring_used, ring) == 4 && sizeof(struct used_elem) == 8, "vring_used");

int queue_enable(struct queue *q, struct ram *ram, unsigned entries, uint64_t desc_gpa, uint64_t avail_gpa,
                 uint64_t used_gpa)
{
    struct queue new = {.entries = (uint16_t)entries};

    *q = (struct queue){0};
    if (entries == 0)
        return 0;
    if (entries > MEMD_BALLOON_QUEUE_MAX || (entries & (entries - 1)) || desc_gpa % 16 || avail_gpa % 2 ||
        used_gpa % 4)
        return -EINVAL;
    new.desc = ram_pointer(ram, desc_gpa, entries * sizeof(struct vring_desc));
    new.avail = ram_pointer(ram, avail_gpa, sizeof(struct vring_avail) + entries * sizeof(uint16_t));
    new.used = ram_pointer(ram, used_gpa, sizeof(struct vring_used) + entries * sizeof(struct used_elem));
    if (!new.desc || !new.avail || !new.used)
        return -EINVAL;
    *q = new;
    return 0;
}

int queue_pending(const struct queue *q)
{
    uint16_t idx;

    if (q->entries == 0)
        return 0;
    /* acquire: the entries and descriptors announced by it are read after it */
    idx = le16toh(__atomic_load_n(&q->avail->idx, __ATOMIC_ACQUIRE));
    idx = (uint16_t)(idx - q->avail_next);
    return idx <= q->entries ? idx : -EIO;
}

int queue_take(struct queue *q)
{
    uint16_t slot = q->avail_next & (q->entries - 1);
    uint16_t head = le16toh(__atomic_load_n(&q->avail->ring[slot], __ATOMIC_RELAXED));

    if (head >= q->entries)
        return -EIO;
    q->avail_next++;
    return head;
}

struct chain queue_chain(const struct queue *q, uint16_t head)
{
    return (struct chain){.queue = q, .next = head, .left = q->entries};
}

bool chain_next(struct chain *chain, bool writable, struct piece *ret_piece)
{
    while (chain->left > 0) {
        const struct vring_desc *desc = &chain->queue->desc[chain->next];
        uint16_t flags = le16toh(__atomic_load_n(&desc->flags, __ATOMIC_RELAXED));
        uint16_t next = le16toh(__atomic_load_n(&desc->next, __ATOMIC_RELAXED));
        struct piece piece = {le64toh(__atomic_load_n(&desc->addr, __ATOMIC_RELAXED)),
                              le32toh(__atomic_load_n(&desc->len, __ATOMIC_RELAXED))};

        chain->left--;
        if (flags & DESC_NEXT) {
            /* out of the table, or in a circle: the chain ends here */
            if (next >= chain->queue->entries || chain->left == 0) {
                chain->bad++;
                chain->left = 0;
            }
            chain->next = next;
        } else {
            chain->left = 0;
        }
        if (!(flags & DESC_INDIRECT) && !(flags & DESC_WRITE) == !writable) {
            *ret_piece = piece;
            return true;
        }
        chain->bad++;
    }
    return false;
}

void queue_return(struct queue *q, uint16_t head)
{
    struct used_elem *elem = &q->used->ring[q->used_next & (q->entries - 1)];

    __atomic_store_n(&elem->id, htole32(head), __ATOMIC_RELAXED);
    __atomic_store_n(&elem->len, 0, __ATOMIC_RELAXED);
    q->used_next++;
}

bool queue_publish(struct queue *q)
{
    /* release: a driver that sees the index sees the elements, and that the device is done with the buffers
     */
    __atomic_store_n(&q->used->idx, htole16(q->used_next), __ATOMIC_RELEASE);
    /* The driver clears the flag, then looks at the index; here it is the other way round: one of the two
     * sees what the other did. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !(le16toh(__atomic_load_n(&q->avail->flags, __ATOMIC_RELAXED)) & AVAIL_NO_INTERRUPT);
}
