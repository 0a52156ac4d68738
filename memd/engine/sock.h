/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The session's socket: whole messages, and descriptors with them (wire.h). Nothing waits. */
#ifndef MEMD_ENGINE_SOCK_H
#define MEMD_ENGINE_SOCK_H

#include "memd/engine/engine.h"

#define SOCK_FDS_MAX (3 + WIRE_NODES_MAX + 1)

int sock_connect(const char *run_dir);                                           /* a descriptor or -errno */
int sock_send(struct memd *m, void *msg, uint16_t type, uint16_t bytes, int fd); /* fd: goes along, or -1 */
/* Bytes of one message, 0: nothing there, or -errno (-EPIPE: closed). */
int sock_recv(struct memd *m, void *buf, size_t bytes, int fds[SOCK_FDS_MAX], unsigned *ret_nfds);
void sock_close_fds(int *fds, unsigned n);

#endif
