/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of guest pages as runs of neighbours. Pages come in any order, mostly one after the other, up or
 * down; runs_sort() then makes the fewest and largest runs of them.
 */
#ifndef BALLOON_DEVICE_RUNS_H
#define BALLOON_DEVICE_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RUNS_MAX 4096u

/* Pages [first, end), by guest-physical page number. */
struct run {
    uint64_t first, end;
};

struct runs {
    unsigned n;
    struct run at[RUNS_MAX];
};

/* Add pages [first, end), first < end. False: there is no room; sort, use and clear them, and add again. */
static inline bool runs_add(struct runs *runs, uint64_t first, uint64_t end)
{
    struct run *last = runs->n ? &runs->at[runs->n - 1] : NULL;

    if (last && last->end == first) {
        last->end = end;
        return true;
    }
    if (last && last->first == end) {
        last->first = first;
        return true;
    }
    if (runs->n == RUNS_MAX)
        return false;
    runs->at[runs->n++] = (struct run){first, end};
    return true;
}

/* Ascending, without overlap, neighbours joined. */
void runs_sort(struct runs *runs);

#endif
