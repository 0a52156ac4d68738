/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* place: a daemon's directories, its lock and its listening socket. */
#ifndef MEMD_DAEMON_PLACE_H
#define MEMD_DAEMON_PLACE_H

#include <stddef.h>

struct core;

/* Fill core->lock_fd, store_fd, store_path, socket_path, listener.fd. Returns 0, or -errno with one line in
 * ret_error and nothing left behind but directories. */
int place_open(struct core *core, char *ret_error, size_t error_bytes);
/* Called again by whoever fails after place_open(). */
void place_close(struct core *core);

/* Whether merging is on for VMs to come: what users asked for lasts as long as a VM does, whichever daemon
 * serves it. place_recall_merge() comes after domain_reopen_all(). */
void place_keep_merge(struct core *core);
void place_recall_merge(struct core *core);

#endif
