/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* inflate: what giving up memory costs, QEMU's device and memd's, fed with the same page numbers. */
#ifndef BENCH_BALLOON_INFLATE_H
#define BENCH_BALLOON_INFLATE_H

#include "bench/common/bench.h"

#define INFLATE_KEYS "inflate_ratio", "inflate_fragmented_ratio", "returned_ratio"

void inflate_measure(const struct bench *bench);

#endif
