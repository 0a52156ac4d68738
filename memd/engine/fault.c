/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The fault server: one thread that reads both userfaultfds and answers (I6).
 *
 * uffd A, missing page: somebody touched a page that is being held aside. If its chunk is busy, the holder
 * will wake the range when it is done; the address is kept and tried again a moment later all the same,
 * because the message may have come after that wake. If the chunk is free, nothing of it is out, and a wake
 * lets the access go on; in a chunk whose MISSING mode could not be turned off, an absent page is given zeros
 * here. UFFD_EVENT_REMAP is read and forgotten: reading it is what its mremap (place_window) waits for, so
 * this thread never waits for anybody. uffd B, write to a protected page: the page is being healed; the same.
 *
 * No allocation, no lock, no access to guest memory, no system call that waits for one of the engine's
 * threads.
 */
#include "memd/engine/engine.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#define MESSAGES_MAX 32
#define DEFERRED_MAX 64

struct deferred {
    uint64_t hva;
    int uffd;
};

struct server {
    struct memd *m;
    struct deferred deferred[DEFERRED_MAX];
    unsigned ndeferred;
};

/* In the engine's own areas nobody has any business, but the kernel fills them when all of the VMM's memory
 * is locked, and a debugger reads them: they get zeros, and are emptied before they are used. */
static bool is_own(const struct memd *m, uint64_t hva)
{
    return hva - (uintptr_t)m->parking < PARKING_PAGES * PAGE_BYTES ||
           hva - (uintptr_t)m->window < CHUNK_PAGES * PAGE_BYTES;
}

/* False: try again later. */
static bool answer(struct memd *m, int uffd, uint64_t hva)
{
    struct region *r = region_at(m, hva);
    int err = 0;

    if (!r) {
        if (is_own(m, hva) && uffd_zero(uffd, (void *)hva, PAGE_BYTES) == -EAGAIN)
            return false;
        uffd_wake(uffd, (void *)hva, PAGE_BYTES);
        return true;
    }
    struct chunk *c = &r->chunks[chunk_of(r, (uint32_t)((hva - (uintptr_t)r->base) >> PAGE_SHIFT))];
    if (!chunk_trylock(c))
        return false;
    if (uffd == m->uffd_a && atomic_load_explicit(&c->missing, memory_order_relaxed))
        err = uffd_zero(uffd, (void *)hva, PAGE_BYTES);
    chunk_unlock(c);
    if (err == -EAGAIN)
        return false;
    uffd_wake(uffd, (void *)hva, PAGE_BYTES);
    return true;
}

static void serve(struct server *s, int uffd, uint64_t hva)
{
    hva &= ~(PAGE_BYTES - 1);
    if (answer(s->m, uffd, hva))
        return;
    if (s->ndeferred < DEFERRED_MAX)
        s->deferred[s->ndeferred++] = (struct deferred){hva, uffd};
    else /* it faults again and asks again */
        uffd_wake(uffd, (void *)hva, PAGE_BYTES);
}

static void serve_deferred(struct server *s)
{
    unsigned left = 0;

    for (unsigned i = 0; i < s->ndeferred; i++)
        if (!answer(s->m, s->deferred[i].uffd, s->deferred[i].hva))
            s->deferred[left++] = s->deferred[i];
    s->ndeferred = left;
}

static void drain(struct server *s, int uffd)
{
    struct uffd_msg msg[MESSAGES_MAX];
    ssize_t n = read(uffd, msg, sizeof msg);

    for (ssize_t i = 0; i < n / (ssize_t)sizeof *msg; i++) {
        if (msg[i].event != UFFD_EVENT_PAGEFAULT)
            continue;
        atomic_fetch_add_explicit(&s->m->stats.faults, 1, memory_order_relaxed);
        serve(s, uffd, msg[i].arg.pagefault.address);
    }
}

void *fault_main(void *arg)
{
    struct server s = {.m = arg};
    struct memd *m = arg;

    while (!atomic_load(&m->fault_stop)) {
        struct pollfd fds[] = {{m->uffd_a, POLLIN, 0}, {m->uffd_b, POLLIN, 0}, {m->wake_fault, POLLIN, 0}};
        poll(fds, 3, s.ndeferred ? 1 : -1);
        /* seq_cst: a turn counted here began after everything its reader had published */
        atomic_fetch_add(&m->fault_turns, 1);
        if (fds[2].revents) {
            uint64_t count;
            if (read(m->wake_fault, &count, sizeof count) < 0 && errno != EAGAIN)
                log_msg(m, MEMD_LOG_ERROR, "fault server: eventfd: %d", errno);
        }
        serve_deferred(&s);
        drain(&s, m->uffd_a);
        drain(&s, m->uffd_b);
    }
    return NULL;
}

void fault_quiesce(struct memd *m)
{
    uint64_t seen = atomic_load(&m->fault_turns), one = 1;

    if (!m->fault_started)
        return;
    /* two turns: the first may have been under way */
    while (atomic_load(&m->fault_turns) - seen < 2) {
        if (write(m->wake_fault, &one, sizeof one) < 0 && errno != EAGAIN)
            return;
        sched_yield();
    }
}
