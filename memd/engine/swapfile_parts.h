/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* swapfile_parts: what swapfile.c, which writes, and swapread.c, which reads, know of the file. */
#ifndef MEMD_ENGINE_SWAPFILE_PARTS_H
#define MEMD_ENGINE_SWAPFILE_PARTS_H

#include "memd/engine/swapfile.h"

#include <assert.h>
#include <liburing.h>
#include <sodium.h>
#include <stdatomic.h>

#define CLUSTER_BYTES 65536u
#define RECORDS_MAX   256u /* of a cluster */
#define RECORD_ALIGN  16u
#define BLOCK         4096u /* of the device, for O_DIRECT */
#define BUFFERS       8u    /* clusters being written */
#define TAG_BYTES     crypto_aead_chacha20poly1305_ietf_ABYTES
#define FETCH_BYTES   (3 * BLOCK) /* the longest record, wherever it begins */
#define GROUPS        8u          /* read ahead and kept, CLUSTER_BYTES each */

struct record {
    uint32_t page;
    uint16_t at, bytes; /* in units of RECORD_ALIGN; of content */
    struct swap_hash hash;
};
static_assert(sizeof(struct record) == 24, "24 bytes per page in the file");

enum cluster_state { CLUSTER_FREE, CLUSTER_WRITING, CLUSTER_WRITTEN };

struct cluster {
    uint64_t generation;
    struct record *record;
    uint32_t next; /* in the list of free ones */
    uint16_t n, live;
    uint8_t state;
    bool dirty; /* free, and its space is still taken */
};

/* A cluster being filled or written. */
struct buffer {
    char *bytes;
    uint32_t cluster; /* 0: not in use */
    uint32_t used;
    bool submitted, done;
    int result;
    struct swap_owner owner[RECORDS_MAX];
    struct record record[RECORDS_MAX];
};

/* Records of a cluster that were read with one that was asked for; the fault server's. See swapread.c. */
struct swap_group {
    enum { GROUP_EMPTY, GROUP_READING, GROUP_HERE } state;
    uint32_t cluster;
    uint64_t generation; /* of the cluster */
    uint64_t offset;     /* in the file; */
    uint32_t bytes;      /* read from there */
    uint32_t brought, used;
    uint64_t left[RECORDS_MAX / 64]; /* brought, and nobody has come for them yet */
    uint64_t since_ns;               /* when one of it was asked for last */
};

/* Whether reading ahead has been worth it lately, in pages. */
struct worth {
    uint32_t brought, used, skipped;
};

struct swapfile {
    int fd;
    uint32_t max_clusters, nclusters; /* ever used; cluster 0 never is */
    struct cluster *clusters;
    uint32_t free, dirty; /* list; how many of it are dirty */
    uint32_t used;        /* clusters */
    uint64_t records;     /* known of */
    bool limited;
    uint64_t allowed; /* if it is: bytes that may still be written */
    uint64_t generation, failed_ns;
    struct swap_counts counts;
    bool async, fetch_async;
    unsigned sqe_flags;
    struct io_uring ring, fetch_ring;
    struct buffer *buffer; /* BUFFERS */
    struct buffer *open;   /* being filled */
    char *area;
    uint64_t area_bytes;
    bool is_locked; /* what the fault server reads into, since there is something to read */
    uint8_t *key;
    uint64_t hash_seed;
    char *sync; /* swapfile_read()'s: a cluster, or part of it */
    struct {
        bool many;                   /* others are about to be read */
        uint64_t generation, offset; /* of the cluster; in the file */
        uint32_t bytes;              /* 0: nothing */
    } synced;

    /* the fault server's */
    struct swap_fetch fetch[SWAP_FETCHES + SWAP_JOINS]; /* the first ones read, the others wait for a group */
    unsigned nfetches;                                  /* in use */
    char *fetch_bytes;                                  /* SWAP_FETCHES times FETCH_BYTES */
    struct swap_group group[GROUPS];
    char *_Atomic group_bytes; /* NULL: nothing is read ahead */
    struct worth worth;
    _Atomic uint64_t reads, prefetched, prefetch_used, prefetch_wasted; /* struct swap_counts */
};

static inline struct cluster *cluster_of(const struct swapfile *f, uint32_t slot)
{
    return &f->clusters[slot / RECORDS_MAX];
}

/* Decrypts a record. 0 or -EBADMSG. */
int swapfile_unseal(const struct swapfile *f, const struct swap_where *w, const void *sealed, void *content);
bool swapfile_reading(struct swapfile *f); /* takes what has been read; true: more is under way */

#endif
