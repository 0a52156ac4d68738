/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * index: finds frames and pages by the hash of their bytes, for one trust domain (and one NUMA node, where
 * nodes do not share).
 *
 * Frames are nodes of a cds_lfht. One thread, the core's loop, reads and changes it, and resizes are
 * synchronous: nobody else ever stands in a read-side section of these tables, so a node taken out may be
 * used again at once. In front of the table lies a filter, two bytes a frame: most hashes belong to no frame,
 * and walking a chain to learn that costs several cache misses.
 */
#ifndef MEMD_DAEMON_INDEX_H
#define MEMD_DAEMON_INDEX_H

#include "memd/daemon/candidates.h"
#include "memd/daemon/store.h"

struct index {
    struct cds_lfht *frames;
    uint64_t nframes;
    uint64_t nbuckets;
    uint64_t *filter; /* bits of each hash ever added since it was last made */
    uint32_t filter_words;
    uint64_t filter_added; /* since it was last made; those taken out again included */
    struct candidates candidates;
};

int index_open(struct index *index);
/* All frames must be out. */
void index_close(struct index *index);

struct frame *index_find(const struct index *index, uint64_t hash);
/* Add a frame under its hash. Returns it; the one that is there already; or NULL (no memory). */
struct frame *index_add(struct index *index, uint64_t hash, struct frame *frame);
void index_remove(struct index *index, struct frame *frame);
void index_prefetch(const struct index *index, uint64_t hash);
/* Shrink what has become too large. */
void index_trim(struct index *index);
size_t index_bytes(const struct index *index);

#endif
