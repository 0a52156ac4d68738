/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * link: a connection to a VMM's unix socket that cannot hang or fill its owner.
 *
 * The socket never blocks; every call has a deadline and ends when memd does (ctl->stop_fd). What is received
 * lies in one buffer of at most LINK_BUFFER_BYTES, which grows as it is needed and shrinks when it is empty:
 * more than fits without its end is -EMSGSIZE. One thread.
 */
#ifndef BALLOON_BACKENDS_LINK_H
#define BALLOON_BACKENDS_LINK_H

#include "balloon-driver/backends/backend.h"

#include <stddef.h>
#include <stdint.h>

#define LINK_BUFFER_BYTES (256u * 1024u)

struct link {
    int fd; /* -1: not connected */
    int stop_fd;
    char *bytes;
    size_t start, filled, capacity; /* what has come and was not dropped: bytes[start..filled) */
    uint64_t received;              /* bytes so far */
};

#define LINK_CLOSED \
    {               \
        .fd = -1    \
    }

/* clock_now_ns() in `ms` milliseconds. */
uint64_t link_deadline(unsigned ms);

/* 0; -ECONNREFUSED, -ENOENT: nobody there; -EAGAIN: its queue is full; -EACCES, ... */
int link_open(struct link *link, const struct balloon_ctl *ctl, const char *path);
void link_close(struct link *link);
/* Who listens there; 0: not known. */
uint32_t link_peer_pid(const struct link *link);

/* All of it. 0; -ETIMEDOUT; -EPIPE, -ECONNRESET: gone; -ESHUTDOWN */
int link_send(struct link *link, const char *data, size_t bytes, uint64_t deadline_ns);

/* Receive something more. 0; -ETIMEDOUT, -ESHUTDOWN, -EMSGSIZE, -ENOMEM; -EPIPE: the other end has closed. */
int link_receive(struct link *link, uint64_t deadline_ns);

/* The next line: `ret_line` has `ret_bytes`, without its end, and stays until link_drop(). As
 * link_receive(). */
int link_line(struct link *link, uint64_t deadline_ns, char **ret_line, size_t *ret_bytes);
/* Forget the first `bytes` received. */
void link_drop(struct link *link, size_t bytes);

/* Wait for something to read, for `wake_fd` (-1: none), or until the deadline. 1: there is something to read;
 * 0: there is not; -ESHUTDOWN. */
int link_wait(struct link *link, int wake_fd, uint64_t deadline_ns);

/* What a link's error means to users. Returns the error a backend returns. */
int link_fail(struct balloon_error *error, int result, const char *path);

#endif
