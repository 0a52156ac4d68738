/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the benchmarks that compare memd with the kernel have in common:
 *
 *   curve.c       savings while they grow, and when they are settled
 *   ksm.c         KSM's settings, saved and put back
 *   daemon.c      memd, started for the run in directories of its own
 *   cleanup.c     nothing stays behind, whatever ends a benchmark
 *   kernel.c      the kernel's numbers
 *   swapdev.c     zram and swap files, made and taken away
 *   report.c      table and JSON
 *   options.c     the command line
 *   child.c       a guest that is a process of the benchmark's own; join.c: it joins memd, or KSM
 *   util.c        messages, time, medians
 *
 * One thread. Guests, memd and the guardian (cleanup.c) are children. An error ends the program: a benchmark
 * that goes on after one reports something else than it says.
 */
#ifndef BENCH_COMMON_BENCH_H
#define BENCH_COMMON_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_PAGE_BYTES 4096ul
#define BENCH_MIB        (1ul << 20)
#define BENCH_ROUNDS_MAX 9
#define BENCH_GUESTS_MAX 64

enum bench_side { BENCH_KSM, BENCH_MEMD, BENCH_NSIDES };

struct bench {
    const char *build_dir; /* where memd and memctl are */
    unsigned guests;
    size_t guest_bytes;
    unsigned rounds; /* of each side; figures are medians */
    bool quick;
};

/* Say what went wrong and end with exit code 1. */
void bench_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A progress line, with the time since the start. */
void bench_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t bench_now_ns(void); /* CLOCK_MONOTONIC */
double bench_now_s(void);
void bench_sleep(double s);
/* Wait until bench_now_s() is `s`. */
void bench_sleep_until(double s);
/* Sorts `value`. 0 of nothing. */
double bench_median(double *value, size_t n);
/* The value that `percent` of them do not exceed. Sorts `value`. */
double bench_percentile(double *value, size_t n, double percent);

const char *bench_side_name(enum bench_side side);

#endif
