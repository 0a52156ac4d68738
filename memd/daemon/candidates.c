/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see candidates.h. Slot value 0 is empty: page number 0 does not exist. */
#include "memd/daemon/candidates.h"

#include "memd/wire.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_SHIFT       58 /* of the shard's number in the hash */
#define KEY_BITS          30
#define KEY_SHIFT         (SHARD_SHIFT - KEY_BITS)
#define ID_MASK           ((1ull << PAGES_ID_BITS) - 1)
#define LOAD_MAX_PERCENT  86 /* beyond it the shard grows */
#define LOAD_NEW_PERCENT  68 /* load after a resize */
#define LOAD_TRIM_PERCENT 60 /* below it the shard shrinks */
#define HOMES_MIN         32
#define SAMPLE            256
#define SWEEP_AHEAD       12 /* entries whose pages are asked for in advance */
#define STALE_MANY        4  /* one in so many: sweeping pays more than growing */

static_assert(KEY_BITS + PAGES_ID_BITS == 64, "an entry is 64 bits");
static_assert(1ull << (64 - SHARD_SHIFT) == CANDIDATES_SHARDS, "the top bits choose the shard");
static_assert(KEY_SHIFT <= 40, "an entry knows the page's tag");

static struct candidates_shard *shard_of(const struct candidates *table, uint64_t hash)
{
    return (struct candidates_shard *)&table->shard[hash >> SHARD_SHIFT];
}

static uint64_t key_of(uint64_t hash)
{
    return hash >> KEY_SHIFT & ((1ull << KEY_BITS) - 1);
}

static uint32_t home_of(uint64_t key, uint32_t homes)
{
    return (uint32_t)(key * homes >> KEY_BITS);
}

static uint32_t entry_tag(const struct candidates *table, const struct candidates_shard *shard,
                          uint64_t entry)
{
    uint64_t number = (uint64_t)(shard - table->shard);
    return wire_tag_of_hash(number << SHARD_SHIFT | (entry >> PAGES_ID_BITS) << KEY_SHIFT);
}

/* Entries beyond the last home go into the slack. */
static uint32_t slots_for(uint32_t homes)
{
    uint32_t slack = homes / 64 + 16;
    return homes + (slack > CANDIDATES_SHIFT_MAX ? CANDIDATES_SHIFT_MAX : slack);
}

void candidates_close(struct candidates *table)
{
    for (int i = 0; i < CANDIDATES_SHARDS; i++)
        free(table->shard[i].slot);
    *table = (struct candidates){0};
}

/* ---------------------------------------------------------------- lookup */

uint64_t candidates_again(const struct candidates_at *at)
{
    const struct candidates_shard *shard = at->shard;
    if (at->slot >= shard->slots)
        return 0;
    uint64_t entry = shard->slot[at->slot];
    return entry && entry >> PAGES_ID_BITS == at->key ? entry & ID_MASK : 0;
}

uint64_t candidates_next(struct candidates_at *at)
{
    at->slot++;
    return candidates_again(at);
}

uint64_t candidates_find(struct candidates *table, uint64_t hash, struct candidates_at *ret_at)
{
    struct candidates_shard *shard = shard_of(table, hash);
    uint64_t key = key_of(hash);
    uint32_t at = home_of(key, shard->homes);

    if (!shard->slots)
        return 0;
    while (at < shard->slots && shard->slot[at] && shard->slot[at] >> PAGES_ID_BITS < key)
        at++;
    *ret_at = (struct candidates_at){.shard = shard, .slot = at, .key = key};
    return candidates_again(ret_at);
}

void candidates_prefetch(const struct candidates *table, uint64_t hash)
{
    const struct candidates_shard *shard = shard_of(table, hash);
    if (shard->slots)
        __builtin_prefetch(&shard->slot[home_of(key_of(hash), shard->homes)]);
}

/* ---------------------------------------------------------------- resizing */

/* Move the entries of [0, old_slots) to the end of [0, slots), in order. Returns how many there are. */
static uint32_t move_to_end(uint64_t *slot, uint32_t old_slots, uint32_t slots)
{
    uint32_t to = slots;

    for (uint32_t from = old_slots; from > 0; from--) {
        uint64_t entry = slot[from - 1];
        slot[to - 1] = entry;
        to -= entry != 0;
    }
    return slots - to;
}

/* Lay out `used` entries, which lie in order at the end of `slot`, anew. Entries that would run past the end
 * (only crafted hashes do that) are left out. Returns how many there are now. */
static uint32_t lay_out(uint64_t *slot, uint32_t homes, uint32_t slots, uint32_t used)
{
    uint32_t next = 0, kept = 0;

    for (uint32_t from = slots - used; from < slots; from++) {
        uint64_t entry = slot[from];
        uint32_t home = home_of(entry >> PAGES_ID_BITS, homes), to = home > next ? home : next;
        if (to > from) /* would overwrite what is not read yet */
            continue;
        while (next < to)
            slot[next++] = 0;
        slot[next++] = entry;
        kept++;
    }
    memset(slot + next, 0, (slots - next) * sizeof *slot);
    return kept;
}

/* In place but for what realloc() does: a table is never held twice. */
static int resize(struct candidates *table, struct candidates_shard *shard)
{
    uint64_t want = (uint64_t)shard->used * 100 / LOAD_NEW_PERCENT;
    if (want >= UINT32_MAX / 2)
        return -ENOMEM;
    uint32_t homes = want < HOMES_MIN ? HOMES_MIN : (uint32_t)want;
    uint32_t slots = slots_for(homes), old_slots = shard->slots;
    uint64_t *slot = shard->slot;

    if (slots > old_slots) {
        slot = realloc(slot, slots * sizeof *slot);
        if (!slot)
            return -ENOMEM;
    } else {
        /* what is in the part that goes must be moved out of it first */
        uint32_t used = move_to_end(slot, old_slots, old_slots);
        memmove(slot, slot + old_slots - used, used * sizeof *slot);
        uint64_t *shrunk = realloc(slot, slots * sizeof *slot);
        slot = shrunk ? shrunk : slot;
        old_slots = used;
    }
    uint32_t used = move_to_end(slot, old_slots, slots);
    uint32_t kept = lay_out(slot, homes, slots, used);
    table->used -= shard->used - kept;
    table->bytes += (slots * sizeof *slot) - (shard->slots * sizeof *slot);
    *shard = (struct candidates_shard){.slot = slot, .homes = homes, .slots = slots, .used = kept};
    return 0;
}

/* ---------------------------------------------------------------- changing */

/* Take out one slot and close up: entries behind it that are not at home move one towards it. */
static void take_out(struct candidates *table, struct candidates_shard *shard, uint32_t at)
{
    uint32_t end = at + 1;
    while (end < shard->slots && shard->slot[end] &&
           home_of(shard->slot[end] >> PAGES_ID_BITS, shard->homes) < end)
        end++;
    memmove(shard->slot + at, shard->slot + at + 1, (end - at - 1) * sizeof *shard->slot);
    shard->slot[end - 1] = 0;
    shard->used--;
    table->used--;
}

void candidates_remove(struct candidates *table, struct candidates_at *at)
{
    take_out(table, at->shard, at->slot);
}

static bool is_full(const struct candidates_shard *shard)
{
    return (uint64_t)shard->used * 100 >= (uint64_t)shard->homes * LOAD_MAX_PERCENT;
}

/* Returns 0, or -ENOSPC: the way to the next empty slot is too long, or ends with the shard. */
static int put(struct candidates_shard *shard, uint64_t entry, bool *ret_new)
{
    uint32_t home = home_of(entry >> PAGES_ID_BITS, shard->homes), at = home;

    while (at < shard->slots && shard->slot[at] && shard->slot[at] < entry)
        at++;
    *ret_new = at >= shard->slots || shard->slot[at] != entry;
    if (!*ret_new)
        return 0;

    uint32_t end = at, limit = home + CANDIDATES_SHIFT_MAX;
    while (end < shard->slots && end < limit && shard->slot[end])
        end++;
    if (end >= shard->slots || end >= limit)
        return -ENOSPC;
    memmove(shard->slot + at + 1, shard->slot + at, (end - at) * sizeof *shard->slot);
    shard->slot[at] = entry;
    return 0;
}

int candidates_insert(struct candidates *table, uint64_t hash, uint64_t page_id)
{
    struct candidates_shard *shard = shard_of(table, hash);
    uint64_t entry = key_of(hash) << PAGES_ID_BITS | page_id;
    bool is_new;

    if (is_full(shard) && resize(table, shard) && shard->used == shard->slots) {
        table->refused++;
        return -ENOMEM;
    }
    int err = put(shard, entry, &is_new);
    /* the last homes share a short slack: a larger table has more. Not for crafted hashes, which would have
     * it laid out anew each time: only if the load makes it likely */
    if (err && (uint64_t)shard->used * 100 > (uint64_t)shard->homes * (LOAD_NEW_PERCENT + 2) &&
        !resize(table, shard))
        err = put(shard, entry, &is_new);
    if (err) {
        table->refused++;
        return err;
    }
    shard->used += is_new;
    table->used += is_new;
    return 0;
}

/* ---------------------------------------------------------------- sweeping */

/* The page maps are spread over memory: pages are asked for a few entries ahead. */
static bool is_stale(const struct candidates *table, const struct candidates_shard *shard, uint32_t at,
                     uint32_t ahead, candidates_check *check, void *ctx)
{
    if (ahead < shard->slots && shard->slot[ahead])
        check(ctx, shard->slot[ahead] & ID_MASK, 0);
    uint64_t entry = shard->slot[at];
    return entry && !check(ctx, entry & ID_MASK, entry_tag(table, shard, entry));
}

/* Whether sweeping pays: by a sample from all over the shard. */
static bool are_many_stale(const struct candidates *table, const struct candidates_shard *shard,
                           candidates_check *check, void *ctx)
{
    uint32_t step = shard->slots / SAMPLE + 1, stale = 0, looked = 0;

    for (uint32_t at = 0; at < shard->slots; at += step) {
        stale += is_stale(table, shard, at, at + step * SWEEP_AHEAD, check, ctx);
        looked += shard->slot[at] != 0;
    }
    return stale * STALE_MANY > looked;
}

/* All of a shard: entries come in evenly, and where stale ones were left beside places swept they would pile
 * up. */
static void sweep_shard(struct candidates *table, struct candidates_shard *shard, candidates_check *check,
                        void *ctx)
{
    uint32_t to = 0;

    for (uint32_t at = 0; at < shard->slots; at++)
        if (shard->slot[at] && !is_stale(table, shard, at, at + SWEEP_AHEAD, check, ctx))
            shard->slot[to++] = shard->slot[at];
    memmove(shard->slot + shard->slots - to, shard->slot, to * sizeof *shard->slot);
    to = lay_out(shard->slot, shard->homes, shard->slots, to);
    table->used -= shard->used - to;
    shard->used = to;
}

void candidates_make_room(struct candidates *table, uint64_t hash, candidates_check *check, void *ctx)
{
    struct candidates_shard *shard = shard_of(table, hash);

    if (shard->used && is_full(shard) && are_many_stale(table, shard, check, ctx))
        sweep_shard(table, shard, check, ctx);
}

void candidates_sweep(struct candidates *table, candidates_check *check, void *ctx)
{
    uint64_t swept = 0;

    for (unsigned i = 0; i < CANDIDATES_SHARDS && swept < CANDIDATES_SWEEP_MAX; i++) {
        struct candidates_shard *shard = &table->shard[table->sweeping];
        table->sweeping = (table->sweeping + 1) % CANDIDATES_SHARDS;
        if (!shard->used)
            continue;
        if (!are_many_stale(table, shard, check, ctx))
            return; /* the others are like it */
        swept += shard->used;
        sweep_shard(table, shard, check, ctx);
    }
}

void candidates_trim(struct candidates *table)
{
    for (int i = 0; i < CANDIDATES_SHARDS; i++) {
        struct candidates_shard *shard = &table->shard[i];
        if (!shard->slots)
            continue;
        if (!shard->used) {
            table->bytes -= shard->slots * sizeof *shard->slot;
            free(shard->slot);
            *shard = (struct candidates_shard){0};
        } else if (shard->homes > HOMES_MIN &&
                   (uint64_t)shard->used * 100 < (uint64_t)shard->homes * LOAD_TRIM_PERCENT) {
            resize(table, shard);
        }
    }
}
