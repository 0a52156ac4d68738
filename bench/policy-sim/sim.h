/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * policy-sim: memd's own policy (memd/daemon/policy.h, budget.h) on a host that is a model.
 *
 *   main.c     options, the report
 *   run.c      the host: ticks, looks, orders; what must hold at each of them
 *   model.c    a VM and its engine: what it uses, what leaves, what it needs back
 *   load.c     what VMs want: made up from a seed, or read from a trace
 *   record.c   a trace of a running memd
 *
 * Everything is counted in pages, and pages are a fluid (double): a VM's are hot (in its working set), cold,
 * or out. No clock, no thread, no chance but the seed's: a run with the same options gives the same numbers.
 */
#ifndef BENCH_POLICY_SIM_SIM_H
#define BENCH_POLICY_SIM_SIM_H

#include "memd/daemon/budget.h"
#include "memd/daemon/policy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SIM_PAGE       4096.0
#define SIM_TICK_NS    100000000ull /* of the daemon */
#define SIM_TICK_S     0.1
#define SIM_NAME_BYTES 64
#define SIM_WAITS      112 /* buckets of waits, four to each power of two from a microsecond on */

/* ---- chance */

struct sim_random {
    uint64_t state;
};
double sim_uniform(struct sim_random *random, double from, double to);
bool sim_happens(struct sim_random *random, double probability);
double sim_normal(struct sim_random *random); /* of mean 0 and deviation 1 */

/* ---- what a VM wants */

enum sim_kind { SIM_STEADY, SIM_IDLE, SIM_PHASED, SIM_BATCH, SIM_GROWING, SIM_TRACED, SIM_KINDS };
const char *sim_kind_name(enum sim_kind kind);

/* Of a trace: from this second on. */
struct sim_point {
    double second;
    double guest, touched, working_set; /* pages; guest 0: it ends */
};

struct sim_load {
    enum sim_kind kind;
    double start_s;
    double low, high, period_s; /* of its working set, in pages */
    double churn;               /* of its working set that is replaced each second */
    struct sim_point *point;
    size_t npoints, at;
};

/* ---- the devices, alike for all */

struct sim_device {
    double packed_us, swapped_us;               /* to serve a fault */
    double read_pages_per_s, write_pages_per_s; /* of all VMs together */
    double pack_pages_per_s;                    /* of one engine */
    double faults_at_once;                      /* of one VM */
};

/* ---- a VM */

struct sim_vm {
    char name[SIM_NAME_BYTES];
    struct budget_terms terms;
    struct sim_load load;
    struct sim_random random;
    bool present; /* it has begun, was let in, and has not ended */
    bool double_shares;
    double guest, ratio, swap_room; /* pages; of a packed page, what the pool takes */

    unsigned skipped;                 /* ticks since it was looked at */
    double want;                      /* its working set */
    double touched;                   /* that it has ever used */
    double hot, cooling, cold;        /* resident; cooling: not known to be cold yet */
    double packed, swapped;           /* cold, and out */
    double owed_packed, owed_swapped; /* wanted, and out */
    double estimate;                  /* its working set, as samples say; 0: none yet */
    uint64_t periods;                 /* of samples */
    double next_sample_s, next_change_s;

    enum budget_excluded trouble; /* that the model has made; ends at: */
    double trouble_ends_s;

    /* its engine */
    struct budget_order order; /* pages 0: none */
    double left, returned, unwritten;
    uint64_t ordered_ns;
    struct policy_vm memory;

    /* counted */
    double moved, taken; /* moved: and written, as engines count it */
    double packed_faults, swapped_faults, lost_s;
    double above_limit_s;
    double resident_sum, hot_sum, seconds;           /* for means over the second half */
    double taken_hot;                                /* of taken, what was in use */
    double taken_before, home_before, lost_before_s; /* the second half */
};

double sim_resident(const struct sim_vm *vm); /* pages */

/* `s` seconds of a VM: what it uses, faults, and its engine's work. The parts of what it wants that the
 * device has time for; and to be added to, what it wanted. `waits`: pages by how long they were waited for.
 */
struct sim_share {
    double s;
    double read_part, write_part;
    double read_wanted, write_wanted;
};
void sim_vm_tick(struct sim_vm *vm, const struct sim_device *device, struct sim_share *share, uint64_t now_ns,
                 double waits[SIM_WAITS]);
/* Nothing goes on in it but its everyday work: it is looked at once a second. */
bool sim_vm_is_quiet(const struct sim_vm *vm);
struct budget_vm sim_vm_describe(const struct sim_vm *vm, uint64_t now_ns);
void sim_vm_measure(struct sim_vm *vm, uint64_t now_ns);
void sim_vm_order(struct sim_vm *vm, const struct budget_order *order, uint64_t now_ns);

/* ---- load.c */

/* A population for a host of so many pages: twice as much guest memory as there is, see load.c. */
void sim_load_make(struct sim_vm *vms, size_t n, double host, double overcommit, double seconds,
                   uint64_t seed);
/* What it wants now. False: it has ended. */
bool sim_load_now(struct sim_vm *vm, double now_s);
/* Read a trace. Returns the number of VMs, or -1: `ret_error` says why. */
int sim_load_read(FILE *in, uint64_t seed, struct sim_vm **ret_vms, double *ret_seconds, char *ret_error,
                  size_t error_bytes);
void sim_load_free(struct sim_vm *vms, size_t n);

/* ---- run.c */

struct sim_config {
    double host; /* pages: the budget */
    double seconds;
    struct sim_device device;
    struct budget_policy policy;
    struct budget_thresholds thresholds;
    bool troubles; /* user's jobs, pauses, silent engines */
};

struct sim_result {
    double seconds, vm_seconds;
    double state_s[BUDGET_STATES], over_s, overshoot; /* overshoot: the most above the budget, of it */
    uint64_t looks, orders, refused, state_changes;
    double reclaimed, taken_hot, refaults_packed, refaults_swapped, moved_home; /* pages */
    double waits[SIM_WAITS];
    uint64_t violations;
    char first_violation[160];
};

/* 0, or -ENOMEM. */
int sim_run(const struct sim_config *config, struct sim_vm *vms, size_t n, struct sim_result *ret_result);

/* ---- record.c: status of `memctl`, once a second, as a trace. 0 or 1. */
int sim_record(const char *memctl, unsigned seconds, FILE *out);

#endif
