/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fleet: the Linux guests of the benchmark, through guests.sh: as they are, or under memd-run with the agent
 * in them. They are within the bound (bound.h), with everything else that belongs to them. What fails ends
 * the program.
 */
#ifndef BENCH_BALLOON_FLEET_H
#define BENCH_BALLOON_FLEET_H

#include "bench/balloon/line.h"

#include <sys/types.h>

#define FLEET_GUESTS 3u

struct fleet {
    size_t bytes; /* of each guest's RAM */
    pid_t script;
    int hold; /* the script's input: its end ends all */
    bool under_memd;
    char dir[256];
    pid_t pid[FLEET_GUESTS];
    struct line guest[FLEET_GUESTS], monitor[FLEET_GUESTS];
};

/* What fleets are made from; once. disk_bytes: of each data disk. */
void fleet_prepare(const struct bench *bench, size_t disk_bytes);

/* The sections of memd.conf that the balloons of the next fleet need. */
void fleet_balloons(char *text, size_t size);
void fleet_start(const struct bench *bench, bool under_memd, struct fleet *fleet);
void fleet_end(struct fleet *fleet);

/* Work in one guest (guest/load.c); meanwhile tick() is called many times a second, unless it is NULL. */
const char *fleet_load(struct fleet *fleet, unsigned guest, void (*tick)(void *ctx), void *ctx,
                       const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Time that passes. */
void fleet_wait(double s, void (*tick)(void *ctx), void *ctx);
unsigned fleet_oom_kills(struct fleet *fleet);

/* The guest's memory without what is in its balloon; and what it shall be. */
uint64_t fleet_balloon(struct fleet *fleet, unsigned guest);
void fleet_balloon_set(struct fleet *fleet, unsigned guest, uint64_t bytes);

/* What the QEMUs take beside guest RAM. */
uint64_t fleet_own_bytes(const struct fleet *fleet);

#endif
