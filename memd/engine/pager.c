/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pager: carries out orders to take pages out of RAM or to bring them home, a piece at a time on the
 * worker thread, and keeps what belongs to pages that are out in shape. How a page goes out and comes back:
 * out.c.
 *
 * A PAGEOUT goes round the chunks from where the last one ended, like the hand of a clock. It parks pages
 * until it has as many as are wanted, gives whoever uses them time to touch them (which brings them home for
 * the price of a soft fault), and packs those nobody has touched; and so on, until enough is out or it has
 * been round once.
 *
 * Then, if it says so, what is packed is written to the swap file, and what could not be packed, whole. If
 * the file is full, it may be so of pages that have come home and stay: their records are given up.
 * Merged pages go only now (merged.c), if the VM's own were not enough: out of RAM altogether, or not at all;
 * and those that are REMOTE before them (remote.c). Cold ones that are not wanted, and all of them if the
 * order may write nothing, become REMOTE, once for each time it was seen which are cold.
 *
 * Between any two pieces of an order comes the upkeep of what it leaves: pager_keep.c.
 *
 * All functions: engine.work held.
 */
#include "memd/engine/pager.h"

#include "memd/engine/memory.h"
#include "memd/engine/merged.h"
#include "memd/engine/out.h"
#include "memd/engine/pace.h"
#include "memd/engine/remote.h"
#include "memd/engine/sample.h"
#include "memd/engine/swap.h"

#include <errno.h>
#include <string.h>

#define WINDOW_PAGES 512u
#define PASSES_MAX   16u  /* of parking all that is wanted, where it comes home before it is packed */
#define HOME_STEP    256u /* pages, or what a slow device gives in HOME_NS */
#define HOME_NS      10000000ull
#define AGE_MIN_NS   5000000000ull  /* merged pages nobody has touched for so long are cold */
#define AGE_MAX_NS   60000000000ull /* that somebody has touched in so long says nothing: begin anew */

/* ---- the hand */

static uint32_t chunks_total(const struct memd *m)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        n += m->regions[i] ? m->regions[i]->nchunks : 0;
    return n;
}

/* The region the position is in, which moves on past what is gone; NULL: no regions. */
static struct region *here(struct memd *m)
{
    struct pager *p = m->pager;

    for (unsigned tries = 0; tries <= MEMD_REGIONS_MAX; tries++) {
        struct region *r = p->region < MEMD_REGIONS_MAX ? m->regions[p->region] : NULL;
        if (r && p->chunk < r->nchunks)
            return r;
        p->region = (p->region + 1) % MEMD_REGIONS_MAX;
        p->chunk = p->page = 0;
    }
    return NULL;
}

static void chunk_done(struct pager *p)
{
    p->chunk++;
    p->page = 0;
    p->chunk_begun = false;
    p->left--;
}

/* ---- which pages of a chunk */

int pager_look(struct memd *m, struct region *r, uint32_t chunk, struct choice *ret_choice)
{
    static const struct scan_query present = {
        .anyof = PAGE_IS_PRESENT, .ret = PAGE_IS_PRESENT | PAGE_IS_WRITTEN | PAGE_IS_PFNZERO | PAGE_IS_HUGE};
    uint64_t at = (uintptr_t)page_hva(r, chunk_first(r, chunk));
    uint64_t base = at, end = (uintptr_t)page_hva(r, chunk_end(r, chunk)), walked;
    struct page_region vec[64];

    *ret_choice = (struct choice){.first = chunk_first(r, chunk)};
    while (at < end) {
        int n = pagemap_scan(m, (void *)at, end - at, &present, vec, 64, &walked);
        if (n < 0 || walked <= at)
            return n < 0 ? n : -EIO;
        for (int i = 0; i < n; i++)
            for (uint64_t a = vec[i].start; a < vec[i].end; a += PAGE_BYTES) {
                uint32_t k = (uint32_t)((a - base) >> PAGE_SHIFT);
                ret_choice->there[k] = !(vec[i].categories & PAGE_IS_PFNZERO);
                ret_choice->written[k] = vec[i].categories & PAGE_IS_WRITTEN;
                ret_choice->huge |= !!(vec[i].categories & PAGE_IS_HUGE);
            }
        at = walked;
    }
    return 0;
}

bool pager_may_go(const struct region *r, const struct choice *c, uint32_t page, bool all)
{
    const uint64_t busy = WIRE_PAGE_F_PENDING | WIRE_PAGE_F_DROPPING | WIRE_PAGE_F_PINNED;
    uint64_t e = page_get(r, page);
    uint32_t k = page - c->first;

    /* what is there was written, whatever the last round has seen of it */
    return c->there[k] && entry_state(e) != WIRE_PAGE_BROKEN && entry_state(e) != WIRE_PAGE_SHARED &&
           !entry_out(e) && !entry_frame(e) && !(e & busy) &&
           (all || (!c->written[k] && !pending_test(r, page))) && region_segment(r, page);
}

static bool to_swap(const struct pager *p)
{
    return p->order.flags & WIRE_PAGEOUT_SWAP && p->swap;
}

/* Parks what may go, at most `most` pages; returns how many went. */
static uint32_t chunk_park(struct memd *m, struct region *r, uint32_t chunk, bool all, uint64_t most)
{
    bool raw = to_swap(m->pager); /* else what cannot be packed is left alone */
    uint32_t end = chunk_end(r, chunk), n = 0;
    struct chunk *c = &r->chunks[chunk];
    struct choice choice;

    if (c->pins || r->stuck || r->changing || (c->huge && !all) || pager_look(m, r, chunk, &choice))
        return 0;
    if (c->huge)
        scan_huge_gone(r, chunk);
    for (uint32_t p = chunk_first(r, chunk), next; p < end && n < most; p = next) {
        const struct segment *s = region_segment(r, p);
        next = p + 1;
        if (!pager_may_go(r, &choice, p, all) || (!raw && out_refuses(r, p)))
            continue;
        while (next < end && next - p < most - n && next < s->first + s->npages &&
               pager_may_go(r, &choice, next, all) && (raw || !out_refuses(r, next)))
            next++;
        n += out_park(m, r, p, next - p, &choice.written[p - choice.first], 0);
    }
    return all && n < most ? n + sample_yield(m, r, chunk, most - n) : n;
}

/* ---- orders */

static void answer(struct memd *m)
{
    struct pager *p = m->pager;

    if (session_can_report(m)) {
        session_stats(m); /* whoever hears that it is done, and asks, is told what it has come to */
        struct wire_rec_paged *rec = ring_reserve(&m->session.up, WIRE_REC_PAGED, sizeof *rec);
        if (!rec)
            return; /* when there is room */
        rec->r.region = 0;
        rec->id = p->order.id;
        rec->pages = p->done;
        rec->error = p->error;
        rec->reserved = 0;
    }
    p->phase = PAGER_IDLE;
}

static void finish(struct memd *m, int error)
{
    m->pager->error = error;
    m->pager->phase = PAGER_ANSWER;
    answer(m);
}

/* What has been taken for the swap file is written, whoever wants no more of it. */
static void flush(struct pager *p)
{
    if (p->swap)
        swapfile_flush(p->swap);
}

void pager_forget(struct memd *m)
{
    if (!m->pager)
        return;
    flush(m->pager);
    m->pager->phase = PAGER_IDLE;
}

static void begin_pageout(struct memd *m)
{
    struct pager *p = m->pager;

    p->region = p->hand_region;
    p->chunk = p->hand_chunk;
    p->page = p->chunks = 0;
    p->parked = 0;
    p->phase = PAGER_PARK;
}

void pager_order(struct memd *m, const struct wire_rec_page *order)
{
    struct pager *p = m->pager;

    if (p->phase != PAGER_IDLE) {
        flush(p);
        finish(m, ECANCELED);
    }
    p->order = *order;
    p->done = p->kept = 0;
    p->passes = 0;
    p->writes = p->at_once = false;
    p->error = 0;
    p->left = chunks_total(m);
    p->before = p->wholes;
    p->forgot = false;
    p->home_step = 1;
    if (order->r.type == WIRE_REC_PAGEOUT) {
        pace_begin(m, order);
        if (order->flags & WIRE_PAGEOUT_SWAP &&
            (m->vmas_used || remote_count(m))) /* perhaps merged pages are all that can go */
            pager_ready(m);
        begin_pageout(m);
        return;
    }
    uint64_t need = pager_count(m).packed + pager_count(m).swapped + pager_count(m).remote,
             have = mem_available_bytes() >> PAGE_SHIFT;
    need = need < order->pages ? need : order->pages;
    p->region = p->chunk = p->page = 0;
    p->phase = PAGER_HOME;
    if (need > have)
        finish(m, ENOMEM);
}

static uint64_t wanted(const struct pager *p)
{
    uint64_t go = p->done + p->kept; /* kept: those that have been written since, too */

    return p->order.pages > go ? p->order.pages - go : 0;
}

/* Where no page waits for somebody to touch it, few are parked before they go on, to the swap file if they
 * are to: else a VM that touches everything has most of them back by then, and the less CPU the worker gets
 * the more. */
static bool by_windows(const struct pager *p)
{
    return !p->order.park_ms && !(p->order.flags & WIRE_PAGEOUT_PARK) && !p->at_once;
}

static bool parks_on(const struct pager *p)
{
    return p->parked < wanted(p) && (!by_windows(p) || p->parked < WINDOW_PAGES);
}

static void step_park(struct memd *m)
{
    struct pager *p = m->pager;
    struct region *r = here(m);

    if (r && p->left && parks_on(p)) {
        bool all = p->order.flags & WIRE_PAGEOUT_ALL;
        p->parked += chunk_park(m, r, p->chunk, all, wanted(p) - p->parked);
        p->chunks++;
        if (p->parked < wanted(p)) /* else there may be more in it */
            chunk_done(p);
        return;
    }
    p->passes += p->parked >= wanted(p); /* else there are other chunks yet */
    p->pack_ns = now_ns() + p->order.park_ms * 1000000ull;
    p->phase = PAGER_WAIT;
    if (p->order.flags & WIRE_PAGEOUT_PARK || !r) {
        p->hand_region = p->region;
        p->hand_chunk = p->chunk;
        p->done = p->parked;
        finish(m, 0);
    }
}

static void begin_pack(struct pager *p)
{
    uint32_t region = p->region, chunk = p->chunk;

    /* from where the parking began to where it stands, which is where the next one begins */
    p->region = p->from_region = p->hand_region;
    p->chunk = p->from_chunk = p->hand_chunk;
    p->hand_region = region;
    p->hand_chunk = chunk;
    p->page = 0;
    p->window = p->chunks;
    p->phase = PAGER_PACK;
}

/* The same chunks, again. */
static void begin_spill(struct pager *p)
{
    p->region = p->from_region;
    p->chunk = p->from_chunk;
    p->page = 0;
    p->window = p->chunks;
    p->phase = PAGER_SPILL;
}

/* What becomes of merged pages in this order. */
static void choose_merged(struct memd *m)
{
    struct pager *p = m->pager;
    bool all = p->order.flags & WIRE_PAGEOUT_MERGED;
    uint64_t now = now_ns(), watched_ns = now - p->aged_ns;

    p->ages = !all && (!p->aged_ns || watched_ns > AGE_MAX_NS);
    p->leaves = all || (!p->ages && watched_ns >= AGE_MIN_NS);
    if (p->ages)
        p->aged_ns = now;
    p->lets_go = remote_on(m) && p->leaves && (all ? wanted(p) > 0 : p->let_go_ns != p->aged_ns);
    if (p->lets_go && !all)
        p->let_go_ns = p->aged_ns;
}

static void go_round(struct memd *m, enum pager_phase phase)
{
    struct pager *p = m->pager;

    p->region = p->chunk = p->page = 0;
    p->chunk_begun = false;
    p->left = chunks_total(m);
    p->phase = phase;
}

/* The file is full: what it keeps of pages that have come home goes, and everything is tried once more.
 * False: it has been already. */
static bool forget_home(struct memd *m)
{
    if (m->pager->forgot)
        return false;
    m->pager->forgot = true;
    go_round(m, PAGER_FORGET);
    return true;
}

/* Merged pages go after those that are the VM's own, if these were not enough. They are packed at once, a
 * chunk's at a time, and are on their way to the swap file before more of them are. */
static void chunk_merged(struct memd *m, struct region *r)
{
    struct pager *p = m->pager;
    uint32_t end = chunk_end(r, p->chunk), n;

    p->chunk_begun = true;
    if (p->ages)
        merged_age(m, r, p->chunk);
    if (!wanted(p) && p->lets_go && !(p->order.flags & WIRE_PAGEOUT_MERGED))
        merged_remote(m, r, p->chunk, false);
    if (!wanted(p) || !(atomic_load(&r->out.remote) || (p->leaves && r->n.shared)))
        return;
    bool full = swapfile_full(p->swap);
    if (full && forget_home(m))
        return;
    if (full || swapfile_spent(p->swap)) {
        if (p->order.flags & WIRE_PAGEOUT_MERGED)
            p->error = full ? ENOSPC : EDQUOT;
        else if (p->lets_go)
            merged_remote(m, r, p->chunk, false);
        return;
    }
    uint32_t most = wanted(p) < CHUNK_PAGES ? (uint32_t)wanted(p) : CHUNK_PAGES;
    uint32_t gone = remote_park(m, r, p->chunk, most), packed = 0;
    if (p->leaves && gone < most)
        gone += merged_park(m, r, p->chunk, most - gone, p->order.flags & WIRE_PAGEOUT_MERGED);
    for (uint32_t page = chunk_first(r, p->chunk); gone && page < end; page += n) {
        n = end - page < OUT_BATCH_PAGES ? end - page : OUT_BATCH_PAGES;
        packed += out_pack(m, r, page, n, true);
    }
    p->done += packed;
    p->kept += gone > packed ? gone - packed : 0;
}

static void may_write(struct pager *p)
{
    if (p->writes)
        return;
    p->writes = true;
    p->errors = swapfile_count(p->swap).errors;
    swapfile_allow(p->swap, p->order.flags & WIRE_PAGEOUT_LIMIT ? p->order.swap_bytes : UINT64_MAX);
}

static void begin_swap(struct memd *m)
{
    may_write(m->pager);
    go_round(m, PAGER_SWAP);
    choose_merged(m);
}

/* False: there is nothing to do. */
static bool begin_remote(struct memd *m)
{
    struct pager *p = m->pager;

    if (!remote_on(m) || !m->vmas_used)
        return false;
    choose_merged(m);
    if (!p->ages && !p->lets_go)
        return false;
    go_round(m, PAGER_REMOTE);
    return true;
}

static void step_remote(struct memd *m)
{
    struct pager *p = m->pager;
    struct region *r = here(m);

    if (!r || !p->left) {
        finish(m, 0);
        return;
    }
    if (p->ages)
        merged_age(m, r, p->chunk);
    if (p->lets_go)
        merged_remote(m, r, p->chunk, p->order.flags & WIRE_PAGEOUT_MERGED);
    chunk_done(p);
}

/* What comes after a window. */
static void go_on(struct memd *m)
{
    struct pager *p = m->pager;

    if (p->order.flags & WIRE_PAGEOUT_ALL && by_windows(p))
        pace_measure(m);
    if (to_swap(p))
        p->kept = pager_count(m).parked + p->wholes - p->before;
    if (here(m) && p->left && wanted(p) && p->passes < PASSES_MAX)
        begin_pageout(m);
    else if (to_swap(p))
        begin_swap(m);
    else if (!begin_remote(m))
        finish(m, 0);
}

static void window_next(struct pager *p)
{
    p->chunk++;
    p->page = 0;
    p->window--;
}

static void step_pack(struct memd *m)
{
    struct pager *p = m->pager;
    struct region *r = here(m);

    if (r && p->window) {
        uint32_t first = chunk_first(r, p->chunk) + p->page, end = chunk_end(r, p->chunk);
        uint32_t n = end - first < OUT_BATCH_PAGES ? end - first : OUT_BATCH_PAGES;
        if (r->out.shadow && atomic_load_explicit(&r->chunks[p->chunk].out, memory_order_relaxed))
            p->done += out_pack(m, r, first, n, to_swap(p));
        else
            n = end - first;
        p->page += n;
        if (first + n >= end)
            window_next(p);
        return;
    }
    if (!to_swap(p) || !by_windows(p)) {
        go_on(m);
        return;
    }
    may_write(p);
    begin_spill(p);
}

/* What is out of the chunk at the position goes to the swap file, some pages at a time. False: nothing can be
 * done before something has been written, or the file takes no more. */
static bool chunk_swap(struct memd *m, struct region *r, bool *ret_done)
{
    struct pager *p = m->pager;
    uint32_t first = chunk_first(r, p->chunk) + p->page, end = chunk_end(r, p->chunk);
    uint32_t n = end - first < OUT_BATCH_PAGES ? end - first : OUT_BATCH_PAGES, next = end;

    if (atomic_load_explicit(&r->chunks[p->chunk].out, memory_order_relaxed))
        swap_out(m, r, first, n, &next);
    p->page = next - chunk_first(r, p->chunk);
    *ret_done = next == end;
    return next == end || next == first + n;
}

static bool step_spill(struct memd *m)
{
    struct pager *p = m->pager;
    struct region *r = here(m);
    bool done;

    if (!r || !p->window) {
        go_on(m);
        return true;
    }
    if (chunk_swap(m, r, &done)) {
        if (done)
            window_next(p);
        return true;
    }
    if (!swapfile_full(p->swap) && !swapfile_spent(p->swap))
        return false;
    p->at_once = true; /* the others can only be packed; what is to be done about it is done in the end */
    go_on(m);
    return true;
}

/* False: nothing can be done before something has been written. */
static bool step_swap(struct memd *m)
{
    struct pager *p = m->pager;
    struct region *r = here(m);
    bool done;

    if (!r || !p->left || p->error) {
        swapfile_flush(p->swap);
        p->phase = PAGER_FLUSH;
        return true;
    }
    if (!p->chunk_begun) {
        chunk_merged(m, r);
        return true;
    }
    if (chunk_swap(m, r, &done)) {
        if (done)
            chunk_done(p);
        return true;
    }
    bool full = swapfile_full(p->swap);
    if (!full && !swapfile_spent(p->swap))
        return false; /* all buffers are being written */
    if (!full || !forget_home(m))
        p->error = full ? ENOSPC : EDQUOT;
    return true;
}

static void step_forget(struct memd *m)
{
    struct region *r = here(m);

    if (!r || !m->pager->left) {
        go_round(m, PAGER_SWAP);
        return;
    }
    swap_forget_home(m, r, m->pager->chunk);
    chunk_done(m->pager);
}

static bool step_flush(struct memd *m)
{
    struct pager *p = m->pager;

    if (swap_reap(m))
        return false;
    if (swapfile_count(p->swap).errors != p->errors)
        p->error = ENOSPC;
    p->done += p->wholes - p->before;
    finish(m, p->error);
    return true;
}

static void step_home(struct memd *m)
{
    struct pager *p = m->pager;
    struct region *r = here(m);
    uint32_t homed = 0;
    int err = 0;

    if (!r || !p->left || p->done >= p->order.pages) {
        finish(m, 0);
        return;
    }
    uint32_t first = chunk_first(r, p->chunk) + p->page, end = chunk_end(r, p->chunk), n = end - first;
    if (atomic_load_explicit(&r->chunks[p->chunk].out, memory_order_relaxed)) {
        uint64_t begun = now_ns();
        n = n < p->home_step ? n : p->home_step;
        n = n < wanted(p) ? n : (uint32_t)wanted(p);
        err = out_home(m, r, first, n, &homed);
        p->done += homed;
        if (now_ns() - begun > HOME_NS) /* the VMM's own calls come in between */
            p->home_step = (p->home_step + 1) / 2;
        else if (p->home_step < HOME_STEP)
            p->home_step *= 2;
    }
    p->page += n;
    if (first + n >= end)
        chunk_done(p);
    if (err)
        finish(m, -err);
}

bool pager_step(struct memd *m)
{
    struct pager *p = m->pager;

    if (atomic_load(&m->paused) || fork_pending(m))
        return false;
    if (p->phase == PAGER_WAIT && now_ns() >= p->pack_ns)
        begin_pack(p);
    bool more = p->phase == PAGER_PARK || p->phase == PAGER_PACK || p->phase == PAGER_FORGET ||
                p->phase == PAGER_REMOTE || p->phase == PAGER_HOME;
    if (p->remote_back)
        more |= remote_step_back(m);
    switch (p->phase) {
    case PAGER_PARK:
        step_park(m);
        break;
    case PAGER_PACK:
        step_pack(m);
        break;
    case PAGER_SPILL:
        more = step_spill(m);
        break;
    case PAGER_SWAP:
        more = step_swap(m);
        break;
    case PAGER_FORGET:
        step_forget(m);
        break;
    case PAGER_FLUSH:
        more = step_flush(m);
        break;
    case PAGER_REMOTE:
        step_remote(m);
        break;
    case PAGER_HOME:
        step_home(m);
        break;
    case PAGER_ANSWER:
        answer(m);
        break;
    default:
        break;
    }
    return pager_keep(m) || more;
}

uint64_t pager_due_ns(struct memd *m)
{
    const struct pager *p = m->pager;
    uint64_t due = UINT64_MAX;

    if (atomic_load(&m->paused) || fork_pending(m))
        return UINT64_MAX;
    if (p->phase == PAGER_WAIT)
        due = p->pack_ns;
    else if (p->phase != PAGER_IDLE) /* what ends a write wakes the worker, too */
        due = 0;
    if (atomic_load_explicit(&p->lost, memory_order_relaxed))
        due = 0;
    if (atomic_load_explicit(&p->emptied, memory_order_relaxed) &&
        p->swept_ns + PAGER_SWEEP_MS * 1000000ull < due)
        due = p->swept_ns + PAGER_SWEEP_MS * 1000000ull;
    return due;
}
