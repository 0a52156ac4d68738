/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* writer: a guest's work in the steady state (events.h): hot pages all the time, events when they are due. */
#ifndef BENCH_DEDUP_WRITER_H
#define BENCH_DEDUP_WRITER_H

#include "bench/dedup/events.h"

struct writer {
    char *ram;
    size_t npages;
    unsigned guest;
    uint64_t rewrites; /* so far: makes contents that never come again */
};

/* Work from plan->start_s to plan->end_s. Returns the longest delay behind the plan, in s. */
double writer_work(struct writer *writer, const struct events_plan *plan);
/* Read the pages of the plan's events; returns how many hold something else. Scratch: one page. */
uint64_t writer_read_events(const struct writer *writer, const struct events_plan *plan);

#endif
