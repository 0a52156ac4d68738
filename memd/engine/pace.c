/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see pace.h. */
#include "memd/engine/pace.h"

#include "memd/engine/pager.h"

#include <time.h>

static uint64_t homes(const struct memd *m)
{
    return atomic_load_explicit(&m->stats.parked_faults, memory_order_relaxed) +
           atomic_load_explicit(&m->stats.packed_faults, memory_order_relaxed) +
           atomic_load_explicit(&m->stats.swapped_faults, memory_order_relaxed);
}

static uint64_t outs(const struct memd *m)
{
    return atomic_load_explicit(&m->stats.page_outs, memory_order_relaxed) + m->pager->wholes;
}

static void count_from_now(struct memd *m)
{
    m->pager->pace_homes = homes(m);
    m->pager->pace_outs = outs(m);
}

static void keep(struct pager *p, uint64_t us)
{
    atomic_store_explicit(&p->pace_us, (uint32_t)us, memory_order_relaxed);
    atomic_store_explicit(&p->pace_kept_ns, now_ns(), memory_order_relaxed);
}

/* What a page costs now, in us. */
static uint64_t pace_us(const struct memd *m)
{
    uint64_t us = atomic_load_explicit(&m->pager->pace_us, memory_order_relaxed);

    if (!us)
        return 0;
    uint64_t now = now_ns(), kept = atomic_load_explicit(&m->pager->pace_kept_ns, memory_order_relaxed);
    uint64_t halves = now > kept ? (now - kept) / PACE_HALF_NS : 0;
    us = halves < 32 ? us >> halves : 0;
    return us < PACE_MIN_US ? 0 : us;
}

void pace_begin(struct memd *m, const struct wire_rec_page *order)
{
    count_from_now(m);
    if (order->park_ms < PACE_PARK_MS && !(order->flags & WIRE_PAGEOUT_PARK))
        keep(m->pager, pace_us(m));
}

void pace_measure(struct memd *m)
{
    struct pager *p = m->pager;
    uint64_t home = homes(m) - p->pace_homes, out = outs(m) - p->pace_outs, us = pace_us(m);

    if (home > out / 2) /* up at once, down slowly: a window is as long as one turn on a CPU, or none */
        us = us * 2 > PACE_MAX_US ? PACE_MAX_US : us ? us * 2 : PACE_MIN_US;
    else
        us -= us / 8;
    keep(p, us);
    count_from_now(m);
}

void pace_wait(struct memd *m, unsigned npages)
{
    uint64_t us = npages ? pace_us(m) * npages : 0;

    if (!us)
        return;
    const struct timespec ts = {.tv_nsec = (long)(us < PACE_TURN_US ? us : PACE_TURN_US) * 1000};
    uint64_t from_ns = now_ns();
    nanosleep(&ts, NULL);
    atomic_fetch_add_explicit(&m->stats.held_faults, npages, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->stats.held_ns, (now_ns() - from_ns) * npages, memory_order_relaxed);
}
