/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memvm's state as one line of JSON. */
#ifndef MEMVM_STATUS_H
#define MEMVM_STATUS_H

#include "bench/memvm/vm.h"

#define STATUS_LINE_MAX 4096

/*
 * Writes one object with a newline and a NUL. `event` is its first member: "status", "ready", "report", "job"
 * or "exit".
 */
void status_line(struct vm *vm, const char *event, char line[STATUS_LINE_MAX]);

#endif
