/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * registry: which engines a domain's frames may be in use by, kept where a later daemon finds it.
 *
 * An empty file per engine, DOMAIN_DIR/engines/PID.START.UID.MERGE.NAME, is in place before the engine learns
 * of any frame and goes when the process is dead or has said goodbye. A daemon that finds files of live
 * processes frees nothing before all of them are back or dead. All is said in the name (MERGE: "on" or
 * "off"), because an empty file takes no block of a tmpfs that frames may have filled.
 */
#ifndef MEMD_DAEMON_REGISTRY_H
#define MEMD_DAEMON_REGISTRY_H

#include "memd/daemon/core.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct registry_entry {
    pid_t pid;
    uint64_t start; /* proc_start_time() */
    char name[CORE_NAME_BYTES];
    uid_t uid;
    bool merge_on; /* an unmerged VM stays so across daemons */
};

/* dir_fd: the domain's directory. Each returns 0 or -errno. */
int registry_write(int dir_fd, const struct registry_entry *entry);
int registry_remove(int dir_fd, const struct registry_entry *entry);

/* Calls visit() for each entry; unreadable files are removed and logged. */
int registry_each(int dir_fd, int (*visit)(void *ctx, const struct registry_entry *entry), void *ctx);
/* Remove the directory of entries; it must be empty. */
int registry_destroy(int dir_fd);

#endif
