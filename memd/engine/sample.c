/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The working set, by statistical sampling after Waldspurger (Memory Resource Management in VMware ESX
 * Server, OSDI 2002): pages chosen at random are set aside, and after a period it is counted how many were
 * touched meanwhile. Nothing is copied and no access bit is needed: a page is set aside by parking it
 * (out.c), and whoever touches it gets it back as a soft fault from the fault server, which leaves
 * PLACE_TOUCHED.
 *
 *   rest -- the period is over --> resolve: who was touched? --> retire, a group a step
 *     ^                                                                   |
 *     +---- park, a group a step <---- pick: which chunks, some draws a step
 *
 * Which pages. Setting MISSING on a chunk, and taking it off again, costs some hundred microseconds, so
 * samples come in groups, several pages of one chunk; too few groups tell little, because neighbours are
 * used alike. One page is drawn at random from each of as many equal stretches of all regions; those that are
 * there, and may be parked, say how much such memory there is. Out of their list, in the order of addresses,
 * every n-th from a random start names a chunk, and the samples are drawn from all its pages that may be
 * parked, or are samples already. A chunk is named in proportion to how many such pages it has, and each of
 * these is as likely to be drawn as any other, so each page of the VM is as likely as any other, whatever
 * chunk it is in: the share touched is unbiased (probability proportional to size, Hansen and Hurwitz 1943).
 * Chunks that have MISSING on anyway would be cheaper, and are not preferred: pages were out of them because
 * they were idle.
 *
 * A page that is a sample already is watched by both (PLACE_WATCHERS): left out, the older samples, which are
 * idle, would be missing among the new ones.
 *
 * Ages. Samples of a period are a cohort. What of it is untouched stays parked, and is looked at again at 1,
 * 2, 4, ... periods of age; at each of them part of the groups, chosen by lot, is given up and comes home.
 * So few stay parked for long, however idle the VM is, and what is left still says which share of memory is
 * not touched for so long (estimate.h).
 *
 * The first are taken when the VM has been looked through, or after EARLY_NS: else they do not merge.
 *
 * What is not sampled: huge pages, whole ones and those of a chunk that is partly one (a sample would split
 * them); pinned pages; pages in store mappings, merged or written since, which cannot be parked. Pages that
 * are out are idle by definition. Samples that end otherwise than by a touch (discarded, pinned, forked, the
 * region cut, taken over by a PAGEOUT of everything) count neither way.
 *
 * A sample costs its first toucher a soft fault, is merged later, and counts as written when it comes home:
 * it is hashed again. Without a daemon no new ones are taken, and the last come home in due course.
 *
 * All functions: engine.work held. Places and entries of pages that are, or were, samples are changed under
 * chunk.busy, because the fault server may come for them.
 */
#include "memd/engine/sample.h"

#include "memd/engine/estimate.h"
#include "memd/engine/out.h"
#include "memd/engine/out_parts.h"
#include "memd/engine/pager.h"

#include <stdlib.h>
#include <string.h>

#define AGE_MAX     (1u << (WIRE_AGES - 1)) /* periods */
#define COHORTS     (AGE_MAX + 1)
#define GROUP_MIN   4u  /* pages of a group, as long as that makes groups enough */
#define GROUP_MOST  32u /* and never more */
#define CHUNK_SHARE 16u /* at most one chunk in so many gets a new group each period */
#define DRAWS_MIN   512u
#define DRAWS_MAX   2048u
#define DRAWS_STEP  64u
#define KEEP_FIRST  4u    /* one group in so many is kept when it is a period old */
#define KEEP_LATER  2u    /* and at each doubling after that */
#define FIRST_SHARE 8u    /* of a period: the next try, while there has been nothing to sample, */
#define FIRST_MS    4000u /* and no later than this */
#define EARLY_NS    10000000000ull

enum phase { SAMPLE_REST, SAMPLE_RETIRE, SAMPLE_PICK, SAMPLE_PARK };

/* Samples of one chunk. */
struct group {
    uint32_t region, serial, chunk;
    uint32_t first;   /* its pages in cohort.page */
    uint32_t left;    /* still parked, at the beginning of its pages */
    uint32_t gone;    /* touched since they were last looked at, behind these */
    uint32_t touched; /* since the last age */
    double weight;    /* of a page: groups count alike */
    bool retires;
};

/* Samples of one period. */
struct cohort {
    uint64_t born;      /* sampler.number; 0: unused */
    uint64_t parked_ns; /* of its groups together, since sampler.began_ns; then: when, on average */
    struct group *group;
    uint32_t *page;
    uint32_t ngroups, npages;
};

struct drawn {
    uint32_t region, serial, page;
};

struct sampler {
    struct cohort cohort[COHORTS];
    enum phase phase;
    uint64_t made_ns, due_ns, number; /* number: periods begun */
    uint32_t pages, ms;               /* as the daemon wants it; 0 pages: off */
    uint64_t random;

    /* where the phase stands */
    uint32_t at;
    uint32_t ndraws, nfound, nhuge, npinned;
    struct drawn drawn[DRAWS_MAX]; /* found */
    uint32_t ngroups;              /* to be made */
    double start;                  /* the first is this many steps into `drawn` */
    uint64_t began_ns;

    struct estimate touched;
    struct estimate_level samplable, huge, pinned; /* pages */
    struct estimate_ages ages;
    uint64_t faults, returned;        /* when the period began; in the last one, of pages that were out */
    struct estimate_level watched_ns; /* how long samples were watched, in their first period */
};

static uint64_t next_random(struct sampler *s)
{
    uint64_t z = s->random += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* From 0 to below 1. */
static double uniform(struct sampler *s)
{
    return (double)(next_random(s) >> 11) * 0x1p-53;
}

static uint32_t below(struct sampler *s, uint32_t n)
{
    return (uint32_t)(uniform(s) * n);
}

static struct region *region_of(struct memd *m, uint32_t id, uint32_t serial)
{
    struct region *r = region_get(m, id);

    return r && r->serial == serial ? r : NULL;
}

/* ---- one page */

enum fate { FATE_PARKED, FATE_TOUCHED, FATE_ENDED };

/* The chunk is locked. Of a page that is out otherwise its place says where it is: a handle of the pool may
 * have any bit. */
static enum fate fate_of(const struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page);

    if (entry_sample(e))
        return FATE_PARKED;
    return !entry_out(e) && place_get(r, page) & PLACE_TOUCHED ? FATE_TOUCHED : FATE_ENDED;
}

/* One sample less. The chunk is locked. Returns how many watch it still. */
static uint32_t unwatch(struct region *r, uint32_t page)
{
    uint64_t place = place_get(r, page), n = place & PLACE_WATCHERS;

    n -= n > 0;
    if (fate_of(r, page) != FATE_ENDED)
        place_set(r, page, n ? (place & ~PLACE_WATCHERS) | n : place & PLACE_SLOT_BITS);
    return (uint32_t)n;
}

/* One sample more. False: it cannot be one now. */
static bool watch(struct memd *m, struct region *r, uint32_t page, bool written)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    bool is = entry_sample(page_get(r, page));

    if (!is && !out_park(m, r, page, 1, &written, WIRE_PAGE_F_SAMPLE))
        return false;
    chunk_lock(c);
    is = fate_of(r, page) != FATE_ENDED; /* touched in the meantime: that counts */
    if (is)
        place_set(r, page, place_get(r, page) + 1);
    out_unlock(m, c);
    return is;
}

/* ---- a group */

/* Sorts its pages by what became of them: those still parked, those touched; the others are forgotten. */
static void group_look(struct memd *m, struct cohort *co, struct group *g)
{
    struct region *r = region_of(m, g->region, g->serial);
    uint32_t *page = &co->page[g->first], left = 0, gone = 0, touched[CHUNK_PAGES];

    if (!r) {
        g->left = 0;
        return;
    }
    chunk_lock(&r->chunks[g->chunk]);
    for (uint32_t i = 0; i < g->left; i++) {
        enum fate fate = fate_of(r, page[i]);
        if (fate == FATE_PARKED)
            page[left++] = page[i];
        else if (fate == FATE_TOUCHED)
            touched[gone++] = page[i];
    }
    out_unlock(m, &r->chunks[g->chunk]);
    memcpy(&page[left], touched, gone * sizeof *page);
    g->left = left;
    g->gone = gone;
    g->touched += gone;
}

/* Once all groups have seen it. */
static void group_forget_touched(struct memd *m, struct cohort *co, struct group *g)
{
    struct region *r = g->gone ? region_of(m, g->region, g->serial) : NULL;

    if (r) {
        chunk_lock(&r->chunks[g->chunk]);
        for (uint32_t i = 0; i < g->gone; i++)
            unwatch(r, co->page[g->first + g->left + i]);
        out_unlock(m, &r->chunks[g->chunk]);
        out_trim_places(r, g->chunk);
    }
    g->gone = 0;
}

static void group_home(struct memd *m, struct cohort *co, struct group *g)
{
    struct region *r = region_of(m, g->region, g->serial);
    struct chunk *c = r ? &r->chunks[g->chunk] : NULL;

    for (uint32_t i = 0, n; r && i < g->left; i++) {
        uint32_t page = co->page[g->first + i];
        chunk_lock(c);
        bool last = entry_sample(page_get(r, page)) && (place_get(r, page) & PLACE_WATCHERS) == 1;
        if (!last)
            unwatch(r, page);
        out_unlock(m, c);
        if (!last)
            continue;
        out_home(m, r, page, 1, &n);
        chunk_lock(c); /* somebody may have been faster, and left his mark */
        unwatch(r, page);
        out_unlock(m, c);
    }
    if (r)
        out_trim_places(r, g->chunk);
    g->left = 0;
}

static void cohort_free(struct cohort *co)
{
    free(co->group);
    free(co->page);
    *co = (struct cohort){0};
}

/* ---- resolve */

/* The age that ends for the cohort now: 2^*i periods. */
static bool at_age(const struct sampler *s, const struct cohort *co, unsigned *ret_i)
{
    uint64_t age = s->number - co->born;

    *ret_i = (unsigned)__builtin_ctzll(age | 1ull << 63);
    return age && !(age & (age - 1));
}

static void add_age(struct sampler *s, struct cohort *co, unsigned i)
{
    struct estimate_group *of = calloc(co->ngroups + 1, sizeof *of);
    struct estimate_share share;
    double watched = 0, touched = 0;

    for (uint32_t k = 0; k < co->ngroups && of; k++) {
        struct group *g = &co->group[k];
        of[k].watched = g->weight * (g->left + g->touched);
        of[k].touched = g->weight * g->touched;
        watched += of[k].watched;
        touched += of[k].touched;
        g->touched = 0;
        g->retires = i == WIRE_AGES - 1 || below(s, i ? KEEP_LATER : KEEP_FIRST);
    }
    if (of && !i && estimate_groups(of, co->ngroups, &share))
        estimate_add(&s->touched, &share);
    if (of)
        estimate_age(&s->ages, i, watched, touched);
    free(of);
}

static uint64_t faults_of(const struct memd *m)
{
    return atomic_load_explicit(&m->stats.parked_faults, memory_order_relaxed) +
           atomic_load_explicit(&m->stats.packed_faults, memory_order_relaxed) +
           atomic_load_explicit(&m->stats.swapped_faults, memory_order_relaxed);
}

static void resolve(struct memd *m, uint64_t now)
{
    struct sampler *s = m->sampler;
    unsigned i;

    s->number++;
    for (unsigned k = 0; k < COHORTS; k++)
        for (uint32_t g = 0; g < s->cohort[k].ngroups; g++)
            group_look(m, &s->cohort[k], &s->cohort[k].group[g]);
    for (unsigned k = 0; k < COHORTS; k++) {
        struct cohort *co = &s->cohort[k];
        for (uint32_t g = 0; g < co->ngroups; g++)
            group_forget_touched(m, co, &co->group[g]);
        if (!co->born || !at_age(s, co, &i))
            continue;
        if (!i && co->ngroups)
            estimate_level_add(&s->watched_ns, (double)(now - co->parked_ns));
        add_age(s, co, i);
    }
    s->returned = faults_of(m) - s->faults;
}

/* ---- retire */

/* A group a call. False: none is left that is to go. */
static bool retire_one(struct memd *m)
{
    struct sampler *s = m->sampler;

    for (; s->at < COHORTS; s->at++) {
        struct cohort *co = &s->cohort[s->at];
        bool any = false;
        for (uint32_t k = 0; k < co->ngroups; k++) {
            struct group *g = &co->group[k];
            if (g->left && g->retires) {
                group_home(m, co, g);
                return true;
            }
            any |= g->left > 0;
        }
        if (co->born && !any)
            cohort_free(co);
    }
    return false;
}

static void retire_all(struct sampler *s)
{
    for (unsigned k = 0; k < COHORTS; k++)
        for (uint32_t g = 0; g < s->cohort[k].ngroups; g++)
            s->cohort[k].group[g].retires = true;
}

/* ---- pick */

static bool is_sampled(const struct region *r)
{
    return r && !r->stuck && !r->changing;
}

static uint64_t total_pages(const struct memd *m)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        n += is_sampled(m->regions[i]) ? m->regions[i]->npages : 0;
    return n;
}

static struct region *page_at(struct memd *m, uint64_t position, uint32_t *ret_page)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        if (!is_sampled(r))
            continue;
        if (position < r->npages) {
            *ret_page = (uint32_t)position;
            return r;
        }
        position -= r->npages;
    }
    return NULL;
}

/* Private memory that is there: may it be parked? */
static void draw_present(struct memd *m, struct region *r, uint32_t page)
{
    static const struct scan_query present = {.anyof = PAGE_IS_PRESENT,
                                              .ret = PAGE_IS_PRESENT | PAGE_IS_PFNZERO | PAGE_IS_HUGE};
    struct sampler *s = m->sampler;
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    struct page_region vec[1];
    uint64_t walked;

    if (pagemap_scan(m, page_hva(r, page), PAGE_BYTES, &present, vec, 1, &walked) != 1 ||
        vec[0].categories & PAGE_IS_PFNZERO)
        return;
    if (c->huge || vec[0].categories & PAGE_IS_HUGE)
        s->nhuge++;
    else if (c->pins || page_get(r, page) & WIRE_PAGE_F_PINNED)
        s->npinned++;
    else
        s->drawn[s->nfound++] = (struct drawn){r->id, r->serial, page};
}

static void draw(struct memd *m, uint32_t i)
{
    struct sampler *s = m->sampler;
    uint64_t total = total_pages(m);
    uint32_t page;
    struct region *r = page_at(m, (uint64_t)((i + uniform(s)) * ((double)total / s->ndraws)), &page);

    if (!r || !region_segment(r, page))
        return;
    uint64_t e = page_get(r, page);
    if (entry_sample(e))
        s->drawn[s->nfound++] = (struct drawn){r->id, r->serial, page};
    else if (!entry_out(e) && !entry_in_store(e))
        draw_present(m, r, page);
}

static uint32_t groups_wanted(const struct sampler *s, uint64_t total)
{
    uint64_t n = s->pages / GROUP_MIN, most = total / CHUNK_PAGES / CHUNK_SHARE;
    uint64_t least = (s->pages + GROUP_MOST - 1) / GROUP_MOST;

    n = n > most ? most : n;
    n = n < least ? least : n;
    return n < s->nfound ? (uint32_t)n : s->nfound;
}

static void pick_begin(struct memd *m)
{
    struct sampler *s = m->sampler;
    uint32_t n = 4 * s->pages;

    s->ndraws = n < DRAWS_MIN ? DRAWS_MIN : n > DRAWS_MAX ? DRAWS_MAX : n;
    s->nfound = s->nhuge = s->npinned = s->at = 0;
    s->phase = SAMPLE_PICK;
}

/* Room for a new cohort. False: there is no memory. */
static bool cohort_make(struct sampler *s, uint32_t ngroups)
{
    struct cohort *co = &s->cohort[s->number % COHORTS];

    cohort_free(co); /* as old as can be: it has retired */
    co->group = calloc(ngroups + 1, sizeof *co->group);
    co->page = calloc(ngroups + 1, GROUP_MOST * sizeof *co->page);
    if (!co->group || !co->page) {
        cohort_free(co);
        return false;
    }
    co->born = s->number;
    return true;
}

static void pick_end(struct memd *m, uint64_t now)
{
    struct sampler *s = m->sampler;
    double pages = (double)total_pages(m), n = s->ndraws;

    estimate_level_add(&s->samplable, s->nfound / n * pages);
    estimate_level_add(&s->huge, s->nhuge / n * pages);
    estimate_level_add(&s->pinned, s->npinned / n * pages);
    s->ngroups = groups_wanted(s, (uint64_t)pages);
    if (!cohort_make(s, s->ngroups))
        s->ngroups = 0;
    s->start = uniform(s);
    s->began_ns = now;
    s->at = 0;
    s->phase = SAMPLE_PARK;
}

/* ---- park */

/* Pages of the chunk that are, or may be, samples. */
static uint32_t choices(const struct region *r, uint32_t chunk, const struct choice *choice,
                        uint32_t *ret_pages)
{
    uint32_t n = 0;

    for (uint32_t p = chunk_first(r, chunk); p < chunk_end(r, chunk); p++)
        if (entry_sample(page_get(r, p)) || pager_may_go(r, choice, p, true))
            ret_pages[n++] = p;
    return n;
}

static void group_make(struct memd *m, struct region *r, uint32_t chunk, uint32_t wanted)
{
    struct sampler *s = m->sampler;
    struct cohort *co = &s->cohort[s->number % COHORTS];
    struct group *g = &co->group[co->ngroups];
    uint32_t page[CHUNK_PAGES];
    struct choice choice;

    if (!is_sampled(r) || r->chunks[chunk].pins || r->chunks[chunk].huge ||
        pager_look(m, r, chunk, &choice) || choice.huge)
        return;
    *g = (struct group){.region = r->id, .serial = r->serial, .chunk = chunk, .first = co->npages};
    uint32_t n = choices(r, chunk, &choice, page);
    while (n && g->left < wanted) {
        uint32_t k = below(s, n), p = page[k];
        page[k] = page[--n];
        if (watch(m, r, p, choice.written[p - choice.first]))
            co->page[co->npages++] = p, g->left++;
    }
    if (!g->left)
        return;
    g->weight = 1.0 / g->left;
    co->parked_ns += now_ns() - s->began_ns;
    co->ngroups++;
}

/* A group a call. False: all are made. */
static bool park_one(struct memd *m)
{
    struct sampler *s = m->sampler;

    if (s->at >= s->ngroups)
        return false;
    uint32_t wanted = (s->pages + s->ngroups - 1) / s->ngroups;
    uint32_t k = (uint32_t)((s->at++ + s->start) * s->nfound / s->ngroups);
    const struct drawn *d = &s->drawn[k < s->nfound ? k : s->nfound - 1];
    struct region *r = region_of(m, d->region, d->serial);
    if (r)
        group_make(m, r, chunk_of(r, d->page), wanted < GROUP_MOST ? wanted : GROUP_MOST);
    return true;
}

static void park_end(struct memd *m, uint64_t now)
{
    struct sampler *s = m->sampler;
    struct cohort *co = &s->cohort[s->number % COHORTS];

    if (co->born == s->number && co->ngroups)
        co->parked_ns = s->began_ns + co->parked_ns / co->ngroups;
    s->faults = faults_of(m);
    s->due_ns = now + s->ms * 1000000ull;
    s->phase = SAMPLE_REST;
    if (!co->ngroups && !s->touched.periods) { /* a guest that has just begun: look again soon */
        uint32_t ms = s->ms / FIRST_SHARE < FIRST_MS ? s->ms / FIRST_SHARE : FIRST_MS;
        s->due_ns = now + ms * 1000000ull;
        s->samplable = s->huge = s->pinned = (struct estimate_level){0};
    }
}

/* ---- when */

/* Another period, or none: what is known is of no use any more. */
static void begin_anew(struct memd *m)
{
    struct sampler *s = m->sampler;

    retire_all(s);
    s->touched = (struct estimate){0};
    s->samplable = s->huge = s->pinned = s->watched_ns = (struct estimate_level){0};
    s->ages = (struct estimate_ages){0};
    s->pages = m->budget.sample_pages;
    s->ms = m->budget.sample_ms;
    s->at = 0;
    s->phase = SAMPLE_RETIRE;
}

static bool has_changed(const struct memd *m)
{
    const struct sampler *s = m->sampler;

    return s->ms != m->budget.sample_ms || !s->pages != !m->budget.sample_pages;
}

/* Most of its memory is about to be looked at for the first time. */
static bool is_early(struct memd *m)
{
    return !m->round.digested && scanning_on(m) && now_ns() - m->sampler->made_ns < EARLY_NS;
}

static bool is_held_up(struct memd *m)
{
    return atomic_load(&m->paused) || fork_pending(m) || is_early(m);
}

static void retired(struct memd *m, uint64_t now)
{
    struct sampler *s = m->sampler;

    if (s->pages && session_can_report(m)) {
        pick_begin(m);
        return;
    }
    s->due_ns = s->pages ? now + s->ms * 1000000ull : UINT64_MAX;
    s->phase = SAMPLE_REST;
}

static bool step(struct memd *m, uint64_t now)
{
    struct sampler *s = m->sampler;

    switch (s->phase) {
    case SAMPLE_REST:
        if (now < s->due_ns)
            return false;
        resolve(m, now);
        s->pages = m->budget.sample_pages;
        s->at = 0;
        s->phase = SAMPLE_RETIRE;
        return true;
    case SAMPLE_RETIRE:
        if (!retire_one(m))
            retired(m, now);
        return s->phase != SAMPLE_REST;
    case SAMPLE_PICK:
        for (uint32_t i = 0; i < DRAWS_STEP && s->at < s->ndraws; i++)
            draw(m, s->at++);
        if (s->at == s->ndraws)
            pick_end(m, now);
        return true;
    case SAMPLE_PARK:
        if (!park_one(m))
            park_end(m, now);
        return s->phase != SAMPLE_REST;
    }
    return false;
}

bool sample_step(struct memd *m)
{
    if (!m->sampler && !m->budget.sample_pages)
        return false;
    if (!m->sampler) {
        m->sampler = calloc(1, sizeof *m->sampler);
        if (!m->sampler)
            return false; /* tried again in the next turn */
        m->sampler->made_ns = now_ns();
        m->sampler->random = m->sampler->made_ns ^ (uintptr_t)m->sampler;
        m->sampler->due_ns = UINT64_MAX;
    }
    if (is_held_up(m))
        return false;
    if (has_changed(m))
        begin_anew(m);
    return step(m, now_ns());
}

uint64_t sample_due_ns(struct memd *m)
{
    const struct sampler *s = m->sampler;

    if (!s || is_held_up(m))
        return UINT64_MAX;
    return s->phase == SAMPLE_REST ? s->due_ns : 0;
}

void sample_close(struct memd *m)
{
    for (unsigned k = 0; m->sampler && k < COHORTS; k++)
        cohort_free(&m->sampler->cohort[k]);
    free(m->sampler);
    m->sampler = NULL;
}

uint32_t sample_yield(struct memd *m, struct region *r, uint32_t chunk, uint64_t most)
{
    uint32_t end = chunk_end(r, chunk), n = 0;

    if (!atomic_load_explicit(&r->out.sampled, memory_order_relaxed) || pager_ready(m))
        return 0;
    chunk_lock(&r->chunks[chunk]);
    for (uint32_t p = chunk_first(r, chunk); p < end && n < most; p++) {
        uint64_t e = page_get(r, p);
        if (!entry_sample(e))
            continue;
        place_set(r, p, place_get(r, p) & PLACE_SLOT_BITS);
        out_entry(r, p, e & ~(uint64_t)WIRE_PAGE_F_SAMPLE);
        n++;
    }
    out_unlock(m, &r->chunks[chunk]);
    return n;
}

/* ---- what is known */

struct sample_counts sample_count(const struct memd *m)
{
    const struct sampler *s = m->sampler;
    double idle[WIRE_AGES] = {0};

    if (!s || !s->touched.periods)
        return (struct sample_counts){0};
    struct sample_counts n = {
        .periods = s->touched.periods,
        .period_ms = (uint64_t)(s->watched_ns.value / 1e6),
        .samplable = (uint64_t)s->samplable.value,
        .unsampled = (uint64_t)(s->huge.value + s->pinned.value),
        .working_set = (uint64_t)(s->touched.is.share * s->samplable.value) + s->returned,
        .error = (uint64_t)(estimate_error(&s->touched) * s->samplable.value),
        .ages = estimate_idle(&s->ages, s->touched.is.share, idle),
    };
    for (unsigned i = 0; i < WIRE_AGES; i++)
        n.idle[i] = (uint64_t)(idle[i] * s->samplable.value);
    return n;
}
