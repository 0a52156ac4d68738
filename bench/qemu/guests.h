/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guests: Linux guests in QEMU, through guests.sh. What fails ends the program. */
#ifndef BENCH_QEMU_GUESTS_H
#define BENCH_QEMU_GUESTS_H

#include "bench/common/bench.h"

#include <stdio.h>
#include <sys/types.h>

#define GUESTS_MAX 8u

struct guests {
    unsigned n;
    size_t bytes; /* of each guest's RAM */
    pid_t script;
    FILE *orders, *answers;
    pid_t pid[GUESTS_MAX];
    uint64_t ram[GUESTS_MAX]; /* its address in QEMU */
};

/* As many as bench says, booted: under memd-run, with the memd of daemon.h, or as they are. */
void guests_start(const struct bench *bench, bool under_memd, struct guests *guests);
void guests_end(struct guests *guests);

/* An order, see guests.sh; waits for the answer and returns its figure, 0 if it has none. */
double guests_order(const struct guests *guests, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* CPU of memd's threads in the QEMUs, and of everything else there. */
struct guests_cpu {
    double engines_s, rest_s;
};
struct guests_cpu guests_cpu(const struct guests *guests);

unsigned guests_count_maps(const struct guests *guests);
/* PSS of the QEMUs, apart from guest RAM and from memd's files. */
uint64_t guests_outside_bytes(const struct guests *guests);

#endif
