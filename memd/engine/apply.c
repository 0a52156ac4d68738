/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Carrying out what was found: zero pages are dropped, pages the daemon proposes are merged; one chunk at a
 * time, everything that is to be done in it at once.
 *
 * Why together: each operation on a mapping has its price, the invalidation of the TLB most of all (plan.c).
 * So proposals wait in a queue, and zero pages as marks in the page map (F_PENDING without a frame), until no
 * more have come for a while (APPLY_IDLE_MS at least), or the first has waited APPLY_WAIT_MS. Every proposal
 * is answered by one RESULT when its chunk is done.
 *
 * A merge (I4): the frames are named in the page map first, so that no reference is ever held that the map
 * does not show; the pages are moved aside (hold.c); each is compared with its frame; the store is mapped
 * over equal stretches; the others go back. A hash has no say in it. What the daemon proposed may be stale or
 * nonsense: every bound is checked here and the answer says what was done.
 *
 * Between moving aside and looking, the mmap lock is taken for writing once (a madvise that changes nothing):
 * a kernel-side writer that still holds a plain reference to one of the pages (FOLL_GET) took it under that
 * lock, and has mostly finished by then.
 *
 * All functions: engine.work held.
 */
#include "memd/engine/engine.h"
#include "memd/engine/plan.h"
#include "memd/engine/stores.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define APPLY_IDLE_MS    10u
#define APPLY_IDLE_SHARE 25u /* of the shortest time between rounds: in no hurry, wait for more */
#define APPLY_WAIT_MS    400u
#define APPLY_MANY       (APPLY_WISHES_MAX / 2)
#define APPLY_AT_A_TIME  128u /* wishes answered by one operation */
#define APPLY_ROOM_BYTES (APPLY_AT_A_TIME * sizeof(struct wire_rec_result) + 8192u)
#define REFUSALS_MAX     16u /* pages that can't be moved, in one span, before the rest is left alone */
static_assert(APPLY_ROOM_BYTES < WIRE_RING_BYTES / 2, "answers fit");
static_assert(APPLY_AT_A_TIME <= UINT8_MAX, "a byte says which wish");

/* What became of a page of a span. */
enum fate {
    FATE_STAYED, /* was never aside */
    FATE_HOLE,   /* nothing was there */
    FATE_BACK,   /* goes back */
    FATE_DROP,   /* all zero: stays away */
    FATE_MERGE,  /* its frame takes its place */
};

/* One operation: the part of a chunk that lies in one segment. Arrays are indexed from `first`. */
struct op {
    struct memd *m;
    struct region *r;
    struct chunk *c;
    uint32_t chunk, first, npages, park;
    uint32_t frame[CHUNK_PAGES]; /* that the page is to be merged with; 0: none */
    uint8_t kind[CHUNK_PAGES], fate[CHUNK_PAGES], why[CHUNK_PAGES];
    const struct wish *wish;     /* the first of those that belong here; */
    uint8_t wisher[CHUNK_PAGES]; /* which of them is to merge the page */
    bool merged[CHUNK_PAGES];
};

/* ---- the queue */

static bool frames_valid(const struct memd *m, uint32_t frame, uint32_t count)
{
    uint32_t index = frame & WIRE_FRAME_INDEX_MASK, node = frame >> WIRE_FRAME_NODE_SHIFT;
    uint64_t limit = m->session.store_bytes >> PAGE_SHIFT;

    return node < m->session.nstores && frame && index < limit && count <= limit - index &&
           (uint64_t)index + count <= WIRE_FRAME_INDEX_MASK;
}

static void answer(struct memd *m, const struct wish *w, const struct op *op, enum wire_why why)
{
    struct wire_rec_result *res = ring_reserve(&m->session.up, WIRE_REC_RESULT, sizeof *res);
    uint32_t merged = 0;

    if (!res) { /* room was left: only a peer that moves tail backwards gets here */
        log_msg(m, MEMD_LOG_ERROR, "the daemon's ring is inconsistent; reconnecting");
        m->session.broken = true;
        return;
    }
    *res = (struct wire_rec_result){.r = {.type = WIRE_REC_RESULT, .bytes = sizeof *res, .region = w->region},
                                    .page = w->page,
                                    .frame = w->frame,
                                    .count = w->count,
                                    .why = (uint16_t)why,
                                    .id = w->id};
    for (uint32_t k = 0; op && k < w->count; k++) {
        uint32_t i = w->page + k - op->first;
        if (w->page + k >= op->first && i < op->npages && op->merged[i] && &op->wish[op->wisher[i]] == w)
            res->merged[k / 64] |= 1ull << (k % 64), merged++;
    }
    if (merged < w->count && !why) /* nothing was there: discarded since */
        res->why = WIRE_WHY_STATE;
}

static void touch(struct memd *m)
{
    m->apply.last_ns = now_ns();
    if (!m->apply.first_ns)
        m->apply.first_ns = m->apply.last_ns;
}

void apply_wish(struct memd *m, const struct wire_rec_merge *rec)
{
    struct region *r = rec->r.region < MEMD_REGIONS_MAX ? m->regions[rec->r.region] : NULL;
    struct apply *a = &m->apply;
    struct wish w = {.id = rec->id,
                     .page = rec->page,
                     .frame = rec->frame,
                     .count = rec->count,
                     .region = (uint16_t)(r ? rec->r.region : MEMD_REGIONS_MAX),
                     .serial = r ? r->serial : 0};
    bool sane = r && rec->count && rec->count <= CHUNK_PAGES && rec->page < r->npages &&
                rec->count <= r->npages - rec->page &&
                chunk_of(r, rec->page) == chunk_of(r, rec->page + rec->count - 1) &&
                frames_valid(m, rec->frame, rec->count);

    if (!sane || !merging_on(m)) {
        w.region = (uint16_t)rec->r.region;
        answer(m, &w, NULL, sane ? WIRE_WHY_OFF : WIRE_WHY_STATE);
        return;
    }
    if (a->n == a->room) {
        uint32_t room = a->room ? a->room * 2 : 256;
        struct wish *grown = realloc(a->wish, room * sizeof *grown);
        if (!grown) {
            answer(m, &w, NULL, WIRE_WHY_NOMEM);
            return;
        }
        a->wish = grown;
        a->room = room;
    }
    a->wish[a->n++] = w;
    touch(m);
}

void apply_zero(struct memd *m, struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page) & ~((uint64_t)WIRE_PAGE_TAG_MASK << WIRE_PAGE_TAG_SHIFT);

    page_set(r, page, e | WIRE_PAGE_F_PENDING);
    if (r->chunks[chunk_of(r, page)].todo)
        return;
    r->chunks[chunk_of(r, page)].todo = true;
    m->apply.todo++;
    touch(m);
}

void apply_forget(struct memd *m)
{
    free(m->apply.wish);
    m->apply.wish = NULL;
    m->apply.n = m->apply.room = m->apply.sorted = m->apply.at = m->apply.healed = 0;
    m->apply.running = false;
}

uint64_t apply_due_ns(const struct memd *m)
{
    const struct apply *a = &m->apply;

    if (!a->n && !a->todo)
        return UINT64_MAX;
    if (a->running || m->session.barrier.r.type || a->n >= APPLY_MANY)
        return 0;
    uint32_t idle_ms = m->budget.quiet_ms / APPLY_IDLE_SHARE;
    uint64_t idle = a->last_ns + (idle_ms > APPLY_IDLE_MS ? idle_ms : APPLY_IDLE_MS) * 1000000ull,
             oldest = a->first_ns + APPLY_WAIT_MS * 1000000ull;
    return idle < oldest ? idle : oldest;
}

/* ---- what is to be done in a chunk */

/* Why this page cannot be merged now; NONE: it can. */
static enum wire_why page_refuses(const struct op *op, uint32_t page)
{
    uint64_t e = page_get(op->r, page);

    if (op->c->huge)
        return WIRE_WHY_HUGE;
    if (entry_state(e) != WIRE_PAGE_PRIVATE || entry_frame(e) || e & WIRE_PAGE_F_PENDING)
        return WIRE_WHY_STATE;
    return e & WIRE_PAGE_F_PINNED ? WIRE_WHY_PINNED : WIRE_WHY_NONE;
}

static enum plan_kind page_kind(const struct op *op, uint32_t page)
{
    uint64_t e = page_get(op->r, page);

    switch (entry_state(e)) {
    case WIRE_PAGE_ZERO:
    case WIRE_PAGE_GONE:
        return e & WIRE_PAGE_F_PINNED ? PLAN_BARRIER : PLAN_HOLE;
    case WIRE_PAGE_PRIVATE:
        if (e & WIRE_PAGE_F_PINNED)
            return PLAN_BARRIER;
        if (e & WIRE_PAGE_F_PENDING)
            return PLAN_TARGET;
        /* never seen written: nothing there, as far as is known */
        return entry_tag(e) || pending_test(op->r, page) ? PLAN_KEEP : PLAN_HOLE;
    default:
        return PLAN_BARRIER;
    }
}

static void take_wish(struct op *op, const struct wish *w)
{
    for (uint32_t k = 0; k < w->count; k++) {
        uint32_t page = w->page + k, i = page - op->first;
        if (page < op->first || i >= op->npages)
            continue;
        enum wire_why why = op->frame[i] ? WIRE_WHY_STATE : page_refuses(op, page);
        if (why) {
            if (!op->frame[i])
                op->why[i] = (uint8_t)why;
            continue;
        }
        op->frame[i] = w->frame + k;
        op->wisher[i] = (uint8_t)(w - op->wish);
        op->kind[i] = PLAN_TARGET;
    }
}

/* Shortest run worth its two mappings: the nearer the limit, the longer. */
static uint32_t run_worth(const struct memd *m)
{
    uint64_t limit = m->budget.vmas_max, used = m->vmas_used;

    if (m->map_count_short || used + 8 >= limit)
        return UINT32_MAX;
    return used < limit / 2 ? 1 : used < limit / 4 * 3 ? 3 : 8;
}

/* End of the stretch from `i` on that one mapping can cover. */
static uint32_t run_end(const struct op *op, uint32_t i)
{
    uint32_t end = i + 1;

    while (end < op->npages && op->frame[end] == op->frame[i] + (end - i))
        end++;
    return end;
}

static void drop_short_runs(struct op *op)
{
    uint32_t worth = op->m->locks_future ? UINT32_MAX : run_worth(op->m);

    for (uint32_t i = 0, end; i < op->npages; i = end) {
        end = i + 1;
        if (!op->frame[i])
            continue;
        end = run_end(op, i);
        if (end - i >= worth)
            continue;
        for (uint32_t k = i; k < end; k++) {
            op->frame[k] = 0;
            op->kind[k] = PLAN_KEEP;
            op->why[k] = op->m->locks_future ? WIRE_WHY_OFF : WIRE_WHY_MAP_COUNT;
        }
    }
}

/* ---- one span */

static void name_frames(struct op *op, struct plan_span s)
{
    for (uint32_t i = s.first; i < s.end; i++)
        if (op->frame[i]) {
            uint64_t e = page_get(op->r, op->first + i);
            page_set(op->r, op->first + i,
                     entry_make(WIRE_PAGE_PRIVATE, WIRE_PAGE_F_PENDING, entry_tag(e), op->frame[i]));
        }
}

/* `i` could not be moved. It is left alone for a while. */
static void refused(struct op *op, uint32_t i)
{
    uint32_t page = op->first + i;

    page_set(op->r, page, page_get(op->r, page) | WIRE_PAGE_F_PINNED);
    op->why[i] = WIRE_WHY_PINNED;
    if (!op->m->pin_retry_ns)
        op->m->pin_retry_ns = now_ns() + PIN_RETRY_MS * 1000000ull;
}

/* A page that a child has shared is not the VMM's alone until a write shows the kernel that nobody shares it
 * any more: then it can be moved. A page that refuses is there, so nothing is brought into being. */
static bool made_exclusive(struct op *op, uint32_t i)
{
    return op->m->forked && !madvise(page_hva(op->r, op->first + i), PAGE_BYTES, MADV_POPULATE_WRITE);
}

/* Moves what can be moved; pages that refuse stay, and so does what follows too many of them. */
static void move_aside(struct op *op, struct plan_span s)
{
    uint32_t tried = UINT32_MAX; /* page that has been made exclusive already */
    unsigned refusals = 0;

    for (uint32_t i = s.first; i < s.end && refusals < REFUSALS_MAX;) {
        uint32_t moved = 0;
        int err =
            hold_move(op->m, op->m->parking + (op->park + i - s.first) * PAGE_BYTES,
                      page_hva(op->r, op->first + i), s.end - i, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &moved);
        for (; moved; moved--)
            op->fate[i++] = FATE_HOLE;
        if (!err)
            continue;
        if (err == -EBUSY && i != tried && made_exclusive(op, i)) {
            tried = i;
            continue;
        }
        refusals++;
        if (err == -EBUSY)
            refused(op, i);
        else
            op->why[i] = WIRE_WHY_STATE;
        i++;
    }
}

static bool is_as_expected(const struct op *op, uint32_t i, const void *aside)
{
    if (op->frame[i])
        return page_equals(aside, stores_frame(op->m, op->frame[i]));
    return page_is_zero(aside);
}

/* Nobody can write these pages now. */
static void judge_page(struct op *op, uint32_t i, const void *aside)
{
    if (op->fate[i] != FATE_HOLE) /* it has stayed: what is here is not its content */
        return;
    if (op->kind[i] != PLAN_TARGET) {
        op->fate[i] = FATE_BACK;
    } else if (is_as_expected(op, i, aside)) {
        op->fate[i] = op->frame[i] ? FATE_MERGE : FATE_DROP;
    } else {
        op->fate[i] = FATE_BACK;
        pending_set(op->r, op->first + i);
        if (!op->frame[i]) {
            op->c->sparse = true;
        } else {
            op->why[i] = WIRE_WHY_DIFFERS;
            atomic_fetch_add_explicit(&op->m->stats.rejected, 1, memory_order_relaxed);
        }
    }
}

struct judging {
    struct op *op;
    uint32_t first;
};

static void judge_range(void *ctx, uint32_t i, uint32_t npages)
{
    const struct judging *j = ctx;
    struct op *op = j->op;

    for (uint32_t k = i; k < i + npages; k++)
        judge_page(op, j->first + k, op->m->parking + (op->park + k) * PAGE_BYTES);
}

/* Looks at what is aside. Where nothing is, nothing may be touched: the access would wait for us. */
static void judge(struct op *op, struct plan_span s)
{
    hold_each(op->m, op->park, s.end - s.first, judge_range, &(struct judging){op, s.first});
}

static void map_frames(struct op *op, struct plan_span s)
{
    for (uint32_t i = s.first, end; i < s.end; i = end) {
        end = i + 1;
        if (op->fate[i] != FATE_MERGE)
            continue;
        while (end < s.end && op->fate[end] == FATE_MERGE && op->frame[end] == op->frame[i] + (end - i))
            end++;
        int err = place_store(op->m, op->r, op->first + i, end - i, op->frame[i]);
        if (!err)
            continue;
        map_count_hit(op->m);
        for (uint32_t k = i; k < end; k++) {
            op->fate[k] = FATE_BACK;
            op->why[k] = err == -ENOMEM ? WIRE_WHY_MAP_COUNT : WIRE_WHY_NOMEM;
        }
    }
}

static void give_back(struct op *op, struct plan_span s)
{
    for (uint32_t i = s.first, end; i < s.end; i = end) {
        end = i + 1;
        if (op->fate[i] != FATE_BACK)
            continue;
        while (end < s.end && op->fate[end] == FATE_BACK)
            end++;
        hold_back(op->m, page_hva(op->r, op->first + i), op->park + (i - s.first), end - i);
    }
}

/* MISSING off, tracking on for all that is still anonymous. */
static void end_missing(struct op *op, struct plan_span s)
{
    struct memd *m = op->m;
    if (atomic_load_explicit(&op->c->missing, memory_order_relaxed)) /* pages may be out: out_release() */
        return;
    int err =
        uffd_unregister(m->uffd_a, page_hva(op->r, op->first + s.first), (s.end - s.first) * PAGE_BYTES);

    for (uint32_t i = s.first, end; i < s.end && !err; i = end) {
        end = i + 1;
        if (op->fate[i] == FATE_MERGE)
            continue;
        while (end < s.end && op->fate[end] != FATE_MERGE)
            end++;
        err = uffd_register(m->uffd_a, page_hva(op->r, op->first + i), (end - i) * PAGE_BYTES,
                            UFFDIO_REGISTER_MODE_WP);
    }
    if (err)
        hold_stays_missing(m, op->c, s.end - s.first, err);
}

static void write_map(struct op *op, struct plan_span s)
{
    uint64_t merged = 0, dropped = 0;

    for (uint32_t i = s.first; i < s.end; i++) {
        uint32_t page = op->first + i;
        uint64_t e = page_get(op->r, page);
        if (op->fate[i] == FATE_MERGE) {
            page_set(op->r, page, entry_make(WIRE_PAGE_SHARED, 0, 0, op->frame[i]));
            pending_clear(op->r, page);
            op->merged[i] = true;
            merged++;
        } else if (op->fate[i] == FATE_DROP) {
            region_dropped(op->m, op->r, page);
            dropped++;
        } else if (op->kind[i] == PLAN_TARGET) {
            page_set(op->r, page,
                     entry_make(WIRE_PAGE_PRIVATE, (uint32_t)(e & WIRE_PAGE_F_PINNED), entry_tag(e), 0));
        }
    }
    atomic_fetch_add_explicit(&op->m->stats.merges, merged, memory_order_relaxed);
    atomic_fetch_add_explicit(&op->m->stats.zero_drops, dropped, memory_order_relaxed);
    if (merged)
        op->c->store = true;
}

static void span_apply(struct op *op, struct plan_span s)
{
    struct memd *m = op->m;
    char *hva = page_hva(op->r, op->first + s.first);
    uint64_t bytes = (s.end - s.first) * PAGE_BYTES;

    op->park = hold_room(m, s.end - s.first);
    name_frames(op, s);
    chunk_lock(op->c);
    int err = uffd_register(m->uffd_a, hva, bytes, UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
    if (err) {
        chunk_unlock(op->c);
        if (err == -ENOMEM)
            map_count_hit(m);
        for (uint32_t i = s.first; i < s.end; i++) {
            op->why[i] = err == -ENOMEM ? WIRE_WHY_MAP_COUNT : WIRE_WHY_STATE;
            if (op->kind[i] == PLAN_TARGET)
                pending_set(op->r, op->first + i);
        }
        write_map(op, s);
        return;
    }
    move_aside(op, s);
    madvise(hva, bytes, MADV_DONTFORK);
    judge(op, s);
    map_frames(op, s);
    give_back(op, s);
    end_missing(op, s);
    write_map(op, s);
    if (op->c->store)
        place_store_flags(op->r, op->first + s.first, s.end - s.first);
    chunk_unlock(op->c);
    uffd_wake(m->uffd_a, hva, bytes);
}

/* ---- one chunk */

static void op_run(struct op *op, const struct wish *w, uint32_t nwishes)
{
    struct plan_span span[PLAN_SPANS_MAX];

    op->wish = w;
    for (uint32_t i = 0; i < op->npages; i++)
        op->kind[i] = (uint8_t)page_kind(op, op->first + i);
    for (uint32_t k = 0; k < nwishes; k++)
        take_wish(op, &w[k]);
    drop_short_runs(op);
    unsigned n = plan_spans(&op->m->costs, op->kind, op->npages, span);
    for (unsigned k = 0; k < n; k++)
        span_apply(op, span[k]);
    if (op->c->store)
        chunk_count_vmas(op->m, op->r, op->chunk);
}

/* Zero pages that are not to be dropped after all. */
static void unmark_zeros(struct region *r, uint32_t chunk)
{
    for (uint32_t p = chunk_first(r, chunk); p < chunk_end(r, chunk); p++) {
        uint64_t e = page_get(r, p);
        if (e & WIRE_PAGE_F_PENDING && !entry_frame(e)) {
            page_set(r, p, e & ~(uint64_t)WIRE_PAGE_F_PENDING);
            pending_set(r, p);
        }
    }
}

static void answer_all(struct op *op, const struct wish *w, uint32_t nwishes, enum wire_why why)
{
    for (uint32_t k = 0; k < nwishes; k++) {
        enum wire_why said = why;
        for (uint32_t j = 0; op && j < w[k].count; j++) {
            uint32_t i = w[k].page + j - op->first;
            if (w[k].page + j < op->first || i >= op->npages)
                said = WIRE_WHY_OFF;
            else if (op->why[i] && !op->merged[i])
                said = op->why[i];
        }
        answer(op->m, &w[k], op, said);
    }
}

/* The chunk's segments, one after the other. A wish that spans two is done in its first one. */
static void chunk_apply(struct memd *m, struct region *r, uint32_t chunk, const struct wish *w,
                        uint32_t nwishes)
{
    uint32_t first = chunk_first(r, chunk), end = chunk_end(r, chunk), done = 0;
    struct chunk *c = &r->chunks[chunk];
    bool off = !merging_on(m) || r->stuck || r->changing || c->pins;

    m->apply.todo -= c->todo;
    c->todo = false;
    if (off)
        unmark_zeros(r, chunk);
    for (uint32_t from = first, to; from < end && !off; from = to) {
        const struct segment *seg = segments_find(&r->parts, from);
        uint32_t n = 0;
        to = seg->first + seg->npages < end ? seg->first + seg->npages : end;
        if (seg->why != SEGMENT_TAKES_PART)
            continue;
        struct op op = {.m = m, .r = r, .c = c, .chunk = chunk, .first = from, .npages = to - from};
        while (done + n < nwishes && w[done + n].page < to)
            n++; /* those of before `from` too: they are found to be out of it */
        op_run(&op, w + done, n);
        answer_all(&op, w + done, n, WIRE_WHY_NONE);
        done += n;
    }
    for (; done < nwishes; done++)
        answer(m, &w[done], NULL, WIRE_WHY_OFF);
}

/* ---- passes over the queue */

static int by_place(const void *a, const void *b)
{
    const struct wish *x = a, *y = b;

    if (x->region != y->region)
        return x->region < y->region ? -1 : 1;
    return x->page < y->page ? -1 : x->page > y->page;
}

static void pass_start(struct memd *m)
{
    struct apply *a = &m->apply;
    bool locks = a->n && place_locks_future();

    if (locks && !m->locks_future)
        log_msg(m, MEMD_LOG_WARN,
                "the VMM locks all memory it maps (mlockall MCL_FUTURE): nothing is merged while it does");
    m->locks_future = locks;
    if (a->n) /* there may be no array yet */
        qsort(a->wish, a->n, sizeof *a->wish, by_place);
    a->sorted = a->n;
    a->at = a->healed = 0;
    a->region = a->chunk = 0;
    a->first_ns = 0;
    a->running = true;
}

static void pass_end(struct memd *m)
{
    struct apply *a = &m->apply;

    a->running = false;
    a->n -= a->sorted;
    if (a->n)
        memmove(a->wish, a->wish + a->sorted, a->n * sizeof *a->wish);
    a->sorted = a->at = a->healed = 0;
    if (!a->n)
        apply_forget(m);
}

/* Wishes from a->at on that belong to one chunk, at most APPLY_AT_A_TIME. */
static uint32_t wishes_of(const struct memd *m, const struct region *r, uint32_t chunk)
{
    const struct apply *a = &m->apply;
    uint32_t n = 0;

    while (a->at + n < a->sorted && n < APPLY_AT_A_TIME && a->wish[a->at + n].region == r->id &&
           a->wish[a->at + n].serial == r->serial && chunk_of(r, a->wish[a->at + n].page) == chunk)
        n++;
    return n;
}

/* Written since the merge, quiet, and now equal to something again: worth bringing back into plain memory.
 * False: no room. */
static bool want_heal(struct memd *m, const struct wish *w)
{
    struct region *r = w->region < MEMD_REGIONS_MAX ? m->regions[w->region] : NULL;

    if (!r || r->serial != w->serial)
        return true;
    for (uint32_t page = w->page; page < w->page + w->count; page++) {
        if (entry_state(page_get(r, page)) != WIRE_PAGE_BROKEN || heal_want(m, r, page, 1))
            continue;
        if (m->heal_tokens >= 1)
            return false;
        pending_set(r, page); /* looked at again in a later round */
    }
    return true;
}

/* For as many wishes as one probe will do, and what the scan wanted. */
static void heal_ahead(struct memd *m)
{
    struct apply *a = &m->apply;

    while (a->healed < a->sorted && want_heal(m, &a->wish[a->healed]))
        a->healed++;
    heal_flush(m);
}

/* The next chunk with something to do, from where the pass stands; NULL: none. */
static struct region *next_chunk(struct memd *m)
{
    struct apply *a = &m->apply;

    for (; a->region < MEMD_REGIONS_MAX; a->region++, a->chunk = 0) {
        struct region *r = m->regions[a->region];
        for (; r && a->chunk < r->nchunks; a->chunk++)
            if (r->chunks[a->chunk].todo || wishes_of(m, r, a->chunk))
                return r;
        /* wishes for a region that is gone, or for one that was here before */
        while (a->at < a->sorted && a->wish[a->at].region <= a->region) {
            if (ring_room(&m->session.up) < APPLY_ROOM_BYTES)
                return NULL;
            answer(m, &a->wish[a->at++], NULL, WIRE_WHY_STATE);
        }
    }
    return NULL;
}

static bool may_apply(struct memd *m)
{
    /* where there is no room for answers, the daemon kicks when it has read */
    return !atomic_load(&m->paused) && !fork_pending(m) &&
           (!session_can_report(m) || ring_room(&m->session.up) >= APPLY_ROOM_BYTES);
}

bool apply_goes_on(struct memd *m)
{
    return m->apply.running && may_apply(m);
}

bool apply_step(struct memd *m)
{
    struct apply *a = &m->apply;

    if (!may_apply(m) || (!a->running && now_ns() < apply_due_ns(m)))
        return false;
    if (!a->running)
        pass_start(m);
    struct region *r = next_chunk(m);
    if (r) {
        uint32_t n = wishes_of(m, r, a->chunk);
        while (a->healed < a->at + n && merging_on(m))
            heal_ahead(m);
        a->at += n;
        chunk_apply(m, r, a->chunk, a->wish + a->at - n, n);
    } else if (a->region >= MEMD_REGIONS_MAX) {
        pass_end(m);
    } else {
        return false; /* no room for answers */
    }
    return true;
}
