/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* join: what an engine says on the socket, message by message. Each function takes a message whose length,
 * type and number of fds are right; `fd` is -1 or taken over. Any of them may end the session. */
#ifndef MEMD_DAEMON_JOIN_H
#define MEMD_DAEMON_JOIN_H

#include <stddef.h>

struct session;

void join_hello(struct session *session, const void *msg, int fd);
void join_region_add(struct session *session, const void *msg, int fd);
void join_region_del(struct session *session, const void *msg, int fd);
void join_ready(struct session *session, const void *msg, int fd);
void join_bye(struct session *session, const void *msg, int fd);

/* A message with descriptors, at most WELCOME_FDS_MAX of them. 0 or -errno. */
int join_send_fds(int sock, const void *msg, size_t bytes, const int *fds, size_t nfds);

#endif
