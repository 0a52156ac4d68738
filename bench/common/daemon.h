/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* daemon: memd, started for the run with its shipped defaults, unless daemon_configure() says otherwise; a
 * domain for all guests is opened. */
#ifndef BENCH_COMMON_DAEMON_H
#define BENCH_COMMON_DAEMON_H

#include "bench/common/bench.h"

#include <sys/types.h>

/* Make the directories: run_dir on /dev/shm (sockets, stores), work_dir in /tmp (configuration, state, log).
 */
void daemon_prepare(void);
const char *daemon_run_dir(void);
const char *daemon_work_dir(void);

/* Options for the next daemon_start(): lines of memd.conf's [memd], "" for none. */
void daemon_configure(const char *lines);

/* Start it and wait until it says it is ready. */
pid_t daemon_start(const struct bench *bench);
void daemon_stop(pid_t pid);

/* memctl, with these words; it must succeed. */
void daemon_control(const struct bench *bench, const char *words);
/* The same, beside the caller until it is waited for: at most one at a time. */
void daemon_control_begin(const struct bench *bench, const char *words);
void daemon_control_end(void);

/* What `memctl status --json` prints, in a static buffer, without the line's end. */
const char *daemon_status(const struct bench *bench);
/* A number of its totals. */
uint64_t daemon_total(const struct bench *bench, const char *key);

#endif
