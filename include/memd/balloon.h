/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A virtio-balloon device (virtio 1.3, section 5.5) for any VMM. It is part of libmemd and needs no engine:
 * what the guest gives up goes to a callback, in the largest runs there are. A VMM that embeds the engine
 * calls memd_discard() there.
 *
 * The VMM keeps the transport (PCI, MMIO), with its feature windows, queue registers and interrupts, and
 * hands over what the driver writes there. The device has its own code for split virtqueues and reads rings
 * and buffers directly in guest RAM. Everything in there is taken as hostile: a bad page number is skipped, a
 * bad descriptor is passed over and returned, a broken ring stops the device until its reset
 * (DEVICE_NEEDS_RESET). What one notification makes the device do is bounded by the size of its queue.
 *
 * Queues, as in the specification: inflate 0, deflate 1, stats 2, reporting 4; drivers that number the queues
 * they use without a gap (Linux: reporting is 3, or 2 without stats) are recognised at DRIVER_OK by the
 * queues they have enabled. Offer them five queues of up to MEMD_BALLOON_QUEUE_MAX entries.
 *
 * Thread rules: every function may be called from any thread between memd_balloon_create() and
 * memd_balloon_destroy(). Callbacks run on the calling thread and must not call back into the device, but
 * that stats() may call memd_balloon_info() and memd_balloon_stats(). Only memd_balloon_kick() of a page
 * queue, memd_balloon_set_status() and memd_balloon_set_queue() wait for a discard that is under way; the
 * functions of the host's side never do.
 *
 * Errors are negative errno values. Structures start with their own size: set `.size = sizeof x`; later
 * releases append fields.
 */
#ifndef MEMD_BALLOON_H
#define MEMD_BALLOON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MEMD_BALLOON_DEVICE_ID 5u
#define MEMD_BALLOON_PAGE_BYTES \
    4096u /* of the page numbers and of num_pages, whatever the guest's pages are */
#define MEMD_BALLOON_QUEUES    5u
#define MEMD_BALLOON_QUEUE_MAX 256u
#define MEMD_BALLOON_RAM_MAX   64u /* parts of guest RAM */

/* Feature bits, for memd_balloon_options.features. Free page hinting (bit 3) is not offered. */
#define MEMD_BALLOON_MUST_TELL_HOST (1u << 0)
#define MEMD_BALLOON_STATS_VQ       (1u << 1)
#define MEMD_BALLOON_DEFLATE_ON_OOM (1u << 2)
#define MEMD_BALLOON_PAGE_POISON    (1u << 4)
#define MEMD_BALLOON_PAGE_REPORTING (1u << 5)
#define MEMD_BALLOON_FEATURES_ALL                                                        \
    (MEMD_BALLOON_MUST_TELL_HOST | MEMD_BALLOON_STATS_VQ | MEMD_BALLOON_DEFLATE_ON_OOM | \
     MEMD_BALLOON_PAGE_POISON | MEMD_BALLOON_PAGE_REPORTING)
#define MEMD_BALLOON_VERSION_1 (1ull << 32) /* always offered; a driver without it is a legacy one */

struct memd_balloon; /* a device; opaque */

/* A part of guest RAM. ROM and device memory are no parts: pages there are skipped. */
struct memd_balloon_ram {
    uint64_t gpa, bytes; /* multiples of 4096; parts do not overlap */
    void *hva;           /* mapped readable and writable for as long as the device lives */
    uint64_t page_bytes; /* what the host can give back at once, a power of two: 0 (4096) or, on hugetlbfs,
                            its page; `gpa` and `bytes` are multiples of it. Smaller pieces are collected. */
};

/* Of a part of guest RAM, in bytes from its start. */
struct memd_balloon_range {
    uint64_t offset, bytes;
};
#define MEMD_BALLOON_RANGES_MAX 256u

struct memd_balloon_options {
    size_t size;       /* sizeof(struct memd_balloon_options) */
    uint64_t features; /* to offer: MEMD_BALLOON_*, without VERSION_1 */
    const struct memd_balloon_ram *ram;
    unsigned nram; /* 1..MEMD_BALLOON_RAM_MAX */

    /*
     * The guest has given up [offset, offset+bytes) of part `part`. If 0 is returned the range must read as
     * zeros from now on; a negative errno value means that it keeps its content, and is counted. Required.
     */
    int (*discard)(void *ctx, unsigned part, uint64_t offset, uint64_t bytes);
    /* Interrupt the driver: a buffer of `queue` was used; or, -1, the configuration changed. Required. */
    void (*interrupt)(void *ctx, int queue);
    void (*stats)(void *ctx); /* new statistics have come; may be NULL */
    void *ctx;

    /* discard() for up to MEMD_BALLOON_RANGES_MAX ranges of one part at once, in ascending order. If it
     * returns an error, each of them is handed to discard(). May be NULL: all are. */
    int (*discard_ranges)(void *ctx, unsigned part, const struct memd_balloon_range *ranges, unsigned n);
};

/* Returns 0 and a device in reset, with a target of 0; -EINVAL (a bad option); -ENOMEM. */
int memd_balloon_create(const struct memd_balloon_options *options, struct memd_balloon **ret_balloon);
void memd_balloon_destroy(struct memd_balloon *balloon);

/* ---- for the transport: what the driver reads and writes */

/* Offered feature bits. */
uint64_t memd_balloon_features(const struct memd_balloon *balloon);
/* The driver's features, as far as it has written them. Without effect once it has set FEATURES_OK. */
void memd_balloon_set_features(struct memd_balloon *balloon, uint64_t features);

/*
 * The device status register. Writing 0 resets the device: afterwards it touches no queue. FEATURES_OK stays
 * clear if the driver wants what was not offered. At DRIVER_OK (for a modern driver: with FEATURES_OK) the
 * device starts and looks into all queues. Bits once set stay set until the reset.
 */
uint32_t memd_balloon_status(struct memd_balloon *balloon);
void memd_balloon_set_status(struct memd_balloon *balloon, uint32_t status);

/*
 * Enable queue `index` with `entries` descriptors (a power of two up to MEMD_BALLOON_QUEUE_MAX) and the three
 * guest-physical addresses; entries 0 disables it. Between reset and DRIVER_OK. Returns 0; -EINVAL (index,
 * size, alignment, not in RAM); -EBUSY (the device runs). A driver that goes on after -EINVAL finds the queue
 * disabled.
 */
int memd_balloon_set_queue(struct memd_balloon *balloon, unsigned index, unsigned entries, uint64_t desc_gpa,
                           uint64_t avail_gpa, uint64_t used_gpa);
/* The driver has notified queue `index`; another number is ignored. Does the work before it returns. */
void memd_balloon_kick(struct memd_balloon *balloon, unsigned index);

/*
 * Device configuration space, of 8 bytes or, when PAGE_POISON is offered, 16; always little-endian. What is
 * beyond reads as zeros. Of what is written only `actual` and, before DRIVER_OK, `poison_val` take effect,
 * each with its last, most significant byte.
 */
unsigned memd_balloon_config_bytes(const struct memd_balloon *balloon);
void memd_balloon_config_read(struct memd_balloon *balloon, uint64_t offset, void *ret_data, size_t bytes);
void memd_balloon_config_write(struct memd_balloon *balloon, uint64_t offset, const void *data, size_t bytes);

/* ---- for the host */

/* Ask for a balloon of this size, rounded down to pages. Survives resets. Returns 0; -EINVAL (more than RAM).
 */
int memd_balloon_set_target(struct memd_balloon *balloon, uint64_t bytes);

/* A snapshot. `actual_bytes` is what the guest says, limited to its RAM. Counters are since the creation. */
struct memd_balloon_info {
    size_t size; /* sizeof(struct memd_balloon_info) */
    uint64_t target_bytes, actual_bytes;
    uint64_t features;     /* negotiated; 0 before FEATURES_OK */
    uint32_t running;      /* 1: a driver is there (DRIVER_OK) */
    uint32_t needs_reset;  /* 1: it broke a ring */
    uint32_t poison_value; /* 0 unless negotiated */
    uint32_t reserved;
    uint64_t inflated_pages; /* page numbers taken from the inflate queue */
    uint64_t deflated_pages; /* and from the deflate queue */
    uint64_t skipped_pages;  /* of both: not in RAM, or more in a buffer than are looked at */
    uint64_t reported_bytes; /* taken from the reporting queue */
    uint64_t kept_bytes;     /* of these: not discarded, because of a poison value or as no whole host page */
    uint64_t discarded_bytes; /* handed to the discard callback, which returned 0 */
    uint64_t failed_bytes;    /* and which returned an error */
    uint64_t discards;        /* ranges that discard() or discard_ranges() was called for */
    uint64_t bad_descriptors; /* passed over: outside of RAM, wrong direction, a loop */
    uint64_t stats_updates;   /* buffers with statistics */
};
void memd_balloon_info(struct memd_balloon *balloon, struct memd_balloon_info *ret_info);

/* Memory statistics by tag (section 5.5.6.4; from OOM_KILL on as Linux 6.12 sends them). Units: as named. */
enum memd_balloon_tag {
    MEMD_BALLOON_SWAP_IN_BYTES = 0,
    MEMD_BALLOON_SWAP_OUT_BYTES = 1,
    MEMD_BALLOON_MAJOR_FAULTS = 2,
    MEMD_BALLOON_MINOR_FAULTS = 3,
    MEMD_BALLOON_FREE_BYTES = 4,
    MEMD_BALLOON_TOTAL_BYTES = 5,
    MEMD_BALLOON_AVAILABLE_BYTES = 6,
    MEMD_BALLOON_CACHES_BYTES = 7,
    MEMD_BALLOON_HUGETLB_ALLOCS = 8,
    MEMD_BALLOON_HUGETLB_FAILS = 9,
    MEMD_BALLOON_OOM_KILLS = 10,
    MEMD_BALLOON_ALLOC_STALLS = 11,
    MEMD_BALLOON_ASYNC_SCAN_BYTES = 12,
    MEMD_BALLOON_DIRECT_SCAN_BYTES = 13,
    MEMD_BALLOON_ASYNC_RECLAIM_BYTES = 14,
    MEMD_BALLOON_DIRECT_RECLAIM_BYTES = 15,
    MEMD_BALLOON_TAGS
};
#define MEMD_BALLOON_NO_STAT UINT64_MAX /* the guest did not say */

/*
 * The latest statistics, each as the guest wrote it: hints of a guest that may lie. Returns 0; -ENODATA (none
 * since the last reset; everything is NO_STAT).
 */
int memd_balloon_stats(struct memd_balloon *balloon, uint64_t ret_stats[MEMD_BALLOON_TAGS]);
/* Ask for new ones. Returns 0; -EAGAIN (the guest has not answered the last time); -ENOTSUP (no stats queue).
 */
int memd_balloon_ask_stats(struct memd_balloon *balloon);

#ifdef __cplusplus
}
#endif
#endif
