/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* rewrite: pages that go out to the swap file and come back unchanged, again and again; what is written. */
#ifndef BENCH_PAGER_REWRITE_H
#define BENCH_PAGER_REWRITE_H

#include "bench/common/bench.h"

#define REWRITE_KEYS "silent_write_ratio"

void rewrite_measure(const struct bench *bench);

#endif
