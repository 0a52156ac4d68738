/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see matcher.h. */
#include "memd/daemon/matcher.h"

#include "memd/daemon/channel.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdlib.h>

#define SPARE_CANDIDATES 4096u

/* An entry of region.huge: how many pages would go, and whether the engine has been told. */
#define HUGE_ASKED 0x8000u
#define HUGE_COUNT 0x7fffu
static_assert(WIRE_CHUNK_PAGES <= HUGE_COUNT, "a count fits beside the flag");

struct match {
    struct region *region;
    struct domain *domain;
    struct index *index;
    unsigned node;
    struct proposal_run run;
};

static struct match match_begin(struct region *region, int node)
{
    struct match m = {.region = region, .domain = region->vm->domain};

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

/* A page number's region and page, if there still is such a page in the domain. Numbers are reused: a smaller
 * region may have taken the place of a larger one. */
static struct region *find_page(const struct domain *domain, uint64_t page_id, uint32_t *ret_page)
{
    struct region *region = pages_region(&domain->core->pages, page_id);

    if (!region || region->vm->domain != domain || !region->map ||
        page_id - region->first_id >= region->npages)
        return NULL;
    *ret_page = (uint32_t)(page_id - region->first_id);
    return region;
}

bool matcher_check(void *ctx, uint64_t page_id, uint32_t tag)
{
    uint32_t page;
    const struct region *region = find_page(ctx, page_id, &page);

    if (!region)
        return false;
    if (!tag) {
        __builtin_prefetch((const void *)&region->map->entry[page]);
        return true;
    }
    return region_page_is(region, page, tag);
}

static bool can_merge(const struct region *region)
{
    return region->vm->merge_on && region->vm->session && region->vm->session->state == SESSION_LIVE;
}

/* ---------------------------------------------------------------- huge pages */

static bool in_huge_page(const struct region *region, uint32_t page)
{
    return region_entry(region, page) & WIRE_PAGE_F_HUGE;
}

/* Engines cut by address: where the region's first page lies in its chunk. */
static uint32_t first_slot(const struct region *region)
{
    return (uint32_t)(region->map->hva / WIRE_PAGE_BYTES % WIRE_CHUNK_PAGES);
}

static uint16_t *huge_entry(struct region *region, uint32_t page)
{
    if (!region->huge)
        region->huge = calloc(region->npages / WIRE_CHUNK_PAGES + 2, sizeof *region->huge);
    return region->huge ? &region->huge[(page + first_slot(region)) / WIRE_CHUNK_PAGES] : NULL;
}

/* `n` more pages of the huge page that `page` lies in would go. */
static void huge_count(struct region *region, uint32_t page, uint32_t n)
{
    uint32_t worth = region->vm->core->config.huge_share_percent * WIRE_CHUNK_PAGES / 100;
    uint16_t *huge = huge_entry(region, page);

    if (!huge)
        return;
    uint32_t sum = (*huge & HUGE_COUNT) + n;
    *huge = (uint16_t)((*huge & HUGE_ASKED) | (sum > WIRE_CHUNK_PAGES ? WIRE_CHUNK_PAGES : sum));
    if (*huge & HUGE_ASKED || !sum || sum < worth || !can_merge(region))
        return;
    struct wire_rec_break *rec = channel_reserve(region->vm->session, WIRE_REC_BREAK, sizeof *rec, 0);
    if (!rec)
        return; /* no room: asked with the next page found, or after the next survey */
    uint32_t slot = (page + first_slot(region)) % WIRE_CHUNK_PAGES;
    rec->r.region = region->id;
    rec->page = slot < page ? page - slot : 0;
    rec->reserved = 0;
    *huge |= HUGE_ASKED;
    vm_unsettle(region->vm);
}

/* ---------------------------------------------------------------- one page */

/* What a look into the candidates found. */
struct equal {
    uint64_t other; /* a page that can be merged with this one now; 0: none. It is out of the table */
    bool known;     /* the page itself is in the table */
    bool huge; /* a page in a huge page that is kept equals it; that one is counted, and out of the table */
};

/* Candidates that are stale are dropped on the way. Those of a VM that does not merge now stay. */
static struct equal find_equal(struct match *m, uint32_t page, uint64_t hash)
{
    struct candidates *table = &m->index->candidates;
    uint64_t self = m->region->first_id + page;
    struct equal equal = {0};
    struct candidates_at at;
    uint64_t id = candidates_find(table, hash, &at);

    for (unsigned looked = 0; id && looked < MATCHER_EQUAL_MAX; looked++) {
        uint32_t of;
        struct region *region = find_page(m->domain, id, &of);
        bool current = region && region_page_is(region, of, wire_tag_of_hash(hash));
        if (id == self || (current && !can_merge(region))) {
            equal.known |= id == self;
            id = candidates_next(&at);
            continue;
        }
        candidates_remove(table, &at);
        if (current && !in_huge_page(region, of)) {
            equal.other = id;
            break;
        }
        if (current) {
            equal.huge = true;
            huge_count(region, of, 1);
        }
        id = candidates_again(&at);
    }
    return equal;
}

static void remember(struct match *m, uint64_t page_id, uint64_t hash)
{
    struct candidates *table = &m->index->candidates;

    candidates_make_room(table, hash, matcher_check, m->domain);
    /* a page has one hash, and stale ones are swept before there are as many: who tells more makes them up */
    if (table->used >= 2 * m->domain->numbered + SPARE_CANDIDATES) {
        table->refused++;
        return;
    }
    candidates_insert(table, hash, page_id); /* no room: the page is looked at again when it was written */
}

static void match_page(struct match *m, uint32_t page, uint64_t hash)
{
    struct frame *frame = index_find(m->index, hash);
    uint64_t self = m->region->first_id + page;

    if (frame && frame->state == FRAME_LIVE) {
        proposals_add(&m->run, m->region, page, frame_number(m->domain, frame));
        return;
    }
    if (frame && !exports_join(m->domain->core, frame, self))
        return;
    struct equal equal = frame ? (struct equal){0} : find_equal(m, page, hash);
    if (equal.other) {
        proposals_send(&m->run); /* so that the frame can be chosen to follow the page's neighbour's */
        if (!exports_start(m->region, page, hash, m->node, equal.other))
            return;
        remember(m, equal.other, hash);
    }
    if (!equal.known)
        remember(m, self, hash);
}

/* ---------------------------------------------------------------- records */

static uint64_t hash_or_one(uint64_t hash)
{
    return hash ? hash : 1;
}

/* Whether the record is for matching. A dry run only counts. */
static bool is_to_match(struct region *region, const struct wire_rec_hashes *rec)
{
    if (region->vm->estimate_job && !region->vm->merge_on)
        jobs_estimate_hashes(region->vm, rec);
    return region->vm->merge_on;
}

static void prefetch(const struct match *m, const struct wire_rec_hashes *rec, uint32_t i)
{
    if (i < rec->count)
        index_prefetch(m->index, rec->hash[i]);
}

void matcher_hashes(struct region *region, const struct wire_rec_hashes *rec)
{
    struct match m = match_begin(region, rec->node);

    if (!is_to_match(region, rec))
        return;
    for (uint32_t i = 0; i < MATCHER_AHEAD; i++)
        prefetch(&m, rec, i);
    for (uint32_t i = 0; i < rec->count; i++) {
        prefetch(&m, rec, i + MATCHER_AHEAD);
        match_page(&m, rec->page + i, hash_or_one(rec->hash[i]));
    }
    proposals_send(&m.run);
}

/* Whether a page would go if its huge page were broken. */
static bool would_go(struct match *m, uint32_t page, uint64_t hash)
{
    if (!hash || index_find(m->index, hash))
        return true;
    struct equal equal = find_equal(m, page, hash);
    if (equal.other)
        remember(m, equal.other, hash);
    else if (!equal.known)
        remember(m, m->region->first_id + page, hash);
    return equal.other || equal.huge;
}

void matcher_survey(struct region *region, const struct wire_rec_hashes *rec)
{
    struct match m = match_begin(region, rec->node);
    uint32_t n = 0;

    if (!is_to_match(region, rec))
        return;
    uint16_t *huge = huge_entry(region, rec->page);
    if (huge)
        *huge = 0;
    for (uint32_t i = 0; i < rec->count; i++) {
        prefetch(&m, rec, i + MATCHER_AHEAD);
        n += would_go(&m, rec->page + i, rec->hash[i]);
    }
    huge_count(region, rec->page, n);
}
