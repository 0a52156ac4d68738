/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rounds: finding pages that have stopped changing, and hashing them.
 *
 * One round goes over all chunks of all regions. In each, PAGEMAP_SCAN says which pages were written since
 * the round before, and re-arms them in the same call. A page that was pending (written in an earlier round)
 * and has not been written since is hashed in place: zero pages are marked to be dropped (apply.c), the
 * hashes of others go to the daemon. A page that was written becomes pending. So a page is hashed when it was
 * left alone for one interval between rounds, once, and never again until it is written. At the first look at
 * a chunk all its pages count as left alone: a hash is a hint, and waiting would cost every new VM an
 * interval.
 *
 * Rounds follow each other after budget.quiet_ms while there is something new to digest, and ever more
 * slowly, up to budget.round_ms_max, while there is not: a page the guest keeps writing costs one write fault
 * a round.
 *
 * A page that is rewritten all the time would cost a write fault each round, and tell nothing new. Pages are
 * armed in groups: where they were all pending when they were written again, the group is left unarmed for 1,
 * 3, at last 7 rounds. Unarmed pages count as written. A page that joins them, written and not pending, has
 * the group armed at once.
 *
 * Huge pages are not armed (the first write to an armed huge page splits it): they are surveyed, all 512
 * hashes are sent once, and the daemon says BREAK if enough of it would go.
 *
 * All functions: engine.work held.
 */
#include "memd/common/hash.h"
#include "memd/engine/engine.h"

#include <errno.h>
#include <string.h>

#define STEP_CHUNKS   8u
#define VEC_MAX       512u
#define DIGESTING_PPM 2000u /* pages hashed or newly written in a round, of all: the next comes soon */
#define REHASH_ROUNDS 2u    /* written pages in store mappings */
#define HOT_PAGES     4u    /* of a group, written again and again, before it is left unarmed */
#define HOT_LEVEL_MAX 3u
#define AHEAD_PAGES \
    8u /* asked for while a page is looked at: reading from memory is what a round waits for */
#define ROOM_ANSWERS 8192u /* of the up ring, left for RESULT and DROPPED */
/* 256 pages hashed with gaps of one: as many records as there can be (16 bytes each) with their hashes */
#define CHUNK_RECORDS_BYTES (CHUNK_PAGES / 2 * (16u + 8u))
static_assert(ROOM_ANSWERS + CHUNK_RECORDS_BYTES <= WIRE_RING_BYTES, "one chunk fits an empty ring");

/* ---- what changed */

static const struct scan_query query_written = {
    .flags = PM_SCAN_WP_MATCHING,
    /* PRESENT|SWAPPED: without it the scan leaves markers in holes, which nothing can be moved into. Not
     * HUGE: see above. Store mappings are not registered with A and are passed over by the kernel. */
    .inverted = PAGE_IS_HUGE,
    .mask = PAGE_IS_WRITTEN | PAGE_IS_HUGE,
    .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    .ret = PAGE_IS_WPALLOWED | PAGE_IS_PFNZERO,
};
/* The same and query_broken in one, arming nothing: in a store mapping every page counts as written. */
static const struct scan_query query_changed = {
    .inverted = PAGE_IS_HUGE | PAGE_IS_FILE,
    .mask = PAGE_IS_WRITTEN | PAGE_IS_HUGE | PAGE_IS_FILE,
    .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    .ret = PAGE_IS_WPALLOWED | PAGE_IS_PFNZERO,
};
/* In store mappings (WP not allowed: not registered with A), private pages: written since the merge. */
static const struct scan_query query_broken = {
    .inverted = PAGE_IS_WPALLOWED | PAGE_IS_FILE,
    .mask = PAGE_IS_WPALLOWED | PAGE_IS_FILE,
    .anyof = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    .ret = PAGE_IS_PRESENT,
};

static int scan_part(struct memd *m, struct region *r, uint32_t first, uint32_t end,
                     const struct scan_query *q, found_fn *fn, void *arg)
{
    struct page_region vec[VEC_MAX];
    uint64_t at = (uintptr_t)page_hva(r, first), limit = (uintptr_t)page_hva(r, end), walked;

    while (at < limit) {
        int n = pagemap_scan(m, (void *)at, limit - at, q, vec, VEC_MAX, &walked);
        if (n < 0)
            return n;
        for (int i = 0; i < n; i++) {
            uint32_t page = (uint32_t)((vec[i].start - (uintptr_t)r->base) >> PAGE_SHIFT);
            fn(m, r, page, (uint32_t)((vec[i].end - vec[i].start) >> PAGE_SHIFT), vec[i].categories, arg);
        }
        if (walked <= at)
            return -EIO;
        at = walked;
    }
    return 0;
}

/* What does not take part is not ours to look at, still less to arm. */
int scan_pages(struct memd *m, struct region *r, uint32_t first, uint32_t end, const struct scan_query *q,
               found_fn *fn, void *arg)
{
    int err = 0;

    for (uint32_t page = first; page < end && !err;) {
        const struct segment *s = segments_find(&r->parts, page);
        uint32_t next = s->first + s->npages < end ? s->first + s->npages : end;
        if (s->why == SEGMENT_TAKES_PART)
            err = scan_part(m, r, page, next, q, fn, arg);
        page = next;
    }
    return err;
}

/* What a step of the round found: bits by slot, from that of its first chunk. */
struct written {
    uint32_t first_slot;
    uint64_t bits[STEP_CHUNKS * CHUNK_WORDS];
};

static found_fn found_broken;

static void found_written(struct memd *m, struct region *r, uint32_t page, uint32_t npages,
                          uint64_t categories, void *arg)
{
    struct written *w = arg;

    if (!(categories & PAGE_IS_WPALLOWED)) {
        found_broken(m, r, page, npages, categories, NULL);
        return;
    }
    if (categories & PAGE_IS_PFNZERO) /* read, never written: the kernel's shared zero page costs nothing */
        return;
    for (uint32_t p = page; p < page + npages; p++) {
        uint32_t bit = p + r->first_bit - w->first_slot;
        uint64_t e = page_get(r, p);
        w->bits[bit / 64] |= 1ull << (bit % 64);
        if (entry_tag(e) || entry_state(e) != WIRE_PAGE_PRIVATE || e & WIRE_PAGE_F_PENDING)
            page_set(r, p,
                     entry_make(WIRE_PAGE_PRIVATE,
                                (uint32_t)(e & (WIRE_PAGE_F_DROPPING | WIRE_PAGE_F_PINNED)), 0,
                                entry_frame(e)));
    }
}

static void found_broken(struct memd *m, struct region *r, uint32_t page, uint32_t npages,
                         uint64_t categories, void *arg)
{
    (void)categories, (void)arg;
    refs_drop(m, r, page, npages, WIRE_DROP_WRITTEN);
    for (uint32_t p = page; p < page + npages; p++) {
        uint64_t e = page_get(r, p);
        /* nobody tells when it is written again: it is hashed again every few rounds */
        if (entry_state(e) == WIRE_PAGE_BROKEN && m->round.number % REHASH_ROUNDS == 0)
            pending_set(r, p);
        if (entry_state(e) != WIRE_PAGE_SHARED)
            continue;
        page_set(r, p, entry_make(WIRE_PAGE_BROKEN, (uint32_t)(e & WIRE_PAGE_F_DROPPING), 0, entry_frame(e)));
        pending_set(r, p);
        atomic_fetch_add_explicit(&m->stats.cow_breaks, 1, memory_order_relaxed);
    }
}

static void found_private(struct memd *m, struct region *r, uint32_t page, uint32_t npages,
                          uint64_t categories, void *arg)
{
    (void)m, (void)r, (void)page, (void)npages, (void)categories;
    *(bool *)arg = true;
}

int scan_any_private(struct memd *m, struct region *r, uint32_t first, uint32_t end)
{
    bool any = false;
    int err = scan_pages(m, r, first, end, &query_broken, found_private, &any);

    return err ? err : any ? -EBUSY : 0;
}

void scan_look_broken(struct memd *m, struct region *r, uint32_t chunk)
{
    if (r->chunks[chunk].store)
        scan_pages(m, r, chunk_first(r, chunk), chunk_end(r, chunk), &query_broken, found_broken, NULL);
}

/* ---- hashing */

/* HASHES under construction: consecutive pages of one chunk. */
struct batch {
    uint32_t page, count;
    uint64_t hash[WIRE_HASHES_MAX];
};

static void batch_send(struct memd *m, struct region *r, struct batch *b)
{
    if (!b->count)
        return;
    uint32_t bytes = (uint32_t)sizeof(struct wire_rec_hashes) + b->count * 8;
    struct wire_rec_hashes *rec = ring_reserve(&m->session.up, WIRE_REC_HASHES, bytes);
    if (rec) {
        rec->r.region = r->id;
        rec->page = b->page;
        rec->count = (uint16_t)b->count;
        rec->node = (int16_t)r->node;
        memcpy(rec->hash, b->hash, b->count * sizeof *b->hash);
    } else { /* chunks_in_room() saw to it; a page not told of is hashed again */
        for (uint32_t i = 0; i < b->count; i++)
            pending_set(r, b->page + i);
    }
    b->count = 0;
}

/* How many chunks may be hashed so that all their records fit, with room left for answers to the daemon. */
static uint32_t chunks_in_room(const struct memd *m)
{
    if (m->flags & MEMD_OPEN_NO_DAEMON)
        return STEP_CHUNKS;
    uint32_t room = ring_room(&m->session.up);
    uint32_t n = room > ROOM_ANSWERS ? (room - ROOM_ANSWERS) / CHUNK_RECORDS_BYTES : 0;
    return n < STEP_CHUNKS ? n : STEP_CHUNKS;
}

static void set_tag(struct region *r, uint32_t page, uint64_t hash)
{
    uint64_t e = page_get(r, page) & ~((uint64_t)WIRE_PAGE_TAG_MASK << WIRE_PAGE_TAG_SHIFT);

    page_set(r, page, e | (uint64_t)wire_tag_of_hash(hash) << WIRE_PAGE_TAG_SHIFT);
}

/* A written page in a store mapping is not tracked: it counts as quiet when its hash was the same a round
 * ago. */
static bool broken_quiet(struct region *r, uint32_t page, uint64_t hash)
{
    uint64_t e = page_get(r, page);

    if (entry_state(e) != WIRE_PAGE_BROKEN || entry_tag(e) == wire_tag_of_hash(hash))
        return true;
    set_tag(r, page, hash);
    return false;
}

static void zero_found(struct memd *m, struct region *r, uint32_t page)
{
    pending_clear(r, page);
    if (m->budget.flags & WIRE_BUDGET_ESTIMATE)
        atomic_fetch_add_explicit(&m->stats.would_save_pages, 1, memory_order_relaxed);
    else
        apply_zero(m, r, page);
}

/* All of it will be looked at when nobody can write it (apply.c). */
static bool is_zero(const struct memd *m, bool sparse, const void *page)
{
    return sparse || m->budget.flags & WIRE_BUDGET_ESTIMATE ? page_is_zero(page) : page_seems_zero(page);
}

/* Written in a store mapping, and zero again: it goes once it is plain memory. False: it can't be now. */
static bool zero_broken(struct memd *m, struct region *r, uint32_t page)
{
    if (heal_want(m, r, page, 1))
        return true;
    heal_flush(m);
    return heal_want(m, r, page, 1);
}

static void digest_page(struct memd *m, struct region *r, uint32_t page, struct batch *b)
{
    const void *p = page_hva(r, page);
    uint64_t e = page_get(r, page);

    m->tokens--;
    m->round.hashed++;
    if (entry_state(e) == WIRE_PAGE_PRIVATE && is_zero(m, r->chunks[chunk_of(r, page)].sparse, p)) {
        zero_found(m, r, page);
        return;
    }
    if (!session_can_report(m)) { /* nobody to compare it with */
        pending_clear(r, page);
        return;
    }
    uint64_t hash = hash_page(p);
    if (!broken_quiet(r, page, hash))
        return;
    pending_clear(r, page);
    if (hash == zero_page_hash() && zero_broken(m, r, page))
        return;
    if (entry_state(page_get(r, page)) != entry_state(e)) /* come home with what was wanted before it */
        return;
    set_tag(r, page, hash);
    if (b->count && (b->page + b->count != page || b->count == WIRE_HASHES_MAX))
        batch_send(m, r, b);
    if (!b->count)
        b->page = page;
    b->hash[b->count++] = hash;
}

static bool wants_hash(const struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page);
    unsigned state = entry_state(e);

    return (state == WIRE_PAGE_PRIVATE || state == WIRE_PAGE_BROKEN) &&
           !(e & (WIRE_PAGE_F_PINNED | WIRE_PAGE_F_DROPPING | WIRE_PAGE_F_PENDING));
}

/* The page of the lowest bit of the chunk's word w. */
static uint32_t slot_page(const struct region *r, uint32_t chunk, unsigned w, uint64_t bits)
{
    return chunk * CHUNK_PAGES + w * 64 + (uint32_t)__builtin_ctzll(bits) - r->first_bit;
}

/* `written`: CHUNK_WORDS words, by slot of the chunk. */
static void chunk_hash(struct memd *m, struct region *r, uint32_t chunk, const uint64_t *written)
{
    uint64_t *pending = &r->pending[chunk * CHUNK_WORDS];
    bool seen = r->chunks[chunk].seen;
    struct batch b = {.count = 0};

    r->chunks[chunk].seen = true;
    for (unsigned w = 0; w < CHUNK_WORDS; w++) {
        uint64_t fresh = written[w] & ~pending[w];
        /* at the first look nobody knows when they were written */
        uint64_t quiet = seen ? pending[w] & ~written[w] : pending[w] | written[w];
        m->round.written += (uint64_t)__builtin_popcountll(written[w]);
        m->round.fresh += (uint64_t)__builtin_popcountll(fresh);
        r->n.pending += (uint64_t)__builtin_popcountll(fresh);
        pending[w] |= written[w];
        for (; quiet; quiet &= quiet - 1) {
            uint32_t page = slot_page(r, chunk, w, quiet);
            page_expect(page_hva(r, page) + AHEAD_PAGES * PAGE_BYTES);
            if (entry_out(page_get(r, page))) /* coming home at this moment: seen, and not yet entered */
                continue;
            if (!wants_hash(r, page))
                pending_clear(r, page);
            else if (m->tokens >= 1)
                digest_page(m, r, page, &b);
            else
                m->round.left++;
        }
    }
    batch_send(m, r, &b);
}

/* ---- starting over */

/* Without its hash, and without a mark to be dropped. */
static uint64_t forgotten(uint64_t e)
{
    uint64_t mark = e & WIRE_PAGE_F_PENDING && !entry_frame(e) ? WIRE_PAGE_F_PENDING : 0;

    return e & ~((uint64_t)WIRE_PAGE_TAG_MASK << WIRE_PAGE_TAG_SHIFT | mark);
}

void scan_forget(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t end = chunk_end(r, chunk), n;

    r->chunks[chunk].surveyed = r->chunks[chunk].seen = false;
    for (uint32_t p = chunk_first(r, chunk); p < end; p += n) {
        bool store = entry_in_store(page_get(r, p));
        const struct segment *s = segments_find(&r->parts, p);
        for (n = 0; p + n < end && p + n < s->first + s->npages; n++) {
            if (entry_in_store(page_get(r, p + n)) != store)
                break;
            page_set(r, p + n, forgotten(page_get(r, p + n)));
        }
        /* unarmed pages count as written; protection of what does not take part is somebody else's */
        if (!store && s->why == SEGMENT_TAKES_PART)
            uffd_write_protect(m->uffd_a, page_hva(r, p), n * PAGE_BYTES, false);
        for (uint32_t q = p; store && q < p + n; q++)
            if (entry_state(page_get(r, q)) == WIRE_PAGE_BROKEN)
                pending_set(r, q);
    }
}

/* ---- rounds */

static uint64_t guest_pages(const struct memd *m)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        n += m->regions[i] ? m->regions[i]->npages : 0;
    return n;
}

static void round_start(struct memd *m, uint64_t now)
{
    struct round *o = &m->round;
    bool asked = o->asked; /* whoever asks wants to know all there is */

    *o = (struct round){.running = true,
                        .started_ns = now,
                        .last_started_ns = o->started_ns,
                        .number = o->number + 1,
                        .interval_ms = o->interval_ms};
    o->look_huge = asked || o->number <= 2 || o->number % HUGE_LOOK_ROUNDS == 0;
}

static void round_finish(struct memd *m, uint64_t now)
{
    struct round *o = &m->round;
    uint64_t pages = guest_pages(m);
    /* pages newly written are looked at in the next round; those written ever again tell nothing new */
    bool digesting = (o->hashed + o->fresh) * 1000000 > pages * DIGESTING_PPM || o->left || o->number < 2;

    /* best with the next merges; but not for ever */
    if (m->heal_queue.round != o->number)
        heal_flush(m);
    o->running = false;
    o->interval_ms = digesting ? m->budget.quiet_ms : o->interval_ms * 2;
    if (o->interval_ms > m->budget.round_ms_max)
        o->interval_ms = m->budget.round_ms_max;
    if (o->interval_ms < m->budget.quiet_ms)
        o->interval_ms = m->budget.quiet_ms;
    o->due_ns = now + o->interval_ms * 1000000;
    atomic_fetch_add_explicit(&m->stats.full_scans, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->stats.hashed_pages, o->hashed, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->stats.written_pages, o->written, memory_order_relaxed);
    atomic_store_explicit(&m->stats.round_written_pages, o->written, memory_order_relaxed);
    session_round_done(m);
    if (!digesting) {
        o->digested = true;
        session_trim(m);
    }
}

/* ---- arming */

static uint32_t group_bits(const uint64_t *words, uint32_t group)
{
    return (uint32_t)(words[group / 2] >> (group % 2 * GROUP_PAGES));
}

/* Whether a group that was written is to be armed now. */
static bool group_cools(struct chunk *c, uint32_t group, uint32_t written, uint32_t pending)
{
    uint32_t level = c->hot[group].level, wait = c->hot[group].wait;
    bool fresh = written & ~pending;

    if (wait && !fresh) { /* not armed, so written or not: nothing is known */
        c->hot[group].wait = (wait - 1) & 15;
        return wait == 1;
    }
    bool hot = !fresh && (uint32_t)__builtin_popcount(written) >= HOT_PAGES;
    level = hot ? level + (level < HOT_LEVEL_MAX) : 0;
    c->hot[group].level = level & 15;
    c->hot[group].wait = hot ? ((1u << level) - 1) & 15 : 0;
    return !hot;
}

/* A bit for each group of the chunk that stays unarmed. */
static uint32_t groups_left(struct region *r, uint32_t chunk, const uint64_t *written)
{
    struct chunk *c = &r->chunks[chunk];
    uint32_t left = 0;

    for (uint32_t g = 0; g < CHUNK_GROUPS; g++) {
        uint32_t bits = group_bits(written, g);
        if (!bits)
            c->hot[g].level = c->hot[g].wait = 0;
        else if (!group_cools(c, g, bits, group_bits(&r->pending[chunk * CHUNK_WORDS], g)))
            left |= 1u << g;
    }
    return left;
}

/* Reads what was written since and arms it, in the slots [from, to). */
static int arm(struct memd *m, struct region *r, uint32_t from, uint32_t to, struct written *w)
{
    uint32_t first = from < r->first_bit ? 0 : from - r->first_bit, end = to - r->first_bit;

    return scan_pages(m, r, first, end < r->npages ? end : r->npages, &query_written, found_written, w);
}

/* Arms what was written, but for the groups that are left. What lies between two written groups is taken
 * along. */
static int arm_rest(struct memd *m, struct region *r, uint32_t first, uint32_t end, const uint32_t *left,
                    struct written *w)
{
    uint32_t from = 0, to = 0, ngroups = (end - first) * CHUNK_GROUPS;
    int err = 0;

    for (uint32_t g = 0; g < ngroups && !err; g++) {
        if (left[g / CHUNK_GROUPS] >> (g % CHUNK_GROUPS) & 1) {
            err = from < to ? arm(m, r, w->first_slot + from, w->first_slot + to, w) : 0;
            from = to = 0;
        } else if (group_bits(w->bits, g)) {
            from = from < to ? from : g * GROUP_PAGES;
            to = (g + 1) * GROUP_PAGES;
        }
    }
    return !err && from < to ? arm(m, r, w->first_slot + from, w->first_slot + to, w) : err;
}

static bool is_plain(const struct region *r, uint32_t first, uint32_t end)
{
    static const struct chunk cold;

    for (uint32_t c = first; c < end; c++)
        if (r->chunks[c].store || memcmp(r->chunks[c].hot, cold.hot, sizeof cold.hot) != 0)
            return false;
    return true;
}

/* What was written since the round before, in store mappings, too. All of it is armed in the same call where
 * there is nothing else to look at. */
static int look_written(struct memd *m, struct region *r, uint32_t first, uint32_t end, struct written *w)
{
    bool plain = is_plain(r, first, end);
    uint32_t left[STEP_CHUNKS];

    *w = (struct written){.first_slot = first * CHUNK_PAGES};
    int err = scan_pages(m, r, chunk_first(r, first), chunk_end(r, end - 1),
                         plain ? &query_written : &query_changed, found_written, w);
    for (uint32_t c = first; c < end && !err; c++)
        left[c - first] = groups_left(r, c, &w->bits[(c - first) * CHUNK_WORDS]);
    return err || plain ? err : arm_rest(m, r, first, end, left, w);
}

/* ---- a step */

static void scan_chunks(struct memd *m, struct region *r, uint32_t first, uint32_t end)
{
    struct written w;

    if (m->round.look_huge)
        for (uint32_t c = first; c < end; c++)
            huge_look(m, r, c);
    int err = look_written(m, r, first, end, &w);
    if (err)
        log_msg(m, MEMD_LOG_ERROR, "region %s: reading which pages were written failed (%d)", r->name, -err);
    for (uint32_t c = first; c < end; c++) {
        struct chunk *chunk = &r->chunks[c];
        refs_flush(m, r, c);
        if (chunk->pins)
            continue;
        if (chunk->huge && !chunk->surveyed && m->tokens >= CHUNK_PAGES && session_can_report(m))
            huge_survey(m, r, c);
        if (chunk->huge && !chunk->surveyed)
            m->round.left += CHUNK_PAGES;
        chunk_hash(m, r, c, &w.bits[(c - first) * CHUNK_WORDS]);
        heal_chunk(m, r, c);
    }
}

/* Regions that come and go move the position along. */
static struct region *round_region(struct memd *m)
{
    for (; m->round.region < MEMD_REGIONS_MAX; m->round.region++, m->round.chunk = 0) {
        struct region *r = m->regions[m->round.region];
        if (r && !r->stuck && !r->changing && m->round.chunk < r->nchunks)
            return r;
    }
    return NULL;
}

static void tokens_refill(struct memd *m, uint64_t now)
{
    double s = (double)(now - m->tokens_ns) * 1e-9, rate = m->budget.scan_pages_per_s;

    m->tokens_ns = now;
    m->heal_tokens += s * m->budget.heal_pages_per_s;
    if (m->heal_tokens > m->budget.heal_pages_per_s / 4.0)
        m->heal_tokens = m->budget.heal_pages_per_s / 4.0;
    if (m->budget.scan_pages_per_s == UINT32_MAX) {
        m->tokens = 1e12;
        return;
    }
    m->tokens += s * rate;
    /* never more saved up than a tenth of a second's worth, or one huge page */
    double most = rate / 10 > CHUNK_PAGES ? rate / 10 : CHUNK_PAGES;
    if (m->tokens > most)
        m->tokens = most;
}

/* When the next round may begin. */
static uint64_t round_due_ns(const struct memd *m)
{
    /* asked for: at once, yet never so soon that "quiet" means nothing */
    uint64_t soonest = m->round.started_ns + m->budget.quiet_ms * 1000000ull;

    if (!m->round.asked)
        return m->round.due_ns;
    return m->round.number ? soonest : 0;
}

uint64_t scan_due_ns(struct memd *m)
{
    uint64_t apply_ns = apply_due_ns(m);

    if (!scanning_on(m))
        return UINT64_MAX;
    if (m->round.running)
        return 0;
    /* what the last one found comes first */
    if (apply_ns != UINT64_MAX && apply_ns > round_due_ns(m))
        return apply_ns;
    return round_due_ns(m);
}

bool scan_step(struct memd *m)
{
    uint64_t now = now_ns();

    tokens_refill(m, now);
    if (!scanning_on(m) || (!m->round.running && now < scan_due_ns(m)))
        return false;
    if (!m->round.running && apply_goes_on(m)) /* what it is about to change would be looked at twice */
        return false;
    if (!m->round.running)
        round_start(m, now);
    struct region *r = round_region(m);
    if (!r) {
        round_finish(m, now);
        return true;
    }
    uint32_t first = m->round.chunk, n = chunks_in_room(m);
    if (!n)
        return false; /* the daemon kicks when it has read */
    uint32_t end = n < r->nchunks - first ? first + n : r->nchunks;
    scan_chunks(m, r, first, end);
    m->round.chunk = end;
    return true;
}
