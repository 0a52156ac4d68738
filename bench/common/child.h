/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * child: a process that does what it is ordered over a socket and answers each order. It ends with the
 * benchmark. Orders and answers are structures of the caller's; what fails ends the program.
 */
#ifndef BENCH_COMMON_CHILD_H
#define BENCH_COMMON_CHILD_H

#include "bench/common/bench.h"

#include <sys/types.h>

struct child {
    pid_t pid;
    int socket;
    unsigned number; /* for messages */
};

/* Fork; the child runs `serve` with its end of the socket, and must not return from it. */
void child_start(struct child *child, unsigned number, void (*serve)(const void *config, int socket),
                 const void *config);
void child_send(const struct child *child, const void *order, size_t bytes);
void child_receive(const struct child *child, void *ret_answer, size_t bytes);
/* After an order to end. */
void child_wait(struct child *child);

#endif
