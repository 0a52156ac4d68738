/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See ranges.h. */
#include "memd/common/ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Index of the first range that ends above `at`. */
static uint32_t first_above(const struct ranges *s, uint64_t at)
{
    uint32_t lo = 0, hi = s->n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (s->at[mid].end > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static int room_for_one(struct ranges *s)
{
    if (s->n < s->room)
        return 0;
    uint32_t room = s->room ? s->room * 2 : 16;
    struct range *grown = realloc(s->at, room * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    s->at = grown;
    s->room = room;
    return 0;
}

/* Ranges [i, end) are replaced by n of `with`; there is room. */
static void replace(struct ranges *s, uint32_t i, uint32_t end, const struct range *with, uint32_t n)
{
    memmove(&s->at[i + n], &s->at[end], (s->n - end) * sizeof *s->at);
    memcpy(&s->at[i], with, n * sizeof *with);
    s->n = s->n - (end - i) + n;
}

int ranges_add(struct ranges *s, uint64_t start, uint64_t end)
{
    if (start >= end)
        return 0;
    if (room_for_one(s))
        return -ENOMEM;
    uint32_t i = first_above(s, start), e;
    if (i && s->at[i - 1].end == start)
        i--;
    for (e = i; e < s->n && s->at[e].start <= end; e++) {
        start = s->at[e].start < start ? s->at[e].start : start;
        end = s->at[e].end > end ? s->at[e].end : end;
    }
    replace(s, i, e, &(struct range){start, end}, 1);
    return 0;
}

int ranges_remove(struct ranges *s, uint64_t start, uint64_t end)
{
    struct range keep[2];
    uint32_t i = first_above(s, start), e = i, n = 0;

    if (start >= end)
        return 0;
    if (room_for_one(s))
        return -ENOMEM;
    while (e < s->n && s->at[e].start < end)
        e++;
    if (i == e)
        return 0;
    if (s->at[i].start < start)
        keep[n++] = (struct range){s->at[i].start, start};
    if (s->at[e - 1].end > end)
        keep[n++] = (struct range){end, s->at[e - 1].end};
    replace(s, i, e, keep, n);
    return 0;
}

bool ranges_next(const struct ranges *s, uint64_t at, uint64_t end, struct range *ret_range)
{
    uint32_t i = first_above(s, at);

    if (i == s->n || s->at[i].start >= end)
        return false;
    ret_range->start = s->at[i].start > at ? s->at[i].start : at;
    ret_range->end = s->at[i].end < end ? s->at[i].end : end;
    return ret_range->start < ret_range->end;
}

void ranges_free(struct ranges *s)
{
    free(s->at);
    *s = (struct ranges){0};
}
