/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * faults: accesses to pages that are parked or packed, over what a fault served in user space costs at
 * least (floor.h).
 */
#ifndef BENCH_PAGER_FAULTS_H
#define BENCH_PAGER_FAULTS_H

#include "bench/common/bench.h"

#define FAULTS_KEYS "parked_over_floor", "packed_over_floor"

void faults_measure(const struct bench *bench);

#endif
