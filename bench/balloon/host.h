/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * host: a host with so much memory and a fleet of guests on it, and whoever moves their balloons: nobody,
 * memd, MOM's rules, or nobody after they were set once.
 */
#ifndef BENCH_BALLOON_HOST_H
#define BENCH_BALLOON_HOST_H

#include "bench/balloon/fleet.h"
#include "bench/balloon/mom.h"

enum manager { UNLIMITED, MEMD, MOM, STATIC, MANAGERS };
extern const char *const manager_name[MANAGERS];

/* Parts of a guest's data disk: what it has read for long, and what jobs read. */
struct host_disk {
    unsigned old_mib, job_mib;
};
struct host_disk host_disk(const struct bench *bench);

struct mom_sample {
    double current, unused; /* of a guest, bytes */
};

struct host {
    const struct bench *bench;
    enum manager manager;
    uint64_t budget; /* bytes; 0: none */
    struct fleet fleet;
    pid_t daemon;
    /* what the bound has seen: */
    double next_look_s;
    uint64_t held_max, swapped_max;
    /* MOM's: */
    double next_mom_look_s, next_decision_s;
    unsigned looks;
    double free[MOM_SAMPLES];
    struct mom_sample sample[FLEET_GUESTS][MOM_SAMPLES];
};

/* Guests have booted, and the manager is at work. share: of each guest's memory, for STATIC. */
void host_start(const struct bench *bench, enum manager manager, uint64_t budget,
                const double share[FLEET_GUESTS], struct host *ret_host);
/* All guests as after some time of use. */
void host_warm(struct host *host);
/* OOM kills in its guests, to be had at the end. */
unsigned host_end(struct host *host);

/* For fleet_load() and fleet_wait(), with the host. */
void host_tick(void *ctx);

#endif
