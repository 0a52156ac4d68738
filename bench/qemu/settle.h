/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * settle: four guests with different files in their page caches, merged by KSM and by memd: how much is
 * saved, how soon, for how much CPU, with how many mappings, and whether memd's own figures are the kernel's.
 */
#ifndef BENCH_QEMU_SETTLE_H
#define BENCH_QEMU_SETTLE_H

#include "bench/common/bench.h"

#define SETTLE_KEYS \
    "net_saved_ratio", "settle_speedup", "settle_cpu_ratio", "vmas_per_merged_page", "counter_error"

#define SETTLE_READ_PERCENT 50 /* of the files on the disk, each guest's own choice */

void settle_measure(const struct bench *bench);

#endif
