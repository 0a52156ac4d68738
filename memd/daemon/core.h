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

#include "memd/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CORE_NAME_BYTES      (WIRE_NAME_BYTES + 4) /* of a VM or a domain; "vm:NAME" fits, NUL included */
#define CORE_REASON_BYTES    200
#define CORE_VMS_MAX         1024
#define CORE_DOMAINS_MAX     64 /* in the configuration */
#define CORE_UIDS_MAX        32 /* of a domain */
#define CORE_JOBS_MAX        64 /* jobs remembered; the oldest that has ended goes first */
#define CORE_CALL_TIMEOUT_MS 5000

/* A domain the operator opens: VMMs of these users may join it (root and memd's own user always may). */
struct core_domain_config {
    char name[WIRE_NAME_BYTES];
    uint32_t nuids;
    uint32_t uids[CORE_UIDS_MAX];
};

struct core_config {
    char run_dir[256];
    char state_dir[256];
    bool merge;               /* start with merging on */
    bool merge_across_nodes;  /* as KSM's merge_across_nodes */
    double cpu_cap;           /* CPUs that engines and daemon may use together */
    uint64_t store_bytes_max; /* 0: half of the host's memory */
    unsigned quiet_ms, round_ms_max;
    unsigned huge_share_percent; /* a huge page is broken from this reclaimable share on */
    unsigned heal_pages_per_s;   /* per VM */
    unsigned vmas_percent;       /* share of vm.max_map_count memd may use in a VM */
    unsigned nodes;              /* NUMA nodes to pretend; 0: ask the machine */
    char proc_root[256], sys_root[256];
    unsigned ndomains;
    struct core_domain_config domains[CORE_DOMAINS_MAX];
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
    uint64_t saved_bytes;    /* guest pages no longer held privately */
    uint64_t metadata_bytes; /* page maps, engine and daemon memory */
    int64_t net_saved_bytes; /* saved, less frames and metadata */
    uint64_t cpu_ns;         /* cumulative */
    uint64_t vmas_used, vmas_limit;
};

/* A VM's share of a frame used by n pages is 1/n for each: pages_shared of the VMs add up to the domain's. */
struct core_vm {
    uint32_t id;
    int32_t pid;
    char name[CORE_NAME_BYTES], domain[CORE_NAME_BYTES];
    char state[16];   /* "joining", "merging", "settled", "off", "paused", "map-count", "lost", "closing" */
    char release[16]; /* of its libmemd */
    bool merge_on, settled;
    struct core_counters c;
};

struct core_domain {
    char name[CORE_NAME_BYTES];
    uint32_t vms;
    uint64_t frames, frame_bytes; /* frames with references */
    uint64_t store_bytes;         /* blocks of the store files */
    uint64_t candidates, index_bytes;
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
    struct core_counters totals;                   /* cumulative counters include VMs that have left */
    size_t nvms, ndomains;
    struct core_vm *vms;
    struct core_domain *domains;
};

int core_snapshot_take(struct core *core, struct core_snapshot **ret_snapshot);
void core_snapshot_free(struct core_snapshot *snapshot);

/* ---- what can be done. `vm`: a name or an id; NULL: all. -ENOENT: no such VM is connected. */

/* Merging on or off. Off: what is merged stays so, nothing new is. Kept across daemons. */
int core_merge_set(struct core *core, const char *vm, bool on);

/* Jobs take time: start, then poll. -EBUSY: as many as are remembered are running. */
enum core_job_kind { CORE_JOB_UNMERGE, CORE_JOB_SETTLE, CORE_JOB_ESTIMATE };
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
};

/* Bring everything back into private memory and leave it so until merging is switched on. Fails with ENOMEM
 * if it does not fit into available memory, before anything is done. */
int core_unmerge_start(struct core *core, const char *vm, uint64_t *ret_job);
/* Done when a whole pass begun after now has found less than 0.5% of guest bytes newly mergeable. */
int core_settle_start(struct core *core, uint64_t *ret_job);
/* What merging would save in these VMs (none named: all), without changing anything. */
int core_estimate_start(struct core *core, size_t nvms, const char *const *vms, uint64_t *ret_job);

/* -ENOENT: no such job is remembered. */
int core_job_poll(struct core *core, uint64_t job, struct core_job *ret_job);
int core_job_cancel(struct core *core, uint64_t job);

#endif
