/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * advisor: how fast each engine scans. Pure functions: what is known in, a plan out.
 *
 * All engines together may use the configured number of CPUs.
 *
 * A VM digests while there is much to find: it is new, or its last rounds found much, or quiet pages wait for
 * budget, or a user waits for the outcome. Its rounds follow each other as soon as pages have been quiet for
 * the shortest time allowed; it gets a share of the CPUs by how much of what it hashes is found, and all it
 * can use if there is a CPU for each such VM.
 *
 * Any other VM is steady: its rounds are long, so that pages rewritten now and then cost a write fault a
 * round and are not hashed for nothing. A page that becomes a duplicate is hashed in the second round after
 * it was written: ADVISOR_STEADY_MS keeps that below 8 s. If
 * hardly anything that is hashed is found, rounds are as long as the configuration allows. In between the
 * engine itself stretches rounds that find nothing to do.
 *
 * The rate given to an engine is corrected by what it used: what a page costs differs by its content, its
 * neighbours and the machine.
 */
#ifndef MEMD_DAEMON_ADVISOR_H
#define MEMD_DAEMON_ADVISOR_H

#include <stdbool.h>
#include <stdint.h>

#define ADVISOR_STEADY_MS    3500u
#define ADVISOR_TAU_S        1.0   /* rates are smoothed over this time */
#define ADVISOR_DIGEST_FOUND 0.02  /* of guest pages found a second: begin to digest */
#define ADVISOR_STEADY_FOUND 0.005 /* below it: be steady again */
#define ADVISOR_BACKLOG      0.005 /* of guest pages */
#define ADVISOR_VAIN_HASHED  0.002 /* of guest pages hashed a second, of which */
#define ADVISOR_VAIN_FOUND   0.02  /* less than this share found: in vain */
#define ADVISOR_COST_NS      400.0 /* CPU for a page hashed, until its use tells */
#define ADVISOR_COST_MIN_NS  150.0
#define ADVISOR_COST_MAX_NS  100000.0
#define ADVISOR_STEADY_CPUS  0.2 /* of the cap, for all steady VMs together at least */

/* Counters of a VM at a time. */
struct advisor_counters {
    uint64_t at_ns, hashed_pages, found_pages;
};

/* Pages a second, smoothed. */
struct advisor_rates {
    double hashed_per_s, found_per_s;
};

struct advisor_vm {
    bool merge_on, estimating;
    bool fresh;   /* has never been settled */
    bool hurried; /* a user waits */
    bool digests; /* in the last plan */
    uint64_t guest_pages, backlog_pages;
    struct advisor_rates rates;
    uint32_t pages_per_s; /* advisor_correct(); 0: not known yet */
};

/* The configuration, and the VMs that take part, counted by advisor_count(). */
struct advisor_host {
    double cpu_cap; /* CPUs */
    unsigned quiet_ms, round_ms_max, heal_pages_per_s, vmas_percent;
    uint64_t max_map_count;
    uint32_t digesting, steady; /* VMs */
    double weight;              /* of those that digest */
};

struct advisor_plan {
    uint32_t scan_pages_per_s, quiet_ms, round_ms_max, vmas_max, heal_pages_per_s;
};

/* Move the rates on from `before` to `now`. Counters that went back (a new session) change nothing. */
void advisor_measure(struct advisor_rates *rates, const struct advisor_counters *before,
                     const struct advisor_counters *now);

/* Whether a VM digests. */
bool advisor_digests(const struct advisor_vm *vm);
/* Add a VM, `digests` set, to those that share the CPUs. */
void advisor_count(struct advisor_host *host, const struct advisor_vm *vm);
/* CPUs this VM's engine may use. */
double advisor_cpus(const struct advisor_host *host, const struct advisor_vm *vm);
/* The pages a second that make an engine use `cpus`, when `pages_per_s` (0: not known) made it use
 * `used_cpus`. Changes by a factor of 4 at most. */
uint32_t advisor_correct(double cpus, double used_cpus, uint32_t pages_per_s);

struct advisor_plan advisor_plan(const struct advisor_host *host, const struct advisor_vm *vm);

#endif
