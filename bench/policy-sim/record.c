/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* record: what `memctl status --json` says, once a second, as a trace (load.c). */
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

static void put_vm(FILE *out, unsigned second, const json_t *vm)
{
    uint64_t guest = get(vm, "guest_bytes"), pool = get(vm, "pool_bytes"),
             resident = get(vm, "resident_bytes");
    uint64_t left = 4096 * (get(vm, "packed_pages") + get(vm, "swapped_pages"));
    uint64_t touched = (resident > pool ? resident - pool : 0) + left, used = get(vm, "working_set_bytes");

    fprintf(out, "%u,%s,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%s\n", second,
            json_string_value(json_object_get(vm, "name")), guest, touched < guest ? touched : guest,
            used ? used : resident, get(vm, "reservation_bytes"), get(vm, "limit_bytes"), get(vm, "shares"),
            json_string_value(json_object_get(vm, "swap")));
}

/* Those that were in the last answer and are not in this one have ended. */
static void put_ended(FILE *out, unsigned second, const json_t *before, const json_t *now)
{
    const json_t *vm, *other;
    size_t i, j;

    json_array_foreach(before, i, vm)
    {
        bool there = false;
        json_array_foreach(now, j, other) there |=
            json_equal(json_object_get(vm, "name"), json_object_get(other, "name"));
        if (!there)
            fprintf(out, "%u,%s,0,0,0,0,0,0,allowed\n", second,
                    json_string_value(json_object_get(vm, "name")));
    }
}

static json_t *ask(const char *command)
{
    FILE *in = popen(command, "re");
    json_t *status = in ? json_loadf(in, JSON_DISABLE_EOF_CHECK, NULL) : NULL;

    if (in && pclose(in)) {
        json_decref(status);
        status = NULL;
    }
    return status;
}

int sim_record(const char *memctl, unsigned seconds, FILE *out)
{
    const struct timespec pause = {.tv_sec = 1};
    char command[COMMAND_BYTES];
    json_t *before = NULL;
    const json_t *vm;
    size_t i;

    snprintf(command, sizeof command, "'%s' status --json", memctl);
    fputs("second,vm,guest_bytes,touched_bytes,working_set_bytes,reservation_bytes,limit_bytes,shares,swap\n",
          out);
    for (unsigned second = 0; second < seconds; second++) {
        json_t *status = ask(command);
        if (!status) {
            json_decref(before);
            fprintf(stderr, "policy-sim: %s does not answer\n", command);
            return 1;
        }
        json_t *vms = json_object_get(status, "vms");
        json_array_foreach(vms, i, vm) put_vm(out, second, vm);
        put_ended(out, second, json_object_get(before, "vms"), vms);
        fflush(out);
        json_decref(before);
        before = status;
        if (second + 1 < seconds)
            nanosleep(&pause, NULL);
    }
    json_decref(before);
    return 0;
}
