/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ask: what other threads ask of the core (core.h), but snapshots. Each function packs its arguments into a
 * struct that calls_ask() copies, a do_ function carries it out in the loop.
 */
#include "memd/daemon/core.h"
#include "memd/daemon/place.h"
#include "memd/daemon/state.h"
#include "memd/daemon/terms.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct merge_call {
    char vm[CORE_NAME_BYTES];
    bool all, on;
};

static int do_merge(struct core *core, void *arg)
{
    struct merge_call *call = arg;
    struct vm *vm = call->all ? NULL : vm_find(core, call->vm);

    if (!call->all && !vm)
        return -ENOENT;
    if (vm) {
        vm_set_merge(vm, call->on);
        return 0;
    }
    core->merge_on = call->on;
    place_keep_merge(core);
    cds_list_for_each_entry (vm, &core->vms, link)
        vm_set_merge(vm, call->on);
    return 0;
}

int core_merge_set(struct core *core, const char *vm, bool on)
{
    struct merge_call call = {.all = !vm, .on = on};

    snprintf(call.vm, sizeof call.vm, "%s", vm ? vm : "");
    return calls_ask(&core->calls, do_merge, &call, sizeof call, NULL);
}

struct job_call {
    char vm[CORE_NAME_BYTES];
    bool all;
    uint64_t id;
};

static int do_unmerge(struct core *core, void *arg)
{
    struct job_call *call = arg;
    return jobs_start_unmerge(core, call->all ? NULL : call->vm, &call->id);
}

static int do_settle(struct core *core, void *arg)
{
    return jobs_start_settle(core, &((struct job_call *)arg)->id);
}

static int ask_job(struct core *core, int (*fn)(struct core *core, void *arg), const char *vm,
                   uint64_t *ret_job)
{
    struct job_call call = {.all = !vm};

    snprintf(call.vm, sizeof call.vm, "%s", vm ? vm : "");
    int err = calls_ask(&core->calls, fn, &call, sizeof call, NULL);
    if (!err)
        *ret_job = call.id;
    return err;
}

int core_unmerge_start(struct core *core, const char *vm, uint64_t *ret_job)
{
    return ask_job(core, do_unmerge, vm, ret_job);
}

int core_settle_start(struct core *core, uint64_t *ret_job)
{
    return ask_job(core, do_settle, NULL, ret_job);
}

struct paging_call {
    char vm[CORE_NAME_BYTES];
    bool out;
    struct core_paging what;
    uint64_t id;
};

static int do_paging(struct core *core, void *arg)
{
    struct paging_call *call = arg;
    return paging_start(core, call->vm, call->out, &call->what, &call->id);
}

static int ask_paging(struct core *core, struct paging_call call, const char *vm, uint64_t *ret_job)
{
    snprintf(call.vm, sizeof call.vm, "%s", vm);
    int err = calls_ask(&core->calls, do_paging, &call, sizeof call, NULL);
    if (!err)
        *ret_job = call.id;
    return err;
}

int core_pageout_start(struct core *core, const char *vm, const struct core_paging *what, uint64_t *ret_job)
{
    return ask_paging(core, (struct paging_call){.out = true, .what = *what}, vm, ret_job);
}

int core_pagein_start(struct core *core, const char *vm, uint64_t bytes, uint64_t *ret_job)
{
    return ask_paging(core, (struct paging_call){.what.bytes = bytes}, vm, ret_job);
}

struct reclaim_call {
    char vm[CORE_NAME_BYTES];
    uint64_t bytes, id;
    uint32_t timeout_ms;
};

static int do_reclaim(struct core *core, void *arg)
{
    struct reclaim_call *call = arg;
    return agents_reclaim(core, call->vm, call->bytes, call->timeout_ms, &call->id);
}

int core_reclaim_start(struct core *core, const char *vm, uint64_t bytes, uint32_t timeout_ms,
                       uint64_t *ret_job)
{
    struct reclaim_call call = {.bytes = bytes, .timeout_ms = timeout_ms};

    snprintf(call.vm, sizeof call.vm, "%s", vm);
    int err = calls_ask(&core->calls, do_reclaim, &call, sizeof call, NULL);
    if (!err)
        *ret_job = call.id;
    return err;
}

struct budget_call {
    char domain[CORE_NAME_BYTES];
    uint64_t bytes;
    char reason[CORE_REASON_BYTES];
};

static int do_budget(struct core *core, void *arg)
{
    struct budget_call *call = arg;
    return terms_set_budget(core, call->domain[0] ? call->domain : NULL, call->bytes, call->reason);
}

int core_budget_set(struct core *core, const char *domain, uint64_t bytes, char ret_reason[CORE_REASON_BYTES])
{
    struct budget_call call = {.bytes = bytes};

    snprintf(call.domain, sizeof call.domain, "%s", domain ? domain : "");
    int err = calls_ask(&core->calls, do_budget, &call, sizeof call, NULL);
    snprintf(ret_reason, CORE_REASON_BYTES, "%s", call.reason);
    return err;
}

static int do_dry_run(struct core *core, void *arg)
{
    terms_set_dry_run(core, *(const bool *)arg);
    return 0;
}

int core_dry_run_set(struct core *core, bool on)
{
    return calls_ask(&core->calls, do_dry_run, &on, sizeof on, NULL);
}

int core_balloons_set(struct core *core, struct balloons *balloons, const struct balloons_spec *rules,
                      size_t nrules)
{
    return inflate_open(core, balloons, rules, nrules);
}

void core_balloons_forget(struct core *core)
{
    inflate_close(core);
}

static int do_balloon_auto(struct core *core, void *arg)
{
    struct merge_call *call = arg;

    return inflate_set(core, call->all ? NULL : call->vm, call->on);
}

int core_balloon_auto_set(struct core *core, const char *vm, bool on)
{
    struct merge_call call = {.all = !vm, .on = on};

    snprintf(call.vm, sizeof call.vm, "%s", vm ? vm : "");
    return calls_ask(&core->calls, do_balloon_auto, &call, sizeof call, NULL);
}

struct limits_call {
    char vm[CORE_NAME_BYTES];
    bool has_min, has_max;
    uint64_t min_bytes, max_bytes;
    char reason[CORE_REASON_BYTES];
};

static int do_balloon_limits(struct core *core, void *arg)
{
    struct limits_call *call = arg;
    struct balloon_error error = {0};
    int result = inflate_limit(core, call->vm, call->has_min ? &call->min_bytes : NULL,
                               call->has_max ? &call->max_bytes : NULL, &error);

    snprintf(call->reason, sizeof call->reason, "%s", error.reason);
    return result;
}

int core_balloon_limits_set(struct core *core, const char *vm, const uint64_t *min_bytes,
                            const uint64_t *max_bytes, char ret_reason[CORE_REASON_BYTES])
{
    struct limits_call call = {.has_min = min_bytes,
                               .has_max = max_bytes,
                               .min_bytes = min_bytes ? *min_bytes : 0,
                               .max_bytes = max_bytes ? *max_bytes : 0};

    snprintf(call.vm, sizeof call.vm, "%s", vm);
    int result = calls_ask(&core->calls, do_balloon_limits, &call, sizeof call, NULL);
    snprintf(ret_reason, CORE_REASON_BYTES, "%s",
             call.reason[0] || !result ? call.reason : strerror(-result));
    return result;
}

struct terms_call {
    char vm[CORE_NAME_BYTES];
    unsigned which;
    struct budget_terms terms;
    char reason[CORE_REASON_BYTES];
};

static int do_terms(struct core *core, void *arg)
{
    struct terms_call *call = arg;
    return terms_set_vm(core, call->vm, call->which, &call->terms, &call->terms, call->reason);
}

int core_vm_set(struct core *core, const char *vm, unsigned terms, const struct budget_terms *value,
                struct budget_terms *ret_terms, char ret_reason[CORE_REASON_BYTES])
{
    struct terms_call call = {.which = terms, .terms = *value};

    snprintf(call.vm, sizeof call.vm, "%s", vm);
    int err = calls_ask(&core->calls, do_terms, &call, sizeof call, NULL);
    if (!err)
        *ret_terms = call.terms;
    snprintf(ret_reason, CORE_REASON_BYTES, "%s", call.reason);
    return err;
}

struct why_call {
    char vm[CORE_NAME_BYTES];
    struct core_why *why;
};

static int do_why(struct core *core, void *arg)
{
    struct why_call *call = arg;
    return reclaim_explain(core, call->vm, &call->why);
}

static void drop_why(void *arg)
{
    free(((struct why_call *)arg)->why);
}

int core_why_take(struct core *core, const char *vm, struct core_why **ret_why)
{
    struct why_call call = {0};

    snprintf(call.vm, sizeof call.vm, "%s", vm);
    int err = calls_ask(&core->calls, do_why, &call, sizeof call, drop_why);
    if (!err)
        *ret_why = call.why;
    return err;
}

/* The names are copied: the caller may have given up waiting when the loop gets to it. */
struct estimate_call {
    size_t nvms;
    char (*names)[CORE_NAME_BYTES];
    uint64_t id;
};

static int do_estimate(struct core *core, void *arg)
{
    struct estimate_call *call = arg;
    const char *vms[CORE_VMS_MAX];

    for (size_t i = 0; i < call->nvms; i++)
        vms[i] = call->names[i];
    int err = jobs_start_estimate(core, call->nvms, vms, &call->id);
    free(call->names);
    call->names = NULL;
    return err;
}

int core_estimate_start(struct core *core, size_t nvms, const char *const *vms, uint64_t *ret_job)
{
    struct estimate_call call = {.nvms = nvms};

    if (nvms > CORE_VMS_MAX)
        return -E2BIG;
    call.names = calloc(nvms + 1, sizeof *call.names);
    if (!call.names)
        return -ENOMEM;
    for (size_t i = 0; i < nvms; i++)
        snprintf(call.names[i], sizeof call.names[i], "%s", vms[i]);
    int err = calls_ask(&core->calls, do_estimate, &call, sizeof call, NULL);
    if (err != -ETIMEDOUT)
        free(call.names); /* NULL if the loop got to it */
    if (!err)
        *ret_job = call.id;
    return err;
}

struct poll_call {
    uint64_t id;
    struct core_job job;
};

static int do_poll(struct core *core, void *arg)
{
    struct poll_call *call = arg;
    return jobs_poll(core, call->id, &call->job);
}

int core_job_poll(struct core *core, uint64_t job, struct core_job *ret_job)
{
    struct poll_call call = {.id = job};
    int err = calls_ask(&core->calls, do_poll, &call, sizeof call, NULL);

    if (!err)
        *ret_job = call.job;
    return err;
}

static int do_cancel(struct core *core, void *arg)
{
    return jobs_cancel(core, *(uint64_t *)arg);
}

int core_job_cancel(struct core *core, uint64_t job)
{
    return calls_ask(&core->calls, do_cancel, &job, sizeof job, NULL);
}

unsigned core_jobs_ended(struct core *core)
{
    return jobs_ended(&core->jobs);
}

void core_jobs_wait(struct core *core, unsigned ended, unsigned ms)
{
    jobs_wait(&core->jobs, ended, ms);
}
