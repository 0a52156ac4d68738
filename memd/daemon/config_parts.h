/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * config_parts: what config.c (options, command line) and config_file.c (the file) have in common. One
 * thread.
 */
#ifndef MEMD_DAEMON_CONFIG_PARTS_H
#define MEMD_DAEMON_CONFIG_PARTS_H

#include "memd/daemon/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_OPTIONS_MAX 64
#define CONFIG_SIZE_MAX    (1ull << 50)

/* Where errors go. The first one stays. */
struct config_report {
    char *text;
    size_t bytes;
    int error;
};

/* Returns the error in the report, which is `error` (-errno) if there was none before. */
__attribute__((format(printf, 3, 4))) int config_error(struct config_report *report, int error,
                                                       const char *format, ...);

/* An option's place in the table by its long name, less than CONFIG_OPTIONS_MAX; -ENOENT. */
int config_option_find(const char *name);
/* Whether a file may set it. */
bool config_option_in_file(int option);

/* Put `text` into the field of the option. `where` begins every message: "--merge" or "FILE:3: merge".
 * Returns 0 or -errno, reported. */
int config_option_set(int option, const char *where, const char *text, bool from_file, struct config *config,
                      struct config_report *report);

/* A whole decimal number, nothing before or after it. 0 or -EINVAL. */
int config_parse_number(const char *text, uint64_t *ret_value);

/* A number with K, M, G or T (of 1024), or nothing for bytes. 0 or -EINVAL. */
int config_parse_size(const char *text, uint64_t *ret_bytes);

/* Read a file into `config`. One that does not exist is none, unless it `must_exist`. Returns 0 or -errno,
 * reported. */
int config_file_load(const char *path, bool must_exist, struct config *config, struct config_report *report);

#endif
