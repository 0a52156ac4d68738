/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * log: one line per event to stderr. Any thread; a line is written with one write(2) and never interleaved.
 *
 * Under systemd (JOURNAL_STREAM set) lines carry the <N> priority prefix the journal understands; elsewhere
 * a time stamp and the level's name. Messages caused by a peer go through a struct log_limit, so that a
 * hostile one cannot fill the disk.
 */
#ifndef MEMD_COMMON_LOG_H
#define MEMD_COMMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR = 0, LOG_LEVEL_WARN = 1, LOG_LEVEL_INFO = 2, LOG_LEVEL_DEBUG = 3 };

/* Lines above `level` are dropped. Before the first call: LOG_LEVEL_INFO. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* At most LOG_LIMIT_LINES lines per LOG_LIMIT_NS. Zero-initialised; guarded by its owner. */
#define LOG_LIMIT_LINES 10u
#define LOG_LIMIT_NS    10000000000ull
struct log_limit {
    uint64_t window_ns;
    uint32_t lines, dropped;
};

/* Whether one more line may be written now. When a window ends in which lines were dropped, their number is
 * logged. */
bool log_allowed(struct log_limit *limit);

#endif
