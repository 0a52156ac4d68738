/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see link.h.
 *
 * A virtio-serial port whose host end is closed polls as hung up for ever, and reads as ended: it is left out
 * of poll() until link_revive(), which the caller tries now and then, finds somebody there. A port is opened
 * once, while there are privileges: when it is unplugged the agent ends, and the service manager starts
 * another.
 */
#include "guest-agent/link.h"

#include "memd/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

/* ---------------------------------------------------------------- ports */

static bool port_is_ours(const char *sys_root, const char *port)
{
    char path[PATH_MAX], name[64];

    snprintf(path, sizeof path, "%s/class/virtio-ports/%s/name", sys_root, port);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, name, sizeof name - 1);
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return false;
    name[got] = '\0';
    name[strcspn(name, "\n")] = '\0';
    return !strcmp(name, AGENT_PORT_NAME);
}

/* The port's device: by the link udev makes, else by the names in sysfs. */
static int port_find(const char *sys_root, const char *dev_root, char path[PATH_MAX])
{
    char dir_path[PATH_MAX];
    int result = -ENODEV;

    snprintf(path, PATH_MAX, "%s/virtio-ports/" AGENT_PORT_NAME, dev_root);
    if (!access(path, F_OK))
        return 0;
    snprintf(dir_path, sizeof dir_path, "%s/class/virtio-ports", sys_root);
    DIR *dir = opendir(dir_path);
    for (struct dirent *entry; dir && result && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && port_is_ours(sys_root, entry->d_name) &&
            snprintf(path, PATH_MAX, "%s/%s", dev_root, entry->d_name) < PATH_MAX)
            result = 0;
    if (dir)
        closedir(dir);
    return result;
}

static int port_open(struct link *link, const char *path)
{
    struct termios line;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (!tcgetattr(fd, &line)) { /* a serial line or a terminal: bytes as they are */
        cfmakeraw(&line);
        line.c_cflag |= CLOCAL;
        if (tcsetattr(fd, TCSANOW, &line)) {
            int error = errno;
            close(fd);
            return -error;
        }
    }
    link->fd = fd;
    snprintf(link->name, sizeof link->name, "%.*s", (int)sizeof link->name - 1, path);
    return 0;
}

/* ---------------------------------------------------------------- sockets */

static int socket_listen(struct link *link, const struct sockaddr *address, socklen_t bytes)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return errno == EAFNOSUPPORT ? -ENODEV : -errno;
    if (bind(fd, address, bytes) || listen(fd, 4)) {
        int error = errno;
        close(fd);
        return -error;
    }
    link->listen_fd = fd;
    return 0;
}

/* Whether this is a guest with a vsock device: `any` does without the question. */
static bool vsock_is_there(bool any)
{
    unsigned cid = VMADDR_CID_ANY;
    int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    bool known = !ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid);
    close(fd);
    return any || (known && cid != VMADDR_CID_ANY && cid > VMADDR_CID_HOST);
}

static int vsock_open(struct link *link, bool any)
{
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_VSOCK_PORT};

    if (!vsock_is_there(any))
        return -ENODEV;
    snprintf(link->name, sizeof link->name, "vsock port %u", AGENT_VSOCK_PORT);
    return socket_listen(link, (const struct sockaddr *)&address, sizeof address);
}

static int unix_open(struct link *link, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;

    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
        unlink(path); /* of an agent that has ended */
    snprintf(link->name, sizeof link->name, "%.*s", (int)sizeof link->name - 1, path);
    return socket_listen(link, (const struct sockaddr *)&address, sizeof address);
}

int link_open(struct link *link, const char *transport, const char *sys_root, const char *dev_root,
              uint32_t peer_cid)
{
    bool any = !strcmp(transport, "auto");
    char path[PATH_MAX];

    *link = (struct link){.fd = -1, .listen_fd = -1, .peer_cid = peer_cid};
    if (transport[0] == '/')
        return port_open(link, transport);
    if (!strncmp(transport, "unix:", 5))
        return unix_open(link, transport + 5);
    if (any || !strcmp(transport, "serial")) {
        int result = port_find(sys_root, dev_root, path);
        if (!result)
            return port_open(link, path);
        if (!any)
            return result;
    }
    return any || !strcmp(transport, "vsock") ? vsock_open(link, !any) : -EINVAL;
}

/* ---------------------------------------------------------------- running */

static void connection_close(struct link *link)
{
    close(link->fd);
    link->fd = -1;
}

/* The latest connection counts: the host end before it may have died unnoticed. */
static bool connection_take(struct link *link)
{
    struct sockaddr_vm peer = {0};
    socklen_t bytes = sizeof peer;
    int fd = accept4(link->listen_fd, (struct sockaddr *)&peer, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return false;
    if (peer.svm_family == AF_VSOCK && peer.svm_cid != link->peer_cid) {
        close(fd);
        return false;
    }
    if (link->fd >= 0)
        connection_close(link);
    link->fd = fd;
    return true;
}

unsigned link_polls(const struct link *link, bool want_read, bool want_write, struct pollfd polls[LINK_POLLS])
{
    unsigned n = 0;

    if (link->listen_fd >= 0)
        polls[n++] = (struct pollfd){.fd = link->listen_fd, .events = POLLIN};
    if (link->fd >= 0 && !link->hung)
        polls[n++] = (struct pollfd){
            .fd = link->fd, .events = (short)((want_read ? POLLIN : 0) | (want_write ? POLLOUT : 0))};
    return n;
}

bool link_polled(struct link *link, const struct pollfd *polls, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (polls[i].fd == link->listen_fd && polls[i].revents)
            return connection_take(link);
        if (polls[i].fd != link->fd || polls[i].revents & POLLIN || !(polls[i].revents & (POLLHUP | POLLERR)))
            continue;
        if (link->listen_fd >= 0)
            connection_close(link);
        else
            link->hung = true;
        return true;
    }
    return false;
}

bool link_revive(struct link *link)
{
    struct pollfd poll_port = {.fd = link->fd, .events = POLLIN};

    if (!link->hung || poll(&poll_port, 1, 0) < 0 || poll_port.revents & (POLLHUP | POLLERR))
        return false;
    link->hung = false;
    return true;
}

static ssize_t ended(struct link *link, bool *ret_gone)
{
    *ret_gone = true;
    if (link->listen_fd >= 0)
        connection_close(link);
    else
        link->hung = true;
    return 0;
}

/* What an error of the descriptor means; EIO is a terminal whose other end is closed. */
static ssize_t failed(struct link *link, int error, bool *ret_gone)
{
    if (error == EAGAIN || error == EINTR)
        return 0;
    if (link->listen_fd >= 0 || error == EIO || error == EPIPE)
        return ended(link, ret_gone);
    return -error;
}

ssize_t link_read(struct link *link, void *to, size_t bytes, bool *ret_gone)
{
    ssize_t got = read(link->fd, to, bytes);

    if (got > 0)
        return got;
    return got ? failed(link, errno, ret_gone) : ended(link, ret_gone);
}

ssize_t link_write(struct link *link, const void *from, size_t bytes, bool *ret_gone)
{
    ssize_t put = write(link->fd, from, bytes);

    return put >= 0 ? put : failed(link, errno, ret_gone);
}
