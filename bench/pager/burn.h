/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* burn: threads that take CPU time and nothing else. */
#ifndef BENCH_PAGER_BURN_H
#define BENCH_PAGER_BURN_H

#include "bench/common/bench.h"

/* Until then, thread i takes share[i] of a CPU; nice[i]: at the priority of an engine's worker. Waits for
 * them. 0 or -errno. */
int burn(const double *share, const bool *nice, unsigned nthreads, double until_s);

double burn_thread_cpu_s(void); /* of the calling thread */

#endif
