/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see exports.h. Publishing: publish.c. */
#include "memd/daemon/exports.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/export.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_BYTES     512u
#define ROOM_MIN       64u
#define JOIN_LOOK      4u /* waiters looked at, from either end, for a page that joins twice */
#define HAND_OVER_LOOK 64u

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
    return exports->room * sizeof(struct export) + exports->waiting * sizeof(uint64_t);
}

/* ---------------------------------------------------------------- records */

static uint32_t export_new(struct exports *exports)
{
    if (exports->used == exports->room) {
        uint32_t room = exports->room ? exports->room * 2 : ROOM_MIN;
        struct export *at = room > EXPORTS_MAX ? NULL : realloc(exports->at, room * sizeof *at);
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

void export_free(struct exports *exports, uint32_t number)
{
    struct export *e = &exports->at[number];

    exports->waiting -= e->room;
    free(e->waiter);
    *e = (struct export){.next = exports->free};
    exports->free = number;
    if (!--exports->used && exports->room > ROOM_MIN)
        exports_close(exports);
}

static void enqueue(struct exports *exports, struct session *session, uint32_t number)
{
    struct exports_queue *queue = &session->exports;

    exports->at[number].next = EXPORTS_NONE;
    if (queue->n)
        exports->at[queue->last].next = number;
    else
        queue->first = number;
    queue->last = number;
    if (++queue->n == EXPORTS_QUEUE_HIGH && !queue->held_back)
        queue->held_back = session->budget_due = true;
    channel_wake(session);
}

static uint32_t dequeue(struct exports *exports, struct session *session)
{
    struct exports_queue *queue = &session->exports;
    uint32_t number = queue->first;

    queue->first = exports->at[number].next;
    if (--queue->n == EXPORTS_QUEUE_LOW && queue->held_back) {
        queue->held_back = false;
        session->budget_due = true;
        channel_wake(session);
    }
    return number;
}

struct region *export_region(const struct export *e, uint64_t id, uint32_t *ret_page)
{
    struct region *region = pages_region(&e->domain->core->pages, id);

    if (!region || region->vm->domain != e->domain || !region->map || !region->vm->session ||
        region->vm->session->state != SESSION_LIVE || !region->vm->merge_on ||
        id - region->first_id >= region->npages)
        return NULL;
    *ret_page = (uint32_t)(id - region->first_id);
    return region_page_is(region, *ret_page, wire_tag_of_hash(e->hash)) ? region : NULL;
}

/* ---------------------------------------------------------------- starting */

/* The frame after that of the page before this one; 0 if that page has none. */
static uint32_t frame_after(const struct region *region, uint32_t page)
{
    uint32_t frame = page ? holdings_frame(&region->holdings, page - 1) : 0;

    return frame ? frame + 1 : 0;
}

/* The same for a page whose neighbour's frame is still in the making: the latest this session started. */
static uint32_t frame_after_latest(const struct exports *exports, const struct session *session, uint64_t id)
{
    if (!session->exports.n)
        return 0;
    const struct export *e = &exports->at[session->exports.last];
    return export_waiters(e)[0] + 1 == id ? e->frame + 1 : 0;
}

static bool is_free(const struct store *store, uint32_t number)
{
    uint32_t index = number & WIRE_FRAME_INDEX_MASK;

    return number >> WIRE_FRAME_NODE_SHIFT == store->node && index && index < store->nframes &&
           !(store->taken[index / 64] >> (index % 64) & 1);
}

/* A frame next to those of the neighbours of either page, or else the next of the lease. Index; 0: none. */
static uint32_t take_frame(struct store *store, struct region *region, uint32_t page, uint64_t other)
{
    const struct core *core = region->vm->core;
    struct session *session = region->vm->session;
    const struct region *of = pages_region(&core->pages, other);
    const uint32_t wanted[] = {
        frame_after_latest(&core->exports, session, region->first_id + page),
        frame_after(region, page),
        of ? frame_after(of, (uint32_t)(other - of->first_id)) : 0,
    };

    for (unsigned i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (wanted[i] && is_free(store, wanted[i])) {
            uint32_t index = wanted[i] & WIRE_FRAME_INDEX_MASK;
            return store_take(store, &(struct store_lease){.next = index, .end = index + 1});
        }
    return store_take(store, &session->lease[store->node]);
}

int exports_start(struct region *region, uint32_t page, uint64_t hash, unsigned node, uint64_t other)
{
    struct session *session = region->vm->session;
    struct domain *domain = region->vm->domain;
    struct core *core = domain->core;
    struct store *store = &domain->stores[node];

    if (session->exports.n >= EXPORTS_QUEUE_MAX)
        return -EAGAIN;
    uint32_t number = export_new(&core->exports);
    if (number == EXPORTS_NONE)
        return -EAGAIN;
    uint32_t index = take_frame(store, region, page, other);
    if (!index) {
        export_free(&core->exports, number);
        domain_ran_full(domain);
        core_warn(core,
                  "the frame store of domain %s is full: nothing new is merged there; raise store-max or "
                  "enlarge the tmpfs it lies on",
                  domain->name);
        return -ENOSPC;
    }
    struct frame *frame = &store->frames[index];
    if (index_add(domain_index(domain, node), hash, frame) != frame) {
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

static int waiters_grow(struct exports *exports, struct export *e)
{
    uint32_t room = e->nwaiters * 2;

    if (e->nwaiters >= EXPORTS_WAITERS_MAX || exports->waiting + room > EXPORTS_WAITING_MAX)
        return -EAGAIN;
    uint64_t *grown = realloc(e->waiter, room * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    if (!e->waiter)
        memcpy(grown, e->few, sizeof e->few);
    exports->waiting += room - e->room;
    e->waiter = grown;
    e->room = room;
    return 0;
}

int exports_join(struct core *core, struct frame *frame, uint64_t page_id)
{
    struct export *e = &core->exports.at[frame->refs];
    const uint64_t *list = export_waiters(e);

    /* one that came twice would be told twice, which is harmless */
    for (uint32_t i = 0; i < e->nwaiters && i < JOIN_LOOK; i++)
        if (list[i] == page_id || list[e->nwaiters - 1 - i] == page_id)
            return 0;
    if (e->nwaiters == (e->waiter ? e->room : EXPORT_FEW)) {
        int err = waiters_grow(&core->exports, e);
        if (err)
            return err;
    }
    e->waiter[e->nwaiters++] = page_id;
    return 0;
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
static uint32_t head_run(const struct exports *exports, const struct exports_queue *queue)
{
    uint32_t n = 1, number = queue->first;
    uint64_t id = export_waiters(&exports->at[number])[0];

    for (number = exports->at[number].next; n < queue->n && n < WIRE_EXPORT_SLOTS; n++) {
        if (export_waiters(&exports->at[number])[0] != id + n)
            break;
        number = exports->at[number].next;
    }
    return n;
}

/* Another of the pages is copied, or the frame is given up and the last page left is a candidate again. */
void export_fail_over(struct core *core, uint32_t number)
{
    struct export *e = &core->exports.at[number];
    struct region *region = NULL;
    uint32_t page, kept = 0;

    for (uint32_t i = 1; i < e->nwaiters; i++) {
        struct region *of = export_region(e, export_waiters(e)[i], &page);
        if (of)
            (e->waiter ? e->waiter : e->few)[kept++] = export_waiters(e)[i];
        region = region ? region : of;
    }
    e->nwaiters = kept;
    if (kept > 1 && region->vm->session->exports.n < EXPORTS_QUEUE_MAX) {
        enqueue(&core->exports, region->vm->session, number);
        return;
    }
    struct domain *domain = e->domain;
    uint32_t frame = e->frame;
    struct index *index = domain_index(domain, frame >> WIRE_FRAME_NODE_SHIFT);
    for (uint32_t i = 0; i < kept && i < EXPORT_FEW; i++)
        candidates_insert(&index->candidates, e->hash, export_waiters(e)[i]);
    export_free(&core->exports, number);
    domain_frame(domain, frame)->refs = 0;
    domain_drop_unseen(domain, frame);
}

/* Have another engine asked, if one has the page, too. The page of this one goes on waiting. */
static bool hand_over(struct core *core, const struct session *from, uint32_t number)
{
    struct export *e = &core->exports.at[number];
    uint64_t *list = e->waiter ? e->waiter : e->few;
    uint32_t page;

    for (uint32_t i = 1; i < e->nwaiters && i < HAND_OVER_LOOK; i++) {
        const struct region *region = export_region(e, list[i], &page);
        if (!region || region->vm->session == from || region->vm->session->exports.n >= EXPORTS_QUEUE_MAX)
            continue;
        uint64_t id = list[0];
        list[0] = list[i];
        list[i] = id;
        enqueue(&core->exports, region->vm->session, number);
        return true;
    }
    return false;
}

/* The engine does not answer. Its slots stay in use until it does. */
static void hand_over_all(struct session *session)
{
    struct exports_queue *queue = &session->exports;

    for (uint32_t left = queue->n; left; left--) {
        uint32_t number = dequeue(&session->core->exports, session);
        if (!hand_over(session->core, session, number))
            enqueue(&session->core->exports, session, number);
    }
    for (uint32_t slot = 0; slot < WIRE_EXPORT_SLOTS; slot++)
        if (queue->busy >> slot & 1 && queue->slot[slot] != EXPORTS_NONE &&
            hand_over(session->core, session, queue->slot[slot]))
            queue->slot[slot] = EXPORTS_NONE;
}

static bool has_timed_out(const struct exports_queue *queue)
{
    return queue->busy && clock_now_ns() - queue->asked_ns > EXPORTS_TIMEOUT_MS * CLOCK_MS;
}

static bool ask(struct session *session, const struct region *region, uint32_t page, uint32_t slot,
                uint32_t n)
{
    struct exports_queue *queue = &session->exports;
    struct wire_rec_export *rec = channel_reserve(session, WIRE_REC_EXPORT, sizeof *rec, KEEP_BYTES);

    if (!rec)
        return false;
    rec->r.region = region->id;
    rec->page = page;
    rec->count = (uint16_t)n;
    rec->slot = (uint16_t)slot;
    if (!queue->busy)
        queue->asked_ns = clock_now_ns();
    queue->group[slot] = (uint8_t)n;
    queue->region[slot] = region->id;
    queue->page[slot] = page;
    for (uint32_t i = 0; i < n; i++) {
        queue->slot[slot + i] = dequeue(&session->core->exports, session);
        queue->busy |= 1u << (slot + i);
    }
    return true;
}

void exports_flush(struct session *session)
{
    struct exports *exports = &session->core->exports;
    struct exports_queue *queue = &session->exports;

    if (has_timed_out(queue)) {
        queue->asked_ns = clock_now_ns();
        hand_over_all(session);
    }
    while (queue->n && queue->busy != UINT32_MAX) {
        uint32_t page, slot = 0;
        const struct export *e = &exports->at[queue->first];
        struct region *region = export_region(e, export_waiters(e)[0], &page);
        if (!region || region->vm->session != session) {
            export_fail_over(session->core, dequeue(exports, session));
            continue;
        }
        uint32_t n = find_slots(queue->busy, head_run(exports, queue), &slot);
        if (n > region->npages - page)
            n = (uint32_t)(region->npages - page);
        if (!ask(session, region, page, slot, n))
            return;
    }
}

void exports_abandon(struct session *session)
{
    struct exports_queue *queue = &session->exports;

    while (queue->n)
        export_fail_over(session->core, dequeue(&session->core->exports, session));
    for (uint32_t slot = 0; slot < WIRE_EXPORT_SLOTS; slot++)
        if (queue->busy >> slot & 1 && queue->slot[slot] != EXPORTS_NONE)
            export_fail_over(session->core, queue->slot[slot]);
    exports_queue_init(queue);
}
