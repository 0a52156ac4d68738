/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* names: of states and abilities; and the floor, a pure function, too. See balloons.h. */
#include "balloon-driver/backends/balloons.h"

#include <assert.h>

#define MIB (UINT64_C(1) << 20)

const char *balloons_state_name(enum balloons_state state)
{
    static const char *const names[] = {
        [BALLOONS_CONNECTING] = "connecting", [BALLOONS_READY] = "ready", [BALLOONS_NO_DRIVER] = "no-driver",
        [BALLOONS_NO_DEVICE] = "no-device",   [BALLOONS_TAKEN] = "taken", [BALLOONS_GONE] = "gone",
        [BALLOONS_FAILED] = "failed"};

    static_assert(sizeof names / sizeof names[0] == BALLOONS_STATES, "a name for each state");
    return names[state];
}

const char *balloons_can_name(unsigned bit)
{
    static const char *const names[] = {"target",         "actual", "stats", "reporting",
                                        "deflate-on-oom", "events", "driver"};

    static_assert(BALLOON_CAN_DRIVER == 1 << (sizeof names / sizeof names[0] - 1), "a name for each bit");
    return bit < sizeof names / sizeof names[0] ? names[bit] : NULL;
}

uint64_t balloons_floor(uint64_t ram_bytes)
{
    if (ram_bytes < 128 * MIB)
        return 8 * MIB + ram_bytes / 2;
    if (ram_bytes < 512 * MIB)
        return 40 * MIB + ram_bytes / 4;
    if (ram_bytes < 2048 * MIB)
        return 104 * MIB + ram_bytes / 8;
    if (ram_bytes < 8192 * MIB)
        return 232 * MIB + ram_bytes / 16;
    return 488 * MIB + ram_bytes / 32;
}
