/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* snapshot: besides core_snapshot_take() (core.h), what other parts of the core want counted. */
#ifndef MEMD_DAEMON_SNAPSHOT_H
#define MEMD_DAEMON_SNAPSHOT_H

struct vm;

/* A VM's part of the frames it uses, as of now: a frame used by n pages counts 1/n for each. */
double snapshot_frame_share(struct vm *vm);
/* The same, perhaps a little old. */
double snapshot_recent_share(struct vm *vm);

#endif
