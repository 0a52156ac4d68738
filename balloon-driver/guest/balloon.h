/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver half of virtio-balloon over virtio-mmio (version 2), for guests without an operating system to
 * speak of: unikernels, test payloads. Freestanding: no library, no allocation, no global, no floating point.
 * x86-64 or another little-endian machine.
 *
 * The guest decides which pages go and come; the driver sends them and waits until the device has them. It
 * polls, so it needs no interrupts; a guest that has them calls balloon_poll() when one comes. One caller at
 * a time.
 */
#ifndef BALLOON_GUEST_BALLOON_H
#define BALLOON_GUEST_BALLOON_H

#include <stdint.h>

/* Memory the driver keeps for its rings and buffers, 4096-aligned and contiguous in guest-physical memory. */
#define BALLOON_GUEST_BYTES 0x4000u
#define BALLOON_PAGES_MAX   256u /* page numbers sent at once */
#define BALLOON_STATS_MAX   16u

#define BALLOON_F_MUST_TELL_HOST (1u << 0)
#define BALLOON_F_STATS          (1u << 1)
#define BALLOON_F_DEFLATE_ON_OOM (1u << 2)
#define BALLOON_F_POISON         (1u << 4)
#define BALLOON_F_REPORTING      (1u << 5)

/* The machine: 32-bit registers of the device, by offset, and what to do while the device is slow. */
struct balloon_ops {
    uint32_t (*read)(void *ctx, uint32_t offset);
    void (*write)(void *ctx, uint32_t offset, uint32_t value);
    void (*relax)(void *ctx);
};

enum balloon_queue { BALLOON_INFLATE, BALLOON_DEFLATE, BALLOON_STATS, BALLOON_REPORTING, BALLOON_QUEUES };

struct balloon_ring {
    uint16_t number; /* of the device's queue */
    uint16_t avail, used;
};

struct balloon_guest {
    const struct balloon_ops *ops;
    void *ctx;
    uint8_t *memory;
    uint64_t memory_gpa;
    uint32_t features; /* negotiated */
    struct balloon_ring ring[BALLOON_QUEUES];
};

struct balloon_stat {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

enum balloon_error {
    BALLOON_OK = 0,
    BALLOON_NO_DEVICE = -1, /* no virtio-mmio balloon of version 2 */
    BALLOON_REFUSED = -2,   /* the device did not accept features or a queue */
    BALLOON_BROKEN = -3,    /* the device wants a reset */
};

/*
 * Reset the device and start it with those of `features` it has; `poison` is the value free pages hold (with
 * BALLOON_F_POISON). `as_linux`: number the queues without gaps. Sends nothing yet; statistics begin with the
 * first balloon_send_stats().
 */
int balloon_start(struct balloon_guest *b, const struct balloon_ops *ops, void *ctx, void *memory,
                  uint64_t memory_gpa, uint32_t features, uint32_t poison, int as_linux);
/* Reset the device: it forgets the balloon. */
void balloon_stop(struct balloon_guest *b);

/* What the host wants, in pages of 4096 bytes, and telling it what it has. */
uint32_t balloon_target(struct balloon_guest *b);
void balloon_set_actual(struct balloon_guest *b, uint32_t pages);

/* Give up to BALLOON_PAGES_MAX pages, or take them back; returns when the device has acknowledged it. */
int balloon_inflate(struct balloon_guest *b, const uint32_t *pfns, uint32_t n);
int balloon_deflate(struct balloon_guest *b, const uint32_t *pfns, uint32_t n);
/* Report a free range; when it returns the pages may be used again, and hold anything (or the poison value).
 */
int balloon_report(struct balloon_guest *b, uint64_t gpa, uint32_t bytes);

/* Acknowledge interrupts; bits: */
#define BALLOON_CONFIG_CHANGED 1u /* look at the target */
#define BALLOON_STATS_WANTED   2u /* balloon_send_stats() */
uint32_t balloon_poll(struct balloon_guest *b);
/* Send up to BALLOON_STATS_MAX entries; does not wait. Only at the start and when they are wanted. */
void balloon_send_stats(struct balloon_guest *b, const struct balloon_stat *stats, uint32_t n);

#endif
