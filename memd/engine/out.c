/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages that are out: parked or packed, and the ways between. Those in the swap file: swap.c; those whose
 * bytes are in a frame: remote.c.
 *
 *   PRIVATE -- out_park --> PARKED -- out_pack --> PACKED -- swap.c --> SWAPPED
 *      ^                      |                      |                    |
 *      +------ out_serve (fault server), out_home ---+------- swap.c -----+
 *
 * Parked: moved (UFFDIO_MOVE) to the region's shadow, memory of the engine's own of the same size and shape;
 * page i is parked at page i of it, so neighbours move together and nothing is to be allocated. Nobody can
 * write it there, and a page somebody holds a pin on refuses to move. Packed: compressed (LZ4) in the RAM
 * pool; region.out.place says under which handle.
 *
 * While anything of a chunk is out, its anonymous memory is registered MISSING (chunk.missing), so whoever
 * touches an absent page of it waits for the fault server, which looks at the page's entry: a parked page is
 * moved back, a packed one is unpacked into the server's own buffer and copied in, anything else gets zeros.
 * Taking MISSING off is dear (armed.c), and with a page out it would lose that page: the pager does it later.
 *
 * Who may change what: pages go out under engine.work and chunk.busy. They come home under chunk.busy alone
 * (the fault server), so every holder of engine.work must take an entry that says "out" as possibly old;
 * page_set() sees to it. What leaves the pool by the fault server's hand is freed by the next pool_reap().
 *
 * Packing holds chunk.busy only to begin and to end. In between the entry says PARKED with F_PENDING, and
 * the fault server, if somebody comes for the page, copies instead of moving: what is being compressed stays
 * where it is until out_pack() has found out that nobody wants the result.
 *
 * A page that comes home by a copy with its hash known is armed again; one moved home counts as written.
 */
#include "memd/engine/out.h"

#include "memd/engine/memory.h"
#include "memd/engine/out_parts.h"
#include "memd/engine/pager.h"
#include "memd/engine/remote.h"
#include "memd/engine/stores.h"
#include "memd/engine/swap.h"

#include <errno.h>
#include <lz4.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PACKED_MAX    3072u /* a page that does not get smaller than this is not worth packing */
#define TRIES_MAX     1000u
#define HOME_PAGES    64u  /* come home before others may have the chunk */
#define TELL_WORKER   256u /* pages whose object or frame the fault server has no more use for */
#define SHADOW_MARGIN (2 * CHUNK_PAGES * PAGE_BYTES)
static_assert(PACKED_MAX <= POOL_OBJECT_MAX, "fits an object");

/* ---- where an out page is */

bool out_refuses(const struct region *r, uint32_t page)
{
    uint64_t e = page_get(r, page);

    return r->out.place && entry_tag(e) &&
           (place_get(r, page) & ~PLACE_SLOT_BITS) == (PLACE_REFUSED | entry_tag(e));
}

static void count_entry(struct region *r, uint64_t e, uint64_t by)
{
    if (entry_sample(e))
        atomic_fetch_add_explicit(&r->out.sampled, by, memory_order_relaxed);
    else if (entry_state(e) == WIRE_PAGE_PARKED)
        atomic_fetch_add_explicit(&r->out.parked, by, memory_order_relaxed);
    else if (entry_state(e) == WIRE_PAGE_PACKED)
        atomic_fetch_add_explicit(&r->out.packed, by, memory_order_relaxed);
    else if (entry_state(e) == WIRE_PAGE_SWAPPED)
        atomic_fetch_add_explicit(&r->out.swapped, by, memory_order_relaxed);
    else if (entry_state(e) == WIRE_PAGE_LOST)
        atomic_fetch_add_explicit(&r->out.lost, by, memory_order_relaxed);
    else if (entry_state(e) == WIRE_PAGE_REMOTE) /* release: see remote_count() */
        atomic_fetch_add_explicit(&r->out.remote, by, memory_order_release);
    else if (entry_state(e) == WIRE_PAGE_PRIVATE && entry_tag(e))
        atomic_fetch_add_explicit(&r->out.tagged, by, memory_order_relaxed);
    else if (entry_state(e) == WIRE_PAGE_ZERO) /* the fault server never gets here */
        r->n.zero += by;
}

/* From or to a state of being out; the chunk is locked. */
void out_entry(struct region *r, uint32_t page, uint64_t entry)
{
    uint64_t was = page_get(r, page);
    struct chunk *c = &r->chunks[chunk_of(r, page)];

    count_entry(r, was, UINT64_MAX);
    count_entry(r, entry, 1);
    /* only holders of the chunk change it; others look */
    if (entry_out(was) != entry_out(entry))
        atomic_store_explicit(
            &c->out,
            (uint16_t)(atomic_load_explicit(&c->out, memory_order_relaxed) + (entry_out(entry) ? 1 : -1)),
            memory_order_relaxed);
    atomic_store_explicit(&r->map->entry[page], entry, memory_order_release);
}

void out_emptied(struct memd *m, const struct region *r, uint32_t page)
{
    if (!atomic_load_explicit(&r->chunks[chunk_of(r, page)].out, memory_order_relaxed))
        atomic_store_explicit(&m->pager->emptied, true, memory_order_relaxed);
}

uint64_t out_private(uint64_t e, bool unchanged)
{
    return entry_make(WIRE_PAGE_PRIVATE, 0, unchanged ? entry_tag(e) : 0, 0);
}

/* The fault server may have found the chunk locked. */
void out_unlock(struct memd *m, struct chunk *c)
{
    uint64_t one = 1;

    /* seq_cst, as is the server's side: of "it is free" and "somebody waits" one is seen */
    atomic_store(&c->busy, 0);
    if (atomic_load(&m->fault_waits) && write(m->wake_fault, &one, sizeof one) < 0 && errno != EAGAIN)
        log_msg(m, MEMD_LOG_ERROR, "eventfd: %d", errno);
}

/* ---- preparing */

int out_prepare(struct memd *m, struct region *r, bool sample)
{
    struct out *o = &r->out;
    uint64_t bytes = r->npages * PAGE_BYTES, chunk = CHUNK_PAGES * PAGE_BYTES;
    int err = sample ? 0 : pager_ready(m);

    if (err || o->shadow)
        return err;
    if (!o->place)
        o->place = place_reserve(r->nchunks * PAGE_BYTES);
    if (!o->shadow_map)
        o->shadow_map = place_reserve(bytes + SHADOW_MARGIN);
    if (!o->place || !o->shadow_map)
        return -ENOMEM;
    /* aligned as the region is, so that huge pages fit; a gap on either side */
    uint64_t at = ((uintptr_t)o->shadow_map + chunk - 1) & ~(chunk - 1);
    char *shadow = (char *)at + r->first_bit * PAGE_BYTES;
    err = uffd_register(m->uffd_a, shadow, bytes, UFFDIO_REGISTER_MODE_MISSING);
    if (!err)
        o->shadow = shadow;
    return err;
}

void out_region_free(struct region *r)
{
    if (r->out.place)
        munmap(r->out.place, r->nchunks * PAGE_BYTES);
    if (r->out.shadow_map)
        munmap(r->out.shadow_map, r->npages * PAGE_BYTES + SHADOW_MARGIN);
}

int out_missing_on(struct memd *m, struct region *r, uint32_t page, uint32_t end)
{
    uint32_t chunk = chunk_of(r, page), first = page, last = end;
    const struct segment *s = region_segment(r, page);
    uint32_t lo = s->first > chunk_first(r, chunk) ? s->first : chunk_first(r, chunk);
    uint32_t hi = s->first + s->npages < chunk_end(r, chunk) ? s->first + s->npages : chunk_end(r, chunk);

    while (first > lo && !entry_in_store(page_get(r, first - 1)))
        first--;
    while (last < hi && !entry_in_store(page_get(r, last)))
        last++;
    int err = uffd_register(m->uffd_a, page_hva(r, first), (last - first) * PAGE_BYTES,
                            UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
    if (err)
        return err;
    hold_missing_on(m, &r->chunks[chunk]);
    return 0;
}

/* ---- down: PRIVATE to PARKED */

static void parked(struct region *r, uint32_t page, bool unchanged, uint32_t flags)
{
    uint64_t e = page_get(r, page);
    bool known = unchanged && !pending_test(r, page);

    pending_clear(r, page);
    place_set(r, page, place_get(r, page) & PLACE_SLOT_BITS); /* perhaps it has not changed since */
    out_entry(r, page, entry_make(WIRE_PAGE_PARKED, flags, known ? entry_tag(e) : 0, 0));
}

/* It stays. True: worth another try. */
static bool park_refused(struct memd *m, struct region *r, uint32_t page, int err, bool again)
{
    if (err == -EEXIST && !again) /* the engine's own memory was filled by mlockall(), or by a copy that */
        return !madvise(shadow_page(r, page), PAGE_BYTES, MADV_DONTNEED); /* left the page behind */
    if (err != -EBUSY)
        return false;
    if (m->forked && !again && !madvise(page_hva(r, page), PAGE_BYTES, MADV_POPULATE_WRITE))
        return true; /* see made_exclusive() in apply.c */
    page_set(r, page, page_get(r, page) | WIRE_PAGE_F_PINNED);
    if (!m->pin_retry_ns)
        m->pin_retry_ns = now_ns() + PIN_RETRY_MS * 1000000ull;
    return false;
}

uint32_t out_park(struct memd *m, struct region *r, uint32_t page, uint32_t npages, const bool *written,
                  uint32_t flags)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    uint32_t done = 0, n = 0, tried = UINT32_MAX;

    if (m->map_count_short && !atomic_load_explicit(&c->missing, memory_order_relaxed))
        return 0; /* another piece of memory registered otherwise is up to two more mappings */
    if (out_prepare(m, r, flags & WIRE_PAGE_F_SAMPLE))
        return 0;
    chunk_lock(c);
    int err = out_missing_on(m, r, page, page + npages);
    if (err == -ENOMEM)
        map_count_hit(m);
    while (!err && done < npages) {
        uint32_t moved = 0;
        int why =
            hold_move(m, shadow_page(r, page + done), page_hva(r, page + done), npages - done, 0, &moved);
        for (; moved; moved--, done++, n++)
            parked(r, page + done, !written[done], flags);
        if (!why)
            continue;
        if (park_refused(m, r, page + done, why, tried == done))
            tried = done;
        else
            done++;
    }
    out_unlock(m, c);
    uffd_wake(m->uffd_a, page_hva(r, page), npages * PAGE_BYTES);
    return n;
}

/* ---- down: PARKED to PACKED */

enum fate { FATE_NONE, FATE_PACKED, FATE_SWAPPED, FATE_ZERO, FATE_REFUSED, FATE_KEPT };

/* `slot`: of the page's record in the swap file, 0 if it has none. Freed if the page is another by now. */
static enum fate pack_page(struct memd *m, struct region *r, uint32_t page, uint32_t slot,
                           uint32_t *ret_handle)
{
    struct pager *p = m->pager;
    const char *content = shadow_page(r, page);

    if (slot && swapfile_holds(p->swap, slot, swapfile_hash(p->swap, content)))
        return FATE_SWAPPED;
    if (slot)
        swapfile_free(p->swap, slot);
    if (page_is_zero(content))
        return FATE_ZERO;
    int bytes = LZ4_compress_fast_extState(p->lz4, content, p->batch, PAGE_BYTES, PACKED_MAX, 1);
    if (bytes <= 0)
        return FATE_REFUSED;
    struct pool_owner owner = {.region = r->id, .page = page};
    *ret_handle = pool_put(p->pool, p->batch, (uint32_t)bytes, owner);
    return *ret_handle ? FATE_PACKED : FATE_KEPT;
}

/* Not worth packing: it goes back as it is, and is remembered by its hash. */
static void pack_refused(struct memd *m, struct region *r, uint32_t page, uint64_t e)
{
    uint64_t moved;

    if (uffd_move(m, page_hva(r, page), shadow_page(r, page), PAGE_BYTES, 0, &moved)) {
        out_entry(r, page, entry_make(WIRE_PAGE_PARKED, 0, entry_tag(e), 0));
        return; /* stays parked */
    }
    place_set(r, page, entry_tag(e) ? PLACE_REFUSED | entry_tag(e) : 0);
    out_entry(r, page, out_private(e, false));
    out_emptied(m, r, page);
}

/* True: what is in the shadow is not needed any more. */
static bool pack_finish(struct memd *m, struct region *r, uint32_t page, enum fate fate, uint32_t slot,
                        uint32_t handle)
{
    uint64_t e = page_get(r, page);

    if (entry_state(e) != WIRE_PAGE_PARKED) { /* somebody came for it */
        if (fate == FATE_PACKED)
            pool_free(m->pager->pool, handle);
        if (fate == FATE_SWAPPED)
            place_set(r, page, place_slot(slot));
        return true;
    }
    switch (fate) {
    case FATE_SWAPPED:
        place_set(r, page, place_slot(slot));
        out_entry(r, page, entry_make(WIRE_PAGE_SWAPPED, 0, entry_tag(e), 0));
        return true;
    case FATE_PACKED:
        place_set(r, page, handle);
        out_entry(r, page, entry_make(WIRE_PAGE_PACKED, 0, entry_tag(e), 0));
        return true;
    case FATE_ZERO:
        out_entry(r, page, entry_make(WIRE_PAGE_ZERO, 0, 0, 0));
        out_emptied(m, r, page);
        return true;
    case FATE_REFUSED:
        pack_refused(m, r, page, e);
        return false;
    default:
        out_entry(r, page, entry_make(WIRE_PAGE_PARKED, 0, entry_tag(e), 0));
        return false;
    }
}

/* Marks the parked pages of the range, and takes what they have in the swap file from them. */
static uint32_t pack_begin(struct region *r, uint32_t page, uint32_t npages, enum fate *ret_fate,
                           uint32_t *ret_slot)
{
    uint32_t marked = 0;

    for (uint32_t i = 0; i < npages; i++) {
        uint64_t e = page_get(r, page + i);
        if (entry_state(e) != WIRE_PAGE_PARKED || e & (WIRE_PAGE_F_PENDING | WIRE_PAGE_F_SAMPLE))
            continue;
        ret_slot[i] = place_slot_of(place_get(r, page + i));
        place_set(r, page + i, 0);
        out_entry(r, page + i, e | WIRE_PAGE_F_PENDING);
        ret_fate[i] = FATE_KEPT;
        marked++;
    }
    return marked;
}

uint32_t out_pack(struct memd *m, struct region *r, uint32_t page, uint32_t npages, bool keep)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    enum fate fate[OUT_BATCH_PAGES] = {FATE_NONE};
    bool empties[OUT_BATCH_PAGES] = {false};
    uint32_t handle[OUT_BATCH_PAGES] = {0}, slot[OUT_BATCH_PAGES] = {0}, n = 0;

    chunk_lock(c);
    uint32_t marked = pack_begin(r, page, npages, fate, slot);
    out_unlock(m, c);
    if (!marked)
        return 0;
    for (uint32_t i = 0; i < npages; i++) {
        if (fate[i])
            fate[i] = pack_page(m, r, page + i, slot[i], &handle[i]);
        if (fate[i] == FATE_REFUSED && keep)
            fate[i] = FATE_KEPT;
    }
    chunk_lock(c);
    for (uint32_t i = 0; i < npages; i++) {
        if (fate[i])
            empties[i] = pack_finish(m, r, page + i, fate[i], slot[i], handle[i]);
        n += empties[i] && entry_state(page_get(r, page + i)) != WIRE_PAGE_PRIVATE;
    }
    for (uint32_t i = 0, end; i < npages; i = end) {
        for (end = i; end < npages && empties[end]; end++)
            ;
        if (end > i)
            madvise(shadow_page(r, page + i), (end - i) * PAGE_BYTES, MADV_DONTNEED);
        else
            end++;
    }
    out_unlock(m, c);
    uffd_wake(m->uffd_a, page_hva(r, page), npages * PAGE_BYTES);
    atomic_fetch_add_explicit(&m->stats.page_outs, n, memory_order_relaxed);
    return n;
}

/* ---- up, by the fault server */

void out_unpack(const void *packed, uint32_t bytes, void *to)
{
    if (bytes == PAGE_BYTES)
        memcpy(to, packed, PAGE_BYTES);
    else if (LZ4_decompress_safe(packed, to, (int)bytes, PAGE_BYTES) != (int)PAGE_BYTES)
        abort(); /* the engine's own memory is damaged: no page can be trusted any more */
}

static void unpack(const struct memd *m, const struct region *r, uint32_t page, char *to)
{
    uint32_t bytes;
    const void *packed = pool_get(m->pager->pool, (uint32_t)place_get(r, page), &bytes);

    out_unpack(packed, bytes, to);
}

/* Whether `err` leaves it where it is. A page that does not come in by a move may come in by a copy. */
static int bring_parked(struct memd *m, struct region *r, uint32_t page, uint64_t e, bool *ret_unchanged)
{
    char *hva = page_hva(r, page), *shadow = shadow_page(r, page);
    int err = -EBUSY;

    *ret_unchanged = false;
    if (!(e & WIRE_PAGE_F_PENDING))
        err = uffd_move_once(m, hva, shadow);
    if (!err || err == -EAGAIN || err == -EEXIST)
        return err;
    *ret_unchanged = entry_tag(e);
    return uffd_copy_once(m->uffd_a, hva, shadow, PAGE_BYTES, *ret_unchanged);
}

void out_count_fault(struct memd *m, _Atomic uint64_t *tier)
{
    atomic_fetch_add_explicit(tier, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->stats.page_ins, 1, memory_order_relaxed);
}

void out_tell_worker(struct memd *m)
{
    struct pager *p = m->pager;

    if (++p->served >= TELL_WORKER) {
        p->served = 0;
        engine_kick(m);
    }
}

static void served_packed(struct memd *m, struct region *r, uint32_t page)
{
    pool_discard(m->pager->pool, (uint32_t)place_get(r, page));
    place_set(r, page, 0); /* what of it is being written ends up unwanted, see swap.c */
    out_count_fault(m, &m->stats.packed_faults);
    out_tell_worker(m);
}

static void served_parked(struct memd *m, struct region *r, uint32_t page, uint64_t e)
{
    if (!entry_sample(e)) {
        out_count_fault(m, &m->stats.parked_faults);
        return;
    }
    place_set(r, page, place_get(r, page) | PLACE_TOUCHED);
    atomic_fetch_add_explicit(&m->stats.sampled_faults, 1, memory_order_relaxed);
}

static int serve_absent(struct memd *m, struct region *r, uint32_t page, enum wire_tier *tier)
{
    char *hva = page_hva(r, page);
    int err = uffd_zero(m->uffd_a, hva, PAGE_BYTES);

    if (err == -EEXIST && uffd_marker_at(m, hva)) {
        uffd_unprotect_once(m->uffd_a, hva, PAGE_BYTES);
        return -EAGAIN;
    }
    if (!err)
        *tier = WIRE_TIER_ZERO;
    return err == -EAGAIN ? err : 0;
}

int out_serve(struct memd *m, struct region *r, uint32_t page, uint64_t since_ns, enum wire_tier *tier)
{
    uint64_t e = page_get(r, page);
    bool unchanged = entry_tag(e);
    int err;

    if (!entry_out(e))
        return serve_absent(m, r, page, tier);
    if (entry_state(e) == WIRE_PAGE_LOST)
        return uffd_poison_once(m, page_hva(r, page)) == -EAGAIN ? -EAGAIN : 0;
    if (entry_state(e) == WIRE_PAGE_SWAPPED)
        return swap_serve(m, r, page, since_ns, tier);
    if (entry_state(e) == WIRE_PAGE_REMOTE)
        return remote_serve(m, r, page, tier);
    if (entry_state(e) == WIRE_PAGE_PARKED) {
        err = bring_parked(m, r, page, e, &unchanged);
    } else {
        unpack(m, r, page, m->pager->serve);
        err = uffd_copy_once(m->uffd_a, page_hva(r, page), m->pager->serve, PAGE_BYTES, unchanged);
    }
    if (err == -EEXIST) /* a marker is in the way */
        uffd_unprotect_once(m->uffd_a, page_hva(r, page), PAGE_BYTES);
    if (err)
        return err == -ENOENT || err == -ESRCH ? 0 : -EAGAIN; /* not mapped, or all of it is going away */
    *tier = entry_state(e) == WIRE_PAGE_PACKED ? WIRE_TIER_PACKED : WIRE_TIER_PARKED;
    if (*tier == WIRE_TIER_PACKED)
        served_packed(m, r, page);
    else
        served_parked(m, r, page, e);
    if (e & WIRE_PAGE_F_PENDING)
        place_set(r, page, 0); /* the same */
    out_entry(r, page, out_private(e, unchanged));
    out_emptied(m, r, page);
    return 0;
}

/* ---- up, in bulk */

/* Returns how many pages are there: all of them, unless there is no memory. */
static uint32_t bring(struct memd *m, struct hold_fill f)
{
    uint64_t bytes = f.left;
    unsigned tries = 0;

    while (f.left) {
        int err = hold_fill(m, &f);
        if (!err)
            continue;
        if (err == -EFAULT) /* of a frame, see remote_gone() */
            break;
        if (++tries == TRIES_MAX) {
            log_msg(m, MEMD_LOG_ERROR, "a page cannot be brought home to %p (%d)", (void *)f.hva, -err);
            break;
        }
        sched_yield();
    }
    return (uint32_t)((bytes - f.left) >> PAGE_SHIFT);
}

/* How far from `page` pages lie in the same way. */
static uint32_t alike(const struct region *r, uint32_t page, uint32_t end)
{
    uint64_t e = page_get(r, page);
    uint32_t p = page + 1;

    if (entry_state(e) == WIRE_PAGE_PACKED && end > page + OUT_BATCH_PAGES)
        end = page + OUT_BATCH_PAGES;
    while (p < end && entry_state(page_get(r, p)) == entry_state(e) &&
           entry_sample(page_get(r, p)) == entry_sample(e) &&
           (!entry_frame(e) || entry_frame(page_get(r, p)) == entry_frame(e) + (p - page)) &&
           (!entry_tag(e) == !entry_tag(page_get(r, p)) || entry_state(e) == WIRE_PAGE_PARKED))
        p++;
    return p;
}

static uint32_t home_run(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    uint64_t e = page_get(r, page);
    bool packed = entry_state(e) == WIRE_PAGE_PACKED, remote = entry_state(e) == WIRE_PAGE_REMOTE;
    bool copied = packed || remote, armed = copied && entry_tag(e);
    struct pager *p = m->pager;

    for (uint32_t i = 0; packed && i < npages; i++)
        unpack(m, r, page + i, p->batch + i * PAGE_BYTES);
    uint32_t n = bring(m, (struct hold_fill){.hva = page_hva(r, page),
                                             .src = packed   ? p->batch
                                                    : remote ? (const char *)stores_frame(m, entry_frame(e))
                                                             : shadow_page(r, page),
                                             .left = npages * PAGE_BYTES,
                                             .piece = npages * PAGE_BYTES,
                                             .move = !copied,
                                             .armed = armed,
                                             .stays = copied});
    for (uint32_t i = page; i < page + n; i++) {
        if (packed)
            pool_free(p->pool, (uint32_t)place_get(r, i));
        if (remote) {
            remote_homed(m, r, i, armed);
            continue;
        }
        swap_drop(m, r, i);
        out_entry(r, i, out_private(page_get(r, i), armed));
    }
    out_emptied(m, r, page);
    return n;
}

/* What is in memory; the chunk is locked meanwhile. */
static int home_piece(struct memd *m, struct region *r, uint32_t page, uint32_t end, uint32_t *homed_inout)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    int err = 0;

    chunk_lock(c);
    for (uint32_t p = page, next; p < end && !err; p = next) {
        next = p + 1;
        unsigned state = entry_state(page_get(r, p));
        if (state != WIRE_PAGE_PARKED && state != WIRE_PAGE_PACKED && state != WIRE_PAGE_REMOTE)
            continue;
        next = alike(r, p, end);
        bool sample = entry_sample(page_get(r, p));
        uint32_t homed = home_run(m, r, p, next - p);
        if (homed < next - p && state == WIRE_PAGE_REMOTE && remote_gone(m, r, p + homed))
            next = p + homed + 1;
        else
            err = homed < next - p ? -ENOMEM : 0;
        *homed_inout += sample ? 0 : homed;
    }
    out_unlock(m, c);
    uffd_wake(m->uffd_a, page_hva(r, page), (end - page) * PAGE_BYTES);
    return err;
}

int out_home(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t *ret_homed)
{
    uint32_t end = page + npages, n = 0;
    int err = 0;

    *ret_homed = 0;
    if (!atomic_load_explicit(&r->chunks[chunk_of(r, page)].out, memory_order_relaxed))
        return 0;
    pool_gather(m->pager->pool);
    for (uint32_t p = page, next; p < end && !err; p = next) {
        next = end - p < HOME_PAGES ? end : p + HOME_PAGES;
        err = home_piece(m, r, p, next, &n);
    }
    pool_give_back(m->pager->pool);
    refs_flush(m, r, chunk_of(r, page));
    swap_home_many(m, true);
    for (uint32_t p = page; p < end && !err; p++) {
        bool homed = false;
        err = swap_home(m, r, p, &homed);
        n += homed;
    }
    swap_home_many(m, false);
    atomic_fetch_add_explicit(&m->stats.page_ins, n, memory_order_relaxed);
    *ret_homed = n;
    return err;
}

int out_home_chunk(struct memd *m, struct region *r, uint32_t chunk)
{
    uint32_t first = chunk_first(r, chunk), n;
    int err = out_home(m, r, first, chunk_end(r, chunk) - first, &n);

    if (!err && atomic_load(&r->chunks[chunk].missing))
        out_release(m, r, chunk);
    return err;
}

int out_home_region(struct memd *m, struct region *r)
{
    uint64_t need =
        (atomic_load(&r->out.packed) + atomic_load(&r->out.swapped) + atomic_load(&r->out.remote)) *
        PAGE_BYTES;
    uint64_t have = need ? mem_available_bytes() : 0;
    int err = 0;

    if (need > have) {
        log_msg(m, MEMD_LOG_ERROR,
                "bringing pages home needs %llu MiB, and %llu MiB are to be had: free memory first, or raise "
                "the cgroup's limit",
                (unsigned long long)need >> 20, (unsigned long long)have >> 20);
        return -ENOMEM;
    }
    for (uint32_t c = 0; c < r->nchunks && !err; c++)
        if (r->out.shadow && atomic_load(&r->chunks[c].missing))
            err = out_home_chunk(m, r, c);
    return err;
}

/* ---- away */

void out_discard(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    bool any_parked = false;

    if (!r->out.place)
        return;
    chunk_lock(c);
    for (uint32_t p = page; p < page + npages; p++) {
        uint64_t e = page_get(r, p);
        if (entry_state(e) == WIRE_PAGE_PACKED)
            pool_free(m->pager->pool, (uint32_t)place_get(r, p));
        any_parked |= entry_state(e) == WIRE_PAGE_PARKED;
        if (place_get(r, p))
            swap_drop(m, r, p);
        if (!entry_out(e))
            continue;
        out_entry(r, p,
                  entry_make(WIRE_PAGE_GONE, entry_frame(e) ? WIRE_PAGE_F_DROPPING : 0, 0, entry_frame(e)));
        if (entry_frame(e))
            refs_later(m, c);
    }
    if (any_parked)
        madvise(shadow_page(r, page), npages * PAGE_BYTES, MADV_DONTNEED);
    out_emptied(m, r, page);
    out_unlock(m, c);
    uffd_wake(m->uffd_a, page_hva(r, page), npages * PAGE_BYTES);
    refs_flush(m, r, chunk_of(r, page));
}

/* ---- the pool's objects change places */

static bool moved(void *ctx, struct pool_owner owner, uint32_t from, uint32_t to)
{
    struct memd *m = ctx;
    struct region *r = owner.region < MEMD_REGIONS_MAX ? m->regions[owner.region] : NULL;
    bool is = false;

    if (!r || owner.page >= r->npages || !r->out.place)
        return false;
    struct chunk *c = &r->chunks[chunk_of(r, owner.page)];
    chunk_lock(c);
    if (entry_state(page_get(r, owner.page)) == WIRE_PAGE_PACKED &&
        (uint32_t)place_get(r, owner.page) == from) {
        place_set(r, owner.page, (place_get(r, owner.page) & PLACE_SLOT_BITS) | to);
        is = true;
    }
    out_unlock(m, c);
    return is;
}

uint32_t out_compact(struct memd *m, uint32_t most)
{
    return pool_compact(m->pager->pool, most, moved, m);
}
