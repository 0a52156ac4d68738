/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control_api: what each request of the control API does. See control_api.h.
 *
 * `routes` maps method and path to a handler; a handler checks its body with a jansson form that allows no
 * key too many, asks the core, and fills the reply. docs/api.md is the reference for both sides.
 */
#include "memd/daemon/control_api.h"

#include "memd/common/clock.h"
#include "memd/daemon/control.h"
#include "memd/daemon/control_json.h"
#include "memd/daemon/core.h"
#include "memd/daemon/metrics.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOB_LOOK_MS     100u  /* whether the daemon is to end, while a job is waited for */
#define RECLAIM_MS      60000 /* for a guest to reclaim, unless the client says */
#define PAGEOUT_PARK_MS 1000u /* for a page to be touched before it is packed */

static unsigned status_of_error(int error)
{
    switch (error) {
    case EINVAL:
    case E2BIG:
        return MHD_HTTP_BAD_REQUEST;
    case EPERM:
    case EACCES:
        return MHD_HTTP_FORBIDDEN;
    case ENOENT:
    case ESRCH:
        return MHD_HTTP_NOT_FOUND;
    case EMSGSIZE:
        return MHD_HTTP_CONTENT_TOO_LARGE;
    case EBUSY:
    case EEXIST:
    case EALREADY:
    case ERANGE:
    case ENODEV:
    case ENXIO:
    case ENOTSUP:
        return MHD_HTTP_CONFLICT;
    case EPROTO:
        return MHD_HTTP_BAD_GATEWAY;
    case ETIMEDOUT:
        return MHD_HTTP_GATEWAY_TIMEOUT;
    case EAGAIN:
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ESHUTDOWN:
    case ENOTCONN:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

/* `error` is a positive errno. */
__attribute__((format(printf, 3, 4))) static void reply_error(struct control_reply *reply, int error,
                                                              const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    reply->status = status_of_error(error);
    reply->json = control_json_error(error, text);
}

void control_api_error(struct control_reply *reply, int error, const char *text)
{
    reply_error(reply, error, "%s", text);
}

/* What the core refused; `vm` is what the client named, or NULL. */
static void reply_core_error(struct control_reply *reply, int result, const char *vm)
{
    int error = -result;

    if (error == ENOENT && vm)
        reply_error(reply, error, "no VM '%.64s' is connected", vm);
    else if (error == EBUSY)
        reply_error(reply, error, "other jobs or requests are in the way; try again when they have ended");
    else if (error == ESHUTDOWN)
        reply_error(reply, error, "memd is ending");
    else if (error == ETIMEDOUT)
        reply_error(reply, error, "the daemon did not answer within %d s; try again",
                    CORE_CALL_TIMEOUT_MS / 1000);
    else
        reply_error(reply, error, "%s", strerror(error));
}

static void reply_json(struct control_reply *reply, unsigned status, json_t *json)
{
    reply->status = status;
    reply->json = json;
}

static void reply_job(struct control_reply *reply, int result, uint64_t job, const char *vm)
{
    if (result)
        reply_core_error(reply, result, vm);
    else
        reply_json(reply, MHD_HTTP_ACCEPTED, json_pack("{s:I}", "job", (json_int_t)job));
}

/* ---------------------------------------------------------------- what is read */

static struct core_snapshot *snapshot_take(struct control_request *request, struct control_reply *reply)
{
    struct core_snapshot *snapshot;
    int result = core_snapshot_take(request->core, &snapshot);

    if (result) {
        reply_core_error(reply, result, NULL);
        return NULL;
    }
    return snapshot;
}

static void get_status(struct control_request *request, struct control_reply *reply)
{
    struct core_snapshot *snapshot = snapshot_take(request, reply);

    if (!snapshot)
        return;
    reply_json(reply, MHD_HTTP_OK, control_json_status(snapshot));
    core_snapshot_free(snapshot);
}

static void get_vms(struct control_request *request, struct control_reply *reply)
{
    struct core_snapshot *snapshot = snapshot_take(request, reply);

    if (!snapshot)
        return;
    reply_json(reply, MHD_HTTP_OK, control_json_vms(snapshot));
    core_snapshot_free(snapshot);
}

/* By name, else by id: a VM may be called "7". */
static const struct core_vm *vm_find(const struct core_snapshot *snapshot, const char *key)
{
    char id[16];

    for (size_t i = 0; i < snapshot->nvms; i++)
        if (!strcmp(snapshot->vms[i].name, key))
            return &snapshot->vms[i];
    for (size_t i = 0; i < snapshot->nvms; i++) {
        snprintf(id, sizeof id, "%u", snapshot->vms[i].id);
        if (!strcmp(id, key))
            return &snapshot->vms[i];
    }
    return NULL;
}

static void get_vm(struct control_request *request, struct control_reply *reply)
{
    struct core_snapshot *snapshot = snapshot_take(request, reply);

    if (!snapshot)
        return;
    const struct core_vm *vm = vm_find(snapshot, request->arg);
    if (vm)
        reply_json(reply, MHD_HTTP_OK, control_json_vm(vm));
    else
        reply_core_error(reply, -ENOENT, request->arg);
    core_snapshot_free(snapshot);
}

static void get_metrics(struct control_request *request, struct control_reply *reply)
{
    struct core_snapshot *snapshot = snapshot_take(request, reply);

    if (!snapshot)
        return;
    int result = metrics_format(snapshot, request->balloons, &reply->text, &reply->text_bytes);
    core_snapshot_free(snapshot);
    if (result)
        reply_core_error(reply, result, NULL);
    else
        reply->status = MHD_HTTP_OK;
}

static void get_agents(struct control_request *request, struct control_reply *reply)
{
    struct core_snapshot *snapshot = snapshot_take(request, reply);

    if (!snapshot)
        return;
    reply_json(reply, MHD_HTTP_OK, control_json_agents(snapshot));
    core_snapshot_free(snapshot);
}

static void get_budget(struct control_request *request, struct control_reply *reply)
{
    struct core_snapshot *snapshot = snapshot_take(request, reply);

    if (!snapshot)
        return;
    reply_json(reply, MHD_HTTP_OK, control_json_budget(snapshot));
    core_snapshot_free(snapshot);
}

static void get_why(struct control_request *request, struct control_reply *reply)
{
    struct core_why *why;

    if (strlen(request->arg) >= CORE_NAME_BYTES) {
        reply_core_error(reply, -ENOENT, request->arg);
        return;
    }
    int result = core_why_take(request->core, request->arg, &why);
    if (result) {
        reply_core_error(reply, result, request->arg);
        return;
    }
    reply_json(reply, MHD_HTTP_OK, control_json_why(why, clock_read_ns(CLOCK_REALTIME)));
    free(why);
}

/* ---------------------------------------------------------------- what is done */

/* A VM named in a body: bounded before the core sees it. */
static bool vm_name_ok(const char *vm, struct control_reply *reply)
{
    size_t length = strlen(vm);

    if (length && length < CORE_NAME_BYTES)
        return true;
    reply_error(reply, EINVAL, "a VM's name or id has 1 to %d bytes", CORE_NAME_BYTES - 1);
    return false;
}

/* The body did not have the form of json_unpack_ex(). */
static void reply_bad_body(struct control_reply *reply, const json_error_t *error, const char *expected)
{
    reply_error(reply, EINVAL, "%s; expected %s", error->text, expected);
}

static void post_merge(struct control_request *request, struct control_reply *reply)
{
    const char *vm = NULL;
    json_error_t error;
    int on;

    if (json_unpack_ex(request->json, &error, 0, "{s:b, s?s !}", "on", &on, "vm", &vm)) {
        reply_bad_body(reply, &error, "{\"on\": true|false, \"vm\": NAME (optional)}");
        return;
    }
    if (vm && !vm_name_ok(vm, reply))
        return;
    int result = core_merge_set(request->core, vm, on);
    if (result)
        reply_core_error(reply, result, vm);
    else
        reply_json(reply, MHD_HTTP_OK, json_pack("{s:b, s:s?}", "on", on, "vm", vm));
}

static void post_unmerge(struct control_request *request, struct control_reply *reply)
{
    const char *vm;
    json_error_t error;
    uint64_t job = 0;

    if (json_unpack_ex(request->json, &error, 0, "{s:s !}", "vm", &vm)) {
        reply_bad_body(reply, &error, "{\"vm\": NAME or \"all\"}");
        return;
    }
    if (!vm_name_ok(vm, reply))
        return;
    bool all = !strcmp(vm, "all");
    int result = core_unmerge_start(request->core, all ? NULL : vm, &job);
    reply_job(reply, result, job, all ? NULL : vm);
}

static void post_settle(struct control_request *request, struct control_reply *reply)
{
    json_error_t error;
    uint64_t job = 0;

    if (json_unpack_ex(request->json, &error, 0, "{!}")) {
        reply_bad_body(reply, &error, "{}");
        return;
    }
    int result = core_settle_start(request->core, &job);
    reply_job(reply, result, job, NULL);
}

/* {"vm": NAME, "bytes": N (optional)}; false: replied. */
static bool paging_body(struct control_request *request, struct control_reply *reply, const char **ret_vm,
                        json_int_t *ret_bytes)
{
    json_error_t error;

    *ret_bytes = -1;
    if (json_unpack_ex(request->json, &error, 0, "{s:s, s?I !}", "vm", ret_vm, "bytes", ret_bytes)) {
        reply_bad_body(reply, &error, "{\"vm\": NAME, \"bytes\": N (optional)}");
        return false;
    }
    if (*ret_bytes < -1 || !*ret_bytes || (*ret_bytes == -1 && json_object_get(request->json, "bytes"))) {
        reply_error(reply, EINVAL, "bytes is a number of bytes, at least one");
        return false;
    }
    return vm_name_ok(*ret_vm, reply);
}

static void post_pageout(struct control_request *request, struct control_reply *reply)
{
    json_int_t bytes;
    uint64_t job = 0;
    const char *vm;

    if (!paging_body(request, reply, &vm, &bytes))
        return;
    struct core_paging what = {.bytes = UINT64_MAX, .all = true, .swap = true, .merged = true}; /* all */
    if (bytes > 0)
        what = (struct core_paging){.bytes = ((uint64_t)bytes + 4095) & ~4095ull, .park_ms = PAGEOUT_PARK_MS};
    int result = core_pageout_start(request->core, vm, &what, &job);
    reply_job(reply, result, job, vm);
}

static void post_pagein(struct control_request *request, struct control_reply *reply)
{
    json_int_t bytes;
    uint64_t job = 0;
    const char *vm;

    if (!paging_body(request, reply, &vm, &bytes))
        return;
    uint64_t limit = bytes > 0 ? ((uint64_t)bytes + 4095) & ~4095ull : UINT64_MAX;
    int result = core_pagein_start(request->core, vm, limit, &job);
    reply_job(reply, result, job, vm);
}

static void post_reclaim(struct control_request *request, struct control_reply *reply)
{
    json_int_t bytes, timeout_ms = RECLAIM_MS;
    json_error_t error;
    uint64_t job = 0;
    const char *vm;

    if (json_unpack_ex(request->json, &error, 0, "{s:s, s:I, s?I !}", "vm", &vm, "bytes", &bytes,
                       "timeout_ms", &timeout_ms)) {
        reply_bad_body(reply, &error, "{\"vm\": NAME, \"bytes\": N, \"timeout_ms\": N (optional)}");
        return;
    }
    if (bytes < 1 || timeout_ms < 1 || timeout_ms > CORE_RECLAIM_MS_MAX) {
        reply_error(reply, EINVAL, "bytes is at least one, timeout_ms from 1 to %u", CORE_RECLAIM_MS_MAX);
        return;
    }
    if (!vm_name_ok(vm, reply))
        return;
    int result = core_reclaim_start(request->core, vm, (uint64_t)bytes, (uint32_t)timeout_ms, &job);
    if (result == -ENOENT)
        reply_error(reply, ENOENT, "no agent of a VM '%.64s' is known", vm);
    else if (result == -ENOTCONN)
        reply_error(reply, ENOTCONN, "the agent of VM '%.64s' is not heard", vm);
    else if (result == -ENOTSUP)
        reply_error(reply, ENOTSUP, "the agent of VM '%.64s' cannot reclaim in its guest", vm);
    else if (result == -ERANGE)
        reply_error(reply, ERANGE, "the guest has less memory than that");
    else
        reply_job(reply, result, job, vm);
}

static void post_dry_run(struct control_request *request, struct control_reply *reply)
{
    json_error_t error;
    int on;

    if (json_unpack_ex(request->json, &error, 0, "{s:b !}", "dry_run", &on)) {
        reply_bad_body(reply, &error, "{\"dry_run\": true|false}, with nothing else");
        return;
    }
    int result = core_dry_run_set(request->core, on);
    if (result)
        reply_core_error(reply, result, NULL);
    else
        reply_json(reply, MHD_HTTP_OK, json_pack("{s:b}", "dry_run", on));
}

static void post_budget(struct control_request *request, struct control_reply *reply)
{
    const char *domain = NULL;
    char reason[CORE_REASON_BYTES];
    json_int_t bytes;
    json_error_t error;

    if (json_object_get(request->json, "dry_run")) {
        post_dry_run(request, reply);
        return;
    }
    if (json_unpack_ex(request->json, &error, 0, "{s:I, s?s !}", "bytes", &bytes, "domain", &domain)) {
        reply_bad_body(reply, &error,
                       "{\"bytes\": N (0: none), \"domain\": NAME (optional)} or {\"dry_run\": true|false}");
        return;
    }
    if (bytes < 0 || (domain && (!*domain || strlen(domain) >= CORE_NAME_BYTES))) {
        reply_error(reply, EINVAL, "bytes is a number of bytes, 0 for no budget; a domain has a name");
        return;
    }
    int result = core_budget_set(request->core, domain, (uint64_t)bytes, reason);
    if (result == -ENOENT)
        reply_error(reply, ENOENT, "no domain '%.64s' is in memd's configuration", domain ? domain : "");
    else if (result == -ERANGE)
        reply_error(reply, ERANGE, "%s", reason);
    else if (result)
        reply_core_error(reply, result, NULL);
    else
        reply_json(reply, MHD_HTTP_OK, json_pack("{s:I, s:s?}", "bytes", bytes, "domain", domain));
}

/* The terms a body names; false: replied. */
static bool terms_body(struct control_request *request, struct control_reply *reply,
                       struct budget_terms *ret_terms, unsigned *ret_which)
{
    json_int_t reservation = 0, limit = 0, writes = 0;
    const json_t *shared = NULL;
    const char *swap = NULL;
    uint32_t shares = 0;
    json_error_t error;

    if (json_unpack_ex(request->json, &error, 0, "{s?I, s?I, s?o, s?s, s?I !}", "reservation_bytes",
                       &reservation, "limit_bytes", &limit, "shares", &shared, "swap", &swap,
                       "swap_writes_bytes", &writes)) {
        reply_bad_body(reply, &error,
                       "reservation_bytes, limit_bytes, swap_writes_bytes (numbers), shares (a number, low, "
                       "normal, high) and swap (never, allowed), as many as are to change");
        return false;
    }
    bool reserved = json_object_get(request->json, "reservation_bytes"),
         limited = json_object_get(request->json, "limit_bytes"),
         written = json_object_get(request->json, "swap_writes_bytes");
    if ((reserved && reservation < 0) || (limited && limit < 0) || (written && writes < 0) ||
        (shared && !control_json_shares(shared, &shares)) ||
        (swap && strcmp(swap, "never") && strcmp(swap, "allowed"))) {
        reply_error(reply, EINVAL,
                    "sizes are numbers of bytes, shares at most %u, \"low\", \"normal\" or \"high\", swap is "
                    "\"never\" or "
                    "\"allowed\"",
                    BUDGET_SHARES_MAX);
        return false;
    }
    *ret_which = (reserved ? CORE_TERM_RESERVATION : 0) | (limited ? CORE_TERM_LIMIT : 0) |
                 (shared ? CORE_TERM_SHARES : 0) | (swap ? CORE_TERM_SWAP : 0) |
                 (written ? CORE_TERM_WRITES : 0);
    *ret_terms = (struct budget_terms){.reservation_bytes = (uint64_t)reservation,
                                       .limit_bytes = (uint64_t)limit,
                                       .shares = shares,
                                       .swap_never = swap && !strcmp(swap, "never"),
                                       .writes_bytes = (uint64_t)writes};
    return true;
}

static void post_vm(struct control_request *request, struct control_reply *reply)
{
    char reason[CORE_REASON_BYTES];
    struct budget_terms terms;
    unsigned which;

    if (!vm_name_ok(request->arg, reply) || !terms_body(request, reply, &terms, &which))
        return;
    int result = core_vm_set(request->core, request->arg, which, &terms, &terms, reason);
    if (result == -ERANGE)
        reply_error(reply, ERANGE, "%s", reason);
    else if (result)
        reply_core_error(reply, result, request->arg);
    else
        reply_json(reply, MHD_HTTP_OK, control_json_terms(request->arg, &terms));
}

/* Which of these VMs is not connected; NULL if all of them are by now. */
static const char *first_absent(struct core *core, size_t n, const char *const *names)
{
    struct core_snapshot *snapshot;
    const char *absent = NULL;

    if (core_snapshot_take(core, &snapshot))
        return NULL;
    for (size_t i = 0; i < n && !absent; i++)
        if (!vm_find(snapshot, names[i]))
            absent = names[i];
    core_snapshot_free(snapshot);
    return absent;
}

static void post_estimate(struct control_request *request, struct control_reply *reply)
{
    const char *names[CORE_VMS_MAX];
    json_t *list = NULL;
    json_error_t error;
    uint64_t job = 0;
    size_t n = 0;

    if (json_unpack_ex(request->json, &error, 0, "{s?o !}", "vms", &list) || (list && !json_is_array(list))) {
        reply_error(reply, EINVAL, "expected {\"vms\": [NAME, ...]}, or {} for all");
        return;
    }
    if (list && json_array_size(list) > CORE_VMS_MAX) {
        reply_error(reply, E2BIG, "at most %d VMs", CORE_VMS_MAX);
        return;
    }
    for (; n < json_array_size(list); n++) {
        names[n] = json_string_value(json_array_get(list, n));
        if (!names[n]) {
            reply_error(reply, EINVAL, "expected a list of VM names (strings)");
            return;
        }
        if (!vm_name_ok(names[n], reply))
            return;
    }
    int result = core_estimate_start(request->core, n, names, &job);
    const char *absent = result == -ENOENT ? first_absent(request->core, n, names) : NULL;
    if (result == -ENOENT && !absent)
        reply_error(reply, ENOENT, "a VM in the list was not connected; try again");
    else
        reply_job(reply, result, job, absent);
}

/* ---------------------------------------------------------------- jobs */

/* A decimal number of at most `max`; nothing before or after it. */
static int parse_number(const char *text, uint64_t max, uint64_t *ret_value)
{
    char *end;

    if (!text || *text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || value > max)
        return -EINVAL;
    *ret_value = value;
    return 0;
}

static int parse_job(struct control_request *request, struct control_reply *reply, uint64_t *ret_job)
{
    int result = parse_number(request->arg, INT64_MAX, ret_job);

    if (result)
        reply_error(reply, EINVAL, "'%.64s' is no job number", request->arg);
    return result;
}

static void reply_no_job(struct control_reply *reply, int result, uint64_t job)
{
    if (result == -ENOENT)
        reply_error(reply, ENOENT, "no job %llu; the %d latest are remembered", (unsigned long long)job,
                    CORE_JOBS_MAX);
    else
        reply_core_error(reply, result, NULL);
}

/* With ?wait_ms=N: answers when the job has ended, or after N ms. */
static void get_job(struct control_request *request, struct control_reply *reply)
{
    uint64_t id, wait_ms = 0;
    struct core_job job;

    if (parse_job(request, reply, &id))
        return;
    if (request->wait_ms && parse_number(request->wait_ms, CONTROL_WAIT_MS_MAX, &wait_ms)) {
        reply_error(reply, EINVAL, "wait_ms is a number from 0 to %d", CONTROL_WAIT_MS_MAX);
        return;
    }
    for (uint64_t end_ns = clock_now_ns() + wait_ms * CLOCK_MS, now_ns;;) {
        unsigned ended = core_jobs_ended(request->core);
        int result = core_job_poll(request->core, id, &job);
        if (result) {
            reply_no_job(reply, result, id);
            return;
        }
        now_ns = clock_now_ns();
        if (job.state != CORE_JOB_RUNNING || now_ns >= end_ns || atomic_load(request->stopping))
            break;
        uint64_t left_ms = (end_ns - now_ns) / CLOCK_MS + 1;
        core_jobs_wait(request->core, ended, left_ms < JOB_LOOK_MS ? (unsigned)left_ms : JOB_LOOK_MS);
    }
    reply_json(reply, MHD_HTTP_OK, control_json_job(&job));
}

static void delete_job(struct control_request *request, struct control_reply *reply)
{
    uint64_t id;

    if (parse_job(request, reply, &id))
        return;
    int result = core_job_cancel(request->core, id);
    if (result)
        reply_no_job(reply, result, id);
    else
        reply_json(reply, MHD_HTTP_OK, json_pack("{s:I}", "job", (json_int_t)id));
}

/* ---------------------------------------------------------------- routes */

struct route {
    const char *method;
    const char *path; /* a '*' at its end stands for one path segment */
    bool body;        /* takes a JSON object; none stands for {} */
    void (*handle)(struct control_request *request, struct control_reply *reply);
};

static const struct route routes[] = {
    {"GET", "/v1/status", false, get_status},
    {"GET", "/v1/vms", false, get_vms},
    {"GET", "/v1/vms/*", false, get_vm},
    {"POST", "/v1/merge", true, post_merge},
    {"POST", "/v1/unmerge", true, post_unmerge},
    {"POST", "/v1/settle", true, post_settle},
    {"POST", "/v1/pageout", true, post_pageout},
    {"POST", "/v1/pagein", true, post_pagein},
    {"POST", "/v1/estimate", true, post_estimate},
    {"GET", "/v1/jobs/*", false, get_job},
    {"DELETE", "/v1/jobs/*", false, delete_job},
    {"GET", "/metrics", false, get_metrics},
    {"GET", "/v1/budget", false, get_budget},
    {"POST", "/v1/budget", true, post_budget},
    {"POST", "/v1/vms/*", true, post_vm},
    {"GET", "/v1/balloons", false, control_get_balloons},
    {"GET", "/v1/balloons/*", false, control_get_balloon},
    {"POST", "/v1/balloons", true, control_post_balloons},
    {"POST", "/v1/balloons/*", true, control_post_balloon},
    {"GET", "/v1/agents", false, get_agents},
    {"POST", "/v1/reclaim", true, post_reclaim},
    {"GET", "/v1/why/*", false, get_why},
};

/* Whether `url` is of the route; says what '*' stands for. */
static bool route_matches(const struct route *route, const char *url, const char **ret_arg)
{
    size_t fixed = strcspn(route->path, "*");

    if (!route->path[fixed])
        return !strcmp(url, route->path);
    if (strncmp(url, route->path, fixed) || !url[fixed] || strchr(url + fixed, '/'))
        return false;
    *ret_arg = url + fixed;
    return true;
}

/* The body as an object; false: replied. */
static bool body_parse(struct control_request *request, struct control_reply *reply)
{
    const char *text = request->body_bytes ? request->body : "{}";
    size_t bytes = request->body_bytes ? request->body_bytes : 2;
    json_error_t error;

    request->json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (json_is_object(request->json))
        return true;
    if (request->json)
        reply_error(reply, EINVAL, "the body is not a JSON object");
    else
        reply_error(reply, EINVAL, "the body is not JSON: %s at byte %d", error.text, error.position);
    return false;
}

void control_api_dispatch(struct control_request *request, const char *method, const char *url,
                          struct control_reply *reply)
{
    const char *allow = NULL;

    if (request->body_bytes > CONTROL_BODY_BYTES) {
        reply_error(reply, EMSGSIZE, "the body is longer than %u bytes", CONTROL_BODY_BYTES);
        return;
    }
    if (!strcmp(method, "HEAD"))
        method = "GET";
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (!route_matches(&routes[i], url, &request->arg))
            continue;
        if (!strcmp(routes[i].method, method)) {
            if (!routes[i].body || body_parse(request, reply))
                routes[i].handle(request, reply);
            return;
        }
        /* of two one is always GET, and named first */
        allow = !allow ? routes[i].method : !strcmp(routes[i].method, "POST") ? "GET, POST" : "GET, DELETE";
    }
    if (allow) {
        reply_error(reply, EINVAL, "%.16s is not possible here, but %s", method, allow);
        reply->status = MHD_HTTP_METHOD_NOT_ALLOWED;
        reply->allow = allow;
    } else {
        reply_error(reply, ENOENT, "no such path; the API starts at /v1/status");
    }
}
