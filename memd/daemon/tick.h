/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tick: what the core does every CORE_TICK_MS. */
#ifndef MEMD_DAEMON_TICK_H
#define MEMD_DAEMON_TICK_H

#include <stdint.h>

struct core;

void core_tick(struct core *core, uint64_t now_ns);

#endif
