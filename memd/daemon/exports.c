/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see exports.h. */
#include "memd/daemon/exports.h"

#include "memd/daemon/channel.h"
#include "memd/daemon/matcher.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define KEEP_BYTES     512u
#define WAITERS_MIN    2u
#define PARALLEL_RUNS  4u /* waiters of neighbouring exports are told in runs, this many at a time */

/* One frame in the making. Waiters are page numbers (pages.h); the first is the page that is copied. */
struct export {
    struct domain *domain;
    struct session *session; /* whose page is copied */
    uint64_t hash;
    uint32_t frame, next; /* in the session's queue, or in the free list */
    uint64_t *waiter;     /* more than two; else in `few` */
    uint32_t nwaiters, room;
    uint64_t few[WAITERS_MIN];
};

static uint64_t *waiters(struct export *e)
{
    return e->waiter ? e->waiter : e->few;
}

void exports_queue_init(struct exports_queue *queue)
{
    *queue = (struct exports_queue){.first = EXPORTS_NONE, .last = EXPORTS_NONE};
}

void exports_close(struct exports *exports)
{
    for (uint32_t i = 0; i < exports->room; i++)
        free(exports->at[i].waiter);
    free(exports->at);
    *exports = (struct exports){0};
}

size_t exports_bytes(const struct exports *exports)
{
    return exports->room * sizeof(struct export);
}

/* ---------------------------------------------------------------- records */

static uint32_t export_new(struct exports *exports)
{
    if (exports->used == exports->room) {
        uint32_t room = exports->room ? exports->room * 2 : 64;
        struct export *at = realloc(exports->at, room * sizeof *at);
        if (!at)
            return EXPORTS_NONE;
        memset(at + exports->room, 0, (room - exports->room) * sizeof *at);
        for (uint32_t i = exports->room; i < room; i++)
            at[i].next = i + 1 < room ? i + 1 : EXPORTS_NONE;
        exports->free = exports->room;
        exports->at = at;
        exports->room = room;
    }
    uint32_t number = exports->free;
    exports->free = exports->at[number].next;
    exports->used++;
    return number;
}

static void export_free(struct exports *exports, uint32_t number)
{
    struct export *e = &exports->at[number];

    free(e->waiter);
    *e = (struct export){.next = exports->free};
    exports->free = number;
    if (!--exports->used) /* the table of a busy hour is not kept */
        exports_close(exports);
}

static void enqueue(struct exports *exports, struct session *session, uint32_t number)
{
    struct exports_queue *queue = &session->exports;

    exports->at[number].session = session;
    exports->at[number].next = EXPORTS_NONE;
    if (queue->n)
        exports->at[queue->last].next = number;
    else
        queue->first = number;
    queue->last = number;
    queue->n++;
    channel_wake(session);
}

static uint32_t dequeue(struct exports *exports, struct exports_queue *queue)
{
    uint32_t number = queue->first;

    queue->first = exports->at[number].next;
    queue->n--;
    return number;
}

/* The region and page of a number, if it is still of this domain, connected, and by its map unchanged. */
static struct region *waiter_region(struct export *e, uint64_t id, uint32_t *ret_page)
{
    struct region *region = pages_region(&e->domain->core->pages, id);

    if (!region || region->vm->domain != e->domain || !region->vm->session ||
        region->vm->session->state != SESSION_LIVE || !region->vm->merge_on)
        return NULL;
    *ret_page = (uint32_t)(id - region->first_id);
    return *ret_page < region->npages && region_page_is(region, *ret_page, wire_tag_of_hash(e->hash)) ? region
                                                                                                      : NULL;
}

/* ---------------------------------------------------------------- starting */

int exports_start(struct region *region, uint32_t page, uint64_t hash, unsigned node, uint64_t other)
{
    struct session *session = region->vm->session;
    struct domain *domain = region->vm->domain;
    struct core *core = domain->core;
    struct store *store = &domain->stores[node];

    if (session->exports.n >= EXPORTS_QUEUE_MAX)
        return -EAGAIN;
    uint32_t index = store_take(store, &session->lease[node]);
    if (!index) {
        core_warn(core, "the frame store of domain %s is full: nothing new is merged there; raise store-max or "
                        "enlarge the tmpfs it lies on",
                  domain->name);
        return -ENOSPC;
    }
    struct frame *frame = &store->frames[index];
    uint32_t number = export_new(&core->exports);
    if (number == EXPORTS_NONE || index_add(domain_index(domain, node), hash, frame) != frame) {
        if (number != EXPORTS_NONE)
            export_free(&core->exports, number);
        store_free(store, index, 1);
        return -ENOMEM;
    }
    frame->refs = number;
    core->exports.at[number] = (struct export){.domain = domain,
                                               .hash = hash,
                                               .frame = store_frame_number(store, index),
                                               .nwaiters = 2,
                                               .few = {region->first_id + page, other}};
    enqueue(&core->exports, session, number);
    return 0;
}

void exports_join(struct core *core, struct frame *frame, uint64_t page_id)
{
    struct export *e = &core->exports.at[frame->refs];

    for (uint32_t i = 0; i < e->nwaiters && i < 8; i++)
        if (waiters(e)[i] == page_id)
            return;
    if (e->nwaiters >= EXPORTS_WAITERS_MAX)
        return;
    if (e->nwaiters == (e->waiter ? e->room : WAITERS_MIN)) {
        uint32_t room = e->nwaiters * 2;
        uint64_t *grown = realloc(e->waiter, room * sizeof *grown);
        if (!grown)
            return;
        if (!e->waiter)
            memcpy(grown, e->few, sizeof e->few);
        e->waiter = grown;
        e->room = room;
    }
    e->waiter[e->nwaiters++] = page_id;
}

/* ---------------------------------------------------------------- asking */

/* Where `n` free slots follow each other; returns how many were found, at most n. */
static uint32_t find_slots(uint32_t busy, uint32_t n, uint32_t *ret_slot)
{
    uint32_t best = 0;

    for (uint32_t slot = 0, len = 0; slot < WIRE_EXPORT_SLOTS && best < n; slot++) {
        len = busy >> slot & 1 ? 0 : len + 1;
        if (len > best) {
            best = len;
            *ret_slot = slot + 1 - len;
        }
    }
    return best < n ? best : n;
}

/* How many at the head of the queue are for consecutive pages. */
static uint32_t head_run(struct exports *exports, const struct exports_queue *queue)
{
    uint32_t n = 1, number = queue->first;
    uint64_t id = waiters(&exports->at[number])[0];

    for (number = exports->at[number].next; n < queue->n && n < WIRE_EXPORT_SLOTS; n++) {
        if (waiters(&exports->at[number])[0] != id + n)
            break;
        number = exports->at[number].next;
    }
    return n;
}

static void fail_over(struct core *core, uint32_t number);

void exports_flush(struct session *session)
{
    struct exports *exports = &session->core->exports;
    struct exports_queue *queue = &session->exports;

    while (queue->n && queue->busy != UINT32_MAX) {
        uint32_t page, slot = 0;
        struct export *e = &exports->at[queue->first];
        struct region *region = waiter_region(e, waiters(e)[0], &page);
        if (!region || region->vm->session != session) {
            fail_over(session->core, dequeue(exports, queue));
            continue;
        }
        uint32_t n = find_slots(queue->busy, head_run(exports, queue), &slot);
        if (n > region->npages - page)
            n = (uint32_t)(region->npages - page);
        struct wire_rec_export *rec = channel_reserve(session, WIRE_REC_EXPORT, sizeof *rec, KEEP_BYTES);
        if (!rec)
            return;
        rec->r.region = region->id;
        rec->page = page;
        rec->count = (uint16_t)n;
        rec->slot = (uint16_t)slot;
        queue->group[slot] = (uint8_t)n;
        for (uint32_t i = 0; i < n; i++) {
            queue->slot[slot + i] = dequeue(exports, queue);
            queue->busy |= 1u << (slot + i);
        }
    }
}

/* ---------------------------------------------------------------- publishing */

static void publish(struct core *core, uint32_t number, struct proposal_run *run)
{
    struct export *e = &core->exports.at[number];
    struct frame *frame = domain_frame(e->domain, e->frame);

    frame->refs = 0;
    frame->state = FRAME_LIVE;
    for (uint32_t i = 0; i < e->nwaiters; i++) {
        uint32_t page;
        struct region *region = waiter_region(e, waiters(e)[i], &page);
        if (region)
            proposals_add(&run[i < PARALLEL_RUNS ? i : PARALLEL_RUNS - 1], region, page, e->frame);
    }
}

/* Another of the pages is copied, or the frame is given up and the last page left is a candidate again. */
static void fail_over(struct core *core, uint32_t number)
{
    struct export *e = &core->exports.at[number];
    uint64_t *list = waiters(e);
    struct region *region = NULL;
    uint32_t page, kept = 0;

    for (uint32_t i = 1; i < e->nwaiters; i++) {
        struct region *of = waiter_region(e, list[i], &page);
        if (of)
            list[kept++] = list[i];
        region = region ? region : of;
    }
    e->nwaiters = kept;
    if (kept > 1 && region->vm->session->exports.n < EXPORTS_QUEUE_MAX) {
        enqueue(&core->exports, region->vm->session, number);
        return;
    }
    struct domain *domain = e->domain;
    uint32_t frame = e->frame;
    if (kept)
        candidates_insert(&domain_index(domain, frame >> WIRE_FRAME_NODE_SHIFT)->candidates, e->hash, list[0]);
    export_free(&core->exports, number);
    domain_frame(domain, frame)->refs = 0;
    domain_drop_unseen(domain, frame);
}

/* Nobody was told of it after all: every page had changed. */
static void drop_if_unused(struct domain *domain, uint32_t number)
{
    struct frame *frame = domain_frame(domain, number);

    if (frame->state == FRAME_LIVE && !frame->refs)
        domain_drop_unseen(domain, number);
}

static bool write_frame(struct core *core, uint32_t number, const void *bytes)
{
    struct export *e = &core->exports.at[number];
    uint64_t hash = XXH3_64bits(bytes, WIRE_PAGE_BYTES);

    if ((hash ? hash : 1) != e->hash)
        return false;
    struct store *store = domain_store(e->domain, e->frame);
    int err = store_write(store, e->frame & WIRE_FRAME_INDEX_MASK, 1, bytes);
    if (err == -ENOSPC)
        core_warn(core, "the tmpfs of the frame store is full: nothing new is merged in domain %s",
                  e->domain->name);
    return !err;
}

int exports_done(struct session *session, const struct wire_rec_export *answer)
{
    static uint8_t bytes[WIRE_EXPORT_SLOTS][WIRE_PAGE_BYTES];
    struct exports_queue *queue = &session->exports;
    struct core *core = session->core;
    struct proposal_run run[PARALLEL_RUNS] = {0};
    struct domain *domain = session->vm->domain;
    uint32_t slot = answer->slot, n, number[WIRE_EXPORT_SLOTS], frame[WIRE_EXPORT_SLOTS];
    bool good[WIRE_EXPORT_SLOTS];

    if (slot >= WIRE_EXPORT_SLOTS || !queue->group[slot] ||
        (answer->count && answer->count != queue->group[slot]))
        return -EPROTO;
    n = queue->group[slot];
    memcpy(bytes, session->shm->exports[slot], n * sizeof bytes[0]);
    memcpy(number, &queue->slot[slot], n * sizeof number[0]);
    queue->group[slot] = 0;
    for (uint32_t i = 0; i < n; i++)
        queue->busy &= ~(1u << (slot + i));
    for (uint32_t i = 0; i < n; i++) {
        frame[i] = core->exports.at[number[i]].frame;
        good[i] = answer->count && write_frame(core, number[i], bytes[i]);
        if (good[i])
            publish(core, number[i], run);
    }
    for (uint32_t i = 0; i < PARALLEL_RUNS; i++)
        proposals_send(&run[i]);
    for (uint32_t i = 0; i < n; i++) {
        if (!good[i]) {
            fail_over(core, number[i]);
            continue;
        }
        export_free(&core->exports, number[i]);
        drop_if_unused(domain, frame[i]);
    }
    return 0;
}

void exports_abandon(struct session *session)
{
    struct exports_queue *queue = &session->exports;

    while (queue->n)
        fail_over(session->core, dequeue(&session->core->exports, queue));
    for (uint32_t slot = 0; slot < WIRE_EXPORT_SLOTS; slot++)
        if (queue->busy >> slot & 1)
            fail_over(session->core, queue->slot[slot]);
    exports_queue_init(queue);
}
