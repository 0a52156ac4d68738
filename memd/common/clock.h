/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* clock: the one clock of memd, CLOCK_MONOTONIC in nanoseconds; also what the protocol's time stamps mean. */
#ifndef MEMD_COMMON_CLOCK_H
#define MEMD_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CLOCK_MS 1000000ull
#define CLOCK_S  1000000000ull

static inline uint64_t clock_read_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * CLOCK_S + (uint64_t)ts.tv_nsec;
}

static inline uint64_t clock_now_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

#endif
