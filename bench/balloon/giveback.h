/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* giveback: how long a guest waits that needs memory which is in its balloon, with memd on the host. */
#ifndef BENCH_BALLOON_GIVEBACK_H
#define BENCH_BALLOON_GIVEBACK_H

#include "bench/common/bench.h"

#define GIVEBACK_KEYS "giveback_ms_p99"

/* Returns OOM kills in the guests. */
unsigned giveback_measure(const struct bench *bench);

#endif
