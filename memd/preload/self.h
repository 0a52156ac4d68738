/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* self: what this process is called, whom it asks, and where its messages go; see self.c. */
#ifndef MEMD_PRELOAD_SELF_H
#define MEMD_PRELOAD_SELF_H

#include "memd/memd.h"

#include <stdint.h>
#include <sys/types.h>

extern struct self {
    uint64_t all_anon; /* bytes; 0: not */
    pid_t run_pid;     /* the process that memd-run has become */
    char name[MEMD_NAME_MAX + 1], domain[MEMD_NAME_MAX + 1], run_dir[108];
    dev_t stderr_dev;
    ino_t stderr_ino;
} self;

void self_read(void); /* the environment; once */
void self_name(void); /* anew, in a child */
void self_dump(void); /* core dumps have merged pages, too */
void self_say(const char *what, const char *cure);
void self_log(void *ctx, enum memd_log_level level, const char *message);

#endif
