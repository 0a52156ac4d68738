/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* idle: what engine and daemon take while half of a guest is out and nobody touches it. */
#ifndef BENCH_PAGER_IDLE_H
#define BENCH_PAGER_IDLE_H

#include "bench/common/bench.h"

#define IDLE_KEYS "idle_cpu"

void idle_measure(const struct bench *bench);

#endif
