/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cleanup: nothing stays behind. A process of its own, the guardian, waits on a pipe for the benchmark's end,
 * whatever that is - exit, Ctrl-C, SIGKILL - then puts KSM's settings back and removes the directories. The
 * benchmark waits for it where it can.
 */
#ifndef BENCH_COMMON_CLEANUP_H
#define BENCH_COMMON_CLEANUP_H

#include <sys/types.h>

#define CLEANUP_DIRS 2

/* Start the guardian. It calls restore(), then removes `dir` with all that is in it. Before any other child.
 */
void cleanup_start(void (*restore)(void), const char *const dir[CLEANUP_DIRS]);
/* A child, to be killed at the end; and one that has been waited for. */
void cleanup_add(pid_t pid);
void cleanup_remove(pid_t pid);
/* In a child, first thing: the benchmark's end is the child's, and only the benchmark cleans up. */
void cleanup_child(void);

#endif
