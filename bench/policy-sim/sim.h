/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * policy-sim: memd's own policy (memd/daemon/policy.h, budget.h, balloon_rung.h) on a host that is a model.
 *
 *   main.c     options
 *   report.c   what came out
 *   run.c      the host: ticks, looks, orders
 *   check.c    what must hold at each of them
 *   model.c    a VM and its engine: what it uses, what leaves, what it needs back
 *   guest.c    the kernel in a VM: its processes, its page cache, its balloon, what it says
 *   load.c     what VMs want: made up from a seed
 *   trace.c    the same, read from a trace
 *   record.c   a trace of a running memd
 *
 * Everything is counted in pages, and pages are a fluid (double): a VM's are hot (in its working set), cold,
 * or out. No clock, no thread, no chance but the seed's: a run with the same options gives the same numbers.
 */
#ifndef BENCH_POLICY_SIM_SIM_H
#define BENCH_POLICY_SIM_SIM_H

#include "memd/daemon/balloon_rung.h"
#include "memd/daemon/budget.h"
#include "memd/daemon/policy.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SIM_PAGE       4096.0
#define SIM_TICK_NS    100000000ull /* of the daemon */
#define SIM_TICK_S     0.1
#define SIM_NAME_BYTES 64
#define SIM_WAITS      112 /* buckets of waits, four to each power of two from a microsecond on */
#define SIM_SAMPLES    60  /* of the run, in the report */

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
    double needed;                      /* that its processes hold; below 0: not known */
};

struct sim_load {
    enum sim_kind kind;
    double start_s;
    double low, high, period_s; /* of its working set, in pages */
    double churn;               /* of its working set that is replaced each second */
    double touched;             /* of a trace: the most so far */
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

/* ---- the kernel in a VM; all in pages */

enum sim_speaks {
    SIM_BARE,  /* it has no balloon */
    SIM_MUTE,  /* a balloon, and nobody says anything of the guest */
    SIM_RISKY, /* statistics of its balloon, which it does not deflate before it kills */
    SIM_STATS, /* statistics, and deflate-on-oom */
    SIM_AGENT, /* memd-agent; it does not deflate before it kills */
    SIM_SPEAKS
};
const char *sim_speaks_name(enum sim_speaks speaks);
/* SIM_SPEAKS: there is no such name. */
enum sim_speaks sim_speaks_of(const char *name);

/* What a guest has said last. */
struct sim_said {
    uint64_t at_ns; /* 0: nothing yet */
    double available, stall_percent;
    double reread; /* that it has ever read again */
    uint64_t oom_kills, alloc_stalls;
};

struct sim_guest {
    enum sim_speaks speaks;
    double share, base; /* what its processes hold: of its working set, and besides */
    double floor;       /* of what is left to it */
    double balloon;     /* holds so much */
    double aim;         /* is to hold so much; below 0: nobody has said */
    double processes, cache, cache_used;
    double dropped;  /* of its cache, that it may read again */
    double in_use;   /* of its working set, what it has memory for */
    double needed;   /* by a trace: what its processes are to hold; below 0: as above */
    double stalls_s; /* some task waited for memory */
    uint64_t oom_kills, alloc_stalls;
    double quiet_until_s; /* after a kill it wants less */

    struct sim_said said;
    double told_stalls_s, look_s; /* when it last spoke; when it looks again */
    double seen_again;            /* what had been read again, at its last look */
    bool spoke;                   /* in this tick */
    struct balloon_rung rung;

    double short_s; /* for so long it has been short of what its balloon holds */
};

/* Counted of all guests, or of a VM: pages, and times. */
struct sim_balloons {
    double asked, filled, returned, emptied; /* returned: what the host has got, as the policy sees it */
    double given_back[BALLOON_RULES];        /* by the rule that said so */
    double dropped, read_again;              /* page cache */
    uint64_t steps, needs, kills, kills_own; /* own: it wanted more than there is of it */
    double on_oom;                           /* deflated lest it kills */
    double waits[SIM_WAITS];                 /* until a guest that is short has memory */
    double longest_s;
};

/* ---- a VM */

struct sim_vm {
    char name[SIM_NAME_BYTES];
    struct budget_terms terms;
    struct sim_load load;
    struct sim_random random;
    bool present; /* it has begun, was let in, and has not ended */
    bool double_shares, no_engine;
    struct sim_guest kernel;
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
    double written, parked,
        unparked; /* to the device; left for a while before it is packed, and saved by that */
    struct sim_balloons balloons;
    double above_limit_s;
    double resident_sum, hot_sum, balloon_sum, seconds; /* for means over the second half */
    double taken_hot;                                   /* of taken, what was in use */
    double taken_before, home_before, lost_before_s;    /* the second half */
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
/* Pages that leave for the balloon, or are dropped: of those not in use, and of those that are. */
void sim_vm_discard(struct sim_vm *vm, double idle, double used);
void sim_note_wait(double waits[SIM_WAITS], double us, double pages);

/* ---- guest.c */

/* With the memory it has touched, and wants, by now. */
void sim_guest_begin(struct sim_vm *vm);
void sim_guest_tick(struct sim_vm *vm, double s, double now_s);
bool sim_guest_is_quiet(const struct sim_vm *vm);
double sim_guest_available(const struct sim_vm *vm);
/* It is to have so many bytes. */
void sim_guest_aim(struct sim_vm *vm, uint64_t bytes);
/* What memd knows of it, as inflate.c finds it out. */
void sim_guest_see(struct sim_vm *vm, uint64_t now_ns);

/* ---- load.c */

/* In parts of one; below 0: not said. The rest of VMs has a balloon that nobody uses, or none. */
struct sim_mix {
    double agents, stats, no_engine;
};

/* A population for a host of so many pages: see load.c. */
void sim_load_make(struct sim_vm *vms, size_t n, double host, double overcommit, double seconds,
                   uint64_t seed);
/* Who in it has a balloon, and who says what. */
void sim_load_mix(struct sim_vm *vms, size_t n, const struct sim_mix *mix, uint64_t seed);
/* What it wants now. False: it has ended. */
bool sim_load_now(struct sim_vm *vm, double now_s);
void sim_load_free(struct sim_vm *vms, size_t n);

/* ---- trace.c */

/* Read a trace. Returns the number of VMs, or -1: `ret_error` says why. */
int sim_trace_read(FILE *in, uint64_t seed, struct sim_vm **ret_vms, double *ret_seconds, char *ret_error,
                   size_t error_bytes);
/* What a traced VM wants now. False: it has ended. */
bool sim_trace_follow(struct sim_vm *vm, double now_s);

/* ---- run.c */

struct sim_config {
    double host; /* pages: the budget */
    double seconds;
    struct sim_device device;
    struct budget_policy policy;
    struct budget_thresholds thresholds;
    bool troubles; /* user's jobs, pauses, silent engines */
};

/* The host at a moment, in pages. */
struct sim_sample {
    double second, used, balloons, packed, swapped;
    enum budget_state state;
};

struct sim_result {
    double seconds, vm_seconds;
    double state_s[BUDGET_STATES], over_s, overshoot; /* overshoot: the most above the budget, of it */
    uint64_t looks, orders, refused, state_changes;
    double reclaimed, taken_hot, refaults_packed, refaults_swapped, moved_home; /* pages */
    double written, parked, unparked;
    struct sim_balloons balloons;
    double waits[SIM_WAITS];
    struct sim_sample sample[SIM_SAMPLES];
    size_t nsamples;
    uint64_t violations;
    char first_violation[160];
};

/* 0, or -ENOMEM. */
int sim_run(const struct sim_config *config, struct sim_vm *vms, size_t n, struct sim_result *ret_result);

/* ---- check.c; each counts what did not hold in the result */

void sim_check_violated(struct sim_result *result, double now_s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void sim_check_plan(struct sim_result *result, double now_s, const struct sim_vm *vm,
                    const struct budget_vm *seen, const struct budget_plan *plan);
void sim_check_sum(struct sim_result *result, double now_s, const struct policy_look *look);
/* `s`: since the last look. */
void sim_check_limit(struct sim_result *result, double now_s, struct sim_vm *vm, const struct budget_vm *seen,
                     double s);
/* After a tick; and what it had, and had lost, before. */
struct sim_before {
    double resident, taken, filled;
    uint64_t kills;
};
void sim_check_tick(struct sim_result *result, double now_s, const struct sim_vm *vm,
                    const struct sim_before *before);

/* ---- report.c */
json_t *sim_report(const struct sim_result *result, const struct sim_config *config, const struct sim_vm *vms,
                   size_t n);
void sim_report_print(const json_t *report);

/* ---- record.c: status of `memctl`, once a second, as a trace. 0 or 1. */
int sim_record(const char *memctl, unsigned seconds, FILE *out);

#endif
