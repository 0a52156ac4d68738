/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fake_balloons: balloon-driver/backends/balloons.h without VMMs, for the tests of its users. "alpha" has a
 * balloon that gets to its target in fake.balloon_steps looks; nobody listens for "beta". Guarded by the fake
 * core's lock.
 */
#include "balloon-driver/backends/balloons.h"
#include "tests/ctl/fake_core.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define RAM (1024 * MIB)

struct balloons {
    int unused;
};

static struct balloons the_balloons;

struct balloons *fake_balloons(void)
{
    return &the_balloons;
}

int balloon_fail(struct balloon_error *error, int negative_errno, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error->reason, sizeof error->reason, format, args);
    va_end(args);
    error->error = -negative_errno;
    return negative_errno;
}

int balloons_next(struct balloons *b, size_t *cursor)
{
    (void)b;
    return *cursor < 2 ? (int)(*cursor)++ : -ENOENT;
}

int balloons_find(struct balloons *b, const char *vm)
{
    (void)b;
    return !strcmp(vm, "alpha") ? 0 : !strcmp(vm, "beta") ? 1 : -ENOENT;
}

/* One step nearer to the target; under the lock. */
static void step(void)
{
    uint64_t target = fake.balloon_target ? fake.balloon_target : RAM;

    if (fake.balloon_steps == 1)
        fake.balloon_actual = target;
    else if (fake.balloon_steps > 1)
        fake.balloon_actual =
            (uint64_t)((int64_t)fake.balloon_actual +
                       ((int64_t)target - (int64_t)fake.balloon_actual) / (int64_t)fake.balloon_steps);
    if (fake.balloon_steps > 1)
        fake.balloon_steps--;
}

int balloons_view(struct balloons *b, int i, struct balloons_view *ret_view)
{
    (void)b;
    *ret_view = (struct balloons_view){.backend = "qmp",
                                       .backend_can = (1u << 7) - 1,
                                       .age_ms = BALLOONS_NEVER,
                                       .stats_age_ms = BALLOONS_NEVER};
    for (unsigned t = 0; t < MEMD_BALLOON_TAGS; t++)
        ret_view->facts.stats[t] = MEMD_BALLOON_NO_STAT;
    snprintf(ret_view->vm, sizeof ret_view->vm, "%s", i ? "beta" : "alpha");
    snprintf(ret_view->address, sizeof ret_view->address, "qmp:/run/%s.qmp", ret_view->vm);
    if (i) {
        ret_view->note = "off";
        ret_view->state = BALLOONS_GONE;
        snprintf(ret_view->reason, sizeof ret_view->reason, "nobody listens at /run/beta.qmp");
        return 0;
    }
    fake_core_lock();
    fake.polls++;
    step();
    ret_view->state = fake.balloon_state ? (enum balloons_state)fake.balloon_state : BALLOONS_READY;
    if (fake.balloon_state)
        snprintf(ret_view->reason, sizeof ret_view->reason, "the guest has no balloon driver bound");
    ret_view->facts.can = BALLOON_CAN_TARGET | BALLOON_CAN_STATS | BALLOON_CAN_EVENTS | BALLOON_CAN_DRIVER |
                          (fake.balloon_mute ? 0 : BALLOON_CAN_ACTUAL);
    ret_view->facts.ram_bytes = RAM;
    ret_view->facts.actual_bytes = fake.balloon_mute ? 0 : fake.balloon_actual;
    ret_view->facts.target_bytes = fake.balloon_target;
    ret_view->facts.events = 5;
    ret_view->facts.stats_serial = 7;
    ret_view->facts.stats[MEMD_BALLOON_FREE_BYTES] = 300 * MIB;
    ret_view->facts.stats[MEMD_BALLOON_TOTAL_BYTES] = 980 * MIB;
    ret_view->facts.stats[MEMD_BALLOON_MAJOR_FAULTS] = 42;
    ret_view->age_ms = 120;
    ret_view->stats_age_ms = 1500;
    ret_view->min_bytes = fake.balloon_min;
    ret_view->max_bytes = fake.balloon_max;
    ret_view->floor_bytes = fake.balloon_min ? fake.balloon_min : balloons_floor(RAM);
    ret_view->connects = ret_view->sets = 1;
    ret_view->is_auto = fake.balloon_auto;
    ret_view->note = fake.balloon_auto ? "spare" : "off";
    fake_core_unlock();
    return 0;
}

int balloons_set(struct balloons *b, int i, uint64_t bytes, struct balloon_error *error)
{
    int result = 0;

    (void)b;
    if (i)
        return balloon_fail(error, -ENOTCONN, "nobody listens at /run/beta.qmp");
    fake_core_lock();
    if (fake.balloon_error)
        result = balloon_fail(error, -fake.balloon_error, "the VMM refuses");
    else if (bytes < balloons_floor(RAM))
        result = balloon_fail(error, -ERANGE, "that is below the floor");
    else if (bytes > RAM)
        result = balloon_fail(error, -ERANGE, "that is more than the RAM of the VM");
    else
        fake.balloon_target = bytes;
    fake_core_unlock();
    return result;
}

int core_balloon_limits_set(struct core *core, const char *vm, const uint64_t *min_bytes,
                            const uint64_t *max_bytes, char ret_reason[CORE_REASON_BYTES])
{
    (void)core, (void)vm;
    if (min_bytes && *min_bytes > RAM) {
        snprintf(ret_reason, CORE_REASON_BYTES, "that is above the RAM of the VM");
        return -ERANGE;
    }
    fake_core_lock();
    if (min_bytes)
        fake.balloon_min = *min_bytes;
    if (max_bytes)
        fake.balloon_max = *max_bytes;
    fake_core_unlock();
    return 0;
}
