/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* loop: epoll with callbacks, for one thread. A source may be removed, and its memory freed, from any
 * callback: its events still in the batch are dropped. */
#ifndef MEMD_DAEMON_LOOP_H
#define MEMD_DAEMON_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

#define LOOP_BATCH 64 /* events taken from the kernel at a time */

struct loop_source {
    int fd;
    void (*ready)(struct loop_source *source, uint32_t events);
};

struct loop {
    int epoll_fd;
    int nbatch; /* of the batch being dispatched; 0 outside */
    struct epoll_event batch[LOOP_BATCH];
};

int loop_open(struct loop *loop);
void loop_close(struct loop *loop);

/* Watch source->fd for `events` (EPOLLIN, ...). The source belongs to the caller and must stay where it is.
 */
int loop_add(struct loop *loop, struct loop_source *source, uint32_t events);
void loop_del(struct loop *loop, struct loop_source *source);

/* Wait up to `timeout_ms` (-1: for ever) and dispatch one batch. Returns 0 or -errno. */
int loop_turn(struct loop *loop, int timeout_ms);

#endif
