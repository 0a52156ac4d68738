/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bound: a bound on the memory of processes, the same for whoever manages it: a memory cgroup with a swap
 * file behind it, as a host with so much RAM. What is made here is known to the guardian.
 */
#ifndef BENCH_BALLOON_BOUND_H
#define BENCH_BALLOON_BOUND_H

#include "bench/common/bench.h"

#include <sys/types.h>

/* Ends the program if there are no memory cgroups to be made. Before cleanup_start(). */
void bound_prepare(void);
/* bytes of 0: none. Its figures begin anew. */
void bound_set(uint64_t bytes);
/* From now on this process is in it, and the children it starts; async-signal-safe. */
void bound_enter(void);
void bound_add(pid_t pid);
/* What the processes take that the kernel cannot drop, and what of theirs is in the swap file. */
struct bound_use {
    uint64_t held, swapped;
};
struct bound_use bound_use(void);
/* For the guardian: the cgroup is removed. */
void bound_restore(void);

#endif
