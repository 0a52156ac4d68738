/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store: the frames of one trust domain on one NUMA node: a sparse tmpfs file, and a record for each frame.
 *
 * The file is made as large as it will ever be, so engines map it once; blocks come with the first write of a
 * frame and go with a punched hole. The daemon only writes it with pwrite(), which fails where a mapping
 * would raise SIGBUS, and never maps it. Free frames are kept in a bitmap. A session takes its frames from a
 * lease of neighbouring free ones, so that pages that follow each other in a guest do so in the store,
 * however many sessions take frames in turns.
 *
 * A frame's life:
 *   FREE -> RESERVED  when two pages are believed equal; an engine is asked for its bytes
 *   RESERVED -> LIVE  bytes written and hashed; from here they never change. Or back to FREE: never shown.
 *   LIVE -> LIMBO     its last reference is gone; out of the index
 *   LIMBO -> FREE     every engine of the domain has answered a fence
 * After a restart all frames found in the file are UNHASHED: LIVE, but not in the index yet.
 */
#ifndef MEMD_DAEMON_STORE_H
#define MEMD_DAEMON_STORE_H

#include "memd/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <urcu-bp.h>

#include <urcu/rculfhash.h>

#define STORE_LEASE_FRAMES 256u
#define STORE_BYTES_MIN    (1ull << 30)
#define STORE_BYTES_MAX    ((1ull << WIRE_FRAME_NODE_SHIFT) * WIRE_PAGE_BYTES)

enum frame_state { FRAME_FREE = 0, FRAME_RESERVED, FRAME_LIVE, FRAME_LIMBO, FRAME_UNHASHED };

struct frame {
    struct cds_lfht_node node; /* in the index while RESERVED or LIVE; keyed by the hash of the bytes */
    uint32_t refs;             /* RESERVED: its export (exports.h) */
    uint8_t state;
    uint8_t indexed; /* 0: not in the index: another frame has the same hash, or UNHASHED */
    uint16_t pad;
};
static_assert(sizeof(struct frame) == 24, "a frame's record is small");

/* Limit on all stores of a daemon together. */
struct store_quota {
    uint64_t frames, frames_max;
};

struct store_lease {
    uint32_t next, end;
};

struct store {
    unsigned node;
    int fd;
    uint32_t nframes;     /* capacity; frame 0 is never used */
    uint32_t top;         /* frames from here on were never used since the store was last empty */
    uint32_t used;        /* not FREE */
    uint32_t rover;       /* where the next lease is looked for */
    bool full;            /* an allocation or a write has failed since a frame was last freed */
    struct frame *frames; /* reserved address space; touched up to `top` */
    uint64_t *taken;      /* bitmap, likewise */
    uint64_t *leased;     /* the same: in somebody's lease, not taken yet */
    struct store_quota *quota;
};

/* Open or make the store file of `node` in the domain's directory. A new one holds `bytes`; an old one keeps
 * its size, and all frames found in it are UNHASHED without references. Returns 0 or -errno. */
int store_open(int dir_fd, unsigned node, uint64_t bytes, struct store_quota *quota, struct store *ret_store);
/* The file stays. */
void store_close(struct store *store);
int store_open_readonly(int dir_fd, unsigned node);
int store_unlink(int dir_fd, unsigned node);

/* A free frame, RESERVED now; the lease's next if that is free. Returns 0 if the store is full. */
uint32_t store_take(struct store *store, struct store_lease *lease);
/* Give back what is left of a lease. */
void store_lease_end(struct store *store, struct store_lease *lease);
/* Make frames [index, index+count) FREE and give their blocks back. */
void store_free(struct store *store, uint32_t index, uint32_t count);

/* Write the bytes of RESERVED frames. Returns 0 or -errno (-ENOSPC: the tmpfs is full). */
int store_write(struct store *store, uint32_t index, uint32_t count, const void *bytes);
int store_read(const struct store *store, uint32_t index, uint32_t count, void *ret_bytes);

/* Memory of the daemon this store takes: records and bitmap touched. Blocks of the file are not in it. */
size_t store_metadata_bytes(const struct store *store);
uint64_t store_block_bytes(const struct store *store);

static inline uint32_t store_frame_number(const struct store *store, uint32_t index)
{
    return (uint32_t)store->node << WIRE_FRAME_NODE_SHIFT | index;
}

#endif
