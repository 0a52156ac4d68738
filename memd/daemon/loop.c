/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see loop.h. */
#include "memd/daemon/loop.h"

#include <errno.h>
#include <stddef.h>
#include <unistd.h>

int loop_open(struct loop *loop)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -errno;
    *loop = (struct loop){.epoll_fd = fd};
    return 0;
}

void loop_close(struct loop *loop)
{
    close(loop->epoll_fd);
    loop->epoll_fd = -1;
}

int loop_add(struct loop *loop, struct loop_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, source->fd, &event) ? -errno : 0;
}

void loop_del(struct loop *loop, struct loop_source *source)
{
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    for (int i = 0; i < loop->nbatch; i++)
        if (loop->batch[i].data.ptr == source)
            loop->batch[i].data.ptr = NULL;
}

int loop_turn(struct loop *loop, int timeout_ms)
{
    int n = epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, timeout_ms);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;

    loop->nbatch = n;
    for (int i = 0; i < n; i++) {
        struct loop_source *source = loop->batch[i].data.ptr;
        if (source)
            source->ready(source, loop->batch[i].events);
    }
    loop->nbatch = 0;
    return 0;
}
