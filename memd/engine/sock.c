/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See sock.h. */
#include "memd/engine/sock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int sock_send(struct memd *m, void *msg, uint16_t type, uint16_t bytes, int fd)
{
    struct wire_msg *h = msg;
    struct iovec iov = {msg, bytes};
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

    *h = (struct wire_msg){WIRE_MAGIC, type, bytes};
    if (fd >= 0) {
        hdr.msg_control = control.buf;
        hdr.msg_controllen = sizeof control.buf;
        struct cmsghdr *c = CMSG_FIRSTHDR(&hdr);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    return sendmsg(m->session.sock, &hdr, MSG_NOSIGNAL | MSG_DONTWAIT) == bytes ? 0 : -errno;
}

void sock_close_fds(int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        close(fds[i]);
}

/* Bytes of one message, 0: nothing there, or -errno (-EPIPE: closed). */
int sock_recv(struct memd *m, void *buf, size_t bytes, int fds[SOCK_FDS_MAX], unsigned *ret_nfds)
{
    struct iovec iov = {buf, bytes};
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int) * SOCK_FDS_MAX)];
    } control;
    struct msghdr hdr = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
    ssize_t n = recvmsg(m->session.sock, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    unsigned nfds = 0;

    if (n < 0)
        return errno == EAGAIN ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&hdr); c; c = CMSG_NXTHDR(&hdr, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            nfds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), nfds * sizeof(int));
        }
    struct wire_msg *h = buf;
    if (hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || n < (ssize_t)sizeof *h || h->magic != WIRE_MAGIC ||
        h->bytes != n) {
        sock_close_fds(fds, nfds);
        return n ? -EPROTO : -EPIPE;
    }
    *ret_nfds = nfds;
    return (int)n;
}

int sock_connect(const char *run_dir)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int n = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/%s", run_dir, WIRE_SOCKET_NAME);

    if (n >= (int)sizeof addr.sun_path)
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr)) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd;
}
