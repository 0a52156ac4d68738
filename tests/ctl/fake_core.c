/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See fake_core.h. Guarded by `lock`: the control API calls from many threads. */
#include "tests/ctl/fake_core.h"

#include "memd/memd.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FAKE_JOBS 64

struct fake_core fake;

struct core {
    sem_t stop;
    struct core_config config;
    struct core_job jobs[FAKE_JOBS];
    unsigned polls[FAKE_JOBS];
    uint64_t njobs;
};

static struct core the_core;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void core_config_default(struct core_config *ret_config)
{
    *ret_config = (struct core_config){
        .run_dir = "/run/memd",
        .state_dir = "/var/lib/memd",
        .merge = true,
        .cpu_cap = 1.0,
        .quiet_ms = 1000,
        .round_ms_max = 10000,
        .huge_share_percent = 50,
        .heal_pages_per_s = 1000,
        .vmas_percent = 50,
        .proc_root = "/proc",
        .sys_root = "/sys",
    };
}

void fake_core_lock(void)
{
    pthread_mutex_lock(&lock);
}

void fake_core_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

struct core *fake_core_reset(void)
{
    pthread_mutex_lock(&lock);
    fake = (struct fake_core){
        .job_polls = 3, .nvms = 2, .balloon_steps = 3, .balloon_actual = UINT64_C(1) << 30};
    the_core.njobs = 0;
    pthread_mutex_unlock(&lock);
    return &the_core;
}

int core_open(const struct core_config *config, struct core **ret_core, char *ret_error, size_t error_bytes)
{
    if (access(config->run_dir, W_OK)) {
        snprintf(ret_error, error_bytes, "cannot write %s", config->run_dir);
        return -EACCES;
    }
    fake_core_reset();
    the_core.config = *config;
    sem_init(&the_core.stop, 0, 0);
    *ret_core = &the_core;
    return 0;
}

int core_run(struct core *core)
{
    while (sem_wait(&core->stop))
        ;
    return 0;
}

void core_stop(struct core *core)
{
    sem_post(&core->stop);
}

void core_close(struct core *core)
{
    sem_destroy(&core->stop);
}

/* alpha's agent is heard, beta's is not. */
static void fill_agent(struct core_agent *agent, uint32_t id)
{
    *agent = (struct core_agent){.state = id == 1 ? CORE_AGENT_LIVE : CORE_AGENT_ABSENT};
    strcpy(agent->name, id == 1 ? "alpha" : "beta");
    snprintf(agent->path, sizeof agent->path, "/run/memd/agents/%s.sock", agent->name);
    if (id != 1)
        return;
    snprintf(agent->release, sizeof agent->release, "%s", MEMD_VERSION);
    agent->vm_connected = agent->can_reclaim = true;
    agent->age_ms = 1500;
    agent->frames = 42;
    agent->stall_some_percent = 2.5;
    agent->present = (1ull << AGENT_VALUES) - 1;
    for (unsigned i = 0; i < AGENT_VALUES; i++)
        agent->value[i] = i < AGENT_STALL_SOME_US ? 200ull << 20 : 1000 + i;
    agent->value[AGENT_MEM_TOTAL] = 240ull << 20;
    agent->nconsumers = 1;
    agent->consumers[0] = (struct agent_consumer){100ull << 20, "system.slice"};
}

static void fill_vm(struct core_vm *vm, uint32_t id)
{
    bool settled = id % 2;

    *vm = (struct core_vm){.id = id, .pid = 4000 + (int32_t)id, .merge_on = true, .settled = settled};
    snprintf(vm->name, sizeof vm->name, "vm%u", id);
    if (id <= 2)
        strcpy(vm->name, id == 1 ? "alpha" : "beta");
    snprintf(vm->domain, sizeof vm->domain, "tenant-%u", id);
    vm->resident_bytes = vm->target_bytes = 90ull << 20;
    vm->terms = (struct budget_terms){.reservation_bytes = 64ull << 20, .shares = 500};
    strcpy(vm->state, settled ? "settled" : "merging");
    snprintf(vm->release, sizeof vm->release, "%s", MEMD_VERSION);
    vm->c = (struct core_counters){
        .guest_bytes = 256ull << 20,
        .zero_pages = 30000,
        .pages_shared = 1000,
        .pages_sharing = 9000,
        .pages_unshared = 20000,
        .ineligible_bytes = {4096, 0, 0, 8192, 0, 0},
        .full_scans = 7,
        .merges = 12345,
        .cow_breaks = 67,
        .broken_pages = 23,
        .saved_bytes = 160ull << 20,
        .metadata_bytes = 1 << 20,
        .net_saved_bytes = settled ? 150ll << 20 : -4096,
        .cpu_ns = 1500000001,
        .vmas_used = 2200,
        .vmas_limit = 32765,
        .working_set_bytes = 40ull << 20,
    };
    vm->ws = (struct core_working_set){.periods = 12,
                                       .period_ms = 30010,
                                       .bytes = 40ull << 20,
                                       .error_bytes = 6ull << 20,
                                       .samplable_bytes = 120ull << 20,
                                       .merged_bytes = 39ull << 20,
                                       .written_bytes = 12ull << 20,
                                       .nidle = 2,
                                       .idle_ms = {30000, 60000},
                                       .idle_bytes = {80ull << 20, 60ull << 20}};
    vm->latency[WIRE_TIER_PARKED] = (struct core_latency){
        .count = 3, .sum_ns = 9000, .p50_ns = 1536, .p99_ns = 7000, .buckets = {1, 1, 0, 1}};
}

int core_snapshot_take(struct core *core, struct core_snapshot **ret_snapshot)
{
    pthread_mutex_lock(&lock);
    int error = fake.snapshot_error;
    unsigned nvms = fake.nvms;
    bool alarm = fake.alarm, dry_run = fake.dry_run;
    pthread_mutex_unlock(&lock);
    if (error)
        return error;
    struct core_snapshot *snapshot = calloc(1, sizeof *snapshot);
    snapshot->vms = calloc(nvms + 1, sizeof *snapshot->vms);
    snapshot->domains = calloc(1, sizeof *snapshot->domains);
    snapshot->agents = calloc(2, sizeof *snapshot->agents);
    snapshot->nagents = nvms < 2 ? nvms : 2;
    for (unsigned i = 0; i < snapshot->nagents; i++)
        fill_agent(&snapshot->agents[i], i + 1);
    snapshot->nvms = nvms;
    snapshot->ndomains = 1;
    for (unsigned i = 0; i < nvms; i++)
        fill_vm(&snapshot->vms[i], i + 1);
    snprintf(snapshot->domains[0].name, sizeof snapshot->domains[0].name, "tenant-1");
    snapshot->domains[0].vms = 1;
    snapshot->domains[0].frames = 1000;
    snapshot->domains[0].frame_bytes = 4096000;
    snapshot->domains[0].memory = (struct core_memory){BUDGET_SOFT, 1ull << 30, 900ull << 20, 0};
    snapshot->memory =
        (struct core_memory){alarm ? BUDGET_LOW : BUDGET_HIGH, 8ull << 30, 3ull << 30, 256ull << 20};
    snapshot->alarm = alarm;
    snapshot->dry_run = dry_run;
    snapshot->pid = (int32_t)getpid();
    snprintf(snapshot->version, sizeof snapshot->version, "%s", MEMD_VERSION);
    snprintf(snapshot->run_dir, sizeof snapshot->run_dir, "%s", core->config.run_dir);
    snapshot->incarnation = 0xfedcba9876543210ull;
    snapshot->uptime_ms = 61500;
    snapshot->merge_on = true;
    snapshot->mem_total_bytes = 16ull << 30;
    snapshot->mem_available_bytes = 9ull << 30;
    snapshot->totals = snapshot->vms[0].c; /* of none: all zero */
    snapshot->totals.guest_bytes *= nvms;
    *ret_snapshot = snapshot;
    return 0;
}

void core_snapshot_free(struct core_snapshot *snapshot)
{
    free(snapshot->vms);
    free(snapshot->domains);
    free(snapshot->agents);
    free(snapshot);
}

static int command(const char *vm)
{
    if (fake.command_error)
        return fake.command_error;
    if (vm && strcmp(vm, "alpha") && strcmp(vm, "beta") && strcmp(vm, "1") && strcmp(vm, "2"))
        return -ENOENT;
    snprintf(fake.last_vm, sizeof fake.last_vm, "%s", vm ? vm : "(all)");
    fake.commands++;
    return 0;
}

int core_merge_set(struct core *core, const char *vm, bool on)
{
    (void)core;
    pthread_mutex_lock(&lock);
    int result = command(vm);
    if (!result)
        fake.last_on = on;
    pthread_mutex_unlock(&lock);
    return result;
}

int core_budget_set(struct core *core, const char *domain, uint64_t bytes, char ret_reason[CORE_REASON_BYTES])
{
    (void)core;
    pthread_mutex_lock(&lock);
    int result = domain && strcmp(domain, "tenant-1") ? -ENOENT : command(NULL);
    if (!result && bytes && bytes < 64 << 20) {
        snprintf(ret_reason, CORE_REASON_BYTES, "1 MiB are less than the 64 MiB that are reserved");
        result = -ERANGE;
    }
    if (!result) {
        fake.last_budget = bytes;
        snprintf(fake.last_vm, sizeof fake.last_vm, "%s", domain ? domain : "(all)");
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int core_balloon_auto_set(struct core *core, const char *vm, bool on)
{
    (void)core;
    if (vm && strcmp(vm, "alpha") != 0 && strcmp(vm, "beta") != 0)
        return -ENOENT;
    pthread_mutex_lock(&lock);
    if (!vm || !strcmp(vm, "alpha"))
        fake.balloon_auto = on;
    pthread_mutex_unlock(&lock);
    return 0;
}

int core_dry_run_set(struct core *core, bool on)
{
    (void)core;
    pthread_mutex_lock(&lock);
    int result = command(NULL);
    if (!result)
        fake.dry_run = on;
    pthread_mutex_unlock(&lock);
    return result;
}

/* An order that is being carried out, and before that nothing because the VM was paused. */
static void fill_why(struct core_why *why)
{
    struct budget_vm vm = {.guest_bytes = 256ull << 20,
                           .resident_bytes = 90ull << 20,
                           .reclaimable_bytes = 80ull << 20,
                           .ineligible_bytes = 1 << 20,
                           .working_set_bytes = 45ull << 20,
                           .rates = {.packed_per_s = 2.5, .swapped_per_s = 0.25},
                           .terms = {.reservation_bytes = 64ull << 20, .shares = 500},
                           .can_swap = true,
                           .pending_bytes = 2ull << 20,
                           .pending = BUDGET_SOFT};

    why->n = 2;
    why->now_ns = 100ull * 1000000000;
    why->entry[0] = (struct why_entry){
        .first_ns = 90ull * 1000000000,
        .last_ns = 99ull * 1000000000,
        .looks = 36,
        .orders = 3,
        .ordered_bytes = 6ull << 20,
        .dry_run = fake.dry_run,
        .why = {BUDGET_BY_HOST, BUDGET_ORDERED, BUDGET_SOFT, 8ull << 30, 7600ull << 20, 400ull << 20,
                90ull << 20, 64ull << 20, 500, 225.0 * (1 << 20), 409600.5, 0.75, true},
        .order = {.pages = 512, .state = BUDGET_SOFT, .depth = BUDGET_SOFT, .park_ms = 1000},
        .vm = vm,
        .target_bytes = 70ull << 20,
        .tax = 0.75,
        .stall_some = 0.25,
        .refault_percent = 1,
        .stall_percent = 1,
        .answer = {.at_ns = 98ull * 1000000000, .asked_pages = 512, .returned_pages = 500},
        .has_balloon = true,
        .balloon = {.rule = BALLOON_RULE_SPARE,
                    .offer_bytes = 16ull << 20,
                    .spare_bytes = 48ull << 20,
                    .reserve_bytes = 32ull << 20,
                    .available_bytes = 80ull << 20,
                    .actual_bytes = 256ull << 20,
                    .target_bytes = 256ull << 20,
                    .returned = 0.75},
        .balloon_bytes = 12ull << 20};
    vm.excluded = BUDGET_PAUSED;
    why->entry[1] = (struct why_entry){.first_ns = 80ull * 1000000000,
                                       .last_ns = 80ull * 1000000000,
                                       .looks = 1,
                                       .why = {.by = BUDGET_BY_DOMAIN,
                                               .reason = BUDGET_EXCLUDED,
                                               .state = BUDGET_HARD,
                                               .budget_bytes = 1ull << 30,
                                               .charged_bytes = 1000ull << 20,
                                               .wanted_bytes = 20ull << 20,
                                               .shares = 500,
                                               .ease = 1},
                                       .vm = vm,
                                       .target_bytes = 90ull << 20,
                                       .tax = 0.75};
}

int core_why_take(struct core *core, const char *vm, struct core_why **ret_why)
{
    (void)core;
    pthread_mutex_lock(&lock);
    int result = command(vm);
    struct core_why *why = result ? NULL : calloc(1, sizeof *why);
    if (why) {
        strcpy(why->vm, "alpha");
        strcpy(why->domain, "tenant-1");
        why->dry_run = fake.dry_run;
        why->rests = fake.rests;
        if (!fake.rests)
            fill_why(why);
        *ret_why = why;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int core_vm_set(struct core *core, const char *vm, unsigned terms, const struct budget_terms *value,
                struct budget_terms *ret_terms, char ret_reason[CORE_REASON_BYTES])
{
    (void)core;
    pthread_mutex_lock(&lock);
    int result = command(vm);
    if (!result && terms & CORE_TERM_LIMIT && value->limit_bytes && value->limit_bytes < 64 << 20) {
        snprintf(ret_reason, CORE_REASON_BYTES, "a limit of 1 MiB is below the reservation of 64 MiB");
        result = -ERANGE;
    }
    if (!result) {
        fake.last_terms = *ret_terms = *value;
        fake.last_which = terms;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static int job_start(struct core *core, enum core_job_kind kind, const char *vm, uint64_t *ret_job)
{
    pthread_mutex_lock(&lock);
    int result = core->njobs == FAKE_JOBS ? -EBUSY : command(vm);
    if (!result) {
        core->jobs[core->njobs] = (struct core_job){.id = core->njobs + 1, .kind = kind};
        core->polls[core->njobs] = 0;
        *ret_job = ++core->njobs;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int core_unmerge_start(struct core *core, const char *vm, uint64_t *ret_job)
{
    return job_start(core, CORE_JOB_UNMERGE, vm, ret_job);
}

int core_settle_start(struct core *core, uint64_t *ret_job)
{
    return job_start(core, CORE_JOB_SETTLE, NULL, ret_job);
}

int core_estimate_start(struct core *core, size_t nvms, const char *const *vms, uint64_t *ret_job)
{
    int result = 0;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; !result && i < nvms; i++)
        result = command(vms[i]);
    fake.last_nvms = nvms;
    pthread_mutex_unlock(&lock);
    return result ? result : job_start(core, CORE_JOB_ESTIMATE, NULL, ret_job);
}

int core_pageout_start(struct core *core, const char *vm, const struct core_paging *what, uint64_t *ret_job)
{
    fake.last_paging = *what;
    return job_start(core, CORE_JOB_PAGEOUT, vm, ret_job);
}

int core_pagein_start(struct core *core, const char *vm, uint64_t bytes, uint64_t *ret_job)
{
    fake.last_paging = (struct core_paging){.bytes = bytes};
    return job_start(core, CORE_JOB_PAGEIN, vm, ret_job);
}

int core_reclaim_start(struct core *core, const char *vm, uint64_t bytes, uint32_t timeout_ms,
                       uint64_t *ret_job)
{
    if (bytes > 256ull << 20)
        return -ERANGE;
    if (!strcmp(vm, "beta"))
        return -ENOTCONN;
    fake.last_paging = (struct core_paging){.bytes = bytes, .park_ms = timeout_ms};
    return job_start(core, CORE_JOB_RECLAIM, vm, ret_job);
}

static void job_end(struct core_job *job, int error, const char *reason)
{
    job->progress = 1;
    job->state = error ? CORE_JOB_FAILED : CORE_JOB_DONE;
    job->error = error;
    snprintf(job->reason, sizeof job->reason, "%s", error ? reason : "");
    job->guest_bytes = 512ull << 20;
    job->zero_bytes = 200ull << 20;
    job->duplicate_bytes = 100ull << 20;
    job->frame_bytes = 30ull << 20;
    job->paged_bytes = 20ull << 20;
}

int core_job_poll(struct core *core, uint64_t id, struct core_job *ret_job)
{
    pthread_mutex_lock(&lock);
    int result = id && id <= core->njobs ? 0 : -ENOENT;
    if (!result) {
        struct core_job *job = &core->jobs[id - 1];
        unsigned polls = ++core->polls[id - 1];
        fake.polls++;
        if (job->state == CORE_JOB_RUNNING && polls >= fake.job_polls)
            job_end(job, fake.job_error, "does not fit: 120 MiB wanted, 40 MiB available");
        else if (job->state == CORE_JOB_RUNNING)
            job->progress = (double)polls / fake.job_polls;
        *ret_job = *job;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

unsigned core_jobs_ended(struct core *core)
{
    (void)core;
    return 0;
}

/* Nobody is told of an end here, so jobs are looked at more often. */
void core_jobs_wait(struct core *core, unsigned ended, unsigned ms)
{
    const struct timespec pause = {.tv_nsec = (ms < 25 ? ms : 25) * 1000000l};

    (void)core;
    (void)ended;
    nanosleep(&pause, NULL);
}

int core_job_cancel(struct core *core, uint64_t id)
{
    pthread_mutex_lock(&lock);
    int result = id && id <= core->njobs ? 0 : -ENOENT;
    if (!result) {
        job_end(&core->jobs[id - 1], ECANCELED, "cancelled");
        fake.cancels++;
    }
    pthread_mutex_unlock(&lock);
    return result;
}
