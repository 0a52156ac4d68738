/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Documents about agents in guests: see control_json.h. */
#include "memd/common/agent_codec.h"
#include "memd/daemon/control_json.h"
#include "memd/daemon/metrics.h"

/* NULL if anything failed: jansson's packing frees what it was given. */
static json_t *memory(const struct core_agent *agent)
{
    json_t *object = json_object();

    for (unsigned i = 0; object && i < AGENT_VALUES; i++) {
        json_int_t value = agent->value[i] > INT64_MAX ? INT64_MAX : (json_int_t)agent->value[i];
        if (agent->present >> i & 1 &&
            json_object_set_new(object, agent_values[i].name, json_integer(value))) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}

static json_t *consumers(const struct core_agent *agent)
{
    json_t *array = json_array();

    for (unsigned i = 0; array && i < agent->nconsumers; i++)
        if (json_array_append_new(array, json_pack("{s:s, s:I}", "name", agent->consumers[i].name, "bytes",
                                                   (json_int_t)agent->consumers[i].bytes))) {
            json_decref(array);
            array = NULL;
        }
    return array;
}

static json_t *agent_object(const struct core_agent *a)
{
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:I, s:o, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:o}", "vm",
        a->name, "path", a->path, "state", metrics_agent_states[a->state], "why", a->why, "release",
        a->release, "vm_connected", a->vm_connected, "can_reclaim", a->can_reclaim, "reclaims", a->reclaims,
        "age_ms", (json_int_t)a->age_ms, "memory", memory(a), "stall_some_percent", a->stall_some_percent,
        "stall_full_percent", a->stall_full_percent, "frames", (json_int_t)a->frames, "lost_frames",
        (json_int_t)a->lost_frames, "bad_frames", (json_int_t)a->bad_frames, "throttled",
        (json_int_t)a->throttled, "clamped", (json_int_t)a->clamped, "consumers", consumers(a));
}

json_t *control_json_agents(const struct core_snapshot *snapshot)
{
    json_t *array = json_array();

    for (size_t i = 0; array && i < snapshot->nagents; i++)
        if (json_array_append_new(array, agent_object(&snapshot->agents[i]))) {
            json_decref(array);
            array = NULL;
        }
    return array ? json_pack("{s:o}", "agents", array) : NULL;
}
