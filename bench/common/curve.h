/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* curve: savings watched from the start of merging until they stop growing, and when they were settled. */
#ifndef BENCH_COMMON_CURVE_H
#define BENCH_COMMON_CURVE_H

#include "bench/common/bench.h"

struct curve_sample {
    double s;     /* since the start; filled in by curve_watch() */
    double cpu_s; /* spent on merging since the start */
    double saved; /* bytes; not net of what the kernel keeps */
};

struct curve {
    struct curve_sample settled, end; /* 95% and 99.9% of what is saved in the end */
    double saved;                     /* in the end */
    double idle_cpus;                 /* CPUs used at the end of the watch */
    unsigned samples;
};

/* Merging has started at begun_s. `who` is for the message when it does not settle, which ends the program.
 */
struct curve curve_watch(struct curve_sample (*take)(const void *context), const void *context,
                         double begun_s, const char *who);

/* The first point of the curve with so much saved, between samples: n of them, at least one. If there is
 * none, the last one. */
struct curve_sample curve_point(const struct curve_sample *sample, unsigned n, double saved);

#endif
