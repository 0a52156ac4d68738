/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* join: a guest that is a process of the benchmark's own joins memd, or hands its memory to KSM. */
#ifndef BENCH_COMMON_JOIN_H
#define BENCH_COMMON_JOIN_H

#include "memd/memd.h"

#include <stddef.h>

#define JOIN_ANY_CPU (-1)

/* 0, and the engine is connected; -errno, and *ret_what says what failed. */
int join_memd(const char *name, const char *run_dir, int cpu, struct memd **ret_memd, const char **ret_what);
/* Without an engine: to KSM. The same. */
int join_enrol(struct memd *memd, void *ram, size_t bytes, const char **ret_what);

#endif
