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
 * may be pinned. Those stay where they are.
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
 * All functions: engine.work held, any thread.
 */
#include "memd/engine/engine.h"

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

uint64_t mem_available_bytes(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib << 10;
}

/* ---- the pages of one operation */

struct heal {
    struct region *r;
    uint32_t first, end;             /* within one chunk */
    const uint64_t *only;            /* bit from `first`: to be healed; NULL: all of them */
    uint64_t stay[CHUNK_PAGES / 64]; /* bit from `first`: may be pinned, is left */
    uint32_t healed, left;
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

static bool exclusive(struct memd *m, const void *hva)
{
    uint64_t bits = 0;

    if (pread(m->pagemap, &bits, sizeof bits, (off_t)((uintptr_t)hva / PAGE_BYTES * sizeof bits)) !=
        sizeof bits)
        return true;
    return bits & PAGEMAP_EXCLUSIVE;
}

/* Marks in h->stay the written pages that may be pinned; all of them if it cannot be told. */
static void probe_pins(struct memd *m, struct heal *h)
{
    set_fork(h, MADV_DOFORK);
    long pid = spawn_probe();
    set_fork(h, MADV_DONTFORK);
    for (uint32_t p = h->first; p < h->end; p++) {
        if (entry_state(page_get(h->r, p)) != WIRE_PAGE_BROKEN || !takes_part(h, p))
            continue;
        if (pid < 0 || exclusive(m, page_hva(h->r, p))) {
            h->stay[(p - h->first) / 64] |= 1ull << ((p - h->first) % 64);
            h->left++;
        }
    }
    if (pid >= 0)
        end_probe(pid);
    else if (!m->probe_warned)
        log_msg(m, MEMD_LOG_WARN,
                "cannot tell pinned pages (clone: %d): written pages stay in store mappings", errno);
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
    refs_drop(m, r, page, n, WIRE_DROP_UNMERGED);
    for (uint32_t p = page; p < end; p++) {
        uint64_t e = page_get(r, p);
        page_set(r, p,
                 entry_make(WIRE_PAGE_PRIVATE, (uint32_t)(e & WIRE_PAGE_F_DROPPING), 0, entry_frame(e)));
        pending_set(r, p);
    }
    h->healed += n;
    return 0;
}

int heal_pages(struct memd *m, struct region *r, uint32_t page, uint32_t npages, const uint64_t *only,
               uint32_t *ret_left)
{
    struct heal h = {.r = r, .first = page, .end = page + npages, .only = only};
    uint32_t chunk = chunk_of(r, page), at = page, end;

    if (!next_stretch(&h, &at, &end, false)) {
        *ret_left = 0;
        return 0;
    }
    chunk_lock(&r->chunks[chunk]);
    int err = protect(m, &h);
    if (!err) {
        scan_look_broken(m, r, chunk);
        if (any_broken(&h))
            probe_pins(m, &h);
        for (at = page; !err && next_stretch(&h, &at, &end, true); at = end)
            err = bring_home(m, &h, at, end);
    }
    unprotect(m, &h);
    chunk_unlock(&r->chunks[chunk]);
    uffd_wake(m->uffd_a, page_hva(r, page), npages * PAGE_BYTES);
    uffd_wake(m->uffd_b, page_hva(r, page), npages * PAGE_BYTES);
    chunk_count_vmas(m, r, chunk);
    atomic_fetch_add_explicit(&m->stats.heals, h.healed, memory_order_relaxed);
    if (!err)
        *ret_left = h.left;
    return err;
}

int heal_range(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t *ret_left)
{
    return heal_pages(m, r, page, npages, NULL, ret_left);
}

int unmerge_region(struct memd *m, struct region *r, uint32_t *ret_left)
{
    uint64_t need = r->n.shared * PAGE_BYTES, have = mem_available_bytes();
    uint32_t total = 0;

    if (need > have) {
        log_msg(m, MEMD_LOG_ERROR,
                "unmerging needs %llu MiB, the host has %llu MiB available: free memory first",
                (unsigned long long)need >> 20, (unsigned long long)have >> 20);
        return -ENOMEM;
    }
    for (uint32_t c = 0; c < r->nchunks; c++) {
        uint32_t first = chunk_first(r, c), left = 0;
        if (!r->chunks[c].store)
            continue;
        int err = heal_range(m, r, first, chunk_end(r, c) - first, &left);
        if (err)
            return err;
        if (!left) {
            r->chunks[c].store = false;
            rejoin_chunk(m, r, c);
        }
        total += left;
    }
    hold_release(m, true);
    *ret_left = total;
    return 0;
}

/* ---- in the background: store mappings of which nothing is shared any more */

uint32_t heal_chunk(struct memd *m, struct region *r, uint32_t chunk, uint32_t npages_max)
{
    uint32_t end = chunk_end(r, chunk), healed = 0;

    if (!r->chunks[chunk].store || r->chunks[chunk].pins)
        return 0;
    for (uint32_t p = chunk_first(r, chunk); p < end && healed < npages_max;) {
        uint32_t n = 0, left;
        bool whole = true;
        while (p + n < end && entry_in_store(page_get(r, p + n))) {
            uint64_t e = page_get(r, p + n);
            whole &= entry_state(e) == WIRE_PAGE_BROKEN && !(e & WIRE_PAGE_F_PINNED);
            n++;
        }
        if (n && whole && !heal_range(m, r, p, n, &left)) {
            healed += n - left > HEAL_PROBE_PAGES ? n - left : HEAL_PROBE_PAGES;
            for (uint32_t q = p; left && q < p + n; q++) /* not again before the pins are retried */
                if (entry_state(page_get(r, q)) == WIRE_PAGE_BROKEN)
                    page_set(r, q, page_get(r, q) | WIRE_PAGE_F_PINNED);
            if (left && !m->pin_retry_ns)
                m->pin_retry_ns = now_ns() + PIN_RETRY_MS * 1000000ull;
        }
        p += n ? n : 1;
    }
    return healed;
}
