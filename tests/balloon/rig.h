/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rig: a balloon device over memory of the test, and the guest's driver, played by the test: registers, rings
 * in guest RAM, buffers. Guest RAM is two parts, one from 0 and one from 4 GiB on; what the device discards
 * is dropped as a VMM would, and listed.
 */
#ifndef TESTS_BALLOON_RIG_H
#define TESTS_BALLOON_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memd/balloon.h"

#define PAGE         4096ull
#define PART_BYTES   (16ull << 20)
#define PART_PAGES   (PART_BYTES / PAGE)
#define HIGH_GPA     (4ull << 30)
#define HIGH_PFN     (1u << 20)  /* page number of HIGH_GPA */
#define FREE_GPA     0x200000ull /* below are rings and buffers */
#define FREE_PFN     ((uint32_t)(FREE_GPA / PAGE))
#define ENTRIES      64u
#define DISCARDS_MAX 4096u
#define FILLED       0xa5 /* what rig_fill() leaves */

#define Q_INFLATE   0u
#define Q_DEFLATE   1u
#define Q_STATS     2u
#define Q_REPORTING 4u

#define ACKNOWLEDGE 1u
#define DRIVER      2u
#define DRIVER_OK   4u
#define FEATURES_OK 8u
#define NEEDS_RESET 64u
#define FAILED      128u

#define DESC_NEXT     1u
#define DESC_WRITE    2u
#define DESC_INDIRECT 4u

#define MODERN  (MEMD_BALLOON_FEATURES_ALL | MEMD_BALLOON_VERSION_1)
#define NO_USED UINT32_MAX

/* The rings as the driver sees them. */
struct ring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
struct ring_avail {
    uint16_t flags, idx, ring[ENTRIES];
};
struct ring_used {
    uint16_t flags, idx;
    struct {
        uint32_t id, len;
    } ring[ENTRIES];
};

struct rig_queue {
    struct ring_desc *desc;
    struct ring_avail *avail;
    struct ring_used *used;
    uint16_t next_desc, used_seen;
};

struct rig_discard {
    uint64_t gpa, bytes;
    uint16_t used_idx[MEMD_BALLOON_QUEUES]; /* of each queue while it was made */
};

struct rig {
    struct memd_balloon *balloon;
    uint8_t *part[2];
    struct rig_queue queue[MEMD_BALLOON_QUEUES];
    _Atomic unsigned range_calls; /* for several ranges at once */
    bool unlisted;                /* discards are made, not listed: for tests with threads */
    unsigned ndiscards;
    struct rig_discard discards[DISCARDS_MAX];
    int (*refuse)(uint64_t gpa, uint64_t bytes); /* what the discard callback returns, if set and not 0 */
    _Atomic unsigned interrupts[MEMD_BALLOON_QUEUES], config_interrupts, stats_calls;
};

/* A piece of a buffer. */
struct rig_piece {
    uint64_t gpa;
    uint32_t bytes;
    bool writable;
};

extern bool rig_singly; /* devices created from now on discard one range after the other */
struct rig *rig_create(uint64_t features, uint64_t page_bytes);
void rig_destroy(struct rig *rig);
/* Guest memory; every page of RAM behind FREE_GPA holds 0xa5 until it is discarded. */
void *rig_at(struct rig *rig, uint64_t gpa);
void rig_fill(struct rig *rig);
bool rig_page_is(struct rig *rig, uint32_t pfn, uint8_t byte);
/* Give queue `index` its rings. */
void rig_enable(struct rig *rig, unsigned index);
/* Acknowledge, negotiate, enable queues (a bit each), DRIVER_OK. Returns the status read back. */
uint32_t rig_start_with(struct rig *rig, uint64_t features, unsigned queues);
/* A modern driver that takes all features and has the queues numbered as in the specification. */
struct rig *rig_start(void);
/* A legacy driver, which has no FEATURES_OK. */
void rig_start_legacy(struct rig *rig, uint64_t features, unsigned queues);

/* Make a buffer available, without a notification. Returns its head. */
uint32_t rig_add(struct rig *rig, unsigned index, const struct rig_piece *pieces, unsigned n);
void rig_kick(struct rig *rig, unsigned index);
/* The next buffer returned: its head, or NO_USED. A length other than 0 fails the test. */
uint32_t rig_used(struct rig *rig, unsigned index);
/* Write numbers into buffer memory and send them; the buffer must come back. */
void rig_send(struct rig *rig, unsigned index, const uint32_t *pfns, unsigned n);
/* Report one range; the buffer must come back. */
void rig_report(struct rig *rig, uint64_t gpa, uint32_t bytes);
/* Put these bytes where a test keeps the contents of its next buffer. */
uint64_t rig_buffer(struct rig *rig, const void *data, size_t bytes);

uint32_t rig_config(struct rig *rig, uint64_t offset);
void rig_set_config(struct rig *rig, uint64_t offset, uint32_t value);
struct memd_balloon_info rig_info(struct rig *rig);

/* The discards so far are exactly these ranges, in this order; forget them. */
#define RIG_RANGES(...) \
    (const uint64_t[][2]){__VA_ARGS__}, sizeof((const uint64_t[][2]){__VA_ARGS__}) / sizeof(uint64_t[2])
void rig_discarded(struct rig *rig, const uint64_t (*ranges)[2], size_t n);
void rig_nothing_discarded(struct rig *rig);

#endif
