/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which descriptors are the engine's. See fds.c. */
#ifndef MEMD_PRELOAD_FDS_H
#define MEMD_PRELOAD_FDS_H

#include <stdbool.h>

bool fds_are_ours(int fd);
/* The first of ours in [fd, end); -1: none. */
int fds_next_of_ours(int fd, int end);

#endif
