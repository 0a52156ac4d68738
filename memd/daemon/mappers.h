/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mappers: which files are mapped by processes other than some given ones, by PROC_ROOT/PID/maps.
 *
 * Reading a process' maps takes a lock of that process, which can be long in coming: not to be called on the
 * core's thread.
 */
#ifndef MEMD_DAEMON_MAPPERS_H
#define MEMD_DAEMON_MAPPERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mappers_file {
    dev_t dev;
    ino_t ino;
    /* a process of one of these users, root excepted, whose maps may not be read is taken to map the file */
    const uint32_t *uids;
    uint32_t nuids;
    pid_t pid; /* result: one that maps it, or may; 0: none does */
};

struct mappers_search {
    const char *proc_root;
    struct mappers_file *file;
    size_t nfiles;
    const pid_t *skip; /* ascending; processes that are not looked at */
    size_t nskip;
    const atomic_bool *stop; /* give up; NULL: never */
};

/* Returns 0; -ECANCELED (stopped) or what reading failed with: then a pid of 0 means nothing. Every process
 * is looked at twice: one that ends while the first pass is on its way may leave a child behind it. */
int mappers_find(const struct mappers_search *search);

#endif
