/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * swapfile: records of a page each in the VM's swap file; see swapfile.c and swapread.c.
 *
 * Threads: whoever holds engine.work calls everything but what is marked "fault server".
 */
#ifndef MEMD_ENGINE_SWAPFILE_H
#define MEMD_ENGINE_SWAPFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SWAP_CONTENT_MAX 4096u /* bytes of a record: a packed page, or a whole one */
#define SWAP_SLOT_BITS   31    /* a slot names a record; 0: none */

struct swapfile;

struct swap_hash { /* of the whole page */
    uint64_t word[2];
};

/* For whom a record is written. */
struct swap_owner {
    uint32_t region, serial, page;
};

/* Where a record is, and what proves that it is the one: copied while its page is known to be there. */
struct swap_where {
    uint64_t offset, generation;
    uint32_t slot, bytes;
};

struct swap_counts {
    uint64_t file_bytes;    /* in clusters in use */
    uint64_t written_bytes; /* ever */
    uint64_t errors;        /* writes that failed */
    uint64_t reads;         /* ever made of it, whatever their size */
    /* pages whose records were read with another's; those somebody then came for; and those nobody did */
    uint64_t prefetched, prefetch_used, prefetch_wasted;
    uint64_t memory_bytes; /* for what is known of the records, and buffers */
};

/* Takes `fd`. max_bytes: of the file. wake_fd: an eventfd written when a write ends. 0 or -errno. */
int swapfile_open(int fd, uint64_t max_bytes, int wake_fd, struct swapfile **ret_file);
void swapfile_close(struct swapfile *file);       /* NULL is fine */
void swapfile_leave(const struct swapfile *file); /* a forked child lets go of it; async-signal-safe */
struct swap_hash swapfile_hash(const struct swapfile *file, const void *page);

/* Encrypts a record into the cluster that is being filled; its slot, or 0: no room now. It is written with
 * the others of its cluster, when that is full or at swapfile_flush(). */
uint32_t swapfile_add(struct swapfile *file, struct swap_owner owner, const void *content, uint32_t bytes,
                      struct swap_hash hash);
void swapfile_flush(struct swapfile *file);
/* Calls fn for every record whose write has ended. error: 0 or -errno; then the slot is gone already. Returns
 * how many clusters are still being written. */
typedef void swapfile_written_fn(void *ctx, struct swap_owner owner, uint32_t slot, int error);
unsigned swapfile_reap(struct swapfile *file, swapfile_written_fn *fn, void *ctx);

bool swapfile_is_written(const struct swapfile *file, uint32_t slot);
bool swapfile_holds(const struct swapfile *file, uint32_t slot, struct swap_hash hash);
void swapfile_free(struct swapfile *file, uint32_t slot); /* of a record that is written */
bool swapfile_full(const struct swapfile *file); /* no cluster is left, or writing failed a moment ago */
/* So many bytes may be written from now on; UINT64_MAX, and without this: any. */
void swapfile_allow(struct swapfile *file, uint64_t bytes);
bool swapfile_spent(const struct swapfile *file); /* what was allowed is not enough for another cluster */
/* Gives some of the file's free space back to the file system; false: there is none. */
bool swapfile_trim(struct swapfile *file);
struct swap_counts swapfile_count(const struct swapfile *file);

/* Reads and decrypts a record into `content` (SWAP_CONTENT_MAX), waiting for the device: 0; -EAGAIN: it was
 * not to be had just now; -EBADMSG: it is not what was written; -EIO and the like. */
int swapfile_read(struct swapfile *file, const struct swap_where *where, void *content);
/* Several records are about to be read in this way, neighbours after each other: with the second of a cluster
 * all of it is read. Until it is over. */
void swapfile_read_many(struct swapfile *file, bool many);

/* ---- fault server. `where` also for whoever holds engine.work. */

/* The page must be known to be there: its chunk is locked. */
struct swap_where swapfile_where(const struct swapfile *file, uint32_t slot);

/* The record, as it is in the file, if it was read ahead; good until the next call of swapfile_fetch(). NULL:
 * it is to be fetched. */
const void *swapfile_ready(struct swapfile *file, const struct swap_where *where, uint64_t since_ns);
/* What was read ahead with it is not what it should be: all of it is forgotten. */
void swapfile_distrust(struct swapfile *file, const struct swap_where *where);

/* Who asks; the engine's own name for the page. `there`: whether a page of a record is in the file, at that
 * slot, at this moment or one near it. */
struct swap_ask {
    uint32_t region, page;
    struct swap_where where;
    uint64_t since_ns; /* when it was first asked for */
    bool (*there)(void *ctx, uint32_t page, uint32_t slot);
    void *ctx;
};

/* A read under way, or a record that is waited for with others of a group. */
struct swap_fetch {
    uint32_t region, page;
    struct swap_where where;
    uint64_t since_ns;
    int result;       /* once it is ready: 0 or -errno; -EAGAIN: not to be had just now */
    const void *data; /* as it is in the file */
    const struct swap_group *group;
    bool used, ready;
};
#define SWAP_FETCHES 16u
#define SWAP_JOINS   48u
/* Begins to read. -EBUSY: too many are under way. -EALREADY: this one is. */
int swapfile_fetch(struct swapfile *file, const struct swap_ask *ask);
/* The next read that is ready, from *at on; NULL: no more. Drop it with used = false. */
struct swap_fetch *swapfile_fetched(struct swapfile *file, unsigned *at);
void swapfile_fetch_end(struct swapfile *file, struct swap_fetch *fetch); /* what it brought is not needed */
unsigned swapfile_fetches(const struct swapfile *file);                   /* begun and not ended */
bool swapfile_fetch_waits(const struct swapfile *file); /* there is something for swapfile_fetched() to do */
int swapfile_fetch_fd(const struct swapfile *file);     /* readable when a read has ended; -1: none */
/* Decrypts what was fetched, or ready. 0 or -EBADMSG. */
int swapfile_open_record(const struct swapfile *file, const struct swap_where *where, const void *sealed,
                         void *content);

#endif
