/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see proposals.h. */
#include "memd/daemon/proposals.h"

#include "memd/daemon/channel.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_ROOM_MIN 64u
#define KEEP_BYTES     512u /* of the down ring, for what is not a proposal */

/* ---------------------------------------------------------------- the queue */

static int queue_grow(struct proposals *queue)
{
    uint32_t room = queue->room ? queue->room * 2 : QUEUE_ROOM_MIN;
    struct proposal *at = malloc(room * sizeof *at);

    if (!at)
        return -ENOMEM;
    for (uint32_t i = 0; i < queue->n; i++)
        at[i] = queue->at[(queue->head + i) % queue->room];
    free(queue->at);
    *queue = (struct proposals){.at = at, .n = queue->n, .room = room};
    return 0;
}

static int queue_put(struct proposals *queue, const struct proposal *p)
{
    if (queue->n >= PROPOSALS_QUEUE_MAX || (queue->n == queue->room && queue_grow(queue)))
        return -ENOSPC;
    queue->at[(queue->head + queue->n++) % queue->room] = *p;
    return 0;
}

static struct proposal queue_take(struct proposals *queue)
{
    struct proposal p = queue->at[queue->head];

    queue->head = (queue->head + 1) % queue->room;
    if (!--queue->n) {
        free(queue->at);
        *queue = (struct proposals){0};
    }
    return p;
}

/* ---------------------------------------------------------------- sending */

static bool write_merge(struct session *session, struct region *region, const struct proposal *p)
{
    struct wire_rec_merge *rec = channel_reserve(session, WIRE_REC_MERGE, sizeof *rec, KEEP_BYTES);

    if (!rec)
        return false;
    rec->r.region = p->region;
    rec->page = p->page;
    rec->frame = p->frame;
    rec->count = p->count;
    rec->reserved = 0;
    rec->id = ++session->next_merge_id;
    session->unanswered++;
    region->unanswered++;
    return true;
}

static void give_up(struct session *session, struct region *region, const struct proposal *p)
{
    region_drop(region, p->page, p->count, p->frame);
    session->pending_pages -= p->count;
    region->vm->dropped_proposals += p->count;
}

/* A page may be proposed to twice: what is held already is left out. */
static void hold_and_send(struct region *region, uint32_t page, uint32_t count, uint32_t frame)
{
    struct session *session = region->vm->session;
    struct proposal p = {.region = region->id, .page = page, .frame = frame, .count = (uint16_t)count};
    int err = region_hold(region, page, count, frame);

    if (err == -EEXIST && count > 1) {
        hold_and_send(region, page, count / 2, frame);
        hold_and_send(region, page + count / 2, count - count / 2, frame + count / 2);
        return;
    }
    if (err)
        return;
    session->pending_pages += count;
    if (!session->proposals.n && write_merge(session, region, &p))
        return;
    if (queue_put(&session->proposals, &p))
        give_up(session, region, &p);
    channel_wake(session);
}

void proposals_send(struct proposal_run *run)
{
    struct region *region = run->region;

    if (run->count && region->vm->session && region->vm->session->state == SESSION_LIVE &&
        region->vm->merge_on && region->map)
        hold_and_send(region, run->page, run->count, run->frame);
    run->count = 0;
}

/* Engines cut by address, holdings by page: a proposal stays within both. */
static bool starts_chunk(const struct region *region, uint32_t page)
{
    return page % WIRE_CHUNK_PAGES == 0 ||
           (region->map->hva / WIRE_PAGE_BYTES + page) % WIRE_CHUNK_PAGES == 0;
}

void proposals_add(struct proposal_run *run, struct region *region, uint32_t page, uint32_t frame)
{
    if (run->count && (run->region != region || run->page + run->count != page ||
                       run->frame + run->count != frame || starts_chunk(region, page)))
        proposals_send(run);
    if (!run->count)
        *run = (struct proposal_run){.region = region, .page = page, .frame = frame};
    run->count++;
}

void proposals_flush(struct session *session)
{
    while (session->proposals.n) {
        struct proposal *p = &session->proposals.at[session->proposals.head];
        struct region *region = session->vm->region[p->region];
        bool held = region && region->map && holdings_has(&region->holdings, p->page, p->count, p->frame);
        if (held && !write_merge(session, region, p))
            return;
        if (!held)
            session->pending_pages -= p->count;
        queue_take(&session->proposals);
    }
}

void proposals_drop_all(struct session *session)
{
    while (session->proposals.n) {
        struct proposal p = queue_take(&session->proposals);
        struct region *region = session->vm->region[p.region];
        if (region && holdings_has(&region->holdings, p.page, p.count, p.frame))
            give_up(session, region, &p);
        else
            session->pending_pages -= p.count;
    }
}

/* ---------------------------------------------------------------- the answer */

int proposals_result(struct session *session, const struct wire_rec_result *result)
{
    struct region *region = session->vm->region[result->r.region];
    uint32_t merged = 0;

    if (!result->count || result->count > WIRE_CHUNK_PAGES || result->page >= region->npages ||
        result->count > region->npages - result->page || !session->unanswered || !region->unanswered ||
        session->pending_pages < result->count)
        return -EPROTO;
    for (uint32_t i = 0; i < result->count; i++) {
        uint32_t page = result->page + i, frame = result->frame + i;
        if (result->merged[i / 64] >> (i % 64) & 1) {
            if (!holdings_has(&region->holdings, page, 1, frame))
                return -EPROTO;
            merged++;
        } else {
            int err = region_drop(region, page, 1, frame);
            if (err)
                return err == -ENOENT ? -EPROTO : err;
        }
    }
    session->unanswered--;
    region->unanswered--;
    session->pending_pages -= result->count;
    session->vm->merged_ever += merged;
    region_settle_deleted(region);
    return 0;
}
