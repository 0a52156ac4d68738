/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine's descriptors are not the program's to close. Many programs close all they do not know of; the
 * last close of a userfaultfd would turn pages that are being moved into zeros.
 *
 * What the engine opens (ld --wrap: its calls, not the program's) is moved up to high numbers, out of the way
 * of programs that count on low ones, and marked in a bitmap; the hooks spare what is marked. The mark is set
 * before the program can know the number and taken away before it is free again. Any thread, no lock.
 */
#include "memd/preload/fds.h"

#include "memd/common/uapi.h"
#include "memd/preload/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#define FDS_MAX  65536
#define HIGH_FD  500
#define PER_WORD 64

int __wrap_open(const char *path, int flags, ...);
int __wrap_socket(int domain, int type, int protocol);
int __wrap_eventfd(unsigned initial, int flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_pipe2(int fds[2], int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
int __wrap_close(int fd);

static _Atomic uint64_t ours[FDS_MAX / PER_WORD];

static void mark(int fd)
{
    if (fd >= 0 && fd < FDS_MAX)
        atomic_fetch_or(&ours[fd / PER_WORD], 1ull << fd % PER_WORD);
}

static void unmark(int fd)
{
    if (fd >= 0 && fd < FDS_MAX)
        atomic_fetch_and(&ours[fd / PER_WORD], ~(1ull << fd % PER_WORD));
}

bool fds_are_ours(int fd)
{
    return fd >= 0 && fd < FDS_MAX &&
           atomic_load_explicit(&ours[fd / PER_WORD], memory_order_relaxed) >> fd % PER_WORD & 1;
}

int fds_next_of_ours(int fd, int end)
{
    end = end < FDS_MAX ? end : FDS_MAX;
    for (fd = fd < 0 ? 0 : fd; fd < end; fd++) {
        uint64_t word = atomic_load(&ours[fd / PER_WORD]) >> fd % PER_WORD;
        if (word)
            return fd + __builtin_ctzll(word) < end ? fd + __builtin_ctzll(word) : -1;
        fd |= PER_WORD - 1;
    }
    return -1;
}

/* errno stays that of the call that made it. */
static int keep(int fd)
{
    int saved = errno, high = fd < 0 ? -1 : (int)__real_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_FD);

    if (high >= 0) {
        mark(high);
        __real_syscall(SYS_close, fd);
        fd = high;
    } else {
        mark(fd); /* the limit is low */
    }
    errno = saved;
    return fd;
}

int __wrap_open(const char *path, int flags, ...)
{
    return keep((int)__real_syscall(SYS_openat, AT_FDCWD, path, flags, 0));
}

int __wrap_socket(int domain, int type, int protocol)
{
    return keep((int)__real_syscall(SYS_socket, domain, type, protocol));
}

int __wrap_eventfd(unsigned initial, int flags)
{
    return keep((int)__real_syscall(SYS_eventfd2, initial, flags));
}

int __wrap_memfd_create(const char *name, unsigned flags)
{
    return keep((int)__real_syscall(SYS_memfd_create, name, flags));
}

int __wrap_pipe2(int fds[2], int flags)
{
    int ret = (int)__real_syscall(SYS_pipe2, fds, flags);

    for (unsigned i = 0; !ret && i < 2; i++)
        fds[i] = keep(fds[i]);
    return ret;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
    ssize_t n = __real_syscall(SYS_recvmsg, fd, msg, flags);

    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
                int got;
                memcpy(&got, (char *)c + at, sizeof got);
                got = keep(got);
                memcpy((char *)c + at, &got, sizeof got);
            }
    return n;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
    int ret = (int)__real_syscall(SYS_ioctl, fd, request, arg);

    return request == USERFAULTFD_IOC_NEW ? keep(ret) : ret;
}

/* All six: what a call does not take it does not look at. */
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    long ret = __real_syscall(number, a, b, c, d, e, f);

    return number == SYS_userfaultfd || number == SYS_pidfd_open ? keep((int)ret) : ret;
}

int __wrap_close(int fd)
{
    unmark(fd);
    return (int)__real_syscall(SYS_close, fd);
}
