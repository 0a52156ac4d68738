/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * events: what guests write in the steady state.
 *
 * A guest's pages are dealt out in slots of EVENTS_SLOT_PAGES. Every tenth slot is hot: all its pages are
 * rewritten once a second, with contents nobody else has. The others, in an order of the guest's own, take
 * the events: an event is a run of pages that all guests write at the same moment with the same new contents
 * - a file that appears in their page caches. 0.1% of a guest's pages a second, in runs of 9 on average,
 * wherever it falls: on zero, merged and private pages.
 */
#ifndef BENCH_DEDUP_EVENTS_H
#define BENCH_DEDUP_EVENTS_H

#include "bench/common/bench.h"

#define EVENTS_SLOT_PAGES 32u
#define EVENTS_HOT_EVERY  10u /* slots */
#define EVENTS_PER_MILLE  1.0 /* of a guest's pages, a second */
#define EVENTS_RUN_PAGES  9.0 /* on average */
#define EVENTS_RUN_MAX    27u

/* Guests work from start_s to end_s (bench_now_s()), on events first, first + 1, ..., n of them. */
struct events_plan {
    double start_s, end_s;
    uint64_t first, n;
};

struct events_plan events_plan(size_t guest_pages, uint64_t first, double start_s, double end_s);
double events_time_s(const struct events_plan *plan, size_t guest_pages, uint64_t event);
unsigned events_pages(uint64_t event);
/* Where it goes in a guest, in pages. */
size_t events_place(uint64_t event, unsigned guest, size_t guest_pages);
/* The content of its page `i`, for recipe_page(). */
uint64_t events_content(uint64_t event, unsigned i);

static inline size_t events_hot_pages(size_t guest_pages)
{
    return guest_pages / EVENTS_SLOT_PAGES / EVENTS_HOT_EVERY * EVENTS_SLOT_PAGES;
}

/* The i-th hot page. */
static inline size_t events_hot_page(size_t i)
{
    return (i / EVENTS_SLOT_PAGES * EVENTS_HOT_EVERY) * EVENTS_SLOT_PAGES + i % EVENTS_SLOT_PAGES;
}

#endif
