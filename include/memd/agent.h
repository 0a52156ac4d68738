/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The protocol between memd and memd-agent, which runs in a Linux guest: frames over a byte stream, a
 * virtio-serial port or a vsock connection. docs/agent.md describes it byte by byte.
 *
 * memd is the one that connects. It greets with HELLO and a session number it has drawn; the agent answers
 * HERE and from then on sends REPORT and CONSUMERS, when something has changed and as a heartbeat. memd may
 * ask for one thing, RECLAIM, and gets RECLAIMED, first while it is under way and at last when it is done. A
 * stream may begin in the middle of a frame, because an earlier host end has died: whoever reads it looks for
 * the next frame that is whole. Frames of another session are stale and dropped.
 *
 * All integers are little-endian. A frame may be longer than its type needs (a later release has put fields
 * to the end), never shorter. Neither end believes the other: every length and number is bounded.
 */
#ifndef MEMD_AGENT_H
#define MEMD_AGENT_H

#include <assert.h>
#include <stdint.h>

#define AGENT_PORT_NAME  "org.memd.agent.0" /* of the virtio-serial port */
#define AGENT_VSOCK_PORT 977u               /* the agent listens there; below 1024: root's */

#define AGENT_MAGIC          0x3147416du /* "mAG1" */
#define AGENT_VERSION_MIN    1
#define AGENT_VERSION_MAX    1
#define AGENT_FRAME_MAX      1024u
#define AGENT_VALUES         16u
#define AGENT_CONSUMERS_MAX  8u
#define AGENT_CONSUMER_BYTES 56u /* of a cgroup's name, NUL-terminated */
#define AGENT_RELEASE_BYTES  16u

enum agent_type {
    AGENT_HELLO = 1,     /* host to guest */
    AGENT_HERE = 2,      /* guest to host */
    AGENT_REPORT = 3,    /* guest to host */
    AGENT_CONSUMERS = 4, /* guest to host */
    AGENT_RECLAIM = 5,   /* host to guest */
    AGENT_RECLAIMED = 6, /* guest to host */
    AGENT_TYPES
};

/* Before every frame. */
struct agent_head {
    uint32_t magic;
    uint8_t version; /* of the frame's layout: 1 in HELLO and HERE, later the highest both ends know */
    uint8_t type;    /* enum agent_type */
    uint16_t bytes;  /* of the whole frame, at most AGENT_FRAME_MAX */
    uint32_t seq;    /* of the sender's frames: the next is one more, modulo 2^32 */
    uint32_t crc;    /* CRC-32 (IEEE 802.3) of the whole frame, this field zero */
    uint64_t session;
};
static_assert(sizeof(struct agent_head) == 24, "agent_head");

/* The host is there, or asks whether the agent is. A session number other than the last begins a session. */
struct agent_hello {
    struct agent_head h;
    uint16_t version_min, version_max;
    uint32_t interval_ms;  /* reports are wanted no more often than this; 0: as the agent sees fit */
    uint32_t heartbeat_ms; /* and no more seldom; 0: the same */
    uint32_t reserved;
};
static_assert(sizeof(struct agent_hello) == 40, "agent_hello");

struct agent_here {
    struct agent_head h;
    uint16_t version_min, version_max; /* no common version: nothing follows */
    uint32_t features;                 /* AGENT_CAN_* */
    uint64_t instance;                 /* random, of this run of the agent */
    uint64_t boot;                     /* random, of this run of the guest's kernel */
    char release[AGENT_RELEASE_BYTES]; /* NUL-terminated */
};
#define AGENT_CAN_RECLAIM 1u
#define AGENT_CAN_CGROUPS 2u
static_assert(sizeof(struct agent_here) == 64, "agent_here");

/* What a report holds. Bytes, microseconds or counts; those after COMMITTED only grow until the guest boots
 * again. */
enum agent_value {
    AGENT_MEM_TOTAL,
    AGENT_MEM_FREE,
    AGENT_MEM_AVAILABLE,
    AGENT_CACHED, /* page cache, tmpfs included */
    AGENT_SWAP_TOTAL,
    AGENT_SWAP_FREE,
    AGENT_COMMITTED,
    AGENT_STALL_SOME_US, /* PSI: time in which some task waited for memory */
    AGENT_STALL_FULL_US, /* in which all did */
    AGENT_REFAULT_ANON,  /* bytes needed again soon after they were reclaimed */
    AGENT_REFAULT_FILE,
    AGENT_SWAP_IN,
    AGENT_SWAP_OUT,
    AGENT_ALLOC_STALLS, /* allocations that had to reclaim first */
    AGENT_OOM_KILLS,
    AGENT_UPTIME_MS,
};
static_assert(AGENT_UPTIME_MS + 1 == AGENT_VALUES, "all values are named");

struct agent_report {
    struct agent_head h;
    uint64_t present; /* bit i: value[i] is known; a guest without PSI has none of it */
    uint64_t value[AGENT_VALUES];
};
static_assert(sizeof(struct agent_report) == 160, "agent_report");

/* The largest cgroups below the root, or below the slice the agent was told. */
struct agent_consumer {
    uint64_t bytes;
    char name[AGENT_CONSUMER_BYTES];
};
struct agent_consumers {
    struct agent_head h;
    uint32_t count;
    uint32_t reserved;
    struct agent_consumer top[AGENT_CONSUMERS_MAX];
};
static_assert(sizeof(struct agent_consumer) == 64, "agent_consumer");
static_assert(sizeof(struct agent_consumers) == 544, "agent_consumers");
static_assert(sizeof(struct agent_consumers) <= AGENT_FRAME_MAX, "the largest frame");

/* Give the guest's kernel `bytes` back that it can do without: page cache first. One at a time. */
struct agent_reclaim {
    struct agent_head h;
    uint64_t id;
    uint64_t bytes;
    uint32_t timeout_ms; /* stop after this */
    uint32_t reserved;
};
static_assert(sizeof(struct agent_reclaim) == 48, "agent_reclaim");

struct agent_reclaimed {
    struct agent_head h;
    uint64_t id;
    uint64_t bytes; /* reclaimed so far */
    uint32_t error; /* AGENT_ERROR_* */
    uint32_t flags; /* AGENT_RECLAIM_MORE */
};
#define AGENT_RECLAIM_MORE 1u /* it is under way */
static_assert(sizeof(struct agent_reclaimed) == 48, "agent_reclaimed");

enum agent_error {
    AGENT_OK,
    AGENT_ERROR_DRY,         /* the kernel found no more to reclaim */
    AGENT_ERROR_TIMEOUT,     /* timeout_ms is over */
    AGENT_ERROR_BUSY,        /* another one is under way */
    AGENT_ERROR_UNSUPPORTED, /* no memory.reclaim in this guest, or not for the agent */
    AGENT_ERROR_FAILED,
    AGENT_ERRORS
};

#endif
