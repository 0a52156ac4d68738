/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * swap: the files that engines put pages into.
 *
 * The daemon makes a file in the state directory and sends the engine a descriptor of it, so a VMM needs no
 * access to any directory. The file has no name (O_TMPFILE, or unlinked at once): it lives as long as the
 * engine has it open, and nothing of it is left when the VMM dies, whoever else is alive then. What is in it
 * is encrypted with a key that only the engine has. O_DIRECT where the file system takes it.
 */
#include "memd/daemon/swap.h"

#include "memd/daemon/join.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int make_named(const char *dir)
{
    char path[300];

    snprintf(path, sizeof path, "%s/swap.XXXXXX", dir);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

static int make_file(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);

    if (fd < 0 && errno == EINVAL)
        fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR))
        fd = make_named(dir);
    return fd < 0 ? -errno : fd;
}

void swap_offer(struct session *session)
{
    struct core *core = session->core;
    uint64_t max = core->config.swap_bytes_max;
    struct wire_msg_swap msg = {.h = {.magic = WIRE_MAGIC, .type = WIRE_SWAP, .bytes = sizeof msg},
                                .max_bytes = max ? max : UINT64_MAX};

    if (!core->config.swap)
        return;
    int fd = make_file(core->config.state_dir);
    int err = fd < 0 ? fd : join_send_fds(session->sock.fd, &msg, sizeof msg, &fd, 1);
    if (fd >= 0)
        close(fd);
    if (err && session_may_log(session))
        log_warn("VM %s has no swap file in %s: %s", session->vm->engine.name, core->config.state_dir,
                 strerror(-err));
}
