/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The RAM pool: where packed pages are. It must hold millions of objects of 64 to 4096 bytes with little
 * waste, give memory back to the host when pages go home, and let the fault server read and drop objects
 * without taking a lock.
 *
 * Memory comes in arenas, reserved and not filled, cut into blocks of 64 KiB. A block holds objects of one
 * size class (multiples of 64 bytes). A handle is the block's number and the slot in it; 0 is none. Each
 * object begins with a word that says whom it is for and how long it is, so that objects can be moved:
 *
 *   live      LIVE | region | page | bytes
 *   dropped   the next dropped object's handle. The fault server pushes onto one list, whoever holds
 *             engine.work takes the whole list and frees what is in it (pool_reap): no other thread pops,
 *             so a handle that is pushed twice in a row (ABA) does no harm
 *   free      the next free slot of the block
 *
 * Blocks with room are kept per class in lists by how full they are. New objects go to the fullest, and
 * compaction empties the emptiest; an empty block goes back to the host at once (MADV_DONTNEED), or with
 * others beside it, when much is freed (pool_gather).
 *
 * All of it is excluded from fork: the child has no engine.
 */
#include "memd/engine/pool.h"

#include "memd/engine/engine.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK_BYTES     65536u
#define ARENA_BYTES     (1ull << 30)
#define ARENA_BLOCKS    (uint32_t)(ARENA_BYTES / BLOCK_BYTES)
#define ARENAS_MAX      256u
#define STEP_BYTES      64u
#define CLASSES         64u
#define SLOT_BITS       10
#define FULLNESS        4u
#define SPARSE_MIN      (1u << 20) /* bytes not worth collecting */
#define NO_SLOT         0xffffu
#define GATHER_MAX      32u /* blocks */
#define LIVE            (1ull << 63)
#define HEADER_BYTES    8u
#define OWNER_PAGE_BITS 28
#define OWNER_LEN_BITS  13
static_assert(BLOCK_BYTES / STEP_BYTES <= 1u << SLOT_BITS, "a slot number fits a handle");
static_assert((uint64_t)ARENAS_MAX * ARENA_BLOCKS <= 1ull << (32 - SLOT_BITS), "a block number, too");
static_assert(POOL_OBJECT_MAX + HEADER_BYTES <= CLASSES * STEP_BYTES, "the largest class holds any object");

struct block {
    uint16_t class, used;
    uint16_t free;       /* first slot of the free list */
    uint16_t fresh;      /* slots from here on have never been used */
    uint32_t next, prev; /* in a list of its class, or `next` in the list of empty blocks */
};
static_assert(sizeof(struct block) == 16, "16 bytes per 64 KiB");

struct pool {
    char *_Atomic arena[ARENAS_MAX]; /* read by the fault server */
    struct block *blocks[ARENAS_MAX];
    uint32_t nblocks; /* ever used; block 0 never is */
    uint32_t empty;   /* list of blocks given back */
    uint32_t partial[CLASSES][FULLNESS];
    uint64_t objects, used_bytes, used_blocks;
    _Atomic uint32_t dropped;
    bool gathers;
    unsigned ngathered; /* blocks that are empty, and still to be given back */
    uint32_t gathered[GATHER_MAX];
};

/* ---- handles */

static uint32_t handle_make(uint32_t block, uint32_t slot)
{
    return block << SLOT_BITS | slot;
}

static struct block *block_at(const struct pool *p, uint32_t block)
{
    return &p->blocks[block / ARENA_BLOCKS][block % ARENA_BLOCKS];
}

static char *block_bytes(const struct pool *p, uint32_t block)
{
    /* acquire: the arena is mapped before any handle into it is given out */
    char *arena = atomic_load_explicit(&p->arena[block / ARENA_BLOCKS], memory_order_acquire);

    return arena + (uint64_t)(block % ARENA_BLOCKS) * BLOCK_BYTES;
}

static uint32_t class_bytes(uint32_t class)
{
    return (class + 1) * STEP_BYTES;
}

static uint32_t class_slots(uint32_t class)
{
    return BLOCK_BYTES / class_bytes(class);
}

static uint32_t class_of(uint32_t bytes)
{
    return (bytes + HEADER_BYTES + STEP_BYTES - 1) / STEP_BYTES - 1;
}

static _Atomic uint64_t *slot_header(const struct pool *p, uint32_t block, uint32_t slot, uint32_t class)
{
    return (_Atomic uint64_t *)(block_bytes(p, block) + (uint64_t)slot * class_bytes(class));
}

/* The class of a block does not change while an object of it is live. */
static _Atomic uint64_t *header_of(const struct pool *p, uint32_t handle)
{
    uint32_t block = handle >> SLOT_BITS;

    return slot_header(p, block, handle & ((1u << SLOT_BITS) - 1), block_at(p, block)->class);
}

static uint64_t header_make(struct pool_owner o, uint32_t bytes)
{
    return LIVE | (uint64_t)o.region << (OWNER_PAGE_BITS + OWNER_LEN_BITS) |
           (uint64_t)o.page << OWNER_LEN_BITS | bytes;
}

static uint32_t header_bytes(uint64_t header)
{
    return header & ((1u << OWNER_LEN_BITS) - 1);
}

static struct pool_owner header_owner(uint64_t header)
{
    return (struct pool_owner){.region = (uint32_t)((header & ~LIVE) >> (OWNER_PAGE_BITS + OWNER_LEN_BITS)),
                               .page = (uint32_t)(header >> OWNER_LEN_BITS) & ((1u << OWNER_PAGE_BITS) - 1)};
}

/* ---- lists of blocks that have room */

static uint32_t *list_of(struct pool *p, const struct block *b)
{
    return &p->partial[b->class][b->used * FULLNESS / (class_slots(b->class) + 1)];
}

static bool has_room(const struct block *b)
{
    return b->used < class_slots(b->class);
}

static void list_add(struct pool *p, uint32_t block)
{
    struct block *b = block_at(p, block);

    if (!has_room(b))
        return;
    uint32_t *head = list_of(p, b);
    b->prev = 0;
    b->next = *head;
    if (*head)
        block_at(p, *head)->prev = block;
    *head = block;
}

static void list_remove(struct pool *p, uint32_t block)
{
    struct block *b = block_at(p, block);

    if (!has_room(b))
        return;
    if (b->prev)
        block_at(p, b->prev)->next = b->next;
    else
        *list_of(p, b) = b->next;
    if (b->next)
        block_at(p, b->next)->prev = b->prev;
}

/* ---- blocks */

static int arena_add(struct pool *p, uint32_t nr)
{
    size_t bytes = ARENA_BLOCKS * sizeof(struct block);
    void *blocks = place_reserve(bytes), *arena = place_reserve(ARENA_BYTES);

    if (!blocks || !arena) {
        if (blocks)
            munmap(blocks, bytes);
        if (arena)
            munmap(arena, ARENA_BYTES);
        return -1;
    }
    p->blocks[nr] = blocks;
    atomic_store_explicit(&p->arena[nr], arena, memory_order_release);
    return 0;
}

static uint32_t block_new(struct pool *p, uint32_t class)
{
    uint32_t block = p->empty;

    if (block) {
        p->empty = block_at(p, block)->next;
    } else {
        if (p->nblocks == ARENAS_MAX * ARENA_BLOCKS ||
            (!p->blocks[p->nblocks / ARENA_BLOCKS] && arena_add(p, p->nblocks / ARENA_BLOCKS)))
            return 0;
        block = p->nblocks++;
    }
    *block_at(p, block) = (struct block){.class = (uint16_t) class, .free = NO_SLOT};
    p->used_blocks++;
    list_add(p, block);
    return block;
}

/* Consecutive ones, of one arena. */
static void blocks_give_back(struct pool *p, const uint32_t *blocks, unsigned n)
{
    madvise(block_bytes(p, *blocks), (uint64_t)n * BLOCK_BYTES, MADV_DONTNEED);
    for (unsigned i = 0; i < n; i++) {
        block_at(p, blocks[i])->next = p->empty;
        p->empty = blocks[i];
    }
    p->used_blocks -= n;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void give_back_gathered(struct pool *p)
{
    uint32_t *g = p->gathered;

    qsort(g, p->ngathered, sizeof *g, by_number);
    for (unsigned i = 0, end; i < p->ngathered; i = end) {
        for (end = i + 1; end < p->ngathered && g[end] == g[end - 1] + 1 && g[end] % ARENA_BLOCKS;)
            end++;
        blocks_give_back(p, g + i, end - i);
    }
    p->ngathered = 0;
}

static void block_give_back(struct pool *p, uint32_t block)
{
    if (!p->gathers) {
        blocks_give_back(p, &block, 1);
        return;
    }
    p->gathered[p->ngathered++] = block;
    if (p->ngathered == GATHER_MAX)
        give_back_gathered(p);
}

void pool_gather(struct pool *pool)
{
    if (pool)
        pool->gathers = true;
}

void pool_give_back(struct pool *pool)
{
    if (!pool)
        return;
    give_back_gathered(pool);
    pool->gathers = false;
}

/* The fullest with room. */
static uint32_t block_for(struct pool *p, uint32_t class)
{
    for (uint32_t f = FULLNESS; f--;)
        if (p->partial[class][f])
            return p->partial[class][f];
    return block_new(p, class);
}

/* ---- objects */

static uint32_t slot_take(struct pool *p, uint32_t block)
{
    struct block *b = block_at(p, block);
    uint32_t slot = b->free;

    list_remove(p, block);
    if (slot != NO_SLOT)
        b->free = (uint16_t)atomic_load_explicit(slot_header(p, block, slot, b->class), memory_order_relaxed);
    else
        slot = b->fresh++;
    b->used++;
    list_add(p, block);
    p->objects++;
    p->used_bytes += class_bytes(b->class);
    return slot;
}

static void slot_give(struct pool *p, uint32_t block, uint32_t slot)
{
    struct block *b = block_at(p, block);

    list_remove(p, block);
    atomic_store_explicit(slot_header(p, block, slot, b->class), b->free, memory_order_relaxed);
    b->free = (uint16_t)slot;
    b->used--;
    p->objects--;
    p->used_bytes -= class_bytes(b->class);
    if (b->used)
        list_add(p, block);
    else
        block_give_back(p, block);
}

uint32_t pool_put(struct pool *pool, const void *content, uint32_t bytes, struct pool_owner owner)
{
    uint32_t class = class_of(bytes), block = block_for(pool, class);

    if (!block)
        return 0;
    uint32_t slot = slot_take(pool, block);
    _Atomic uint64_t *header = slot_header(pool, block, slot, class);
    memcpy((char *)header + HEADER_BYTES, content, bytes);
    atomic_store_explicit(header, header_make(owner, bytes), memory_order_relaxed);
    return handle_make(block, slot);
}

const void *pool_get(const struct pool *pool, uint32_t handle, uint32_t *ret_bytes)
{
    _Atomic uint64_t *header = header_of(pool, handle);

    *ret_bytes = header_bytes(atomic_load_explicit(header, memory_order_relaxed));
    return (char *)header + HEADER_BYTES;
}

void pool_free(struct pool *pool, uint32_t handle)
{
    slot_give(pool, handle >> SLOT_BITS, handle & ((1u << SLOT_BITS) - 1));
}

void pool_discard(struct pool *pool, uint32_t handle)
{
    _Atomic uint64_t *header = header_of(pool, handle);
    uint32_t first = atomic_load_explicit(&pool->dropped, memory_order_relaxed);

    do
        atomic_store_explicit(header, first, memory_order_relaxed);
    /* release: the header, and everything this thread has read of the object, comes before its reuse */
    while (!atomic_compare_exchange_weak_explicit(&pool->dropped, &first, handle, memory_order_release,
                                                  memory_order_relaxed));
}

uint32_t pool_reap(struct pool *pool)
{
    uint32_t n = 0, handle;

    if (!atomic_load_explicit(&pool->dropped, memory_order_relaxed))
        return 0;
    handle = atomic_exchange_explicit(&pool->dropped, 0, memory_order_acquire);
    while (handle) {
        uint32_t next = (uint32_t)atomic_load_explicit(header_of(pool, handle), memory_order_relaxed);
        pool_free(pool, handle);
        handle = next;
        n++;
    }
    return n;
}

/* ---- compaction */

bool pool_sparse(const struct pool *pool)
{
    uint64_t host = pool->used_blocks * BLOCK_BYTES, waste = host - pool->used_bytes;

    /* each class may have a block that is being filled */
    return waste > SPARSE_MIN + (uint64_t)CLASSES * BLOCK_BYTES / 2 && waste > host / 4;
}

/* A block of the class that is worth emptying into others, which have room. */
static uint32_t emptiest(const struct pool *p, uint32_t class)
{
    uint32_t block = 0;
    bool others = false;

    for (uint32_t f = 0; f < FULLNESS; f++) {
        others |= block && p->partial[class][f];
        if (!block && f < FULLNESS / 2 && p->partial[class][f]) {
            block = p->partial[class][f];
            others = block_at(p, block)->next;
        }
    }
    return others ? block : 0;
}

/* Out of the lists meanwhile, so that nothing is moved into it. */
static uint32_t block_evacuate(struct pool *p, uint32_t block, pool_moved_fn *fn, void *ctx)
{
    struct block *b = block_at(p, block);
    uint32_t class = b->class, n = 0;

    list_remove(p, block);
    for (uint32_t slot = 0; slot < b->fresh; slot++) {
        _Atomic uint64_t *header = slot_header(p, block, slot, class);
        uint64_t is = atomic_load_explicit(header, memory_order_relaxed);
        if (!(is & LIVE))
            continue;
        uint32_t to = pool_put(p, (char *)header + HEADER_BYTES, header_bytes(is), header_owner(is));
        if (!to)
            break;
        if (fn(ctx, header_owner(is), handle_make(block, slot), to)) {
            atomic_store_explicit(header, b->free, memory_order_relaxed);
            b->free = (uint16_t)slot;
            b->used--;
            p->objects--;
            p->used_bytes -= class_bytes(class);
            n++;
        } else {
            pool_free(p, to);
        }
    }
    if (b->used)
        list_add(p, block);
    else
        block_give_back(p, block);
    return n;
}

uint32_t pool_compact(struct pool *pool, uint32_t most, pool_moved_fn *fn, void *ctx)
{
    uint32_t n = 0;

    for (uint32_t class = 0; class < CLASSES && n < most; class ++) {
        uint32_t block = emptiest(pool, class);
        if (block)
            n += block_evacuate(pool, block, fn, ctx);
    }
    return n;
}

/* ---- life */

struct pool_counts pool_count(const struct pool *pool)
{
    return (struct pool_counts){.objects = pool->objects,
                                .used_bytes = pool->used_bytes,
                                .host_bytes = pool->used_blocks * BLOCK_BYTES};
}

struct pool *pool_open(void)
{
    struct pool *p = calloc(1, sizeof *p);

    if (p)
        p->nblocks = 1;
    return p;
}

void pool_close(struct pool *pool)
{
    for (uint32_t i = 0; pool && i < ARENAS_MAX && pool->blocks[i]; i++) {
        munmap(atomic_load(&pool->arena[i]), ARENA_BYTES);
        munmap(pool->blocks[i], ARENA_BLOCKS * sizeof(struct block));
    }
    free(pool);
}
