/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which stretches of a chunk to take aside together. Pure: no system calls, no state.
 *
 * Every operation on a mapping has a price of its own, and every invalidation of the TLB another: the kernel
 * flushes short ranges page by page and long ranges at once, and under a hypervisor that write-protects page
 * tables a page's flush can cost microseconds. So it can pay to take pages along that nothing is to be done
 * with, and give them back. plan_spans() compares three ways: each stretch by itself, neighbours joined where
 * joining is cheaper, and everything in one; the prices are measured when the engine is opened (plan_measure
 * in place.c).
 */
#include "memd/engine/plan.h"

#include <string.h>

/* How many pages of a kind precede each page. */
struct counts {
    uint16_t keep[PLAN_PAGES_MAX + 1], hole[PLAN_PAGES_MAX + 1], barrier[PLAN_PAGES_MAX + 1];
};

static void count(const uint8_t *kind, uint32_t npages, struct counts *ret_n)
{
    ret_n->keep[0] = ret_n->hole[0] = ret_n->barrier[0] = 0;
    for (uint32_t i = 0; i < npages; i++) {
        ret_n->keep[i + 1] = (uint16_t)(ret_n->keep[i] + (kind[i] == PLAN_KEEP));
        ret_n->hole[i + 1] = (uint16_t)(ret_n->hole[i] + (kind[i] == PLAN_HOLE));
        ret_n->barrier[i + 1] = (uint16_t)(ret_n->barrier[i] + (kind[i] == PLAN_BARRIER));
    }
}

static double flush_ns(const struct plan_costs *c, uint32_t npages)
{
    double paged = npages * c->flush_page_ns;

    return npages > PLAN_FLUSH_PAGES || paged > c->flush_all_ns ? c->flush_all_ns : paged;
}

/* What taking a span aside costs: pages of no interest are given back. */
static double span_ns(const struct plan_costs *c, const struct counts *n, struct plan_span s)
{
    uint32_t holes = n->hole[s.end] - n->hole[s.first];

    return c->span_ns + flush_ns(c, s.end - s.first - holes) +
           (n->keep[s.end] - n->keep[s.first]) * c->keep_ns;
}

static double plan_ns(const struct plan_costs *c, const struct counts *n, const struct plan_span *span,
                      unsigned nspans)
{
    double sum = 0;

    for (unsigned i = 0; i < nspans; i++)
        sum += span_ns(c, n, span[i]);
    return sum;
}

/* Each stretch of targets by itself. */
static unsigned plan_apart(const uint8_t *kind, uint32_t npages, struct plan_span *ret_span)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < npages;) {
        uint32_t end = i;
        while (end < npages && kind[end] == PLAN_TARGET)
            end++;
        if (end > i)
            ret_span[n++] = (struct plan_span){i, end};
        i = end > i ? end : i + 1;
    }
    return n;
}

/* Neighbours in `span` joined where nothing stands between them and it is cheaper; in any case with `all`. */
static unsigned plan_join(const struct plan_costs *c, const struct counts *n, struct plan_span *span,
                          unsigned nspans, bool all)
{
    unsigned k = 0;

    for (unsigned i = 1; i < nspans; i++) {
        struct plan_span joint = {span[k].first, span[i].end};
        bool free = n->barrier[joint.first] == n->barrier[joint.end];
        if (free && (all || span_ns(c, n, joint) <= span_ns(c, n, span[k]) + span_ns(c, n, span[i])))
            span[k] = joint;
        else
            span[++k] = span[i];
    }
    return nspans ? k + 1 : 0;
}

unsigned plan_spans(const struct plan_costs *costs, const uint8_t *kind, uint32_t npages,
                    struct plan_span ret_span[PLAN_SPANS_MAX])
{
    struct plan_span all[PLAN_SPANS_MAX];
    struct counts counts;
    unsigned n = plan_apart(kind, npages, ret_span), nall;

    count(kind, npages, &counts);
    memcpy(all, ret_span, n * sizeof *all);
    nall = plan_join(costs, &counts, all, n, true);
    n = plan_join(costs, &counts, ret_span, n, false);
    if (plan_ns(costs, &counts, all, nall) >= plan_ns(costs, &counts, ret_span, n))
        return n;
    memcpy(ret_span, all, nall * sizeof *all);
    return nall;
}
