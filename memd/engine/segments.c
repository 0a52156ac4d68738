/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See segments.h. */
#include "memd/engine/segments.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ADDED_BY_A_SET 2u /* a part in the middle of another */

int segments_reserve(struct segments *s, uint32_t more)
{
    uint64_t want = s->n + (uint64_t)more * ADDED_BY_A_SET, room = s->room ? s->room : 8;

    while (room < want)
        room *= 2;
    if (room > UINT32_MAX)
        return -ENOMEM;
    if (room == s->room)
        return 0;
    struct segment *grown = realloc(s->at, room * sizeof *grown);
    if (!grown)
        return -ENOMEM;
    s->at = grown;
    s->room = (uint32_t)room;
    return 0;
}

int segments_init(struct segments *s, uint32_t npages, int why)
{
    *s = (struct segments){0};
    int err = segments_reserve(s, 1);
    if (!err)
        s->at[s->n++] = (struct segment){.npages = npages, .why = why};
    return err;
}

void segments_free(struct segments *s)
{
    free(s->at);
    *s = (struct segments){0};
}

static uint32_t find(const struct segments *s, uint32_t page)
{
    uint32_t lo = 0, hi = s->n - 1;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        if (s->at[mid].first <= page)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

const struct segment *segments_find(const struct segments *s, uint32_t page)
{
    return &s->at[find(s, page)];
}

/* A part begins at `page`, if that lies within the list. */
static void cut(struct segments *s, uint32_t page)
{
    uint32_t i = find(s, page);
    uint32_t head = page - s->at[i].first;

    if (!head || head >= s->at[i].npages)
        return;
    memmove(&s->at[i + 1], &s->at[i], (s->n - i) * sizeof *s->at);
    s->n++;
    s->at[i].npages = head;
    s->at[i + 1].first += head;
    s->at[i + 1].npages -= head;
}

static bool alike(const struct segment *a, const struct segment *b)
{
    return a->why == b->why && a->vma_flags == b->vma_flags;
}

static void join_with_next(struct segments *s, uint32_t i)
{
    if (i + 1 >= s->n || !alike(&s->at[i], &s->at[i + 1]))
        return;
    s->at[i].npages += s->at[i + 1].npages;
    memmove(&s->at[i + 1], &s->at[i + 2], (s->n - i - 2) * sizeof *s->at);
    s->n--;
}

void segments_set(struct segments *s, uint32_t first, uint32_t npages, int why, uint32_t vma_flags)
{
    if (!npages)
        return;
    cut(s, first);
    cut(s, first + npages);
    uint32_t i = find(s, first), end = i + 1;
    while (end < s->n && s->at[end].first < first + npages)
        end++;
    memmove(&s->at[i + 1], &s->at[end], (s->n - end) * sizeof *s->at);
    s->n -= end - i - 1;
    s->at[i] = (struct segment){.first = first, .npages = npages, .vma_flags = vma_flags, .why = why};
    join_with_next(s, i);
    if (i)
        join_with_next(s, i - 1);
}
