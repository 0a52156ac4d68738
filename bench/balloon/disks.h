/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disks: the guests' data disks, in memory that is nobody's but the benchmark's. Their pages are those of the
 * guests' system disk, files of this machine, stamped by guest/page.h: as they pack, and no two alike.
 */
#ifndef BENCH_BALLOON_DISKS_H
#define BENCH_BALLOON_DISKS_H

#include "bench/common/bench.h"

/* Made on first use, for bench->guests; the directory they are in. */
const char *disks_make(const struct bench *bench, size_t bytes);

#endif
