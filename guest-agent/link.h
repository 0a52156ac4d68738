/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * link: the way to the host. Either a port (virtio-serial, a serial line), which is there as long as the
 * guest is and tells when somebody is at its other end; or a socket that listens, on vsock for the host
 * alone, or on a path, and has one connection at a time, the latest.
 */
#ifndef GUEST_AGENT_LINK_H
#define GUEST_AGENT_LINK_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LINK_NAME_BYTES 128

struct link {
    int fd;                     /* port or connection; -1: none */
    int listen_fd;              /* -1: a port */
    bool hung;                  /* a port with nobody at its other end */
    uint32_t peer_cid;          /* who may connect by vsock */
    char name[LINK_NAME_BYTES]; /* for messages */
};

/*
 * Open `transport`: "auto" (the port by its name, else vsock), "serial" (the port by its name), "vsock",
 * "unix:PATH", or the path of a device. Returns 0 or -errno; -ENODEV: there is no such way in this guest.
 */
int link_open(struct link *link, const char *transport, const char *sys_root, const char *dev_root,
              uint32_t peer_cid);

/* The descriptors to wait for, at most 2, with what for; returns how many. */
#define LINK_POLLS 2
unsigned link_polls(const struct link *link, bool want_read, bool want_write,
                    struct pollfd polls[LINK_POLLS]);
/* What poll() said of them. True: the host end is gone, or another one: what was half said is void. */
bool link_polled(struct link *link, const struct pollfd *polls, unsigned n);
/* A port that hung: is anybody there now? True: yes. */
bool link_revive(struct link *link);

/* As read(2) and write(2), but: 0 for later; -errno: broken for good (a port that was unplugged). A
 * connection that ends is closed, which is no error: *ret_gone. */
ssize_t link_read(struct link *link, void *to, size_t bytes, bool *ret_gone);
ssize_t link_write(struct link *link, const void *from, size_t bytes, bool *ret_gone);

#endif
