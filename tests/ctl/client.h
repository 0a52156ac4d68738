/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * client: HTTP/1.1 over a unix socket, as raw as a test wants it: what is sent need not be a request. Each
 * call fails the test when the server takes longer than CLIENT_PATIENCE_MS.
 */
#ifndef TESTS_CTL_CLIENT_H
#define TESTS_CTL_CLIENT_H

#include <stddef.h>

#define CLIENT_BODY_BYTES  (1u << 16) /* thread-local: takes of the stack of the server's threads, too */
#define CLIENT_PATIENCE_MS 30000      /* a loaded machine is slow */

int client_connect(const char *socket_path);

/* As much as the server takes: it may hang up in the middle. */
void client_send(int fd, const char *data, size_t bytes);
void client_send_text(int fd, const char *text);

/* One answer: its status, or 0 if the server hung up instead. The header and the body, each ended by a NUL,
 * stay valid until the thread's next call. */
struct client_answer {
    int status;
    const char *header, *body;
    size_t body_bytes;
};
struct client_answer client_receive(int fd);

/* A whole exchange on a connection of its own; `body` may be NULL. */
struct client_answer client_ask(const char *socket_path, const char *method, const char *path,
                                const char *body);

#endif
