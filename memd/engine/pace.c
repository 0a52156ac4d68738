/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see pace.h. */
#include "memd/engine/pace.h"

#include "memd/engine/pager.h"

#include <time.h>

#define LASTS_NS 1000000000ull /* after it was measured */

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

void pace_begin(struct memd *m)
{
    m->pager->pace_homes = homes(m);
    m->pager->pace_outs = outs(m);
}

void pace_measure(struct memd *m)
{
    struct pager *p = m->pager;
    uint64_t home = homes(m) - p->pace_homes, out = outs(m) - p->pace_outs;
    uint32_t us = atomic_load_explicit(&p->pace_us, memory_order_relaxed);

    if (home > out / 2) /* up at once, down slowly: a window is as long as one turn on a CPU, or none */
        us = us * 2 > PACE_MAX_US ? PACE_MAX_US : us ? us * 2 : PACE_MIN_US;
    else
        us = us - us / 8 < PACE_MIN_US ? 0 : us - us / 8;
    atomic_store_explicit(&p->pace_us, us, memory_order_relaxed);
    atomic_store_explicit(&p->pace_until_ns, now_ns() + LASTS_NS, memory_order_relaxed);
    pace_begin(m);
}

void pace_wait(struct memd *m, unsigned npages)
{
    uint64_t us = atomic_load_explicit(&m->pager->pace_us, memory_order_relaxed);

    if (!us || !npages || now_ns() >= atomic_load_explicit(&m->pager->pace_until_ns, memory_order_relaxed))
        return;
    us = us * npages < PACE_TURN_US ? us * npages : PACE_TURN_US;
    const struct timespec ts = {.tv_nsec = (long)us * 1000};
    nanosleep(&ts, NULL);
}
