/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * steady: what keeping up costs. Guests work as events.h says; 95% of the pages of events must be merged
 * within STEADY_LATENCY_S. CPU is counted over the whole time they work, less what the work itself takes,
 * which is measured with nothing merging. KSM is paced so that it just meets that, with smart_scan on and
 * off; what costs it less counts. memd runs as shipped.
 */
#ifndef BENCH_DEDUP_STEADY_H
#define BENCH_DEDUP_STEADY_H

#include "bench/common/bench.h"

#define STEADY_KEY       "steady_cpu_ratio"
#define STEADY_LATENCY_S 10.0
#define STEADY_PERCENT   95.0

void steady_measure(const struct bench *bench);

#endif
