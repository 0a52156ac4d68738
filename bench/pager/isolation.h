/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * isolation: a guest that does little, beside one that faults pages in as fast as it can, and beside one that
 * only takes as much CPU.
 */
#ifndef BENCH_PAGER_ISOLATION_H
#define BENCH_PAGER_ISOLATION_H

#include "bench/common/bench.h"

#define ISOLATION_KEYS "isolation"

void isolation_measure(const struct bench *bench);

#endif
