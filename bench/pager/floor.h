/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * floor: what a page fault that is served in user space costs at least. A thread touches absent pages of
 * memory registered with a userfaultfd; another reads the message and installs the page, and does nothing
 * else: by UFFDIO_MOVE from where it was put aside, or by unpacking it with LZ4 and UFFDIO_COPY.
 */
#ifndef BENCH_PAGER_FLOOR_H
#define BENCH_PAGER_FLOOR_H

#include "bench/common/bench.h"

struct floor {
    int server_cpu, toucher_cpu;
    unsigned npages; /* touched */
    bool packed;
};

/* On this thread; `order`: floor->npages pages of `image` (npages), in which they are touched. Answers ns. 0
 * or -errno. */
int floor_measure(const struct floor *floor, const char *image, size_t npages, const uint32_t *order,
                  double *ret_p50_ns, double *ret_p99_ns);

int floor_pin(int cpu); /* this thread; a negative number: nothing is done. 0 or -errno */
/* Reads a word of it; ns. */
double floor_touch(const char *page);

#endif
