/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: the driver keeps one buffer with the device. Returning it asks for new statistics: the
 * driver fills it (or another) and sends it again. A driver that sends a second one while the first is still
 * here gets the first back, so none is ever lost.
 *
 * A buffer is an array of 10-byte entries in any order, of which unknown tags, a cut-off end and what is
 * beyond STATS_BYTES_MAX are ignored. Each buffer replaces all of what was known.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "balloon-driver/device/device.h"

#define STATS_BYTES_MAX 4096u

struct stat_entry {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));
_Static_assert(sizeof(struct stat_entry) == 10, "stat_entry");

/* Copy a buffer's bytes, once. */
static size_t read_buffer(struct memd_balloon *b, struct chain *chain, uint8_t bytes[STATS_BYTES_MAX])
{
    struct piece piece;
    size_t used = 0;

    while (chain_next(chain, false, &piece)) {
        const void *from = ram_pointer(&b->ram, piece.gpa, piece.bytes);
        size_t n = STATS_BYTES_MAX - used < piece.bytes ? STATS_BYTES_MAX - used : piece.bytes;
        if (!from) {
            chain->bad++;
            continue;
        }
        memcpy(bytes + used, from, n);
        used += n;
    }
    return used;
}

static void take_stats(struct memd_balloon *b, const uint8_t *bytes, size_t n)
{
    for (unsigned tag = 0; tag < MEMD_BALLOON_TAGS; tag++)
        b->stats[tag] = MEMD_BALLOON_NO_STAT;
    for (size_t at = 0; at + sizeof(struct stat_entry) <= n; at += sizeof(struct stat_entry)) {
        struct stat_entry entry;
        memcpy(&entry, bytes + at, sizeof entry);
        if (le16toh(entry.tag) < MEMD_BALLOON_TAGS)
            b->stats[le16toh(entry.tag)] = le64toh(entry.value);
    }
    b->stats_valid = true;
    b->counters.stats_updates++;
}

static void on_buffer(struct memd_balloon *b, struct queue *q, uint16_t head, bool *ret_new)
{
    struct chain chain = queue_chain(q, head);
    uint8_t bytes[STATS_BYTES_MAX];
    size_t n = read_buffer(b, &chain, bytes);
    bool ignore = b->stats_first && is_legacy(b); /* legacy drivers did not initialise it */

    b->counters.bad_descriptors += chain.bad;
    b->stats_first = false;
    if (ignore || n < sizeof(struct stat_entry))
        return;
    take_stats(b, bytes, n);
    *ret_new = true;
}

int stats_serve(struct memd_balloon *b, unsigned index, bool *ret_interrupt, bool *ret_new)
{
    struct queue *q = &b->queue[index];
    int pending = queue_pending(q);
    bool returned = false;

    *ret_interrupt = *ret_new = false;
    for (int i = 0; i < pending; i++) {
        int head = queue_take(q);
        if (head < 0) {
            pending = head;
            break;
        }
        if (b->stats_held) {
            queue_return(q, b->stats_head);
            returned = true;
        }
        b->stats_held = true;
        b->stats_head = (uint16_t)head;
        on_buffer(b, q, (uint16_t)head, ret_new);
    }
    if (returned)
        *ret_interrupt = queue_publish(q);
    return pending < 0 ? pending : 0;
}

void stats_reset(struct memd_balloon *b)
{
    b->stats_held = false;
    b->stats_first = true;
    b->stats_valid = false;
    for (unsigned tag = 0; tag < MEMD_BALLOON_TAGS; tag++)
        b->stats[tag] = MEMD_BALLOON_NO_STAT;
}

int memd_balloon_stats(struct memd_balloon *b, uint64_t ret_stats[MEMD_BALLOON_TAGS])
{
    bool valid;

    pthread_mutex_lock(&b->lock);
    memcpy(ret_stats, b->stats, sizeof b->stats);
    valid = b->stats_valid;
    pthread_mutex_unlock(&b->lock);
    return valid ? 0 : -ENODATA;
}

int memd_balloon_ask_stats(struct memd_balloon *b)
{
    bool interrupt = false;
    int index, error = 0;

    pthread_mutex_lock(&b->lock);
    index = device_is_working(b) ? device_queue_of(b, ROLE_STATS) : -1;
    if (index < 0) {
        error = -ENOTSUP;
    } else if (!b->stats_held) {
        error = -EAGAIN;
    } else {
        b->stats_held = false;
        queue_return(&b->queue[index], b->stats_head);
        interrupt = queue_publish(&b->queue[index]);
    }
    pthread_mutex_unlock(&b->lock);
    if (interrupt)
        b->interrupt(b->ctx, index);
    return error;
}
