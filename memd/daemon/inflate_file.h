/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inflate_file: which balloons users have set to be moved by the policy, and the limits they gave them, kept
 * for the next daemon, and for VMs that come again.
 *
 * A state_file, STATE_DIR/balloons.HASH. It counts before the configuration.
 */
#ifndef MEMD_DAEMON_INFLATE_FILE_H
#define MEMD_DAEMON_INFLATE_FILE_H

struct core;
struct inflate_kept;

/* What is kept of a VM; NULL: nothing. */
const struct inflate_kept *inflate_kept(const struct core *core, const char *vm);
/* The same, made if it is new: of INFLATE_KEPT_MAX the one of a VM without a balloon goes that is the oldest.
 * NULL: no memory, said. */
struct inflate_kept *inflate_keep(struct core *core, const char *vm);

void inflate_file_write(struct core *core);
void inflate_file_read(struct core *core);

#endif
