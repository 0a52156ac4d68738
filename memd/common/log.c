/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see log.h. */
#include "memd/common/log.h"

#include "memd/common/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 512

static _Atomic int max_level = LOG_LEVEL_INFO;

static const struct {
    const char *name;
    const char *journal_prefix;
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", "<3>"},
    [LOG_LEVEL_WARN] = {"warning", "<4>"},
    [LOG_LEVEL_INFO] = {"info", "<6>"},
    [LOG_LEVEL_DEBUG] = {"debug", "<7>"},
};

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
    return (enum log_level)atomic_load_explicit(&max_level, memory_order_relaxed);
}

static int put_prefix(char *line, enum log_level level)
{
    if (getenv("JOURNAL_STREAM"))
        return snprintf(line, LINE_BYTES, "%smemd: ", levels[level].journal_prefix);

    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    return snprintf(line, LINE_BYTES, "%02d:%02d:%02d.%03ld memd %s: ", tm.tm_hour, tm.tm_min, tm.tm_sec,
                    now.tv_nsec / 1000000, levels[level].name);
}

void log_write(enum log_level level, const char *format, ...)
{
    if (level > log_get_level())
        return;

    int saved_errno = errno;
    char line[LINE_BYTES];
    int at = put_prefix(line, level);
    va_list args;
    va_start(args, format);
    int len = vsnprintf(line + at, sizeof line - (size_t)at - 1, format, args);
    va_end(args);
    if (len < 0)
        len = 0;
    if (len > LINE_BYTES - at - 2)
        len = LINE_BYTES - at - 2;
    /* names come from peers: a line stays one line */
    for (int i = at; i < at + len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[at + len] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)(at + len + 1));
    (void)ignored; /* nowhere to report it */
    errno = saved_errno;
}

bool log_allowed(struct log_limit *limit)
{
    uint64_t now = clock_now_ns();
    if (!limit->window_ns || now - limit->window_ns > LOG_LIMIT_NS) {
        if (limit->dropped)
            log_warn("%u similar messages were dropped", limit->dropped);
        *limit = (struct log_limit){.window_ns = now};
    }
    if (limit->lines >= LOG_LIMIT_LINES) {
        limit->dropped++;
        return false;
    }
    limit->lines++;
    return true;
}
