/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * holdings: the daemon's own account of which pages of a region refer to which frames.
 *
 * A reference is a pair (page, frame). Per chunk of 512 pages there is a small vector of runs {first page,
 * count, first frame}; a chunk that holds nothing has none. A page may for a while hold two frames (an old
 * proposal not answered, a new one sent), never the same frame twice. Counting is all this does: whoever adds
 * or removes pairs here also moves the frames' counts.
 */
#ifndef MEMD_DAEMON_HOLDINGS_H
#define MEMD_DAEMON_HOLDINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct holdings_chunk;

struct holdings {
    struct holdings_chunk **chunk;
    uint32_t nchunks;
    uint64_t pages; /* references held */
    size_t bytes;   /* memory of it all */
};

int holdings_open(struct holdings *holdings, uint64_t npages);
void holdings_close(struct holdings *holdings);

/* Add pairs (page+i, frame+i), i < count; the range lies in one chunk. Returns 0, -EEXIST (one of the pairs
 * is there: nothing was added), -ENOMEM (or the chunk holds as much as makes sense). */
int holdings_add(struct holdings *holdings, uint32_t page, uint32_t count, uint32_t frame);

/* Remove pairs. Returns 0; -ENOENT (one of the pairs is not there) or -ENOMEM: nothing was removed. */
int holdings_remove(struct holdings *holdings, uint32_t page, uint32_t count, uint32_t frame);

bool holdings_has(const struct holdings *holdings, uint32_t page, uint32_t count, uint32_t frame);
/* The frame a page holds (any, if two); 0 if none. */
uint32_t holdings_frame(const struct holdings *holdings, uint32_t page);

typedef void holdings_visit(void *ctx, uint32_t page, uint32_t count, uint32_t frame);
void holdings_each(const struct holdings *holdings, holdings_visit *visit, void *ctx);

#endif
