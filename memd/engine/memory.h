/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memory: what this process can still have of it; see memory.c. */
#ifndef MEMD_ENGINE_MEMORY_H
#define MEMD_ENGINE_MEMORY_H

#include <stdint.h>

/* Bytes. `proc` and `cgroups`: where these file systems are, /proc and /sys/fs/cgroup. */
uint64_t memory_available(const char *proc, const char *cgroups);
uint64_t mem_available_bytes(void); /* of this process, here */

#endif
