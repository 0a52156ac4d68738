/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A program whose main thread has called pthread_exit() ends with the last of its threads. Ours would keep it
 * alive for ever: libc counts them with its own. So from that call on the helper thread looks who is left.
 */
#include "memd/preload/alone.h"

#include "memd/engine/maps.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct entry { /* linux_dirent64, getdents(2) */
    uint64_t ino;
    int64_t offset;
    unsigned short bytes;
    unsigned char type;
    char name[];
};

/* The main thread, the caller, and by their names the threads of the engine and its helpers, and the
 * kernel's. */
static bool is_ours(const char *tid)
{
    static const char *const names[] = {"memd-run", "memd-hand", "memd-work", "memd-fault", "iou-"};
    long id = strtol(tid, NULL, 10);
    char path[64], comm[32] = "";
    struct lines l;

    if (id == getpid() || id == syscall(SYS_gettid))
        return true;
    snprintf(path, sizeof path, "/proc/self/task/%ld/comm", id);
    bool gone = lines_open(&l, path) || !lines_next(&l, comm, sizeof comm);
    lines_close(&l);
    for (unsigned i = 0; !gone && i < sizeof names / sizeof *names; i++)
        if (!strncmp(comm, names[i], strlen(names[i])))
            return true;
    return gone;
}

bool alone_now(void)
{
    int fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _Alignas(struct entry) char buf[1024];
    bool alone = fd >= 0;
    long n = 0;

    while (alone && (n = syscall(SYS_getdents64, fd, buf, sizeof buf)) > 0)
        for (long at = 0; at < n && alone; at += ((struct entry *)(buf + at))->bytes) {
            const char *name = ((struct entry *)(buf + at))->name;
            alone = name[0] == '.' || is_ours(name);
        }
    if (fd >= 0)
        close(fd);
    return alone && !n;
}
