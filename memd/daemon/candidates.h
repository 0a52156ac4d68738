/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * candidates: which page was last seen with which hash, in 8 bytes a page.
 *
 * Pages nobody equals yet are by far the most, so this table decides what memd costs. The top 36 bits of the
 * hash count: six choose the shard, 30 are the entry's key beside the page's number (pages.h). So an entry
 * knows the 24 bits the page map keeps as tag. The entries of a shard lie in order; an entry's home is key *
 * homes / 2^30, and it sits there or a little behind, behind all smaller ones (linear probing kept sorted).
 * So a lookup ends at the first larger entry, a table can grow by any factor in one pass over itself, and the
 * load stays between 68% and 86%: 9.3 to 11.8 bytes a page. A shard is what one insert may have to move when
 * it grows: 2 MiB of entries in a domain of 64 GiB.
 *
 * An entry is a hint. It is never taken out when its page changes: whoever finds it must ask the page map,
 * and remove it if it is stale. Stale ones nobody finds are swept: some of them before a shard grows, and
 * instead if there are many, so what a page map says is not asked once an insert but a few times for each
 * stale entry.
 *
 * A peer chooses its hashes. It can crowd one spot of the table, its own domain's; the displacement is
 * bounded (CANDIDATES_SHIFT_MAX) and what does not fit is refused.
 */
#ifndef MEMD_DAEMON_CANDIDATES_H
#define MEMD_DAEMON_CANDIDATES_H

#include "memd/daemon/pages.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CANDIDATES_SHARDS    64
#define CANDIDATES_SHIFT_MAX 2048       /* entries moved for one insert, at most */
#define CANDIDATES_SWEEP_MAX (1u << 18) /* entries from which on a sweep ends with the shard */

struct candidates_shard {
    uint64_t *slot;
    uint32_t homes; /* slots that are somebody's home */
    uint32_t slots; /* homes and the slack behind the last one */
    uint32_t used;
};

struct candidates {
    struct candidates_shard shard[CANDIDATES_SHARDS];
    uint64_t used;
    uint32_t sweeping; /* shard the sweep is at */
    uint64_t refused;  /* inserts that found no room */
    size_t bytes;
};

/* Where a lookup stands. Any insert or removal but candidates_remove(at) itself makes it void. */
struct candidates_at {
    struct candidates_shard *shard;
    uint32_t slot;
    uint64_t key;
};

/* Whether the page map still says this of the page: `tag` as wire_tag_of_hash() gives it. With tag 0, which
 * no page has, only a hint: this page will be asked about in a moment. */
typedef bool candidates_check(void *ctx, uint64_t page_id, uint32_t tag);

void candidates_close(struct candidates *table);

/* First page that had this hash: its number, 0 if none. Then the next. */
uint64_t candidates_find(struct candidates *table, uint64_t hash, struct candidates_at *ret_at);
uint64_t candidates_next(struct candidates_at *at);
/* Take out the entry found last; `at` then stands before the entry that follows: go on with
 * candidates_again(). */
void candidates_remove(struct candidates *table, struct candidates_at *at);
uint64_t candidates_again(const struct candidates_at *at);

/* Returns 0; -ENOMEM; -ENOSPC (too many pages with such hashes). Adding an entry twice changes nothing. */
int candidates_insert(struct candidates *table, uint64_t hash, uint64_t page_id);

void candidates_prefetch(const struct candidates *table, uint64_t hash);

/* Before an insert: if the shard is full and many of its entries are stale, drop those, and it need not grow.
 */
void candidates_make_room(struct candidates *table, uint64_t hash, candidates_check *check, void *ctx);
/* From time to time: the same for one shard after the other, until one has few of them. */
void candidates_sweep(struct candidates *table, candidates_check *check, void *ctx);
/* Give back memory of shards that have become sparse. */
void candidates_trim(struct candidates *table);

#endif
