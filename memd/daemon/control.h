/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control: the control API, HTTP/1.1 with JSON on the unix socket RUN_DIR/control.sock (mode 0660), and
 * /metrics. docs/api.md is its reference.
 *
 * Who may connect is the file system's answer: the socket's owner and group. Everything else a client says is
 * bounded: connections, idle time, header and body size, waiting.
 */
#ifndef MEMD_DAEMON_CONTROL_H
#define MEMD_DAEMON_CONTROL_H

#include <stddef.h>

struct balloons;
struct core;
struct control;

#define CONTROL_CONNECTIONS_MAX 64 /* further ones are hung up on */
#define CONTROL_IDLE_S          15 /* of a connection */
#define CONTROL_HEADER_BYTES    (32u * 1024u)
#define CONTROL_BODY_BYTES      (64u * 1024u)
#define CONTROL_WAIT_MS_MAX     10000 /* of GET /v1/jobs/{id}; well below CONTROL_IDLE_S */

/* Bind the socket and start serving on threads of its own. A socket left by a daemon that died is replaced.
 * Returns 0, or -errno with one line in ret_error; -EADDRINUSE: another daemon serves this directory. */
int control_start(struct core *core, struct balloons *balloons, const char *run_dir,
                  struct control **ret_control, char *ret_error, size_t error_bytes);

/* Stop serving, end waiting requests, remove the socket. The core must still answer or refuse calls. */
void control_stop(struct control *control);

#endif
