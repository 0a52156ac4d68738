/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The virtio-balloon device: what its files share. device.c is the transport's and the host's side, queue.c
 * split virtqueues, pages.c the queues that carry pages, stats.c the one that carries statistics, runs.c and
 * ram.c the sets of pages and the guest's memory.
 *
 * Locks: `work` is held while a page queue is worked on, discards included, and while the device is started,
 * reset or given queues: a reset that returned has ended all that. `lock`, taken inside of `work`, guards the
 * registers, the stats queue and the counters; it is never held across a discard or a wait, so the host's
 * side never waits for a guest's work. Callbacks but `discard` are called with neither.
 */
#ifndef BALLOON_DEVICE_DEVICE_H
#define BALLOON_DEVICE_DEVICE_H

#include <pthread.h>

#include "balloon-driver/device/queue.h"
#include "balloon-driver/device/ram.h"
#include "balloon-driver/device/runs.h"
#include "memd/balloon.h"

#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER      2u
#define STATUS_DRIVER_OK   4u
#define STATUS_FEATURES_OK 8u
#define STATUS_NEEDS_RESET 64u
#define STATUS_FAILED      128u

/* What a queue is for; settled at DRIVER_OK. */
enum role { ROLE_NONE, ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_REPORTING };

struct memd_balloon {
    uint64_t offered;
    struct ram ram;
    int (*discard)(void *ctx, unsigned part, uint64_t offset, uint64_t bytes);
    int (*discard_ranges)(void *ctx, unsigned part, const struct memd_balloon_range *ranges, unsigned n);
    void (*interrupt)(void *ctx, int queue);
    void (*on_stats)(void *ctx);
    void *ctx;

    pthread_mutex_t work;
    struct queue queue[MEMD_BALLOON_QUEUES]; /* that of ROLE_STATS under `lock` while the device runs */
    enum role role[MEMD_BALLOON_QUEUES];     /* changes only under both locks */
    struct runs runs;                        /* scratch of pages.c, and what follows */
    struct memd_balloon_range range[MEMD_BALLOON_RANGES_MAX];
    uint16_t heads[MEMD_BALLOON_QUEUE_MAX];

    pthread_mutex_t lock;
    uint32_t status;
    uint64_t features;          /* as the driver wrote them; fixed from FEATURES_OK or DRIVER_OK on */
    uint32_t num_pages, actual; /* in the device's byte order */
    uint32_t poison;
    uint8_t actual_bytes[4], poison_bytes[4]; /* as written so far */
    bool running;
    bool stats_held;  /* stats_head is a buffer of the driver that asks for statistics when returned */
    bool stats_first; /* no buffer has come since the start */
    bool stats_valid;
    uint16_t stats_head;
    uint64_t stats[MEMD_BALLOON_TAGS];
    struct memd_balloon_info counters; /* only the counters of it */
};

static inline bool is_legacy(const struct memd_balloon *b)
{
    return !(b->features & MEMD_BALLOON_VERSION_1);
}

/* The number of the queue with this role; -1: there is none. Under either lock. */
int device_queue_of(const struct memd_balloon *b, enum role role);

/* A driver is there and has broken nothing. Under `lock`. */
bool device_is_working(const struct memd_balloon *b);

/*
 * Work on everything a page queue holds now. Under `work`, without `lock`. Returns 0, or -EIO: the driver
 * broke the ring. *ret_interrupt, in either case: a buffer was returned and the driver wants to know.
 */
int pages_serve(struct memd_balloon *b, unsigned index, bool *ret_interrupt);

/* The same for the stats queue, under `lock`. *ret_new: statistics came. */
int stats_serve(struct memd_balloon *b, unsigned index, bool *ret_interrupt, bool *ret_new);
/* Forget them, at reset. Under `lock`. */
void stats_reset(struct memd_balloon *b);

#endif
