/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see exports.h. This file: bytes that have arrived become frames, and the pages that
 * wait for them are told. */
#include "memd/common/clock.h"
#include "memd/common/hash.h"
#include "memd/daemon/export.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <string.h>

/* The pages of one EXPORT record. */
struct group {
    uint32_t n;
    uint32_t number[WIRE_EXPORT_SLOTS]; /* EXPORTS_NONE: nobody waits for it here any more */
    bool good[WIRE_EXPORT_SLOTS];       /* arrived, and is what was expected */
    uint8_t bytes[WIRE_EXPORT_SLOTS][WIRE_PAGE_BYTES];
};

static void check_hashes(struct group *group, const struct exports *exports)
{
    for (uint32_t i = 0; i < group->n; i++) {
        if (group->number[i] == EXPORTS_NONE)
            continue;
        group->good[i] = hash_page(group->bytes[i]) == exports->at[group->number[i]].hash;
    }
}

/* How many pages from i on are good and have frames that follow each other in the store. */
static uint32_t stretch(const struct group *group, const struct exports *exports, uint32_t i)
{
    uint32_t n = 1, frame = exports->at[group->number[i]].frame;

    while (i + n < group->n && group->good[i + n] && exports->at[group->number[i + n]].frame == frame + n)
        n++;
    return n;
}

static void write_frames(struct group *group, struct core *core)
{
    for (uint32_t i = 0, n; i < group->n; i += n) {
        n = 1;
        if (!group->good[i])
            continue;
        const struct export *e = &core->exports.at[group->number[i]];
        n = stretch(group, &core->exports, i);
        int err = store_write(domain_store(e->domain, e->frame), e->frame & WIRE_FRAME_INDEX_MASK, n,
                              group->bytes[i]);
        if (!err)
            continue;
        domain_ran_full(e->domain);
        core_warn(core,
                  "the tmpfs of the frame store does not take more (%s): nothing new is merged in domain %s",
                  strerror(-err), e->domain->name);
        memset(&group->good[i], 0, n * sizeof group->good[0]);
    }
}

static void make_live(const struct group *group, struct core *core)
{
    for (uint32_t i = 0; i < group->n; i++) {
        if (!group->good[i])
            continue;
        const struct export *e = &core->exports.at[group->number[i]];
        struct frame *frame = domain_frame(e->domain, e->frame);
        frame->refs = 0;
        frame->state = FRAME_LIVE;
    }
}

/* The first waiter of each frame, then the second of each, and so on: pages that follow each other in one
 * guest mostly wait in the same place for frames that follow each other. */
static void tell_waiters(const struct group *group, struct core *core)
{
    struct proposal_run run = {0};
    bool more = true;

    for (uint32_t k = 0; more; k++) {
        more = false;
        for (uint32_t i = 0; i < group->n; i++) {
            const struct export *e = group->good[i] ? &core->exports.at[group->number[i]] : NULL;
            uint32_t page;
            if (!e || k >= e->nwaiters)
                continue;
            struct region *region = export_region(e, export_waiters(e)[k], &page);
            if (region)
                proposals_add(&run, region, page, e->frame);
            more = true;
        }
    }
    proposals_send(&run);
}

static void finish(const struct group *group, struct core *core)
{
    for (uint32_t i = 0; i < group->n; i++) {
        uint32_t number = group->number[i];
        if (number == EXPORTS_NONE)
            continue;
        if (!group->good[i]) {
            export_fail_over(core, number);
            continue;
        }
        struct domain *domain = core->exports.at[number].domain;
        uint32_t frame = core->exports.at[number].frame;
        export_free(&core->exports, number);
        const struct frame *f = domain_frame(domain, frame);
        if (f->state == FRAME_LIVE && !f->refs) /* every page had changed: nobody was told of it */
            domain_drop_unseen(domain, frame);
    }
}

int exports_done(struct session *session, const struct wire_rec_export *answer)
{
    static struct group group;
    struct exports_queue *queue = &session->exports;
    struct core *core = session->core;
    uint32_t slot = answer->slot;

    if (slot >= WIRE_EXPORT_SLOTS || !queue->group[slot] || answer->page != queue->page[slot] ||
        answer->r.region != queue->region[slot] || (answer->count && answer->count != queue->group[slot]))
        return -EPROTO;
    group.n = queue->group[slot];
    queue->group[slot] = 0;
    queue->asked_ns = clock_now_ns();
    memset(group.good, 0, sizeof group.good);
    memcpy(group.number, &queue->slot[slot], group.n * sizeof group.number[0]);
    if (answer->count) {
        memcpy(group.bytes, session->shm->exports[slot], group.n * sizeof group.bytes[0]);
        check_hashes(&group, &core->exports);
    }
    for (uint32_t i = 0; i < group.n; i++)
        queue->busy &= ~(1u << (slot + i));

    write_frames(&group, core);
    make_live(&group, core);
    tell_waiters(&group, core);
    finish(&group, core);
    return 0;
}
