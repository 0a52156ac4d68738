/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see child.h. The two ends are a SEQPACKET pair, so an order is a packet. */
#include "bench/common/child.h"

#include "bench/common/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

void child_start(struct child *child, unsigned number, void (*serve)(const void *config, int socket),
                 const void *config)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        bench_die("socketpair: %s", strerror(errno));
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0) {
        cleanup_child();
        close(ends[0]);
        serve(config, ends[1]);
        _exit(1);
    }
    cleanup_add(pid);
    close(ends[1]);
    *child = (struct child){.pid = pid, .socket = ends[0], .number = number};
}

void child_send(const struct child *child, const void *order, size_t bytes)
{
    if (send(child->socket, order, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
        bench_die("guest %u has died", child->number);
}

void child_receive(const struct child *child, void *ret_answer, size_t bytes)
{
    if (recv(child->socket, ret_answer, bytes, 0) != (ssize_t)bytes)
        bench_die("guest %u has died", child->number);
}

void child_wait(struct child *child)
{
    close(child->socket);
    waitpid(child->pid, NULL, 0);
    cleanup_remove(child->pid);
    *child = (struct child){.socket = -1};
}
