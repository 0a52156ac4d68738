/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * huge: guests with transparent huge pages. How many of them are left when a side has settled, and how long a
 * guest takes for random accesses to its memory then.
 */
#ifndef BENCH_DEDUP_HUGE_H
#define BENCH_DEDUP_HUGE_H

#include "bench/common/bench.h"

#define HUGE_KEYS "access_ratio", "huge_kept_ratio"

void huge_measure(const struct bench *bench);

#endif
