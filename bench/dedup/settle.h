/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * settle: from full guests to small ones. Both sides in turn: time and CPU to 95% of what is saved in the
 * end, net savings, metadata, first writes to merged pages. Then memd once more with eight times as many
 * guests that hold the same memory.
 */
#ifndef BENCH_DEDUP_SETTLE_H
#define BENCH_DEDUP_SETTLE_H

#include "bench/common/bench.h"

#define SETTLE_KEYS                                                                     \
    "settle_speedup", "settle_cpu_ratio", "net_saved_ratio", "metadata_bytes_per_page", \
        "metadata_with_vmas_bytes_per_page", "cow_ratio"
#define SETTLE_SCALE "vm_scaling"

/* `scaling`: vm_scaling, too. */
void settle_measure(const struct bench *bench, bool scaling);

#endif
