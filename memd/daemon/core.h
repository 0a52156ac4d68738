/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core: the daemon's brain - sessions, domains, matching, advice - as its users (main, control API, metrics)
 * see it.
 *
 * Threads: core_run() is one loop on one thread and owns everything. core_open() and core_close() are called
 * by that thread too, outside the loop. core_stop() is async-signal-safe. Every other function may be called
 * from any thread while the core is open: it hands a request to the loop and waits for its answer, at most
 * CORE_CALL_TIMEOUT_MS. They return 0 or -errno, besides what they name: -ETIMEDOUT (the loop did not
 * answer), -EBUSY (too many requests), -ESHUTDOWN (the loop has ended), -ENOMEM.
 */
#ifndef MEMD_DAEMON_CORE_H
#define MEMD_DAEMON_CORE_H

#include "memd/agent.h"
#include "memd/daemon/budget.h"
#include "memd/daemon/why.h"
#include "memd/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CORE_NAME_BYTES      (WIRE_NAME_BYTES + 4) /* of a VM or a domain; "vm:NAME" fits, NUL included */
#define CORE_REASON_BYTES    200
#define CORE_VMS_MAX         1024
#define CORE_DOMAINS_MAX     64 /* in the configuration */
#define CORE_UIDS_MAX        32 /* of a domain */
#define CORE_VM_RULES_MAX    256
#define CORE_JOBS_MAX        64 /* jobs remembered; the oldest that has ended goes first */
#define CORE_CALL_TIMEOUT_MS 5000
#define CORE_AGENTS_MAX      1024
#define CORE_AGENT_PATH_MAX  127 /* of what is in front of an agent: see struct core_agent_config */

/* A domain the operator opens: VMMs of these users may join it (root and memd's own user always may). */
struct core_domain_config {
    char name[WIRE_NAME_BYTES];
    uint32_t nuids;
    uint32_t uids[CORE_UIDS_MAX];
    uint64_t budget_bytes; /* of its VMs together; 0: none */
    bool budget_set;       /* by a user since memd began */
};

/* Terms of the VMs whose names match; the first rule that does counts. */
struct core_vm_rule {
    char pattern[WIRE_NAME_BYTES]; /* as of a shell */
    struct budget_terms terms;
};

/* Where the agent of a VM is to be found: the path of a socket (of QEMU's chardev), vsock:PATH (of a VMM that
 * has its vsock there), vsock:CID (of the kernel's). */
struct core_agent_config {
    char name[WIRE_NAME_BYTES];
    char path[CORE_AGENT_PATH_MAX + 1];
};

struct core_config {
    char run_dir[256];
    char state_dir[256];
    bool merge;                 /* start with merging on */
    bool merge_across_nodes;    /* as KSM's merge_across_nodes */
    double cpu_cap;             /* CPUs that engines and daemon may use together */
    uint64_t store_bytes_max;   /* 0: half of the host's memory */
    bool swap;                  /* VMs get a swap file in state_dir */
    uint64_t swap_bytes_max;    /* of each; 0: no limit */
    uint64_t swap_writes_bytes; /* that all of them together may write in a day; 0: no limit */
    unsigned quiet_ms, round_ms_max;
    unsigned huge_share_percent; /* a huge page is broken from this reclaimable share on */
    unsigned heal_pages_per_s;   /* per VM */
    unsigned vmas_percent;       /* share of vm.max_map_count memd may use in a VM */
    unsigned sample_pages;       /* of each VM, set aside every sample_ms to see which are touched; 0: none */
    unsigned sample_ms;
    unsigned nodes;        /* NUMA nodes to pretend; 0: ask the machine */
    uint64_t budget_bytes; /* of all VMs and memd together; 0: none, the host's memory decides */
    unsigned budget_soft_percent, budget_hard_percent, budget_low_percent; /* of it in use */
    unsigned free_soft_percent, free_hard_percent, free_low_percent; /* of the host's memory available */
    unsigned headroom_percent;                                       /* of what sharing saves, kept free */
    unsigned idle_tax_percent;
    double refault_percent, stall_percent; /* struct budget_policy */
    bool dry_run;                          /* decide who gives memory back, and order nothing */
    char proc_root[256], sys_root[256];
    unsigned ndomains;
    struct core_domain_config domains[CORE_DOMAINS_MAX];
    unsigned nvm_rules;
    struct core_vm_rule vm_rules[CORE_VM_RULES_MAX];
    unsigned nagents;
    struct core_agent_config agents[CORE_VM_RULES_MAX];
};

void core_config_default(struct core_config *ret_config);

struct core;

/* Take the run directory, open the socket, find the stores of an earlier daemon. Returns 0, or -errno with
 * one line in ret_error that names cause and cure, and nothing left behind. */
int core_open(const struct core_config *config, struct core **ret_core, char *ret_error, size_t error_bytes);
/* Serve until core_stop(). Returns 0 or -errno. */
int core_run(struct core *core);
void core_stop(struct core *core);
/* Ends the sessions; engines go on alone. Stores that live engines use stay for the next daemon. */
void core_close(struct core *core);

/* ---- what there is to see */

/* Every field but the array has 8 bytes: metrics.c names them all. */
struct core_counters {
    uint64_t guest_bytes;
    uint64_t zero_pages, pages_shared, pages_sharing, pages_unshared, pages_volatile, pages_skipped;
    uint64_t ineligible_bytes[WIRE_INELIGIBLE_COUNT];
    uint64_t full_scans, merges, zero_drops, cow_breaks, heals, faults, rejected,
        huge_broken;         /* cumulative */
    uint64_t broken_pages;   /* of cow_breaks: not back in plain memory yet */
    uint64_t saved_bytes;    /* guest pages no longer held privately */
    uint64_t metadata_bytes; /* page maps, engine and daemon memory */
    int64_t net_saved_bytes; /* saved, less frames, pools and metadata */
    uint64_t cpu_ns;         /* cumulative */
    uint64_t vmas_used, vmas_limit;
    uint64_t parked_pages, packed_pages; /* out of guest RAM: moved aside, and compressed */
    uint64_t packed_bytes, pool_bytes;   /* what the packed ones need, and what is taken for it */
    uint64_t page_outs, page_ins, parked_faults, packed_faults; /* cumulative */
    uint64_t swapped_pages, swap_bytes;                         /* in swap files, and what these take */
    uint64_t swap_written_bytes, swap_errors, swapped_faults, lost_pages; /* cumulative */
    uint64_t merged_outs; /* cumulative: merged pages that went to swap files */
    /* merged pages that are not mapped: now; and, cumulative, that became so, and were touched then */
    uint64_t remote_pages, remote_outs, remote_faults;
    uint64_t held_faults, held_ns; /* cumulative: made to wait because pages leave too slowly */
    uint64_t swap_reads, prefetched_pages, prefetch_used, prefetch_wasted; /* the same: see wire.h */
    uint64_t sampled_pages,
        sampled_faults;         /* aside as samples of the working set; cumulative: touched there */
    uint64_t working_set_bytes; /* see struct core_working_set; 0: not known */
};

/* How much of a VM's memory is in use, by samples (docs/architecture.md). */
struct core_working_set {
    uint64_t periods;         /* it rests on; 0: nothing is known yet */
    uint64_t period_ms;       /* how long samples were watched, as measured */
    uint64_t bytes;           /* touched within a period */
    uint64_t error_bytes;     /* 95% of estimates are as near as this */
    uint64_t samplable_bytes; /* what samples are taken of: the VM's own memory in small pages */
    uint64_t unsampled_bytes; /* own memory of which none are: huge, pinned, written since merged */
    uint64_t merged_bytes;    /* nor of this */
    uint64_t written_bytes; /* seen written by the last round: the write side, of all memory but huge pages */
    unsigned nidle;         /* ages that are known */
    uint64_t idle_ms[WIRE_AGES], idle_bytes[WIRE_AGES]; /* of samplable_bytes, not touched for so long */
};

/* How long accesses waited for pages that were out, in one of enum wire_tier. */
struct core_latency {
    uint64_t count, sum_ns, p50_ns, p99_ns;
    uint64_t buckets[WIRE_LATENCY_BUCKETS]; /* wire_latency_bound() */
};

/* A VM's share of a frame used by n pages is 1/n for each: pages_shared of the VMs add up to the domain's. */
struct core_vm {
    uint32_t id;
    int32_t pid;
    char name[CORE_NAME_BYTES], domain[CORE_NAME_BYTES];
    char state[16];   /* "joining", "merging", "settled", "off", "paused", "map-count", "lost", "closing" */
    char release[16]; /* of its libmemd */
    bool merge_on, settled;
    uint64_t resident_bytes, target_bytes; /* struct budget_vm, struct budget_plan */
    struct budget_terms terms;
    double refaults_per_s;
    uint64_t writes_left_bytes; /* of terms.writes_bytes */
    struct core_counters c;
    struct core_working_set ws;
    struct core_latency latency[WIRE_TIERS];
};

/* Of a budget. */
struct core_memory {
    enum budget_state state;
    uint64_t budget_bytes; /* 0: none */
    uint64_t used_bytes, headroom_bytes;
};

struct core_domain {
    char name[CORE_NAME_BYTES];
    uint32_t vms;
    uint64_t frames, frame_bytes; /* frames with references */
    uint64_t store_bytes;         /* blocks of the store files */
    uint64_t candidates, index_bytes;
    struct core_memory memory;
};

enum core_agent_state {
    CORE_AGENT_ABSENT,  /* nobody is at its socket */
    CORE_AGENT_SILENT,  /* there is a connection, but no agent has answered */
    CORE_AGENT_LIVE,    /* heard within AGENT_PEER_STALE_NS */
    CORE_AGENT_STALE,   /* not heard for longer */
    CORE_AGENT_REFUSED, /* not this one's: `why` */
    CORE_AGENT_STATES
};

/* An agent in a guest, and what it says, clamped: hints. */
struct core_agent {
    char name[CORE_NAME_BYTES]; /* of its VM */
    char path[CORE_AGENT_PATH_MAX + 1];
    enum core_agent_state state;
    char why[CORE_REASON_BYTES];
    char release[AGENT_RELEASE_BYTES];
    bool vm_connected; /* the VM has an engine, too: its size is known */
    bool can_reclaim, reclaims;
    uint64_t age_ms;                               /* of the values; of none: 0 */
    uint64_t present, value[AGENT_VALUES];         /* struct agent_report; counts are the daemon's own */
    double stall_some_percent, stall_full_percent; /* of the time between the last two reports */
    uint64_t frames, lost_frames, bad_frames, throttled, clamped; /* cumulative */
    unsigned nconsumers;
    struct agent_consumer consumers[AGENT_CONSUMERS_MAX];
};

/* Ways by which VMs give memory back to a budget. */
enum core_rung { CORE_RUNG_BALLOON, CORE_RUNG_PAGER, CORE_RUNGS };

/* What the memory policy has decided, of all VMs together, since memd began. */
struct core_policy {
    uint64_t decisions[BUDGET_REASONS];
    uint64_t balloon_looks[BALLOON_RULES];             /* at balloons it moves, by what was made of them */
    uint64_t balloon_excluded[BALLOON_EXCLUDED_COUNT]; /* and why they were left alone */
    uint64_t orders[CORE_RUNGS], asked_bytes[CORE_RUNGS], returned_bytes[CORE_RUNGS];
};

struct core_snapshot {
    int32_t pid;
    char version[16];
    char run_dir[256];
    uint64_t uptime_ms, incarnation, restarts;
    uint64_t awaited_engines; /* engines of an earlier daemon that are neither back nor dead */
    bool merge_on, settled;
    uint64_t daemon_metadata_bytes, daemon_cpu_ns;
    uint64_t mem_total_bytes, mem_available_bytes; /* of the host */
    char warning[CORE_REASON_BYTES];               /* a shortage seen lately, or "" */
    uint64_t warning_age_ms;                       /* since it was last seen */
    struct core_memory memory;
    bool alarm;                               /* the host or a domain is in state low */
    bool dry_run;                             /* the policy orders nothing */
    uint64_t writes_bytes, writes_left_bytes; /* of swap files, a day; limit 0: none */
    struct core_counters totals;              /* cumulative counters include VMs that have left */
    struct core_policy policy;
    size_t nvms, ndomains, nagents;
    struct core_agent *agents;
    struct core_vm *vms;
    struct core_domain *domains;
};

int core_snapshot_take(struct core *core, struct core_snapshot **ret_snapshot);
void core_snapshot_free(struct core_snapshot *snapshot);

/* The last decisions about a VM, the latest first. */
struct core_why {
    char vm[CORE_NAME_BYTES], domain[CORE_NAME_BYTES];
    bool dry_run;
    bool rests; /* there is no budget, no limit, and the host has enough: nothing is being decided */
    uint64_t now_ns;
    unsigned n;
    struct why_entry entry[WHY_KEPT];
};
/* -ENOENT: no such VM is connected. Free it with free(). */
int core_why_take(struct core *core, const char *vm, struct core_why **ret_why);

/* ---- what can be done. `vm`: a name or an id; NULL: all. -ENOENT: no such VM is connected. */

/* Merging on or off. Off: what is merged stays so, nothing new is. Kept across daemons. */
int core_merge_set(struct core *core, const char *vm, bool on);

/* Set the budget of the host, or of a domain of the configuration; 0: none. -ENOENT: no such domain; -ERANGE:
 * the reservations of its VMs do not fit. Like the terms of a VM it counts until memd ends. */
int core_budget_set(struct core *core, const char *domain, uint64_t bytes,
                    char ret_reason[CORE_REASON_BYTES]);

struct balloons;
struct balloons_spec;
/* The balloons, before core_run(): the memory policy moves those that are on, and VMs that embed libmemd
 * bring their own, for which the first of `rules` counts that matches their name. Both must stay until
 * core_balloons_forget(). 0 or -errno. */
int core_balloons_set(struct core *core, struct balloons *balloons, const struct balloons_spec *rules,
                      size_t nrules);
/* After the loop: they are about to be closed. */
void core_balloons_forget(struct core *core);
/* Whether the policy moves the balloon of a VM (NULL: all); kept over restarts. -ENOENT: it has none. */
int core_balloon_auto_set(struct core *core, const char *vm, bool on);

/* Limits of the balloon of a VM, as balloons_limit(); kept over restarts. -ENOENT, -ERANGE; a reason for
 * each. */
int core_balloon_limits_set(struct core *core, const char *vm, const uint64_t *min_bytes,
                            const uint64_t *max_bytes, char ret_reason[CORE_REASON_BYTES]);

/* Begin or end a dry run: the policy decides and says why, and orders nothing. Counts as a budget does. */
int core_dry_run_set(struct core *core, bool on);

/* Change those terms of a VM that are named. -ERANGE: they contradict each other, or a budget. */
enum core_term {
    CORE_TERM_RESERVATION = 1,
    CORE_TERM_LIMIT = 2,
    CORE_TERM_SHARES = 4,
    CORE_TERM_SWAP = 8,
    CORE_TERM_WRITES = 16
};
int core_vm_set(struct core *core, const char *vm, unsigned terms, const struct budget_terms *value,
                struct budget_terms *ret_terms, char ret_reason[CORE_REASON_BYTES]);

/* Jobs take time: start, then poll. -EBUSY: as many as are remembered are running. */
enum core_job_kind {
    CORE_JOB_UNMERGE,
    CORE_JOB_SETTLE,
    CORE_JOB_ESTIMATE,
    CORE_JOB_PAGEOUT,
    CORE_JOB_PAGEIN,
    CORE_JOB_RECLAIM,
    CORE_JOB_KINDS
};
enum core_job_state { CORE_JOB_RUNNING, CORE_JOB_DONE, CORE_JOB_FAILED };

struct core_job {
    uint64_t id;
    enum core_job_kind kind;
    enum core_job_state state;
    int error;                      /* failed: positive errno; ECANCELED */
    char reason[CORE_REASON_BYTES]; /* failed: in words */
    double progress;                /* 0 to 1, a guess */
    /* estimate: what merging would save = zero + duplicate - frames */
    uint64_t guest_bytes, zero_bytes, duplicate_bytes, frame_bytes;
    uint64_t paged_bytes; /* pageout, pagein: that have moved; reclaim: that the guest says it freed */
};

/* Bring everything back into private memory and leave it so until merging is switched on. Fails with ENOMEM
 * if it does not fit into available memory, before anything is done. */
int core_unmerge_start(struct core *core, const char *vm, uint64_t *ret_job);
/* Done when a whole pass begun after now has found less than 0.5% of guest bytes newly mergeable. */
int core_settle_start(struct core *core, uint64_t *ret_job);
/* What merging would save in these VMs (none named: all), without changing anything. */
int core_estimate_start(struct core *core, size_t nvms, const char *const *vms, uint64_t *ret_job);

/* Take `bytes` of a VM out of RAM: pages are parked, and those nobody touches within park_ms are packed.
 * `all`: pages written lately and huge pages, too. Pagein brings them home. -EBUSY: one of these is running
 * for it. */
struct core_paging {
    uint64_t bytes;
    uint32_t park_ms;
    bool all, swap; /* swap: and from the pool to the swap file, incompressible pages, too */
    bool merged;    /* and merged pages that are touched; else those that are not */
};
int core_pageout_start(struct core *core, const char *vm, const struct core_paging *what, uint64_t *ret_job);
int core_pagein_start(struct core *core, const char *vm, uint64_t bytes, uint64_t *ret_job);

/* Have the agent in a guest reclaim, for at most `timeout_ms`. -ENOENT: no agent of that VM is known;
 * -ENOTCONN: it is not heard; -ENOTSUP: it cannot; -EBUSY: it is at it; -ERANGE: the guest has less memory.
 */
#define CORE_RECLAIM_MS_MAX 600000u
int core_reclaim_start(struct core *core, const char *vm, uint64_t bytes, uint32_t timeout_ms,
                       uint64_t *ret_job);

/* -ENOENT: no such job is remembered. */
int core_job_poll(struct core *core, uint64_t job, struct core_job *ret_job);
int core_job_cancel(struct core *core, uint64_t job);
/* How many jobs have ended; and until there are more than `ended`, but at most `ms`. */
unsigned core_jobs_ended(struct core *core);
void core_jobs_wait(struct core *core, unsigned ended, unsigned ms);

#endif
