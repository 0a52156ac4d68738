/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See link.h. */
#include "balloon-driver/backends/link.h"

#include "memd/common/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_BYTES 4096u

uint64_t link_deadline(unsigned ms)
{
    return clock_now_ns() + ms * CLOCK_MS;
}

int link_open(struct link *link, const struct balloon_ctl *ctl, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* a unix socket connects at once or not at all */
    if (connect(fd, (const struct sockaddr *)&address, sizeof address)) {
        int error = errno;
        close(fd);
        return -error;
    }
    *link = (struct link){.fd = fd, .stop_fd = ctl->stop_fd};
    return 0;
}

uint32_t link_peer_pid(const struct link *link)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;

    if (link->fd < 0 || getsockopt(link->fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) || peer.pid <= 0)
        return 0;
    return (uint32_t)peer.pid;
}

void link_close(struct link *link)
{
    if (link->fd >= 0)
        close(link->fd);
    free(link->bytes);
    *link = (struct link)LINK_CLOSED;
}

/* Milliseconds for poll(), rounded up; 0: it has passed. */
static int left_ms(uint64_t deadline_ns)
{
    uint64_t now = clock_now_ns();

    return now >= deadline_ns ? 0 : (int)((deadline_ns - now + CLOCK_MS - 1) / CLOCK_MS);
}

/* Until `events` are there. 0, -ETIMEDOUT, -ESHUTDOWN or -errno */
static int wait_for(const struct link *link, short events, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = link->fd, .events = events}, {.fd = link->stop_fd, .events = POLLIN}};
        int left = left_ms(deadline_ns);
        int n = poll(fds, 2, left);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0 && fds[1].revents)
            return -ESHUTDOWN;
        if (n > 0)
            return 0;
        if (!left)
            return -ETIMEDOUT;
    }
}

int link_send(struct link *link, const char *data, size_t bytes, uint64_t deadline_ns)
{
    while (bytes) {
        ssize_t sent = send(link->fd, data, bytes, MSG_NOSIGNAL);
        if (sent >= 0) {
            data += sent;
            bytes -= (size_t)sent;
        } else if (errno == EAGAIN) {
            int result = wait_for(link, POLLOUT, deadline_ns);
            if (result)
                return result;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* Room for at least one byte more. */
static int make_room(struct link *link)
{
    size_t capacity = link->capacity ? 2 * link->capacity : FIRST_BYTES;

    if (link->filled < link->capacity)
        return 0;
    if (link->start) {
        link->filled -= link->start;
        memmove(link->bytes, link->bytes + link->start, link->filled);
        link->start = 0;
        return 0;
    }
    if (link->filled >= LINK_BUFFER_BYTES)
        return -EMSGSIZE;
    char *bytes = realloc(link->bytes, capacity);
    if (!bytes)
        return -ENOMEM;
    link->bytes = bytes;
    link->capacity = capacity;
    return 0;
}

int link_receive(struct link *link, uint64_t deadline_ns)
{
    int result = make_room(link);

    while (!result) {
        /* the deadline counts also while there is always something to read */
        result = wait_for(link, POLLIN, deadline_ns);
        if (result)
            return result;
        ssize_t n = recv(link->fd, link->bytes + link->filled, link->capacity - link->filled, 0);
        if (n > 0) {
            link->filled += (size_t)n;
            link->received += (uint64_t)n;
            return clock_now_ns() >= deadline_ns ? -ETIMEDOUT : 0;
        }
        if (!n)
            return -EPIPE;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    return result;
}

int link_line(struct link *link, uint64_t deadline_ns, char **ret_line, size_t *ret_bytes)
{
    size_t seen = 0; /* of what has come: has no end of a line in it */

    for (;;) {
        size_t have = link->filled - link->start;
        char *begin = link->bytes + link->start;
        char *end = have > seen ? memchr(begin + seen, '\n', have - seen) : NULL;
        if (end) {
            *ret_line = begin;
            *ret_bytes = (size_t)(end - begin);
            return 0;
        }
        seen = have;
        int result = link_receive(link, deadline_ns);
        if (result)
            return result;
    }
}

void link_drop(struct link *link, size_t bytes)
{
    link->start += bytes;
    if (link->start < link->filled)
        return;
    link->start = link->filled = 0;
    if (link->capacity > FIRST_BYTES) {
        free(link->bytes);
        link->bytes = NULL;
        link->capacity = 0;
    }
}

int link_wait(struct link *link, int wake_fd, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = link->fd, .events = POLLIN},
                               {.fd = link->stop_fd, .events = POLLIN},
                               {.fd = wake_fd, .events = POLLIN}};
        int left = left_ms(deadline_ns);
        int n = poll(fds, 3, left);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0 && fds[1].revents)
            return -ESHUTDOWN;
        if (n > 0)
            return fds[0].revents != 0;
        if (!left)
            return 0;
    }
}

int link_fail(struct balloon_error *error, int result, const char *path)
{
    switch (-result) {
    case ENOENT:
    case ECONNREFUSED:
        return balloon_fail(error, -ENOTCONN, "nobody listens at %s: the VMM is not running, or has ended",
                            path);
    case EPIPE:
    case ECONNRESET:
        return balloon_fail(error, -ENOTCONN, "the VMM at %s has hung up", path);
    case EACCES:
    case EPERM:
        return balloon_fail(error, -EACCES, "%s: %s; memd's user needs read and write access to it", path,
                            strerror(-result));
    case ETIMEDOUT:
        return balloon_fail(error, -ETIMEDOUT, "the VMM at %s does not answer", path);
    case EMSGSIZE:
        return balloon_fail(error, -EPROTO, "the VMM at %s sent more than %u KiB without an end", path,
                            LINK_BUFFER_BYTES / 1024);
    case ESHUTDOWN:
        return balloon_fail(error, -ESHUTDOWN, "memd is ending");
    case ENOMEM:
        return balloon_fail(error, -ENOMEM, "out of memory");
    default:
        return balloon_fail(error, -ENOTCONN, "%s: %s", path, strerror(-result));
    }
}
