/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bulk: a whole guest out of RAM and back, packed by memd, or in zram: pages a second on the way in, pages a
 * CPU second on the way out.
 */
#ifndef BENCH_PAGER_BULK_H
#define BENCH_PAGER_BULK_H

#include "bench/common/bench.h"

#define BULK_KEYS "restore_ratio", "swapout_ratio", "swapout_stored_ratio"

void bulk_measure(const struct bench *bench);

#endif
