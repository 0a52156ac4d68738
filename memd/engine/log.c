/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine's messages: to the VMM's callback, or warnings and errors to stderr. One line each, any thread.
 */
#include "memd/engine/engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

void log_msg(struct memd *m, enum memd_log_level level, const char *fmt, ...)
{
    char line[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (m->log)
        m->log(m->ctx, level, line);
    else if (level <= MEMD_LOG_WARN)
        fprintf(stderr, "libmemd: %s: %s\n", m->name, line);
}

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
