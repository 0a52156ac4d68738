/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tick: what the core does every CORE_TICK_MS, or CORE_REST_TICK_MS while nothing goes on. */
#ifndef MEMD_DAEMON_TICK_H
#define MEMD_DAEMON_TICK_H

#include <stdbool.h>
#include <stdint.h>

struct core;

void core_tick(struct core *core, uint64_t now_ns);
bool core_rests(struct core *core, uint64_t now_ns); /* until something happens nothing is to be done soon */

#endif
