/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Healing: bringing pages of a store mapping back into plain, tracked, private memory of the VMM. Used for
 * merged pages that the guest has written again, for unmerging, and before memory is handed to a device.
 *
 * A page written inside a store mapping is private, but cannot be moved (its mapping is not anonymous), and
 * it may be pinned: a device may be writing to it. Copying such a page would lose what the device writes
 * afterwards. So:
 *   1. uffd B is registered on the mappings and write-protects them: CPU writers wait, and so does anybody
 * who wants a new pin for writing.
 *   2. Only now is it looked up which pages have been written; for those the pin probe (below) tells which
 * may be pinned. Those stay where they are. Before, all pages are read in: protecting leaves markers where
 * nobody has touched the frame since the merge, and a marker looks like a written page that is swapped out.
 *   3. The bytes of the others are copied to the parking area (readers are not disturbed), an empty mapping
 * that is MISSING from birth replaces the store mapping, and the pages are moved in. Accesses in between
 * wait. A page nobody has written is the frame itself, which nobody writes: step 3 is enough.
 *
 * The pin probe: fork marks the anonymous pages of the parent as shared, except pages that may be pinned,
 * which it copies for the child at once (Linux mm, folio_try_dup_anon_rmap). So after a throw-away clone in
 * which only the mappings in question take part, bit 56 of /proc/self/pagemap (page exclusively mapped) is
 * still set for exactly the pages that may be pinned, as long as the child lives. It does nothing but wait
 * for its end.
 *
 * A clone copies the list of all mappings, milliseconds where there are thousands. So what is healed in the
 * background is collected (heal_want) and goes through one probe together (heal_flush): writers to any of
 * these pages wait for the probe and for the chunks before theirs.
 *
 * All functions: engine.work held, any thread; heal_want and heal_flush: the worker.
 */
#include "memd/engine/engine.h"
#include "memd/engine/maps.h"
#include "memd/engine/memory.h"
#include "memd/engine/remote.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGEMAP_EXCLUSIVE (1ull << 56)
#define PAGEMAP_FILE      (1ull << 61)
#define HEAL_BUSY_ROUNDS  8u
#define UNMERGE_STEP_NS   5000000ull /* then API callers come in */

/* ---- the pages of one operation, in one chunk */

struct heal {
    struct region *r;
    uint32_t first, end;             /* within one chunk */
    const uint64_t *only;            /* bit from `first`: to be healed; NULL: all of them */
    uint64_t stay[CHUNK_PAGES / 64]; /* bit from `first`: may be pinned, is left */
    uint32_t healed, left;
    int err;
};

static bool stays(const struct heal *h, uint32_t page)
{
    return h->stay[(page - h->first) / 64] >> ((page - h->first) % 64) & 1;
}

/* A page of a store mapping that is to be healed. */
static bool takes_part(const struct heal *h, uint32_t page)
{
    uint32_t i = page - h->first;

    return entry_in_store(page_get(h->r, page)) && (!h->only || h->only[i / 64] >> (i % 64) & 1);
}

/* The next stretch of store pages at or after *page; false: no more. With `moving`, pages that stay divide
 * it. */
static bool next_stretch(const struct heal *h, uint32_t *page, uint32_t *ret_end, bool moving)
{
    uint32_t p = *page, q;

    while (p < h->end && (!takes_part(h, p) || (moving && stays(h, p))))
        p++;
    if (p >= h->end)
        return false;
    const struct segment *s = region_segment(h->r, p);
    for (q = p; q < h->end && takes_part(h, q) && !(moving && stays(h, q)); q++)
        if (region_segment(h->r, q) != s)
            break;
    *page = p;
    *ret_end = q;
    return true;
}

static int protect(struct memd *m, const struct heal *h)
{
    uint32_t page = h->first, end;

    for (; next_stretch(h, &page, &end, false); page = end) {
        char *hva = page_hva(h->r, page);
        uint64_t bytes = (end - page) * PAGE_BYTES;
        int err = uffd_register(m->uffd_b, hva, bytes, UFFDIO_REGISTER_MODE_WP);
        if (!err)
            err = uffd_write_protect(m->uffd_b, hva, bytes, true);
        if (err)
            return err;
    }
    return 0;
}

/* What is still a store mapping goes back to how it was; its writers go on. */
static void unprotect(struct memd *m, const struct heal *h)
{
    uint32_t page = h->first, end;

    for (; next_stretch(h, &page, &end, false); page = end) {
        uffd_write_protect(m->uffd_b, page_hva(h->r, page), (end - page) * PAGE_BYTES, false);
        uffd_unregister(m->uffd_b, page_hva(h->r, page), (end - page) * PAGE_BYTES);
    }
}

/* ---- the pin probe */

static void set_fork(const struct heal *h, int advice)
{
    uint32_t page = h->first, end;

    for (; next_stretch(h, &page, &end, false); page = end)
        madvise(page_hva(h->r, page), (end - page) * PAGE_BYTES, advice);
}

/* A child that only waits for its end: while it lives, what it shares is mapped twice. Not fork(): no
 * handlers, no signal to the parent, nothing of libc in the child. It ends with the thread that made it, too.
 */
__attribute__((no_sanitize("thread", "address"), noinline)) static long spawn_probe(void)
{
    pid_t self = getpid();
    long pid = syscall(SYS_clone, 0, 0, 0, 0, 0);

    if (pid)
        return pid;
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (syscall(SYS_getppid) == self)
        for (;;)
            syscall(SYS_pause);
    for (;;)
        syscall(SYS_exit, 0);
}

static void end_probe(long pid)
{
    kill((pid_t)pid, SIGKILL);
    while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
}

/* The frame itself, mapped here and nowhere else, is exclusive, too: nobody has that for writing. */
static bool exclusive(struct memd *m, const void *hva)
{
    uint64_t bits = 0;

    if (pread(m->pagemap, &bits, sizeof bits, (off_t)((uintptr_t)hva / PAGE_BYTES * sizeof bits)) !=
        sizeof bits)
        return true;
    return bits & PAGEMAP_EXCLUSIVE && !(bits & PAGEMAP_FILE);
}

static void set_fork_all(const struct heal *h, unsigned n, int advice)
{
    for (unsigned k = 0; k < n; k++)
        if (!h[k].err)
            set_fork(&h[k], advice);
}

static void find_stay(struct memd *m, struct heal *h, bool all)
{
    for (uint32_t p = h->first; p < h->end; p++) {
        if (entry_state(page_get(h->r, p)) != WIRE_PAGE_BROKEN || !takes_part(h, p))
            continue;
        if (all || exclusive(m, page_hva(h->r, p))) {
            h->stay[(p - h->first) / 64] |= 1ull << ((p - h->first) % 64);
            h->left++;
        }
    }
}

/* Marks in `stay` the written pages that may be pinned; all of them if it cannot be told. */
static void probe_pins(struct memd *m, struct heal *h, unsigned n)
{
    long pid = -1;

    if (!m->filtered) {
        set_fork_all(h, n, MADV_DOFORK);
        pid = spawn_probe();
        set_fork_all(h, n, MADV_DONTFORK);
    }
    for (unsigned k = 0; k < n; k++)
        if (!h[k].err)
            find_stay(m, &h[k], pid < 0);
    if (pid >= 0)
        end_probe(pid);
    else if (!m->probe_warned)
        log_msg(m, MEMD_LOG_WARN,
                m->filtered
                    ? "under a seccomp filter pinned pages cannot be told from others: written pages "
                      "stay in store mappings"
                    : "cannot tell pinned pages (clone is refused): written pages stay in store mappings");
    m->probe_warned = pid < 0;
}

static bool any_broken(const struct heal *h)
{
    for (uint32_t p = h->first; p < h->end; p++)
        if (entry_state(page_get(h->r, p)) == WIRE_PAGE_BROKEN && takes_part(h, p))
            return true;
    return false;
}

/* ---- moving */

/* Chunk locked, writers stopped, every page of [page, end) free of pins. On failure nothing has changed. */
static int bring_home(struct memd *m, struct heal *h, uint32_t page, uint32_t end)
{
    uint32_t n = end - page;
    struct region *r = h->r;

    struct hold_run run = {.page = page, .npages = n, .park = hold_room(m, n)};
    uint64_t copied;
    int err = uffd_copy(m->uffd_a, hold_page(m, &run, 0), page_hva(r, page), n * PAGE_BYTES, &copied);
    if (!err)
        err = place_window(m, r, page, n);
    if (err) {
        hold_release(m, true);
        return err;
    }
    uint32_t first = page, last = end;
    rejoin_widen(r, &first, &last);
    if (uffd_register(m->uffd_a, page_hva(r, first), (last - first) * PAGE_BYTES,
                      UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING))
        first = page, last = end; /* no mappings left: it stays one of its own */
    hold_return(m, r, &run, 0, n);
    hold_end(m, r, first, last - first);
    uffd_write_protect(m->uffd_a, page_hva(r, page), n * PAGE_BYTES, true); /* else it counts as written */
    refs_drop(m, r, page, n, WIRE_DROP_UNMERGED);
    for (uint32_t p = page; p < end; p++) {
        uint64_t e = page_get(r, p);
        /* in the background, what the daemon knows may still be true, and its proposals on the way */
        page_set(r, p,
                 entry_make(WIRE_PAGE_PRIVATE, (uint32_t)(e & WIRE_PAGE_F_DROPPING),
                            h->only ? entry_tag(e) : 0, entry_frame(e)));
        pending_set(r, p);
    }
    h->healed += n;
    return 0;
}

static void read_in(const struct heal *h)
{
    uint32_t page = h->first, end;

    for (; next_stretch(h, &page, &end, false); page = end)
        madvise(page_hva(h->r, page), (end - page) * PAGE_BYTES, MADV_POPULATE_READ);
}

/* Stops writers; true: some pages have been written, and may be pinned. */
static bool begin(struct memd *m, struct heal *h)
{
    chunk_lock(&h->r->chunks[chunk_of(h->r, h->first)]);
    h->err = protect(m, h);
    if (h->err)
        return false;
    read_in(h);
    scan_look_broken(m, h->r, chunk_of(h->r, h->first));
    return any_broken(h);
}

static void finish(struct memd *m, struct heal *h)
{
    uint32_t chunk = chunk_of(h->r, h->first), at = h->first, end;
    char *hva = page_hva(h->r, h->first);
    uint64_t bytes = (h->end - h->first) * PAGE_BYTES;

    for (; !h->err && next_stretch(h, &at, &end, true); at = end)
        h->err = bring_home(m, h, at, end);
    unprotect(m, h);
    chunk_unlock(&h->r->chunks[chunk]);
    uffd_wake(m->uffd_a, hva, bytes);
    uffd_wake(m->uffd_b, hva, bytes);
    chunk_count_vmas(m, h->r, chunk);
    atomic_fetch_add_explicit(&m->stats.heals, h->healed, memory_order_relaxed);
}

/* No two in one chunk. */
static void heal_all(struct memd *m, struct heal *h, unsigned n)
{
    bool written = false;

    fault_attend(m);
    for (unsigned k = 0; k < n; k++)
        written |= begin(m, &h[k]);
    if (written)
        probe_pins(m, h, n);
    for (unsigned k = 0; k < n; k++)
        finish(m, &h[k]);
    fault_release(m);
}

static bool is_idle(const struct heal *h)
{
    uint32_t at = h->first, end;

    return !next_stretch(h, &at, &end, false);
}

int heal_range(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t *ret_left)
{
    struct heal h = {.r = r, .first = page, .end = page + npages};

    if (!is_idle(&h))
        heal_all(m, &h, 1);
    if (!h.err)
        *ret_left = h.left;
    return h.err;
}

static bool needs_room(unsigned state)
{
    return state == WIRE_PAGE_SHARED || state == WIRE_PAGE_PACKED || state == WIRE_PAGE_SWAPPED ||
           state == WIRE_PAGE_REMOTE;
}

int heal_room(struct memd *m, const struct region *r, uint32_t page, uint32_t end)
{
    uint64_t need = 0, have = mem_available_bytes();

    if (end - page == r->npages)
        need = (r->n.shared + atomic_load(&r->out.packed) + atomic_load(&r->out.swapped) +
                atomic_load(&r->out.remote)) *
               PAGE_BYTES;
    else
        for (uint32_t p = page; p < end; p++)
            need += needs_room(entry_state(page_get(r, p))) ? PAGE_BYTES : 0;
    if (need <= have)
        return 0;
    log_msg(m, MEMD_LOG_ERROR,
            "unmerging needs %llu MiB, and %llu MiB are to be had: free memory first, or raise the cgroup's "
            "limit",
            (unsigned long long)need >> 20, (unsigned long long)have >> 20);
    return -ENOMEM;
}

int heal_home(struct memd *m, struct region *r, uint32_t page, uint32_t end, uint32_t *ret_left)
{
    uint32_t chunk = chunk_of(r, page);
    bool whole = page == chunk_first(r, chunk) && end == chunk_end(r, chunk);

    *ret_left = 0;
    if (!r->chunks[chunk].store)
        return 0;
    int err = heal_range(m, r, page, end - page, ret_left);
    if (!err && !*ret_left && whole) {
        r->chunks[chunk].store = false;
        rejoin_chunk(m, r, chunk);
    }
    return err;
}

/* The region it stands in, which moves on past what is gone; NULL: all is done. */
static struct region *unmerge_region(struct memd *m, struct unmerge *u)
{
    for (; u->region < MEMD_REGIONS_MAX; u->region++, u->chunk = 0) {
        struct region *r = m->regions[u->region];
        if (r && u->chunk < r->nchunks)
            return r;
    }
    return NULL;
}

bool unmerge_step(struct memd *m, struct unmerge *u, int32_t *ret_error)
{
    uint64_t since = now_ns();
    struct region *r;
    int err = 0;

    m->unmerged = true;
    while (!err && (r = unmerge_region(m, u))) {
        uint32_t chunk = u->chunk++, left = 0;
        if (!chunk)
            err = heal_room(m, r, 0, r->npages);
        if (!err)
            err = remote_home(m, r, chunk);
        if (!err)
            err = heal_home(m, r, chunk_first(r, chunk), chunk_end(r, chunk), &left);
        u->left += left;
        if (!err && (atomic_load(&m->api_waiting) || now_ns() - since >= UNMERGE_STEP_NS))
            return false;
    }
    hold_release(m, true);
    *ret_error = err ? -err : u->left ? EBUSY : 0;
    return true;
}

/* ---- in the background */

/* Not again before the pins are tried again. */
static void leave(struct memd *m, const struct heal *h)
{
    for (uint32_t p = h->first; p < h->end; p++)
        if (stays(h, p) && entry_state(page_get(h->r, p)) == WIRE_PAGE_BROKEN)
            page_set(h->r, p, page_get(h->r, p) | WIRE_PAGE_F_PINNED);
    if (!m->pin_retry_ns)
        m->pin_retry_ns = now_ns() + PIN_RETRY_MS * 1000000ull;
}

void heal_flush(struct memd *m)
{
    struct heal_queue *q = &m->heal_queue;
    struct heal h[HEAL_CHUNKS_MAX];
    unsigned n = 0;

    for (unsigned k = 0; k < q->n; k++) {
        const struct heal_wanted *w = &q->wanted[k];
        struct region *r = m->regions[w->region];
        if (!r || r->serial != w->serial || r->stuck || r->changing || r->chunks[w->chunk].pins)
            continue;
        h[n] = (struct heal){
            .r = r, .first = chunk_first(r, w->chunk), .end = chunk_end(r, w->chunk), .only = w->only};
        n += !is_idle(&h[n]);
    }
    q->n = 0;
    if (!n)
        return;
    heal_all(m, h, n);
    for (unsigned k = 0; k < n; k++)
        if (h[k].left)
            leave(m, &h[k]);
}

bool heal_want(struct memd *m, struct region *r, uint32_t page, uint32_t npages)
{
    struct heal_queue *q = &m->heal_queue;
    uint32_t chunk = chunk_of(r, page), first = page - chunk_first(r, chunk);
    unsigned k = 0;

    if (m->heal_tokens < 1)
        return false;
    while (k < q->n &&
           (q->wanted[k].region != r->id || q->wanted[k].serial != r->serial || q->wanted[k].chunk != chunk))
        k++;
    if (k == HEAL_CHUNKS_MAX)
        return false;
    if (!q->n) {
        q->round = m->round.number;
        m->heal_tokens -= HEAL_PROBE_PAGES;
    }
    if (k == q->n)
        q->wanted[q->n++] = (struct heal_wanted){.region = r->id, .serial = r->serial, .chunk = chunk};
    for (uint32_t i = first; i < first + npages; i++) {
        m->heal_tokens -= !(q->wanted[k].only[i / 64] >> (i % 64) & 1);
        q->wanted[k].only[i / 64] |= 1ull << (i % 64);
    }
    return true;
}

/* Store mappings of which nothing is shared any more, once they are quiet: they may be merged again without.
 * Those that are written all the time come home, too, sooner or later. */
void heal_chunk(struct memd *m, struct region *r, uint32_t chunk)
{
    bool busy = m->round.number % HEAL_BUSY_ROUNDS == 0;
    uint32_t end = chunk_end(r, chunk);

    if (!r->chunks[chunk].store || r->chunks[chunk].pins)
        return;
    for (uint32_t p = chunk_first(r, chunk), n; p < end; p += n ? n : 1) {
        bool whole = true;
        for (n = 0; p + n < end && entry_in_store(page_get(r, p + n)); n++) {
            uint64_t e = page_get(r, p + n);
            whole &= entry_state(e) == WIRE_PAGE_BROKEN && !(e & WIRE_PAGE_F_PINNED) &&
                     (busy || !pending_test(r, p + n));
        }
        if (n && whole)
            heal_want(m, r, p, n);
    }
}
