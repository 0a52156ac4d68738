/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* plan: which stretches of a chunk to take aside together; see plan.c. */
#ifndef MEMD_ENGINE_PLAN_H
#define MEMD_ENGINE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#define PLAN_PAGES_MAX 512u
#define PLAN_SPANS_MAX (PLAN_PAGES_MAX / 2)
#define PLAN_FLUSH_PAGES                                                               \
    33u /* Linux x86, tlb_single_page_flush_ceiling: longer ranges are flushed at once \
         */

enum plan_kind {
    PLAN_BARRIER, /* must stay where it is: a store mapping, a pinned page, memory that takes no part */
    PLAN_KEEP,    /* may be taken along, and comes back */
    PLAN_HOLE,    /* nothing is there */
    PLAN_TARGET,  /* to be dropped or merged */
};

/* Nanoseconds. */
struct plan_costs {
    double flush_page_ns; /* invalidating one page of a short range */
    double flush_all_ns;  /* invalidating everything, as a long range does */
    double span_ns;       /* taking anything aside at all */
    double keep_ns;       /* a page that comes back, and is hashed again */
    double copy_ns;       /* giving a page back by copying it */
};

struct plan_span {
    uint32_t first, end;
};

/* kind[0..npages): enum plan_kind of each page of a chunk. Returns how many spans cover all targets: in
 * order, apart from each other, beginning and ending with a target, without a barrier inside. */
unsigned plan_spans(const struct plan_costs *costs, const uint8_t *kind, uint32_t npages,
                    struct plan_span ret_span[PLAN_SPANS_MAX]);

#endif
