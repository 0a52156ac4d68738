/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of a region: a sorted list without gaps, each part one kind of memory with one set of attributes.
 * Neighbours that are alike are one part. No lock of its own: engine.work guards a region's list.
 */
#ifndef MEMD_ENGINE_SEGMENTS_H
#define MEMD_ENGINE_SEGMENTS_H

#include <stdint.h>

#define SEGMENT_TAKES_PART (-1)

struct segment {
    uint32_t first, npages;
    uint32_t vma_flags; /* VMA_*, of those that take part */
    int why;            /* enum memd_ineligible, or SEGMENT_TAKES_PART */
};

struct segments {
    struct segment *at;
    uint32_t n, room;
};

/* One part of `npages` pages that does not take part for the reason `why`. 0 or -ENOMEM. */
int segments_init(struct segments *s, uint32_t npages, int why);
void segments_free(struct segments *s);
/* Room for `more` calls of segments_set(), which then cannot fail. 0 or -ENOMEM. */
int segments_reserve(struct segments *s, uint32_t more);
/* [first, first+npages) becomes one part like this; the range lies within the list. */
void segments_set(struct segments *s, uint32_t first, uint32_t npages, int why, uint32_t vma_flags);
/* The part a page lies in. */
const struct segment *segments_find(const struct segments *s, uint32_t page);

#endif
