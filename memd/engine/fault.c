/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault server: one thread that reads both userfaultfds and answers (I6).
 *
 * uffd A, missing page: somebody touched a page that is being held aside. If its chunk is busy, the holder
 * will wake the range when it is done; the address is kept and tried again a moment later all the same,
 * because the message may have come after that wake. If the chunk is free and MISSING is off in it, a wake
 * lets the access go on; in a chunk with MISSING on (pages of it are parked or packed, or it could not be
 * turned off) the page is brought home here, or given zeros (out_serve). UFFD_EVENT_REMAP is read and
 * forgotten: reading it is what its mremap (place_window) waits for, so this thread never waits for anybody.
 * uffd B, write to a protected page: the page is being healed; the same.
 *
 * What it waits for. As a rule there is nothing but faults of uffd A, and then it waits in read(): poll()
 * makes a fault 1.5 to 2 us longer. It waits in poll() for all it has while something is to be tried
 * again, or is being read from the swap file, which it knows, and while somebody wants more of it: pages are
 * being protected with uffd B, or a turn is waited for (fault_attend). Whoever wants more rings the bell, if
 * the server is in read(): touches a page registered with uffd A in which there is nothing.
 *
 * No allocation, no lock, no access to guest memory, no system call that waits for one of the engine's
 * threads.
 */
#include "memd/engine/engine.h"
#include "memd/engine/latency.h"
#include "memd/engine/out.h"
#include "memd/engine/pace.h"
#include "memd/engine/pager.h"
#include "memd/engine/swap.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MESSAGES_MAX 32
#define DEFERRED_MAX 64

struct deferred {
    uint64_t hva, since_ns;
    int uffd;
};

struct server {
    struct memd *m;
    struct deferred deferred[DEFERRED_MAX];
    unsigned ndeferred;
    bool waits;    /* something is to be tried again in a moment */
    bool blocking; /* userfaultfd A: read() waits */
    bool paced;    /* this turn */
    uint64_t missed_first,
        missed_end; /* where accesses wait that there was no room to remember; 0: nowhere */
};

/* In the engine's own areas nobody has any business, but the kernel fills them when all of the VMM's memory
 * is locked, and a debugger reads them: they get zeros, and are emptied before they are used. */
static bool is_own(const struct memd *m, uint64_t hva)
{
    if (hva - (uintptr_t)m->parking < PARKING_PAGES * PAGE_BYTES ||
        hva - (uintptr_t)m->window < CHUNK_PAGES * PAGE_BYTES || hva - (uintptr_t)m->bell < PAGE_BYTES)
        return true;
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        const struct region *r = atomic_load_explicit(&m->regions[i], memory_order_acquire);
        const char *shadow = r ? atomic_load_explicit(&r->out.shadow, memory_order_relaxed) : NULL;
        if (shadow && hva - (uintptr_t)shadow < r->npages * PAGE_BYTES)
            return true;
    }
    return false;
}

/* False: try again later. */
static bool answer(struct memd *m, int uffd, uint64_t hva, uint64_t since_ns)
{
    struct region *r = region_at(m, hva);
    enum wire_tier tier = WIRE_TIERS;
    int err = 0;

    if (!r) {
        if (is_own(m, hva) && uffd_zero(uffd, (void *)hva, PAGE_BYTES) == -EAGAIN)
            return false;
        uffd_wake(uffd, (void *)hva, PAGE_BYTES);
        return true;
    }
    uint32_t page = (uint32_t)((hva - (uintptr_t)r->base) >> PAGE_SHIFT);
    struct chunk *c = &r->chunks[chunk_of(r, page)];
    if (!chunk_trylock(c))
        return false;
    if (uffd == m->uffd_a && atomic_load_explicit(&c->missing, memory_order_relaxed))
        err = out_serve(m, r, page, since_ns, &tier);
    chunk_unlock(c);
    if (err == -EAGAIN)
        return false;
    if (err != -EINPROGRESS) /* swap_complete() wakes */
        uffd_wake(uffd, (void *)hva, PAGE_BYTES);
    if (tier != WIRE_TIERS)
        latency_count(m, tier, since_ns);
    return true;
}

/* Where there is no room, who waits is woken when there is some, and asks again. Not at once: a crowd that
 * asks without end would keep this thread from all else. */
static void defer(struct server *s, int uffd, uint64_t hva, uint64_t since_ns)
{
    for (unsigned i = 0; i < s->ndeferred; i++)
        if (s->deferred[i].hva == hva && s->deferred[i].uffd == uffd)
            return;
    if (s->ndeferred < DEFERRED_MAX) {
        s->deferred[s->ndeferred++] = (struct deferred){hva, since_ns, uffd};
        return;
    }
    if (!s->missed_end || hva < s->missed_first)
        s->missed_first = hva;
    if (hva + PAGE_BYTES > s->missed_end)
        s->missed_end = hva + PAGE_BYTES;
}

static void serve(struct server *s, int uffd, uint64_t hva, uint64_t since_ns)
{
    hva &= ~(PAGE_BYTES - 1);
    if (!answer(s->m, uffd, hva, since_ns))
        defer(s, uffd, hva, since_ns);
}

static void serve_deferred(struct server *s)
{
    unsigned left = 0;

    for (unsigned i = 0; i < s->ndeferred; i++)
        if (!answer(s->m, s->deferred[i].uffd, s->deferred[i].hva, s->deferred[i].since_ns))
            s->deferred[left++] = s->deferred[i];
    s->ndeferred = left;
    if (!s->missed_end || left == DEFERRED_MAX)
        return;
    uffd_wake(s->m->uffd_a, (void *)s->missed_first, s->missed_end - s->missed_first);
    uffd_wake(s->m->uffd_b, (void *)s->missed_first, s->missed_end - s->missed_first);
    s->missed_first = s->missed_end = 0;
}

static void answer_all(struct server *s, int uffd, const struct uffd_msg *msg, ssize_t n)
{
    uint64_t since_ns = n > 0 ? now_ns() : 0;

    if (n > 0 && !s->paced) { /* once: those who are let go meanwhile would have drain() go on for ever */
        s->paced = true;
        pace_wait(s->m, (unsigned)n);
    }
    for (ssize_t i = 0; i < n; i++) {
        if (msg[i].event != UFFD_EVENT_PAGEFAULT)
            continue;
        atomic_fetch_add_explicit(&s->m->stats.faults, 1, memory_order_relaxed);
        serve(s, uffd, msg[i].arg.pagefault.address, since_ns);
    }
}

/* All that has come: see fault_quiesce(). */
static void drain(struct server *s, int uffd)
{
    struct uffd_msg msg[MESSAGES_MAX];
    ssize_t n;

    do {
        n = read(uffd, msg, sizeof msg) / (ssize_t)sizeof *msg;
        answer_all(s, uffd, msg, n);
    } while (n == MESSAGES_MAX);
}

/* ---- what to wait for */

static bool set_blocking(struct server *s, bool blocking)
{
    int nonblocking = !blocking;

    if (s->blocking == blocking)
        return true;
    if (!ioctl(s->m->uffd_a, FIONBIO, &nonblocking))
        s->blocking = blocking;
    else if (!blocking) /* it was not when it was asked for the other way round */
        log_msg(s->m, MEMD_LOG_ERROR, "fault server: FIONBIO is refused now (%d): see docs/syscalls.md",
                errno);
    return s->blocking == blocking;
}

/* True: read() of userfaultfd A may wait, and whoever wants more knows that it does. */
static bool only_a(struct server *s)
{
    struct memd *m = s->m;

    if (s->waits || s->ndeferred || s->missed_end || swap_reads(m) ||
        atomic_load_explicit(&m->fault_attends, memory_order_relaxed) || !set_blocking(s, true))
        return false;
    /* seq_cst, as is the other side: of "it waits" and "somebody wants more" one is seen (fault_attend) */
    atomic_store(&m->fault_blocks, true);
    if (!atomic_load(&m->fault_attends))
        return true;
    atomic_store(&m->fault_blocks, false);
    return false;
}

static void wait_for_a(struct server *s)
{
    struct uffd_msg msg[MESSAGES_MAX];
    ssize_t n = read(s->m->uffd_a, msg, sizeof msg) / (ssize_t)sizeof *msg;

    atomic_store(&s->m->fault_blocks, false);
    answer_all(s, s->m->uffd_a, msg, n);
}

static void wait_for_all(struct server *s)
{
    struct memd *m = s->m;
    struct swapfile *swap = atomic_load_explicit(&m->pager->swap, memory_order_acquire);
    struct pollfd fds[] = {{m->uffd_a, POLLIN, 0},
                           {m->uffd_b, POLLIN, 0},
                           {m->wake_fault, POLLIN, 0},
                           {swap ? swapfile_fetch_fd(swap) : -1, POLLIN, 0}};

    set_blocking(s, false); /* poll() says nothing of a userfaultfd that blocks */
    poll(fds, 4, s->waits ? 1 : -1);
    /* seq_cst: a turn counted here began after everything its reader had published */
    atomic_fetch_add(&m->fault_turns, 1);
    if (fds[2].revents) {
        uint64_t count;
        if (read(m->wake_fault, &count, sizeof count) < 0 && errno != EAGAIN)
            log_msg(m, MEMD_LOG_ERROR, "fault server: eventfd: %d", errno);
    }
    serve_deferred(s);
    if (fds[0].revents)
        drain(s, m->uffd_a);
    if (fds[1].revents)
        drain(s, m->uffd_b);
}

/* What could not be answered is tried again. */
static void look_again(struct server *s)
{
    struct memd *m = s->m;
    bool waits = swap_complete(m);

    /* only this thread changes it */
    if (waits || s->ndeferred || atomic_load_explicit(&m->fault_waits, memory_order_relaxed)) {
        /* seq_cst: whoever unlocks a chunk after this look at it sees that somebody waits (out_unlock) */
        atomic_store(&m->fault_waits, waits || s->ndeferred);
        serve_deferred(s);
    }
    s->waits = waits || s->ndeferred > 0 || swap_waits(m);
}

void *fault_main(void *arg)
{
    struct server s = {.m = arg};

    while (!atomic_load(&s.m->fault_stop)) {
        s.paced = false;
        if (only_a(&s))
            wait_for_a(&s);
        else
            wait_for_all(&s);
        look_again(&s);
    }
    return NULL;
}

void fault_attend(struct memd *m)
{
    atomic_fetch_add(&m->fault_attends, 1);
    while (atomic_load(&m->fault_blocks)) {
        place_empty(m->bell, PAGE_BYTES); /* whoever locks all memory fills it */
        (void)*(volatile const char *)m->bell;
    }
}

void fault_release(struct memd *m)
{
    atomic_fetch_sub(&m->fault_attends, 1);
}

void fault_quiesce(struct memd *m)
{
    uint64_t one = 1;

    if (!m->fault_started)
        return;
    fault_attend(m);
    uint64_t seen = atomic_load(&m->fault_turns);
    /* three turns: the first may have looked for messages before; the second has, and the third begins when
     * what it found is answered */
    while (atomic_load(&m->fault_turns) - seen < 3) {
        if (write(m->wake_fault, &one, sizeof one) < 0 && errno != EAGAIN)
            break;
        sched_yield();
    }
    fault_release(m);
}
