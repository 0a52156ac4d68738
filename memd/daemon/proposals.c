/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see proposals.h. */
#include "memd/daemon/proposals.h"

#include "memd/common/clock.h"
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
    queue->at = at;
    queue->head = 0;
    queue->room = room;
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
        queue->at = NULL;
        queue->head = queue->room = 0;
    }
    return p;
}

/* ---------------------------------------------------------------- doubts */

static uint8_t *doubt(const struct proposals *proposals, uint32_t region, uint32_t page, uint32_t frame)
{
    uint64_t pair = ((uint64_t)page << 32 | frame) ^ (uint64_t)region << 58;

    return &proposals->doubts[(pair * 0x9e3779b97f4a7c15ull) >> 48];
}
static_assert(PROPOSALS_DOUBTS_BYTES == 1u << 16, "16 bits find a doubt");

static void doubts_add(struct proposals *proposals, const struct region *region, uint32_t page,
                       uint32_t count, uint32_t frame)
{
    if (!proposals->doubts) {
        proposals->doubts = calloc(1, PROPOSALS_DOUBTS_BYTES);
        proposals->doubts_ns = clock_now_ns();
    }
    for (uint32_t i = 0; proposals->doubts && i < count; i++) {
        uint8_t *counter = doubt(proposals, region->id, page + i, frame + i);
        *counter += *counter < 2 * PROPOSALS_DOUBTS_MAX;
    }
}

static void doubts_halve(struct proposals *proposals)
{
    uint8_t any = 0;

    if (!proposals->doubts || clock_now_ns() - proposals->doubts_ns < PROPOSALS_DOUBTS_MS * CLOCK_MS)
        return;
    proposals->doubts_ns = clock_now_ns();
    for (uint32_t i = 0; i < PROPOSALS_DOUBTS_BYTES; i++)
        any |= proposals->doubts[i] /= 2;
    if (any)
        return;
    free(proposals->doubts);
    proposals->doubts = NULL;
}

static bool is_doubted(const struct region *region, uint32_t page, uint32_t frame)
{
    const struct session *session = region->vm->session;

    return session && session->proposals.doubts &&
           *doubt(&session->proposals, region->id, page, frame) >= PROPOSALS_DOUBTS_MAX;
}

/* ---------------------------------------------------------------- sending */

static bool write_merge(struct session *session, const struct proposal *p)
{
    struct wire_rec_merge *rec = session->unanswered < PROPOSALS_UNANSWERED_MAX
                                     ? channel_reserve(session, WIRE_REC_MERGE, sizeof *rec, KEEP_BYTES)
                                     : NULL;

    if (!rec)
        return false;
    rec->r.region = p->region;
    rec->page = p->page;
    rec->frame = p->frame;
    rec->count = p->count;
    rec->reserved = 0;
    rec->id = ++session->next_merge_id;
    session->unanswered++;
    return true;
}

/* A region counts proposals that wait as unanswered, too: so it stays, and with it what they hold. Unless the
 * engine has answered what it was not sent: it may then be gone (NULL), or another one. */
static void give_up(struct session *session, struct region *region, const struct proposal *p)
{
    session->pending_pages -= p->count;
    session->vm->dropped_proposals += p->count;
    if (!region)
        return;
    region_drop(region, p->page, p->count, p->frame);
    region->unanswered -= region->unanswered > 0;
    if (!session->ended) /* else the VM keeps what it holds until it is back */
        region_settle_deleted(region);
}

/* Between finding a frame and this, its last reference may have gone. */
static bool are_live(struct domain *domain, uint32_t frame, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (domain_frame(domain, frame + i)->state != FRAME_LIVE)
            return false;
    return true;
}

/* Pages that hold the frame already, and frames that are gone, are left out. */
static void hold_and_send(struct region *region, uint32_t page, uint32_t count, uint32_t frame)
{
    struct session *session = region->vm->session;
    struct proposal p = {.region = region->id, .page = page, .frame = frame, .count = (uint16_t)count};
    int err = are_live(region->vm->domain, frame, count) ? region_hold(region, page, count, frame) : -ESTALE;

    if ((err == -EEXIST || err == -ESTALE) && count > 1) {
        hold_and_send(region, page, count / 2, frame);
        hold_and_send(region, page + count / 2, count - count / 2, frame + count / 2);
        return;
    }
    if (err)
        return;
    region->unanswered++;
    session->pending_pages += count;
    if (!session->proposals.n && write_merge(session, &p))
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
    if (is_doubted(region, page, frame))
        return;
    if (run->count && (run->region != region || run->page + run->count != page ||
                       run->frame + run->count != frame || starts_chunk(region, page)))
        proposals_send(run);
    if (!run->count)
        *run = (struct proposal_run){.region = region, .page = page, .frame = frame};
    run->count++;
}

void proposals_flush(struct session *session)
{
    doubts_halve(&session->proposals);
    while (session->proposals.n) {
        struct proposal p = session->proposals.at[session->proposals.head];
        struct region *region = session->vm->region[p.region];
        bool live = region && region->map;
        if (live && !write_merge(session, &p))
            return;
        queue_take(&session->proposals);
        if (!live)
            give_up(session, region, &p);
    }
}

void proposals_drop_all(struct session *session)
{
    while (session->proposals.n) {
        struct proposal p = queue_take(&session->proposals);
        give_up(session, session->vm->region[p.region], &p);
    }
    if (session->ended) {
        free(session->proposals.doubts);
        session->proposals.doubts = NULL;
    }
}

size_t proposals_bytes(const struct proposals *proposals)
{
    return proposals->room * sizeof(struct proposal) + (proposals->doubts ? PROPOSALS_DOUBTS_BYTES : 0);
}

/* ---------------------------------------------------------------- the answer */

static bool is_merged(const struct wire_rec_result *result, uint32_t i)
{
    return result->merged[i / 64] >> (i % 64) & 1;
}

static int take_stretch(struct session *session, struct region *region, const struct wire_rec_result *result,
                        uint32_t i, uint32_t n)
{
    uint32_t page = result->page + i, frame = result->frame + i;

    if (!holdings_has(&region->holdings, page, n, frame))
        return -EPROTO;
    if (is_merged(result, i)) {
        session->vm->merged_ever += n;
        return 0;
    }
    if (result->why == WIRE_WHY_DIFFERS)
        doubts_add(&session->proposals, region, page, n, frame);
    return region_drop(region, page, n, frame);
}

int proposals_result(struct session *session, const struct wire_rec_result *result)
{
    struct region *region = session->vm->region[result->r.region];

    if (!result->count || result->count > WIRE_CHUNK_PAGES || result->page >= region->answer_pages ||
        result->count > region->answer_pages - result->page || !session->unanswered || !region->unanswered ||
        session->pending_pages < result->count)
        return -EPROTO;
    for (uint32_t i = 0, n; i < result->count; i += n) {
        for (n = 1; i + n < result->count && is_merged(result, i + n) == is_merged(result, i);)
            n++;
        int err = take_stretch(session, region, result, i, n);
        if (err)
            return err;
    }
    session->unanswered--;
    region->unanswered--;
    session->pending_pages -= result->count;
    region_settle_deleted(region);
    return 0;
}
