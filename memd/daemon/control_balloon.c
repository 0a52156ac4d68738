/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control_balloon: the requests of the control API about balloons, and their documents. See control_api.h;
 * docs/api.md describes every key.
 *
 * They go to the balloons' own threads and not through the core: a balloon needs no session of its VM. A
 * request to move one blocks until the VMM has taken note, for a bounded time (balloons_set()).
 */
#include "memd/daemon/control_api.h"

#include "balloon-driver/backends/balloons.h"
#include "memd/daemon/control_json.h"
#include "memd/daemon/core.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- documents */

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

static json_t *number(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

/* null: not known */
static json_t *number_unless(uint64_t value, uint64_t none)
{
    return value == none ? json_null() : number(value);
}

static json_t *abilities(unsigned can)
{
    json_t *list = json_array();

    for (unsigned bit = 0; balloons_can_name(bit); bit++)
        if (can >> bit & 1 && json_array_append_new(list, json_string(balloons_can_name(bit)))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *stats(const struct balloons_view *view)
{
    static const char *const names[MEMD_BALLOON_TAGS] = {
        [MEMD_BALLOON_SWAP_IN_BYTES] = "swap_in_bytes",
        [MEMD_BALLOON_SWAP_OUT_BYTES] = "swap_out_bytes",
        [MEMD_BALLOON_MAJOR_FAULTS] = "major_faults",
        [MEMD_BALLOON_MINOR_FAULTS] = "minor_faults",
        [MEMD_BALLOON_FREE_BYTES] = "free_bytes",
        [MEMD_BALLOON_TOTAL_BYTES] = "total_bytes",
        [MEMD_BALLOON_AVAILABLE_BYTES] = "available_bytes",
        [MEMD_BALLOON_CACHES_BYTES] = "caches_bytes",
        [MEMD_BALLOON_HUGETLB_ALLOCS] = "hugetlb_allocs",
        [MEMD_BALLOON_HUGETLB_FAILS] = "hugetlb_fails",
        [MEMD_BALLOON_OOM_KILLS] = "oom_kills",
        [MEMD_BALLOON_ALLOC_STALLS] = "alloc_stalls",
        [MEMD_BALLOON_ASYNC_SCAN_BYTES] = "async_scan_bytes",
        [MEMD_BALLOON_DIRECT_SCAN_BYTES] = "direct_scan_bytes",
        [MEMD_BALLOON_ASYNC_RECLAIM_BYTES] = "async_reclaim_bytes",
        [MEMD_BALLOON_DIRECT_RECLAIM_BYTES] = "direct_reclaim_bytes",
    };
    json_t *object = json_object();

    put(&object, "age_ms", number_unless(view->stats_age_ms, BALLOONS_NEVER));
    for (unsigned i = 0; i < MEMD_BALLOON_TAGS; i++)
        put(&object, names[i], number_unless(view->facts.stats[i], MEMD_BALLOON_NO_STAT));
    return object;
}

static json_t *document(const struct balloons_view *view)
{
    const struct balloon_facts *facts = &view->facts;
    json_t *object = json_object();

    put(&object, "vm", json_string(view->vm));
    put(&object, "backend", json_string(view->backend));
    put(&object, "address", json_string(view->address));
    put(&object, "state", json_string(balloons_state_name(view->state)));
    put(&object, "reason", json_string(view->reason));
    put(&object, "can", abilities(facts->can));
    put(&object, "backend_can", abilities(view->backend_can));
    put(&object, "ram_bytes", number_unless(facts->ram_bytes, 0));
    put(&object, "actual_bytes", number_unless(facts->actual_bytes, 0));
    put(&object, "target_bytes", number_unless(facts->target_bytes, 0));
    put(&object, "floor_bytes", number_unless(view->floor_bytes, 0));
    put(&object, "min_bytes", number(view->min_bytes));
    put(&object, "max_bytes", number(view->max_bytes));
    put(&object, "auto", json_boolean(view->is_auto));
    put(&object, "auto_rule", json_string(view->note));
    put(&object, "age_ms", number_unless(view->age_ms, BALLOONS_NEVER));
    put(&object, "connects", number(view->connects));
    put(&object, "failures", number(view->failures));
    put(&object, "sets", number(view->sets));
    put(&object, "events", number(facts->events));
    put(&object, "stats", stats(view));
    return object;
}

/* ---------------------------------------------------------------- requests */

static void reply_view(struct control_request *request, struct control_reply *reply, int balloon)
{
    struct balloons_view view;

    if (balloons_view(request->balloons, balloon, &view)) {
        control_api_error(reply, ENOENT, "the VM is gone, and its balloon with it");
        return;
    }
    reply->status = MHD_HTTP_OK;
    reply->json = document(&view);
}

void control_get_balloons(struct control_request *request, struct control_reply *reply)
{
    json_t *list = json_array(), *object = json_object();
    struct balloons_view view;
    size_t cursor = 0;
    int balloon;

    while (list && (balloon = balloons_next(request->balloons, &cursor)) >= 0) {
        if (balloons_view(request->balloons, balloon, &view))
            continue;
        if (json_array_append_new(list, document(&view))) {
            json_decref(list);
            list = NULL;
        }
    }
    put(&object, "balloons", list);
    reply->status = MHD_HTTP_OK;
    reply->json = object;
}

/* -1: replied. */
static int find(struct control_request *request, struct control_reply *reply)
{
    char text[256];
    int i = balloons_find(request->balloons, request->arg);

    if (i >= 0)
        return i;
    snprintf(text, sizeof text,
             "no balloon is known of a VM '%.64s': it embeds none, and memd.conf(5) names none",
             request->arg);
    control_api_error(reply, ENOENT, text);
    return -1;
}

void control_get_balloon(struct control_request *request, struct control_reply *reply)
{
    int i = find(request, reply);

    if (i >= 0)
        reply_view(request, reply, i);
}

/* A size of a body; NULL: it is not there. false: replied. */
static bool size_of(struct control_request *request, struct control_reply *reply, const char *key,
                    uint64_t *value, const uint64_t **ret_value)
{
    const json_t *json = json_object_get(request->json, key);
    char text[128];

    *ret_value = NULL;
    if (!json)
        return true;
    if (!json_is_integer(json) || json_integer_value(json) < 0) {
        snprintf(text, sizeof text, "%s is a number of bytes", key);
        control_api_error(reply, EINVAL, text);
        return false;
    }
    *value = (uint64_t)json_integer_value(json);
    *ret_value = value;
    return true;
}

/* Limits first: they may make room for the target. */
/* Whether the policy moves it, or all of them. */
static void post_auto(struct control_request *request, struct control_reply *reply, const char *vm)
{
    const json_t *on = json_object_get(request->json, "auto");
    int result;

    if (!json_is_boolean(on) || json_object_size(request->json) != 1) {
        control_api_error(reply, EINVAL, "expected {\"auto\": true|false}, with nothing else");
        return;
    }
    result = core_balloon_auto_set(request->core, vm, json_is_true(on));
    if (result)
        control_api_error(reply, -result, result == -ENOENT ? "no such balloon" : strerror(-result));
}

void control_post_balloons(struct control_request *request, struct control_reply *reply)
{
    post_auto(request, reply, NULL);
    if (!reply->json)
        control_get_balloons(request, reply);
}

void control_post_balloon(struct control_request *request, struct control_reply *reply)
{
    static const char expected[] =
        "expected target_bytes, min_bytes, max_bytes (numbers), as many as are to change, or auto alone";
    const uint64_t *target, *min, *max;
    struct balloon_error error = {0};
    uint64_t values[3];
    int result = 0, i = find(request, reply);

    if (i < 0)
        return;
    if (json_object_get(request->json, "auto")) {
        post_auto(request, reply, request->arg);
        if (!reply->json)
            reply_view(request, reply, i);
        return;
    }
    if (json_unpack(request->json, "{s?o, s?o, s?o !}", "target_bytes", &(json_t *){0}, "min_bytes",
                    &(json_t *){0}, "max_bytes", &(json_t *){0}) ||
        !json_object_size(request->json)) {
        control_api_error(reply, EINVAL, expected);
        return;
    }
    if (!size_of(request, reply, "target_bytes", &values[0], &target) ||
        !size_of(request, reply, "min_bytes", &values[1], &min) ||
        !size_of(request, reply, "max_bytes", &values[2], &max))
        return;
    if (min || max)
        result = core_balloon_limits_set(request->core, request->arg, min, max, error.reason);
    if (!result && target)
        result = balloons_set(request->balloons, i, *target, &error);
    if (result)
        control_api_error(reply, -result, error.reason);
    else
        reply_view(request, reply, i);
}
