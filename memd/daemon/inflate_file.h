/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inflate_file: which balloons users have set to be moved by the policy, kept for the next daemon.
 *
 * A state_file, STATE_DIR/balloons.HASH. It counts before the configuration, for the balloons that has.
 */
#ifndef MEMD_DAEMON_INFLATE_FILE_H
#define MEMD_DAEMON_INFLATE_FILE_H

struct core;

void inflate_file_write(struct core *core);
void inflate_file_read(struct core *core);

#endif
