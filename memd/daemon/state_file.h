/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * state_file: what a daemon keeps for the next one, a text file for each subject.
 *
 * STATE_DIR/WHAT.HASH (of the run directory: daemons may share a state directory) is written anew with every
 * change, by a rename: it is whole, or as it was. The loop only.
 */
#ifndef MEMD_DAEMON_STATE_FILE_H
#define MEMD_DAEMON_STATE_FILE_H

#include <stdio.h>

#define STATE_FILE_BYTES 300

struct core;

void state_file_path(const struct core *core, const char *what, char ret_path[STATE_FILE_BYTES]);
/* Writes what `put` puts; it returns how many lines say something: with none the file goes. `loss` is for the
 * warning, should that fail. */
void state_file_write(struct core *core, const char *what,
                      unsigned (*put)(FILE *out, const struct core *core), const char *loss);

#endif
