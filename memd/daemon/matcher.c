/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see matcher.h. */
#include "memd/daemon/matcher.h"

#include "memd/daemon/channel.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdlib.h>

#define PREFETCH_AHEAD 8u
#define SWEEP_PER_MISS 2u /* old candidates looked at for each new one */
#define HUGE_ASKED     UINT16_MAX

struct match {
    struct session *session;
    struct region *region;
    struct domain *domain;
    struct index *index;
    unsigned node;
    struct proposal_run run;
};

static struct match match_begin(struct session *session, struct region *region, int node)
{
    struct match m = {.session = session, .region = region, .domain = region->vm->domain};

    m.node = domain_node(m.domain, node >= 0 ? node : region->node);
    m.index = domain_index(m.domain, m.node);
    return m;
}

static uint32_t frame_number(const struct domain *domain, const struct frame *frame)
{
    for (unsigned i = 0; i < domain->nstores; i++) {
        const struct store *store = &domain->stores[i];
        if (frame >= store->frames && frame < store->frames + store->nframes)
            return store_frame_number(store, (uint32_t)(frame - store->frames));
    }
    return 0;
}

bool matcher_check(void *ctx, uint64_t page_id, uint32_t tag)
{
    const struct domain *domain = ctx;
    const struct region *region = pages_region(&domain->core->pages, page_id);

    return region && region->vm->domain == domain && region->map &&
           region_page_is(region, (uint32_t)(page_id - region->first_id), tag);
}

/* ---------------------------------------------------------------- huge pages */

static uint32_t huge_chunk(const struct region *region, uint32_t page)
{
    return (uint32_t)((page + region->map->hva / WIRE_PAGE_BYTES % WIRE_CHUNK_PAGES) / WIRE_CHUNK_PAGES);
}

/* `n` more pages of a huge page would go. Beyond the configured share the engine is told to break it. */
static void huge_count(struct region *region, uint32_t page, uint32_t n)
{
    uint32_t chunk = huge_chunk(region, page);
    uint32_t worth = region->vm->core->config.huge_share_percent * WIRE_CHUNK_PAGES / 100;

    if (!region->huge)
        region->huge = calloc(region->npages / WIRE_CHUNK_PAGES + 2, sizeof *region->huge);
    if (!region->huge || region->huge[chunk] == HUGE_ASKED || !region->vm->merge_on)
        return;
    uint32_t sum = region->huge[chunk] + n;
    region->huge[chunk] = (uint16_t)(sum > WIRE_CHUNK_PAGES ? WIRE_CHUNK_PAGES : sum);
    if (sum < worth || !sum)
        return;
    struct wire_rec_break *rec = channel_reserve(region->vm->session, WIRE_REC_BREAK, sizeof *rec, 0);
    if (!rec)
        return;
    rec->r.region = region->id;
    rec->page = page;
    rec->reserved = 0;
    region->huge[chunk] = HUGE_ASKED;
}

static bool in_huge_page(const struct region *region, uint32_t page)
{
    return region_entry(region, page) & WIRE_PAGE_F_HUGE;
}

/* ---------------------------------------------------------------- one page */

/* A page of the domain with this hash that can still be merged; candidates that can't are dropped on the way.
 * 0: none. *ret_known: the page itself is among them. A page in a huge page that is kept counts there. */
static uint64_t find_equal(struct match *m, uint32_t page, uint64_t hash, bool *ret_known)
{
    struct candidates *table = &m->index->candidates;
    uint64_t self = m->region->first_id + page;
    struct candidates_at at;
    uint64_t id = candidates_find(table, hash, &at);

    *ret_known = false;
    while (id) {
        struct region *region = pages_region(&m->domain->core->pages, id);
        uint32_t of = region ? (uint32_t)(id - region->first_id) : 0;
        if (id == self) {
            *ret_known = true;
            id = candidates_next(&at);
        } else if (!matcher_check(m->domain, id, wire_tag_of_hash(hash)) || !region->vm->session) {
            candidates_remove(table, &at);
            id = candidates_again(&at);
        } else if (in_huge_page(region, of)) {
            huge_count(region, of, 1);
            id = candidates_next(&at);
        } else {
            candidates_remove(table, &at);
            return id;
        }
    }
    return 0;
}

static void remember(struct match *m, uint32_t page, uint64_t hash)
{
    struct candidates *table = &m->index->candidates;

    candidates_sweep_near(table, hash, SWEEP_PER_MISS, matcher_check, m->domain);
    candidates_insert(table, hash, m->region->first_id + page);
}

static void match_page(struct match *m, uint32_t page, uint64_t hash)
{
    struct frame *frame = index_find(m->index, hash);
    uint64_t self = m->region->first_id + page, other;
    bool known;

    if (frame && frame->state == FRAME_LIVE) {
        proposals_add(&m->run, m->region, page, frame_number(m->domain, frame));
    } else if (frame) {
        exports_join(m->domain->core, frame, self);
    } else if ((other = find_equal(m, page, hash, &known))) {
        if (exports_start(m->region, page, hash, m->node, other)) {
            candidates_insert(&m->index->candidates, hash, other);
            remember(m, page, hash);
        }
    } else if (!known) {
        remember(m, page, hash);
    }
}

/* ---------------------------------------------------------------- records */

static uint64_t hash_or_one(uint64_t hash)
{
    return hash ? hash : 1;
}

void matcher_hashes(struct session *session, struct region *region, const struct wire_rec_hashes *rec)
{
    struct match m = match_begin(session, region, rec->node);

    if (region->vm->estimate_job && !region->vm->merge_on) {
        jobs_estimate_hashes(region->vm, rec);
        return;
    }
    if (!region->vm->merge_on)
        return;
    for (uint32_t i = 0; i < rec->count; i++) {
        if (i + PREFETCH_AHEAD < rec->count) {
            index_prefetch(m.index, rec->hash[i + PREFETCH_AHEAD]);
            candidates_prefetch(&m.index->candidates, rec->hash[i + PREFETCH_AHEAD]);
        }
        match_page(&m, rec->page + i, hash_or_one(rec->hash[i]));
    }
    proposals_send(&m.run);
}

/* Whether a page would go if its huge page were broken. */
static bool would_go(struct match *m, uint32_t page, uint64_t hash)
{
    bool known;

    if (!hash || index_find(m->index, hash))
        return true;
    uint64_t other = find_equal(m, page, hash, &known);
    if (other)
        candidates_insert(&m->index->candidates, hash, other);
    if (!known)
        remember(m, page, hash);
    return other != 0;
}

void matcher_survey(struct session *session, struct region *region, const struct wire_rec_hashes *rec)
{
    struct match m = match_begin(session, region, rec->node);
    uint32_t n = 0;

    if (region->vm->estimate_job && !region->vm->merge_on) {
        jobs_estimate_hashes(region->vm, rec);
        return;
    }
    if (!region->vm->merge_on)
        return;
    for (uint32_t i = 0; i < rec->count; i++)
        n += would_go(&m, rec->page + i, rec->hash[i]);
    if (region->huge)
        region->huge[huge_chunk(region, rec->page)] = 0;
    huge_count(region, rec->page, n);
}
