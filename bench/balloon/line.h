/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * line: talk with a QEMU over unix sockets, a line each way: with its monitor (QMP), and with the agent of
 * the QEMU tests in its guest. What fails ends the program.
 */
#ifndef BENCH_BALLOON_LINE_H
#define BENCH_BALLOON_LINE_H

#include "bench/common/bench.h"

#define LINE_BYTES 8192u

struct line {
    int fd;
    unsigned asked; /* commands of the guest so far: their ids */
    size_t filled;
    char bytes[LINE_BYTES], text[LINE_BYTES];
};

void line_open(struct line *line, const char *path);
void line_close(struct line *line);

/* The guest: begin a command, then look whether it is done; what it printed last is in ret_answer. */
void line_order(struct line *line, const char *words);
bool line_done(struct line *line, unsigned wait_ms, char ret_answer[LINE_BYTES]);

/* The monitor: negotiate, once; a command, and its answer: the line, valid until the next one. */
void line_negotiate(struct line *line);
const char *line_qmp(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A number in such an answer. False: it is not there. */
bool line_number(const char *answer, const char *key, uint64_t *ret_value);

#endif
