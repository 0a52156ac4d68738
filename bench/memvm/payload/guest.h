/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the payload's files share: a vCPU's state, and how it looks at what the VMM writes. */
#ifndef MEMVM_PAYLOAD_GUEST_H
#define MEMVM_PAYLOAD_GUEST_H

#include "bench/memvm/payload/machine.h"
#include "bench/memvm/payload/page.h"

/* How much of a workload is due: `credit` grows by rate * elapsed ns, a page costs SECOND_NS. */
struct pace {
    uint64_t rate; /* pages a second of this vCPU; 0 off; ABI_UNLIMITED */
    uint64_t last_ns;
    uint64_t credit;
};

struct guest {
    struct machine m;
    unsigned index;
    struct abi_ctl *ctl;
    struct abi_vcpu *me;
    struct abi_entry *table;
    uint64_t seed, data_off;
    uint64_t first, end; /* own data pages, [first, end); those behind, up to `all_end`, are in the balloon */
    uint64_t all_end;
    uint64_t balloon_irqs;   /* seen */
    uint64_t balloon_target; /* of this vCPU, in pages */
    int balloon_broken;
    uint64_t zero_sum;
    uint64_t random;
    struct pace churn, toggle, sweep, verify;
    uint64_t sweep_at, verify_at, rewrite_at;
    uint64_t rewrite_gen;  /* which the pass under way answers */
    uint64_t job_accesses; /* since a cold page was read */
    uint64_t doorbell;
};

static inline uint64_t *guest_page(const struct guest *g, uint64_t page)
{
    return machine_ram(&g->m, g->data_off + page * ABI_PAGE_BYTES);
}

/* Counters have one writer, this vCPU; the VMM may read any value on the way. */
static inline void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline uint64_t look(const _Atomic uint64_t *field)
{
    return atomic_load_explicit(field, memory_order_relaxed);
}

/* The number of a request; acquire: its arguments are those stored before it. */
static inline uint64_t request(const _Atomic uint64_t *gen)
{
    return atomic_load_explicit(gen, memory_order_acquire);
}

static inline int64_t guest_call(struct guest *g, enum abi_call call, uint64_t a, uint64_t b)
{
    g->me->arg[0] = a;
    g->me->arg[1] = b;
    machine_call(&g->m, call);
    return g->me->ret;
}

/* ---- payload.c */

/* Compare a page with its entry; the VMM hears of a difference. */
void guest_check(struct guest *g, uint64_t page, enum abi_where where);
/* Check the page, then give it new content. */
void guest_rewrite(struct guest *g, uint64_t page);

/* ---- balloon.c */

/* Once filled: the first vCPU starts the driver. */
void guest_balloon_start(struct guest *g);
/* A slice of the way to the target; returns the pages moved. */
uint64_t guest_balloon(struct guest *g);
/* Report pages [from, to) as free. 0 or a negative errno value. */
int64_t guest_report(struct guest *g, uint64_t from, uint64_t to);
/* A page that was given up holds zeros, or what it held. */
void guest_check_fresh(struct guest *g, uint64_t page);

#endif
