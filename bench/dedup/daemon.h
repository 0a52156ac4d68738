/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* daemon: memd, started for the run with its shipped defaults; only a domain for all guests is opened. */
#ifndef BENCH_DEDUP_DAEMON_H
#define BENCH_DEDUP_DAEMON_H

#include "bench/dedup/bench.h"

#include <sys/types.h>

/* Make the directories: run_dir on /dev/shm (sockets, stores), work_dir in /tmp (configuration, state, log).
 */
void daemon_prepare(void);
const char *daemon_run_dir(void);
const char *daemon_work_dir(void);

/* Start it and wait until it says it is ready. */
pid_t daemon_start(const struct bench *bench);
void daemon_stop(pid_t pid);

/* What `memctl status --json` prints, in a static buffer, without the line's end. */
const char *daemon_status(const struct bench *bench);

#endif
