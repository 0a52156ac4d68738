/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * swapdev: the kernel's swap, as the benchmark sets it up: a zram device with lz4, and a file behind it. What
 * is made here is known to the guardian (bench/common/cleanup.h) and taken away whatever ends the benchmark.
 */
#ifndef BENCH_COMMON_SWAPDEV_H
#define BENCH_COMMON_SWAPDEV_H

#include "bench/common/bench.h"

/* Ends the program if there is swap in use already, or zram is wanted and not there. Before cleanup_start().
 */
void swapdev_prepare(bool zram);

void swapdev_zram_on(uint64_t bytes, int priority);
void swapdev_file_on(const char *path, uint64_t bytes, int priority);
/* Both, where they are on: what is in them comes home first. */
void swapdev_off(void);
/* The same, without ending anything; for the guardian. */
void swapdev_restore(void);

uint64_t swapdev_zram_bytes(void); /* of memory that the zram device takes for what it holds */
uint64_t swapdev_file_bytes(void); /* of the file that are in use */

#endif
