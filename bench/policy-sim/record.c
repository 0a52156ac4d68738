/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * record: what memctl says, once a second, as a trace (trace.c): `status` of VMs, `balloon list` and `agent
 * list` of their guests. A memd without these has neither.
 *
 * Who speaks for a guest is recorded as it could be, whether or not its balloon is moved.
 */
#include "bench/policy-sim/sim.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <time.h>

#define COMMAND_BYTES 4300

static uint64_t get(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));

    return value > 0 ? (uint64_t)value : 0;
}

/* What memctl has said in one second. */
struct answers {
    json_t *status, *balloons, *agents;
};

static const json_t *find(const json_t *answer, const char *list, const char *key, const json_t *name)
{
    const json_t *object;
    size_t i;

    json_array_foreach(json_object_get(answer, list), i, object)
    {
        if (json_equal(json_object_get(object, key), name))
            return object;
    }
    return NULL;
}

static bool says(const json_t *object, const char *key, const char *word)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value && !strcmp(value, word);
}

static bool can(const json_t *balloon, const char *what)
{
    const json_t *word;
    size_t i;

    json_array_foreach(json_object_get(balloon, "can"), i, word)
    {
        if (!strcmp(json_string_value(word), what))
            return true;
    }
    return false;
}

/* What is said of a guest besides: what it needs, who says so, the floor of its balloon. */
static void put_guest(FILE *out, const json_t *balloon, const json_t *agent, const char *engine)
{
    const json_t *memory = json_object_get(agent, "memory"), *stats = json_object_get(balloon, "stats");
    bool live = says(agent, "state", "live") && json_object_get(memory, "mem_available_bytes");
    bool ready = says(balloon, "state", "ready"),
         heard = json_is_integer(json_object_get(stats, "available_bytes"));
    uint64_t has = ready ? get(balloon, "actual_bytes") : get(memory, "mem_total_bytes");
    uint64_t available = live ? get(memory, "mem_available_bytes") : get(stats, "available_bytes");
    enum sim_speaks speaks = !ready                           ? SIM_BARE
                             : live                           ? SIM_AGENT
                             : !heard                         ? SIM_MUTE
                             : can(balloon, "deflate-on-oom") ? SIM_STATS
                                                              : SIM_RISKY;

    if (has > available && (live || (ready && heard)))
        fprintf(out, ",%" PRIu64, has - available);
    else
        fputs(",", out);
    fprintf(out, ",%s,%" PRIu64 ",%s\n", sim_speaks_name(speaks), ready ? get(balloon, "floor_bytes") : 0,
            engine);
}

static void put_vm(FILE *out, unsigned second, const json_t *vm, const struct answers *now)
{
    uint64_t guest = get(vm, "guest_bytes"), pool = get(vm, "pool_bytes"),
             resident = get(vm, "resident_bytes");
    uint64_t left = 4096 * (get(vm, "packed_pages") + get(vm, "swapped_pages"));
    uint64_t touched = (resident > pool ? resident - pool : 0) + left, used = get(vm, "working_set_bytes");
    const json_t *name = json_object_get(vm, "name");

    fprintf(out, "%u,%s,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%s", second,
            json_string_value(name), guest, touched < guest ? touched : guest, used ? used : resident,
            get(vm, "reservation_bytes"), get(vm, "limit_bytes"), get(vm, "shares"),
            json_string_value(json_object_get(vm, "swap")));
    put_guest(out, find(now->balloons, "balloons", "vm", name), find(now->agents, "agents", "vm", name),
              "yes");
}

/* A VM that takes part by its balloon alone: what its guest does not say to be available it uses. */
static void put_balloon(FILE *out, unsigned second, const json_t *balloon, const struct answers *now)
{
    const json_t *name = json_object_get(balloon, "vm"), *agent = find(now->agents, "agents", "vm", name);
    uint64_t ram = get(balloon, "ram_bytes"), has = get(balloon, "actual_bytes");
    uint64_t available = says(agent, "state", "live")
                             ? get(json_object_get(agent, "memory"), "mem_available_bytes")
                             : get(json_object_get(balloon, "stats"), "available_bytes");

    if (!ram || find(now->status, "vms", "name", name))
        return;
    fprintf(out, "%u,%s,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",0,0,0,never", second, json_string_value(name),
            ram, has, has > available ? has - available : 0);
    put_guest(out, balloon, agent, "no");
}

static bool is_in(const struct answers *answers, const json_t *name)
{
    return find(answers->status, "vms", "name", name) || find(answers->balloons, "balloons", "vm", name);
}

/* Those that were in the last answers and are not in these have ended. */
static void put_ended(FILE *out, unsigned second, const struct answers *before, const struct answers *now)
{
    const json_t *lists[] = {json_object_get(before->status, "vms"),
                             json_object_get(before->balloons, "balloons")};
    const json_t *vm;
    size_t i;

    for (int list = 0; list < 2; list++)
        json_array_foreach(lists[list], i, vm)
        {
            const json_t *name = json_object_get(vm, list ? "vm" : "name");
            bool told = list && find(before->status, "vms", "name", name);
            if (!told && !is_in(now, name))
                fprintf(out, "%u,%s,0,0,0,0,0,0,allowed,,none,0,yes\n", second, json_string_value(name));
        }
}

static json_t *ask(const char *memctl, const char *what)
{
    char command[COMMAND_BYTES];

    snprintf(command, sizeof command, "'%s' %s --json", memctl, what);
    FILE *in = popen(command, "re");
    json_t *answer = in ? json_loadf(in, JSON_DISABLE_EOF_CHECK, NULL) : NULL;

    if (in && pclose(in)) {
        json_decref(answer);
        answer = NULL;
    }
    return answer;
}

static void forget(struct answers *answers)
{
    json_decref(answers->status);
    json_decref(answers->balloons);
    json_decref(answers->agents);
}

static void put_all(FILE *out, unsigned second, const struct answers *before, const struct answers *now)
{
    const json_t *vms = json_object_get(now->status, "vms"), *vm;
    size_t i;

    json_array_foreach(vms, i, vm) put_vm(out, second, vm, now);
    json_array_foreach(json_object_get(now->balloons, "balloons"), i, vm) put_balloon(out, second, vm, now);
    put_ended(out, second, before, now);
    fflush(out);
}

int sim_record(const char *memctl, unsigned seconds, FILE *out)
{
    const struct timespec pause = {.tv_sec = 1};
    struct answers before = {0};

    fputs("# policy-sim trace 2\n"
          "second,vm,guest_bytes,touched_bytes,working_set_bytes,reservation_bytes,limit_bytes,shares,swap,"
          "needed_bytes,balloon,balloon_min_bytes,engine\n",
          out);
    for (unsigned second = 0; second < seconds; second++) {
        struct answers now = {ask(memctl, "status"), ask(memctl, "balloon list 2>/dev/null"),
                              ask(memctl, "agent list 2>/dev/null")};
        if (!now.status) {
            forget(&before);
            forget(&now);
            fprintf(stderr, "policy-sim: '%s' status --json does not answer\n", memctl);
            return 1;
        }
        put_all(out, second, &before, &now);
        forget(&before);
        before = now;
        if (second + 1 < seconds)
            nanosleep(&pause, NULL);
    }
    forget(&before);
    return 0;
}
