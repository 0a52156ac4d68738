/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages, time and medians. */
#include "bench/common/bench.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

void bench_die(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("bench: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1); /* in a child it only flushes: cleanup.c belongs to the parent */
}

void bench_say(const char *format, ...)
{
    static double begun_s;
    va_list args;

    if (begun_s == 0)
        begun_s = bench_now_s();
    printf("[%4.0f s] ", bench_now_s() - begun_s);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

uint64_t bench_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

double bench_now_s(void)
{
    return (double)bench_now_ns() * 1e-9;
}

void bench_sleep_until(double s)
{
    struct timespec until = {.tv_sec = (time_t)s};

    until.tv_nsec = (long)((s - (double)until.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
}

void bench_sleep(double s)
{
    bench_sleep_until(bench_now_s() + s);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double bench_percentile(double *value, size_t n, double percent)
{
    if (n == 0)
        return 0;
    qsort(value, n, sizeof *value, compare);
    size_t rank = (size_t)ceil(percent / 100 * (double)n);
    return value[rank > 0 ? rank - 1 : 0];
}

double bench_median(double *value, size_t n)
{
    return bench_percentile(value, n, 50);
}

const char *bench_side_name(enum bench_side side)
{
    return side == BENCH_KSM ? "KSM" : "memd";
}
