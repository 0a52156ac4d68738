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
    put_counters(&object, &vm->c);
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
        append(&array, object);
    }
    return array;
}

json_t *control_json_status(const struct core_snapshot *snapshot)
{
    json_t *object = json_object();

    put(&object, "daemon", daemon_object(snapshot));
    put(&object, "host", host_object(snapshot));
    put(&object, "totals", totals_object(snapshot));
    put(&object, "domains", domain_list(snapshot));
    put(&object, "vms", vm_list(snapshot));
    put(&object, "warning", string(snapshot->warning));
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
        [CORE_JOB_UNMERGE] = "unmerge", [CORE_JOB_SETTLE] = "settle", [CORE_JOB_ESTIMATE] = "estimate"};
    static const char *const states[] = {
        [CORE_JOB_RUNNING] = "running", [CORE_JOB_DONE] = "done", [CORE_JOB_FAILED] = "failed"};
    json_t *object = json_object();

    static_assert(sizeof kinds / sizeof kinds[0] == CORE_JOB_ESTIMATE + 1, "a name for each kind");
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
    return object;
}
