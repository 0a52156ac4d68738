/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages between the pool and the swap file (swapfile.c).
 *
 *   PACKED -- swap_out: encrypted into a cluster, which is written --> still PACKED, its place names the slot
 *          -- written --> SWAPPED, the object freed
 *   PARKED -- swap_out, pages that cannot be packed: F_PENDING, still whole in the shadow; then the same
 *   SWAPPED -- swap_serve begins to read, swap_complete decrypts, unpacks and copies in --> PRIVATE;
 *              what was read ahead with another page (swapread.c) swap_serve brings in at once
 *
 * A page stays where it was until its record is on the device; if writing fails it stays for good. If it
 * comes home meanwhile, its place no longer names the slot, and the record is freed as soon as it is
 * written. No slot is used again before that, so a slot that is still named is still right.
 *
 * A page that comes home from the file keeps its record: its place goes on naming the slot. When it goes out
 * again, out_pack() compares it with what it was then (a keyed hash of 128 bits), and has nothing to write if
 * it is the same.
 *
 * A record that cannot be read, or is not what was written, is never served: the page is poisoned
 * (UFFDIO_POISON: whoever touches it gets SIGBUS, a vCPU a machine check), the entry says LOST, and the
 * VMM is told.
 */
#include "memd/engine/swap.h"

#include "memd/engine/latency.h"
#include "memd/engine/out.h"
#include "memd/engine/out_parts.h"
#include "memd/engine/pager.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int swap_begin(struct memd *m)
{
    struct pager *p = m->pager;
    struct swapfile *file;
    uint64_t one = 1;

    if (p->swap || p->swap_fd < 0)
        return 0;
    int err = swapfile_open(p->swap_fd, p->swap_max_bytes, m->wake_worker, &file);
    if (err) {
        close(p->swap_fd);
        p->swap_fd = -1;
        return err;
    }
    atomic_store_explicit(&p->swap, file, memory_order_release);
    if (write(m->wake_fault, &one, sizeof one) < 0 && errno != EAGAIN) /* it has one more thing to wait for */
        log_msg(m, MEMD_LOG_ERROR, "eventfd: %d", errno);
    return 0;
}

/* What it takes to use it costs memory: it is begun when the first page goes out. */
int swap_attach(struct memd *m, int fd, uint64_t max_bytes)
{
    struct pager *p = m->pager;

    if (p->swap_fd >= 0) { /* not asked for */
        close(fd);
        return 0;
    }
    p->swap_fd = fd;
    p->swap_max_bytes = max_bytes;
    return p->pool ? swap_begin(m) : 0;
}

/* ---- out */

/* What is to be written of a page. */
struct piece {
    uint64_t place; /* PACKED: its handle */
    bool whole;     /* PARKED */
    uint32_t bytes;
    char content[SWAP_CONTENT_MAX];
};

/* Copies it out of the pool, or marks the parked page so that it stays. False: it is neither. */
static bool piece_take(struct memd *m, struct region *r, uint32_t page, struct piece *ret_piece)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    bool is = false;

    chunk_lock(c);
    uint64_t e = page_get(r, page), place = place_get(r, page);
    if (entry_state(e) == WIRE_PAGE_PACKED && !place_slot_of(place)) {
        const void *packed = pool_get(m->pager->pool, (uint32_t)place, &ret_piece->bytes);
        memcpy(ret_piece->content, packed, ret_piece->bytes);
        ret_piece->place = place;
        ret_piece->whole = false;
        is = true;
    } else if (entry_state(e) == WIRE_PAGE_PARKED && !(e & (WIRE_PAGE_F_PENDING | WIRE_PAGE_F_SAMPLE))) {
        swap_drop(m, r, page); /* out_pack() has looked at what it had, or has not run */
        out_entry(r, page, e | WIRE_PAGE_F_PENDING);
        ret_piece->whole = true;
        ret_piece->bytes = PAGE_BYTES;
        ret_piece->place = 0;
        is = true;
    }
    out_unlock(m, c);
    return is;
}

/* Names the slot, if the page has not come home; 0: it is not written, and stays as it was. */
static void piece_named(struct memd *m, struct region *r, uint32_t page, const struct piece *piece,
                        uint32_t slot)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];

    chunk_lock(c);
    uint64_t e = page_get(r, page);
    if (piece->whole && entry_state(e) == WIRE_PAGE_PARKED) {
        place_set(r, page, place_slot(slot));
        if (!slot)
            out_entry(r, page, e & ~(uint64_t)WIRE_PAGE_F_PENDING);
    } else if (entry_state(e) == WIRE_PAGE_PACKED && place_get(r, page) == piece->place) {
        place_set(r, page, place_slot(slot) | piece->place);
    }
    out_unlock(m, c);
}

uint32_t swap_out(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t *ret_next)
{
    struct pager *p = m->pager;
    struct piece piece;
    uint32_t n = 0, i;

    for (i = 0; i < npages; i++) {
        if (!piece_take(m, r, page + i, &piece))
            continue;
        const char *whole = shadow_page(r, page + i);
        if (!piece.whole) {
            out_unpack(piece.content, piece.bytes, p->batch);
            whole = p->batch;
        }
        struct swap_owner owner = {.region = r->id, .serial = r->serial, .page = page + i};
        uint32_t slot = swapfile_add(p->swap, owner, piece.whole ? whole : piece.content, piece.bytes,
                                     swapfile_hash(p->swap, whole));
        piece_named(m, r, page + i, &piece, slot);
        if (!slot)
            break;
        n++;
    }
    *ret_next = page + i;
    return n;
}

static void written(void *ctx, struct swap_owner owner, uint32_t slot, int error)
{
    struct memd *m = ctx;
    struct region *r = m->regions[owner.region];
    bool wanted = false;

    if (r && r->serial == owner.serial) {
        struct chunk *c = &r->chunks[chunk_of(r, owner.page)];
        chunk_lock(c);
        uint64_t e = page_get(r, owner.page), place = place_get(r, owner.page);
        bool packed = entry_state(e) == WIRE_PAGE_PACKED;
        bool whole = entry_state(e) == WIRE_PAGE_PARKED && e & WIRE_PAGE_F_PENDING;
        wanted = place_slot_of(place) == slot && (packed || whole);
        if (wanted && error) {
            place_set(r, owner.page, place & ~PLACE_SLOT_BITS);
            if (whole)
                out_entry(r, owner.page, e & ~(uint64_t)WIRE_PAGE_F_PENDING);
        } else if (wanted) {
            place_set(r, owner.page, place_slot(slot));
            out_entry(r, owner.page, entry_make(WIRE_PAGE_SWAPPED, 0, entry_tag(e), 0));
            if (packed)
                pool_free(m->pager->pool, (uint32_t)place);
            else
                madvise(shadow_page(r, owner.page), PAGE_BYTES, MADV_DONTNEED);
            m->pager->wholes += whole;
        } else if (!wanted && entry_state(e) != WIRE_PAGE_PARKED) {
            madvise(shadow_page(r, owner.page), PAGE_BYTES, MADV_DONTNEED); /* it came home as a copy */
        }
        out_unlock(m, c);
    }
    if (!wanted && !error)
        swapfile_free(m->pager->swap, slot);
}

unsigned swap_reap(struct memd *m)
{
    uint64_t errors = swapfile_count(m->pager->swap).errors;
    unsigned busy = swapfile_reap(m->pager->swap, written, m);

    if (swapfile_count(m->pager->swap).errors != errors && !errors)
        log_msg(m, MEMD_LOG_WARN, "writing to the swap file failed: pages stay in RAM");
    return busy;
}

/* ---- home again */

int out_lose(struct memd *m, struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page);

    if (uffd_poison_once(m, page_hva(r, page)) == -EAGAIN)
        return -EAGAIN; /* a mapping is being changed */
    out_entry(r, page, entry_make(WIRE_PAGE_LOST, WIRE_PAGE_F_PENDING, entry_tag(e), entry_frame(e)));
    atomic_store(&m->pager->lost, true);
    engine_kick(m);
    return 0;
}

void swap_report(struct memd *m)
{
    if (!atomic_exchange(&m->pager->lost, false))
        return;
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        for (uint32_t p = 0; r && atomic_load(&r->out.lost) && p < r->npages; p++) {
            uint64_t e = page_get(r, p);
            if (entry_state(e) != WIRE_PAGE_LOST || !(e & WIRE_PAGE_F_PENDING))
                continue;
            out_entry(r, p, e & ~(uint64_t)WIRE_PAGE_F_PENDING);
            m->pager->lost_pages++;
            log_msg(m, MEMD_LOG_ERROR,
                    "the %s did not give back the page at %#" PRIx64 ": the guest gets a memory error",
                    entry_frame(e) ? "frame store" : "swap file", r->gpa + p * PAGE_BYTES);
            if (m->poison)
                m->poison(m->ctx, r->gpa + p * PAGE_BYTES, PAGE_BYTES);
        }
    }
}

static bool is_at(const struct memd *m, const struct region *r, uint32_t page, const struct swap_where *w)
{
    if (entry_state(page_get(r, page)) != WIRE_PAGE_SWAPPED || place_slot_of(place_get(r, page)) != w->slot)
        return false;
    return swapfile_where(m->pager->swap, w->slot).generation == w->generation;
}

/* A page has been read: 0, -EAGAIN, or why it cannot be had. The chunk is locked, `content` is a page of the
 * caller's. */
static int install(struct memd *m, struct region *r, uint32_t page, const void *content)
{
    uint64_t e = page_get(r, page);
    int err = uffd_copy_once(m->uffd_a, page_hva(r, page), content, PAGE_BYTES, entry_tag(e));

    if (err == -EEXIST)
        uffd_unprotect_once(m->uffd_a, page_hva(r, page), PAGE_BYTES);
    if (err && err != -ENOENT && err != -ESRCH)
        return -EAGAIN;
    if (!err) {
        out_entry(r, page, out_private(e, entry_tag(e)));
        out_emptied(m, r, page);
    }
    return 0;
}

void swap_home_many(struct memd *m, bool many)
{
    if (m->pager->swap)
        swapfile_read_many(m->pager->swap, many);
}

int swap_home(struct memd *m, struct region *r, uint32_t page, bool *ret_homed)
{
    struct pager *p = m->pager;
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    char *content = p->batch + PAGE_BYTES;
    int err = -EAGAIN;

    if (entry_state(page_get(r, page)) != WIRE_PAGE_SWAPPED)
        return 0;
    /* nobody frees the slot but whoever holds engine.work */
    struct swap_where w = swapfile_where(p->swap, place_slot_of(place_get(r, page)));
    int read = swapfile_read(p->swap, &w, p->batch);
    if (read == -EAGAIN)
        return -ENOMEM;
    if (!read)
        out_unpack(p->batch, w.bytes, content);
    for (unsigned tries = 0; err == -EAGAIN && tries < 1000; tries++) {
        chunk_lock(c);
        if (!is_at(m, r, page, &w)) {
            err = 0;
        } else if (read) {
            err = out_lose(m, r, page);
        } else {
            err = install(m, r, page, content);
            *ret_homed = !err;
        }
        out_unlock(m, c);
    }
    uffd_wake(m->uffd_a, page_hva(r, page), PAGE_BYTES);
    return err ? -ENOMEM : 0;
}

void swap_drop(struct memd *m, struct region *r, uint32_t page)
{
    uint32_t slot = place_slot_of(place_get(r, page));

    if (slot && swapfile_is_written(m->pager->swap, slot)) /* else written() finds it unwanted */
        swapfile_free(m->pager->swap, slot);
    place_set(r, page, 0);
}

void swap_forget_home(struct memd *m, struct region *r, uint32_t chunk)
{
    struct chunk *c = &r->chunks[chunk];

    if (!r->out.place)
        return;
    chunk_lock(c);
    for (uint32_t p = chunk_first(r, chunk); p < chunk_end(r, chunk); p++) {
        uint64_t place = place_get(r, p), e = page_get(r, p);
        if (!place_slot_of(place) || (entry_out(e) && entry_state(e) != WIRE_PAGE_REMOTE))
            continue;
        swap_drop(m, r, p);
        place_set(r, p, place & ~PLACE_SLOT_BITS); /* the rest is not about the file */
    }
    out_unlock(m, c);
    out_trim_places(r, chunk);
}

void swap_forget(struct memd *m, struct region *r)
{
    for (uint32_t p = 0; m->pager->swap && r->out.place && p < r->npages; p++) {
        if (!place_slot_of(place_get(r, p)) || entry_state(page_get(r, p)) == WIRE_PAGE_SWAPPED)
            continue;
        struct chunk *c = &r->chunks[chunk_of(r, p)];
        chunk_lock(c);
        if (!entry_out(page_get(r, p)) || entry_state(page_get(r, p)) == WIRE_PAGE_LOST)
            swap_drop(m, r, p);
        out_unlock(m, c);
    }
}

/* ---- the fault server */

/* The page's record, as it is in the file. 0, -EAGAIN, -EBADMSG; the chunk is locked. */
static int open_and_install(struct memd *m, struct region *r, uint32_t page, const struct swap_where *w,
                            const void *sealed)
{
    struct pager *p = m->pager;
    char *packed = p->serve + PAGE_BYTES;
    int err = swapfile_open_record(p->swap, w, sealed, packed);

    if (err)
        return err;
    out_unpack(packed, w->bytes, p->serve);
    err = install(m, r, page, p->serve);
    if (!err)
        out_count_fault(m, &m->stats.swapped_faults);
    return err;
}

/* Of another page of the region, whose chunk may be locked by somebody else: it may be so no longer. */
static bool is_there(void *ctx, uint32_t page, uint32_t slot)
{
    const struct region *r = ctx;

    return page < r->npages && entry_state(page_get(r, page)) == WIRE_PAGE_SWAPPED &&
           place_slot_of(place_get(r, page)) == slot;
}

int swap_serve(struct memd *m, struct region *r, uint32_t page, uint64_t since_ns, enum wire_tier *tier)
{
    struct swapfile *file = atomic_load_explicit(&m->pager->swap, memory_order_acquire);
    struct swap_ask ask = {.region = r->id,
                           .page = page,
                           .where = swapfile_where(file, place_slot_of(place_get(r, page))),
                           .since_ns = since_ns,
                           .there = is_there,
                           .ctx = r};
    const void *sealed = swapfile_ready(file, &ask.where, since_ns);

    if (!sealed)
        return swapfile_fetch(file, &ask) == -EBUSY ? -EAGAIN : -EINPROGRESS;
    int err = open_and_install(m, r, page, &ask.where, sealed);
    if (err == -EBADMSG)
        swapfile_distrust(file, &ask.where); /* it is read again, alone */
    if (!err)
        *tier = WIRE_TIER_SWAPPED;
    return err ? -EAGAIN : 0;
}

/* False: again later. */
static bool complete(struct memd *m, const struct swap_fetch *x)
{
    struct region *r = atomic_load_explicit(&m->regions[x->region], memory_order_acquire);
    bool served = false;
    int err = 0;

    if (!r || x->page >= r->npages)
        return true;
    struct chunk *c = &r->chunks[chunk_of(r, x->page)];
    if (!chunk_trylock(c))
        return false;
    if (is_at(m, r, x->page, &x->where)) {
        err = x->result ? x->result : open_and_install(m, r, x->page, &x->where, x->data);
        served = !err;
        if (err == -EBADMSG && x->group)
            swapfile_distrust(m->pager->swap, &x->where);
        if (x->result == -EAGAIN || (err == -EBADMSG && x->group))
            err = 0; /* whoever waits asks again */
        else if (err && err != -EAGAIN)
            err = out_lose(m, r, x->page);
    }
    chunk_unlock(c);
    if (err)
        return false;
    uffd_wake(m->uffd_a, page_hva(r, x->page), PAGE_BYTES);
    if (served)
        latency_count(m, WIRE_TIER_SWAPPED, x->since_ns);
    return true;
}

bool swap_complete(struct memd *m)
{
    struct swapfile *file = atomic_load_explicit(&m->pager->swap, memory_order_acquire);
    struct swap_fetch *x;
    unsigned at = 0;
    bool left = false;

    while (file && swapfile_fetches(file) && (x = swapfile_fetched(file, &at))) {
        if (complete(m, x))
            swapfile_fetch_end(file, x);
        else
            left = true;
    }
    return left;
}

bool swap_waits(struct memd *m)
{
    const struct swapfile *file = atomic_load_explicit(&m->pager->swap, memory_order_acquire);

    return file && swapfile_fetches(file) && swapfile_fetch_waits(file);
}

bool swap_reads(struct memd *m)
{
    const struct swapfile *file = atomic_load_explicit(&m->pager->swap, memory_order_acquire);

    return file && swapfile_fetches(file);
}
