/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control_json: documents of the control API.
 *
 * Numbers are integers in the units their names end in. JSON readers keep integers exactly only up to 2^53
 * (jq) or 2^63 (jansson): counters stay below both, and the incarnation, a random 64-bit word, is a string.
 * jansson passes a failed allocation on as NULL: put() notices it, and the whole document becomes NULL.
 */
#include "memd/daemon/control_json.h"

#include "memd/daemon/metrics.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A document being built: NULL as soon as anything failed. */
static void put(json_t **object, const char *key, json_t *value)
{
    if (!*object)
        json_decref(value);
    else if (json_object_set_new(*object, key, value)) {
        json_decref(*object);
        *object = NULL;
    }
}

static void append(json_t **array, json_t *value)
{
    if (!*array)
        json_decref(value);
    else if (json_array_append_new(*array, value)) {
        json_decref(*array);
        *array = NULL;
    }
}

static json_t *number(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

/* Text that is not UTF-8 has no place in JSON. */
static json_t *string(const char *text)
{
    json_t *value = json_string(text);
    return value ? value : json_string("?");
}

static json_t *ineligible(const struct core_counters *counters)
{
    json_t *object = json_object();

    for (int i = 0; i < MEMD_INELIGIBLE_COUNT; i++)
        put(&object, metrics_ineligible_names[i], number(counters->ineligible_bytes[i]));
    return object;
}

static void put_counters(json_t **object, const struct core_counters *counters)
{
    for (size_t i = 0; i < metrics_ncounters; i++) {
        const struct metrics_counter *counter = &metrics_counters[i];
        uint64_t value;
        memcpy(&value, (const char *)counters + counter->offset, sizeof value);
        put(object, counter->name,
            counter->kind == METRICS_GAUGE_BOTH ? json_integer((int64_t)value) : number(value));
    }
    put(object, "ineligible_bytes", ineligible(counters));
}

static json_t *working_set(const struct core_working_set *ws)
{
    json_t *object = json_object(), *idle = json_array();

    put(&object, "periods", number(ws->periods));
    put(&object, "period_ms", number(ws->period_ms));
    put(&object, "bytes", number(ws->bytes));
    put(&object, "error_bytes", number(ws->error_bytes));
    put(&object, "samplable_bytes", number(ws->samplable_bytes));
    put(&object, "unsampled_bytes", number(ws->unsampled_bytes));
    put(&object, "merged_bytes", number(ws->merged_bytes));
    put(&object, "written_bytes", number(ws->written_bytes));
    for (unsigned i = 0; i < ws->nidle; i++) {
        json_t *age = json_object();
        put(&age, "idle_ms", number(ws->idle_ms[i]));
        put(&age, "idle_bytes", number(ws->idle_bytes[i]));
        append(&idle, age);
    }
    put(&object, "idle", idle);
    return object;
}

/* Buckets up to the last that has anything in it. */
static json_t *latency(const struct core_latency *l)
{
    json_t *object = json_object(), *buckets = json_array();
    unsigned n = WIRE_LATENCY_BUCKETS;

    while (n && !l->buckets[n - 1])
        n--;
    for (unsigned i = 0; i < n; i++)
        append(&buckets, number(l->buckets[i]));
    put(&object, "count", number(l->count));
    put(&object, "sum_ns", number(l->sum_ns));
    put(&object, "p50_ns", number(l->p50_ns));
    put(&object, "p99_ns", number(l->p99_ns));
    put(&object, "buckets", buckets);
    return object;
}

static json_t *latencies(const struct core_vm *vm)
{
    json_t *object = json_object();

    for (unsigned t = 0; t < WIRE_TIERS; t++)
        put(&object, metrics_tier_names[t], latency(&vm->latency[t]));
    return object;
}

static void put_terms(json_t **object, const struct budget_terms *terms)
{
    put(object, "reservation_bytes", number(terms->reservation_bytes));
    put(object, "limit_bytes", number(terms->limit_bytes));
    put(object, "shares", number(terms->shares <= BUDGET_SHARES_MAX ? terms->shares : 0));
    put(object, "weight_class", json_string(budget_class_name(terms->shares)));
    put(object, "swap", json_string(terms->swap_never ? "never" : "allowed"));
    put(object, "swap_writes_bytes", number(terms->writes_bytes));
}

bool control_json_shares(const json_t *value, uint32_t *ret_shares)
{
    json_int_t number = json_integer_value(value);

    if (json_is_string(value))
        return budget_class_shares(json_string_value(value), ret_shares);
    *ret_shares = (uint32_t)number;
    return json_is_integer(value) && number >= 0 && number <= BUDGET_SHARES_MAX;
}

/* What a VM has, and what it may have. */
static void put_account(json_t **object, const struct core_vm *vm)
{
    put(object, "resident_bytes", number(vm->resident_bytes));
    put(object, "target_bytes", number(vm->target_bytes));
    put_terms(object, &vm->terms);
    put(object, "swap_writes_left_bytes", number(vm->writes_left_bytes));
}

static void put_memory(json_t **object, const struct core_memory *memory)
{
    put(object, "memory_state", json_string(budget_state_name(memory->state)));
    put(object, "budget_bytes", number(memory->budget_bytes));
    put(object, "used_bytes", number(memory->used_bytes));
    put(object, "headroom_bytes", number(memory->headroom_bytes));
}

json_t *control_json_terms(const char *vm, const struct budget_terms *terms)
{
    json_t *object = json_object();

    put(&object, "vm", string(vm));
    put_terms(&object, terms);
    return object;
}

json_t *control_json_vm(const struct core_vm *vm)
{
    json_t *object = json_object();

    put(&object, "id", number(vm->id));
    put(&object, "name", string(vm->name));
    put(&object, "pid", json_integer(vm->pid));
    put(&object, "domain", string(vm->domain));
    put(&object, "state", string(vm->state));
    put(&object, "release", string(vm->release));
    put(&object, "merge", json_boolean(vm->merge_on));
    put(&object, "settled", json_boolean(vm->settled));
    put_account(&object, vm);
    put_counters(&object, &vm->c);
    put(&object, "working_set", working_set(&vm->ws));
    put(&object, "fault_latency", latencies(vm));
    return object;
}

static json_t *vm_list(const struct core_snapshot *snapshot)
{
    json_t *array = json_array();

    for (size_t i = 0; i < snapshot->nvms; i++)
        append(&array, control_json_vm(&snapshot->vms[i]));
    return array;
}

json_t *control_json_vms(const struct core_snapshot *snapshot)
{
    json_t *object = json_object();

    put(&object, "vms", vm_list(snapshot));
    return object;
}

static json_t *daemon_object(const struct core_snapshot *snapshot)
{
    json_t *object = json_object();
    char incarnation[20];

    snprintf(incarnation, sizeof incarnation, "%016" PRIx64, snapshot->incarnation);
    put(&object, "pid", json_integer(snapshot->pid));
    put(&object, "version", string(snapshot->version));
    put(&object, "run_dir", string(snapshot->run_dir));
    put(&object, "uptime_ms", number(snapshot->uptime_ms));
    put(&object, "incarnation", json_string(incarnation));
    put(&object, "restarts", number(snapshot->restarts));
    put(&object, "awaited_engines", number(snapshot->awaited_engines));
    put(&object, "merge", json_boolean(snapshot->merge_on));
    put(&object, "settled", json_boolean(snapshot->settled));
    put(&object, "metadata_bytes", number(snapshot->daemon_metadata_bytes));
    put(&object, "cpu_ns", number(snapshot->daemon_cpu_ns));
    return object;
}

static json_t *host_object(const struct core_snapshot *snapshot)
{
    json_t *object = json_object();

    put(&object, "mem_total_bytes", number(snapshot->mem_total_bytes));
    put(&object, "mem_available_bytes", number(snapshot->mem_available_bytes));
    return object;
}

static json_t *totals_object(const struct core_snapshot *snapshot)
{
    json_t *object = json_object();

    put(&object, "vms", number(snapshot->nvms));
    put(&object, "settled", json_boolean(snapshot->settled));
    put_counters(&object, &snapshot->totals);
    return object;
}

static json_t *domain_list(const struct core_snapshot *snapshot)
{
    json_t *array = json_array();

    for (size_t i = 0; i < snapshot->ndomains; i++) {
        const struct core_domain *domain = &snapshot->domains[i];
        json_t *object = json_object();
        put(&object, "name", string(domain->name));
        put(&object, "vms", number(domain->vms));
        put(&object, "frames", number(domain->frames));
        put(&object, "frame_bytes", number(domain->frame_bytes));
        put(&object, "store_bytes", number(domain->store_bytes));
        put(&object, "candidates", number(domain->candidates));
        put(&object, "index_bytes", number(domain->index_bytes));
        put_memory(&object, &domain->memory);
        append(&array, object);
    }
    return array;
}

/* The host's budget: of all that memd manages. */
static json_t *budget_object(const struct core_snapshot *snapshot)
{
    json_t *object = json_object();

    put_memory(&object, &snapshot->memory);
    put(&object, "alarm", json_boolean(snapshot->alarm));
    put(&object, "swap_writes_bytes", number(snapshot->writes_bytes));
    put(&object, "swap_writes_left_bytes", number(snapshot->writes_left_bytes));
    put(&object, "dry_run", json_boolean(snapshot->dry_run));
    return object;
}

json_t *control_json_budget(const struct core_snapshot *snapshot)
{
    json_t *object = budget_object(snapshot), *domains = json_array(), *vms = json_array();

    for (size_t i = 0; i < snapshot->ndomains; i++) {
        const struct core_domain *domain = &snapshot->domains[i];
        json_t *of = json_object();
        put(&of, "name", string(domain->name));
        put_memory(&of, &domain->memory);
        append(&domains, of);
    }
    for (size_t i = 0; i < snapshot->nvms; i++) {
        const struct core_vm *vm = &snapshot->vms[i];
        json_t *of = json_object();
        put(&of, "name", string(vm->name));
        put(&of, "domain", string(vm->domain));
        put(&of, "guest_bytes", number(vm->c.guest_bytes));
        put_account(&of, vm);
        put(&of, "refaults_per_s", json_real(vm->refaults_per_s));
        append(&vms, of);
    }
    put(&object, "domains", domains);
    put(&object, "vms", vms);
    return object;
}

json_t *control_json_status(const struct core_snapshot *snapshot)
{
    json_t *object = json_object();

    put(&object, "daemon", daemon_object(snapshot));
    put(&object, "host", host_object(snapshot));
    put(&object, "budget", budget_object(snapshot));
    put(&object, "totals", totals_object(snapshot));
    put(&object, "domains", domain_list(snapshot));
    put(&object, "vms", vm_list(snapshot));
    put(&object, "warning", string(snapshot->warning));
    put(&object, "warning_age_ms", number(snapshot->warning_age_ms));
    return object;
}

static const char *error_name(int error)
{
    static const struct {
        int error;
        const char *name;
    } names[] = {
        {EPERM, "EPERM"},         {ENOENT, "ENOENT"},       {EIO, "EIO"},
        {E2BIG, "E2BIG"},         {EAGAIN, "EAGAIN"},       {ENOMEM, "ENOMEM"},
        {EACCES, "EACCES"},       {EBUSY, "EBUSY"},         {EEXIST, "EEXIST"},
        {EINVAL, "EINVAL"},       {EMFILE, "EMFILE"},       {ENOSPC, "ENOSPC"},
        {ENOSYS, "ENOSYS"},       {ENOTSUP, "ENOTSUP"},     {ETIMEDOUT, "ETIMEDOUT"},
        {ECANCELED, "ECANCELED"}, {EMSGSIZE, "EMSGSIZE"},   {ESRCH, "ESRCH"},
        {ESHUTDOWN, "ESHUTDOWN"}, {EALREADY, "EALREADY"},   {ECONNRESET, "ECONNRESET"},
        {EPROTO, "EPROTO"},       {EOVERFLOW, "EOVERFLOW"}, {ERANGE, "ERANGE"},
        {ENODEV, "ENODEV"},       {ENXIO, "ENXIO"},         {ENOTCONN, "ENOTCONN"},
        {EDQUOT, "EDQUOT"},
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].error == error)
            return names[i].name;
    return "EIO";
}

json_t *control_json_error(int error, const char *text)
{
    json_t *object = json_object();
    char line[512];

    snprintf(line, sizeof line, "%s", text);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    put(&object, "error", json_string(line));
    put(&object, "code", json_string(error_name(error)));
    return object;
}

json_t *control_json_job(const struct core_job *job)
{
    static const char *const kinds[] = {
        [CORE_JOB_UNMERGE] = "unmerge", [CORE_JOB_SETTLE] = "settle", [CORE_JOB_ESTIMATE] = "estimate",
        [CORE_JOB_PAGEOUT] = "pageout", [CORE_JOB_PAGEIN] = "pagein", [CORE_JOB_RECLAIM] = "reclaim"};
    static const char *const states[] = {
        [CORE_JOB_RUNNING] = "running", [CORE_JOB_DONE] = "done", [CORE_JOB_FAILED] = "failed"};
    json_t *object = json_object();

    static_assert(sizeof kinds / sizeof kinds[0] == CORE_JOB_KINDS, "a name for each kind");
    static_assert(sizeof states / sizeof states[0] == CORE_JOB_FAILED + 1, "a name for each state");
    put(&object, "id", number(job->id));
    put(&object, "kind", json_string(kinds[job->kind]));
    put(&object, "state", json_string(states[job->state]));
    put(&object, "progress", json_real(job->progress));
    if (job->state == CORE_JOB_FAILED) {
        put(&object, "error", string(job->reason[0] ? job->reason : strerror(job->error)));
        put(&object, "code", json_string(error_name(job->error)));
    }
    if (job->kind == CORE_JOB_ESTIMATE && job->state == CORE_JOB_DONE) {
        int64_t saves = (int64_t)(job->zero_bytes + job->duplicate_bytes) - (int64_t)job->frame_bytes;
        put(&object, "guest_bytes", number(job->guest_bytes));
        put(&object, "zero_bytes", number(job->zero_bytes));
        put(&object, "duplicate_bytes", number(job->duplicate_bytes));
        put(&object, "frame_bytes", number(job->frame_bytes));
        put(&object, "would_save_bytes", json_integer(saves));
    }
    if ((job->kind == CORE_JOB_PAGEOUT || job->kind == CORE_JOB_PAGEIN) && job->state == CORE_JOB_DONE)
        put(&object, "paged_bytes", number(job->paged_bytes));
    if (job->kind == CORE_JOB_RECLAIM && job->state == CORE_JOB_DONE)
        put(&object, "reclaimed_bytes", number(job->paged_bytes));
    return object;
}
