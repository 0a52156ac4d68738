/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* spawn: child processes with pipes to their stdin and stdout, bounded waits. For the kit. */
#ifndef TESTS_KVM_SPAWN_H
#define TESTS_KVM_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct spawned {
    pid_t pid;
    int to;
    FILE *from;
};

/* Run `program` of the tree under test. It dies with us. Fails the test when it cannot be started. */
void spawn(const char *program, const char *const *args, struct spawned *ret_child);
/* The next line of its stdout, without the newline. False: the time is up, or there is no more. */
bool spawn_line(struct spawned *child, char *ret_line, size_t line_bytes, uint64_t timeout_ms);
/* Send the signal (0: none) and wait for the end; fails the test if that takes too long. Returns the status.
 */
int spawn_end(pid_t pid, int signal_number, uint64_t timeout_ms);
void spawn_kill(pid_t pid);

#endif
