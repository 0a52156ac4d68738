/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * config: what memd is told by its environment, its configuration file and its command line.
 *
 * Later sources win: the defaults, MEMD_RUN_DIR, the file, the command line. One table of options serves all
 * of them and --help, so an option means, accepts and refuses the same wherever it is written. Everything is
 * checked here, before anything is touched: what config_load() returns can be handed on as it is.
 */
#ifndef MEMD_DAEMON_CONFIG_H
#define MEMD_DAEMON_CONFIG_H

#include "balloon-driver/backends/balloons.h"
#include "memd/daemon/core.h"

#include <stdio.h>

#define CONFIG_PATH_DEFAULT "/etc/memd/memd.conf"
#define CONFIG_ERROR_BYTES  512
#define CONFIG_FILE_MAX     (256u * 1024u) /* bytes of a configuration file */

enum config_action { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION };

struct config {
    struct core_config core;
    char file[256]; /* the configuration file that was read, or "" */
    bool background;
    int log_level; /* enum memd_log_level */
    unsigned nballoons;
    struct balloons_spec balloons[BALLOONS_MAX]; /* of VMs that have one */
};

/*
 * Read everything. `default_file` is read if it exists and --config does not name another, which then must
 * exist. Returns 0 and says in ret_action what was asked for; with CONFIG_HELP and CONFIG_VERSION the
 * configuration is not filled in. -errno: one line in ret_error names the place, the mistake and what is
 * expected. Call it from one thread: it looks at the environment.
 */
int config_load(int argc, char *const argv[], const char *default_file, struct config *ret_config,
                enum config_action *ret_action, char *ret_error, size_t error_bytes);

/* The text of --help. */
void config_help(FILE *out);

#endif
