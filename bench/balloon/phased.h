/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* phased: three Linux guests, busy in turn, on a host that has 60% of their memory; by memd, by MOM's rules,
 * by balloons that stand still, and with unlimited memory. */
#ifndef BENCH_BALLOON_PHASED_H
#define BENCH_BALLOON_PHASED_H

#include "bench/common/bench.h"

#define PHASED_KEYS "phased_slowdown", "vs_mom", "vs_static"

/* Returns OOM kills in memd's guests, and in ret_other those in the others'. */
unsigned phased_measure(const struct bench *bench, unsigned *ret_other);

#endif
