/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pool: compressed pages in the engine's own memory; see pool.c.
 *
 * Threads: whoever holds engine.work calls everything. The fault server calls pool_get() and pool_discard()
 * only, for an object whose page is in a chunk it has locked.
 */
#ifndef MEMD_ENGINE_POOL_H
#define MEMD_ENGINE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#define POOL_OBJECT_MAX 4032u /* bytes of content */

struct pool;

/* What an object is kept for. */
struct pool_owner {
    uint32_t region, page;
};

struct pool_counts {
    uint64_t objects;
    uint64_t used_bytes; /* of objects, rounded up to their size class */
    uint64_t host_bytes; /* of blocks in use: what the pool takes from the host */
};

struct pool *pool_open(void);       /* NULL: no memory */
void pool_close(struct pool *pool); /* NULL is fine */

/* Keeps a copy; returns its handle, 0 if there is no memory for it. */
uint32_t pool_put(struct pool *pool, const void *content, uint32_t bytes, struct pool_owner owner);
const void *pool_get(const struct pool *pool, uint32_t handle, uint32_t *ret_bytes);
void pool_free(struct pool *pool, uint32_t handle);

/* From the first to the second, of much that is freed, blocks that get empty are kept until they can be given
 * back to the host in few calls, each of which interrupts the VMM's threads. NULL is fine. */
void pool_gather(struct pool *pool);
void pool_give_back(struct pool *pool);

/* Frees without touching what engine.work guards: the memory comes back with the next pool_reap(). */
void pool_discard(struct pool *pool, uint32_t handle);
/* Returns how many were freed. */
uint32_t pool_reap(struct pool *pool);

/* Moves objects out of sparsely used blocks, at most `most` of them; returns how many. For each, fn makes the
 * owner refer to `to` instead of `from`; false: it does not (any more), and nothing is moved. */
typedef bool pool_moved_fn(void *ctx, struct pool_owner owner, uint32_t from, uint32_t to);
uint32_t pool_compact(struct pool *pool, uint32_t most, pool_moved_fn *fn, void *ctx);
bool pool_sparse(const struct pool *pool); /* worth compacting */

struct pool_counts pool_count(const struct pool *pool);

#endif
