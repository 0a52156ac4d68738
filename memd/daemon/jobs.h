/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs: what takes time and is asked for by users: unmerge, settle, estimate (core.h), and the pager's
 * (paging.h).
 *
 * A job's record lies at its number modulo CORE_JOBS_MAX; numbers whose place is taken by a job that still
 * runs are left out. VMs carry the number of the job they take part in (vm.unmerge_job, vm.estimate_job), so
 * a job that is done, cancelled or forgotten needs nothing from them.
 */
#ifndef MEMD_DAEMON_JOBS_H
#define MEMD_DAEMON_JOBS_H

#include "memd/daemon/core.h"

#include <pthread.h>

struct vm;
struct jobs_hashes;

struct jobs_record {
    struct core_job job;
    uint64_t started_ns;
    uint32_t vms, left;         /* VMs that take part; not done yet */
    struct jobs_hashes *hashes; /* estimate */
};

struct jobs {
    struct jobs_record record[CORE_JOBS_MAX];
    uint64_t last;     /* number of the latest job */
    unsigned settling; /* settle jobs that run */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t more;
    unsigned ended; /* jobs, modulo 2^32 */
};

/* Of the loop: see core.h for what they do. */
int jobs_start_unmerge(struct core *core, const char *vm, uint64_t *ret_job);
int jobs_start_settle(struct core *core, uint64_t *ret_job);
int jobs_start_estimate(struct core *core, size_t nvms, const char *const *vms, uint64_t *ret_job);
int jobs_poll(struct core *core, uint64_t id, struct core_job *ret_job);
int jobs_cancel(struct core *core, uint64_t id);

/* Look whether jobs have ended. */
void jobs_tick(struct core *core);
void jobs_open(struct jobs *jobs);
void jobs_close(struct jobs *jobs);

/* Any thread: how many jobs have ended; until there are others than `ended`, but at most `ms`. */
unsigned jobs_ended(struct jobs *jobs);
void jobs_wait(struct jobs *jobs, unsigned ended, unsigned ms);

/* For whoever carries jobs out. */
int jobs_begin(struct core *core, enum core_job_kind kind, struct jobs_record **ret_record);
void jobs_end(struct core *core, struct jobs_record *r, int error, const char *reason);
struct jobs_record *jobs_find(struct core *core, uint64_t id); /* NULL: not remembered */
bool jobs_runs(const struct jobs_record *r);

/* DONE arrived. `error`: 0 or a positive errno. */
void jobs_unmerged(struct vm *vm, int error);
void jobs_session_lost(struct vm *vm);
void jobs_vm_gone(struct vm *vm);

struct wire_rec_hashes;
void jobs_estimate_hashes(struct vm *vm, const struct wire_rec_hashes *rec);

#endif
