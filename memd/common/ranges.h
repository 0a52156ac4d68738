/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set of addresses: disjoint ranges, sorted, touching ones joined. No lock of its own.
 */
#ifndef MEMD_COMMON_RANGES_H
#define MEMD_COMMON_RANGES_H

#include <stdbool.h>
#include <stdint.h>

struct range {
    uint64_t start, end;
};

struct ranges {
    struct range *at;
    uint32_t n, room;
};

/* 0 or -ENOMEM, then unchanged. */
int ranges_add(struct ranges *s, uint64_t start, uint64_t end);
/* 0 or -ENOMEM (a range would be split), then unchanged. */
int ranges_remove(struct ranges *s, uint64_t start, uint64_t end);
/* The first stretch of the set at or above `at` and below `end`; false: there is none. */
bool ranges_next(const struct ranges *s, uint64_t at, uint64_t end, struct range *ret_range);
static inline bool ranges_touch(const struct ranges *s, uint64_t start, uint64_t end)
{
    struct range r;

    return ranges_next(s, start, end, &r);
}
void ranges_free(struct ranges *s);

#endif
