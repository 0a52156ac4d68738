/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memvm's control protocol: one command a line, answered by one JSON object a line, on stdin/stdout or on a
 * unix socket. Main thread only. A command that has to wait for the guest or the engine holds the main thread
 * up until it is answered; each such wait is bounded.
 */
#ifndef MEMVM_CONTROL_H
#define MEMVM_CONTROL_H

#include <poll.h>

#include "bench/memvm/vm.h"

#define CONTROL_CLIENTS_MAX 8
#define CONTROL_FDS_MAX     (CONTROL_CLIENTS_MAX + 1)

struct control;

/* `where` is a socket path, "-" for stdin, or NULL: no control at all. 0 or -errno, having said why. */
int control_open(const char *where, struct vm *vm, struct control **ret_control);
void control_close(struct control *control);

/* Fill in what to wait for; returns how many. */
nfds_t control_poll_fds(struct control *control, struct pollfd fds[CONTROL_FDS_MAX]);
/* Serve what poll() found in them. Returns true when the guest is to quit. */
bool control_serve(struct control *control, const struct pollfd *fds, nfds_t nfds);

#endif
