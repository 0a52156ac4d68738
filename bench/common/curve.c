/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see curve.h. Taking a sample keeps the mmap lock of each process for a while, which
 * holds up whoever changes mappings: samples are spaced so that they take a fifth of the time at most. Points
 * are interpolated between two of them.
 */
#include "bench/common/curve.h"

#define SETTLED_S     6.0 /* savings are final when they did not grow by GROWTH for so long, */
#define GROWTH        0.005
#define LIMIT_S       120.0
#define SAMPLE_S      0.04
#define SAMPLE_SHARE  5 /* pause at least so many times the cost of a sample */
#define SAMPLES_MAX   4000
#define SETTLED_SHARE 0.95
#define END_SHARE     0.999
#define IDLE_S        3.0

/* Samples until savings are final; returns how many. */
static unsigned sample_all(struct curve_sample (*take)(const void *), const void *context, double begun_s,
                           const char *who, struct curve_sample *sample)
{
    double grown_s = 0, grown = 0;
    unsigned n = 0;

    for (;;) {
        double before_s = bench_now_s();
        struct curve_sample *now = &sample[n++];
        *now = take(context);
        double after_s = bench_now_s();
        now->s = (before_s + after_s) / 2 - begun_s;
        if (now->saved > grown * (1 + GROWTH) + BENCH_MIB) {
            grown = now->saved;
            grown_s = now->s;
        }
        if ((grown > 0 && now->s - grown_s > SETTLED_S) || n == SAMPLES_MAX)
            return n;
        if (now->s > LIMIT_S)
            bench_die("%s has not settled within %.0f s", who, LIMIT_S);
        double pause_s = (after_s - before_s) * (SAMPLE_SHARE - 1);
        bench_sleep(pause_s > SAMPLE_S ? pause_s : SAMPLE_S);
    }
}

struct curve_sample curve_point(const struct curve_sample *sample, unsigned n, double saved)
{
    unsigned i = 0;

    while (i < n - 1 && sample[i].saved < saved)
        i++;
    if (i == 0 || sample[i].saved < saved)
        return sample[i];
    const struct curve_sample *a = &sample[i - 1], *b = &sample[i];
    double part = b->saved > a->saved ? (saved - a->saved) / (b->saved - a->saved) : 1;
    return (struct curve_sample){
        .s = a->s + part * (b->s - a->s), .cpu_s = a->cpu_s + part * (b->cpu_s - a->cpu_s), .saved = saved};
}

struct curve curve_watch(struct curve_sample (*take)(const void *context), const void *context,
                         double begun_s, const char *who)
{
    static struct curve_sample sample[SAMPLES_MAX];
    unsigned n = sample_all(take, context, begun_s, who, sample), idle = n - 1;
    const struct curve_sample *last = &sample[n - 1];

    while (idle > 0 && last->s - sample[idle].s < IDLE_S)
        idle--;
    return (struct curve){
        .settled = curve_point(sample, n, SETTLED_SHARE * last->saved),
        .end = curve_point(sample, n, END_SHARE * last->saved),
        .saved = last->saved,
        .idle_cpus = (last->cpu_s - sample[idle].cpu_s) / (last->s - sample[idle].s),
        .samples = n,
    };
}
