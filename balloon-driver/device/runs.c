/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see runs.h. Runs that came in order already, the common case, are not sorted again. */
#include "balloon-driver/device/runs.h"

#include <stdlib.h>

static int by_first(const void *a, const void *b)
{
    const struct run *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static bool is_sorted(const struct runs *runs)
{
    for (unsigned i = 1; i < runs->n; i++) {
        if (runs->at[i].first < runs->at[i - 1].first)
            return false;
    }
    return true;
}

void runs_sort(struct runs *runs)
{
    unsigned n = 0;

    if (!is_sorted(runs))
        qsort(runs->at, runs->n, sizeof runs->at[0], by_first);
    for (unsigned i = 0; i < runs->n; i++) {
        struct run *last = n ? &runs->at[n - 1] : NULL;
        if (last && runs->at[i].first <= last->end)
            last->end = runs->at[i].end > last->end ? runs->at[i].end : last->end;
        else
            runs->at[n++] = runs->at[i];
    }
    runs->n = n;
}
