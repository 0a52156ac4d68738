/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see bound.h. Both versions of cgroups have the same under different names. */
#include "bench/balloon/bound.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 256

static const struct version {
    const char *root, *there, *limit, *none, *usage, *file, *shmem, *swap;
} versions[] = {
    {"/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.controllers", "memory.max", "max", "memory.current", "file ",
     "shmem ", NULL},
    {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "memory.limit_in_bytes", "-1",
     "memory.usage_in_bytes", "cache ", "shmem ", "swap "},
};
static const struct version *version;
static char group[PATH_BYTES], procs[PATH_BYTES + 16];

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));
    int err = n < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return err;
}

void bound_prepare(void)
{
    const size_t n = sizeof versions / sizeof versions[0];

    for (version = versions; version < versions + n && access(version->there, R_OK); version++)
        ;
    if (version == versions + n)
        bench_die("no memory cgroups below /sys/fs/cgroup");
    snprintf(group, sizeof group, "%s/memd-bench-%d", version->root, (int)getpid());
    snprintf(procs, sizeof procs, "%s/cgroup.procs", group);
    if (!version->swap)
        put("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
}

void bound_set(uint64_t bytes)
{
    char path[PATH_BYTES + 64], text[32];

    bound_restore();
    if (mkdir(group, 0755))
        bench_die("cannot make the cgroup %s: %s", group, strerror(errno));
    snprintf(path, sizeof path, "%s/%s", group, version->limit);
    snprintf(text, sizeof text, "%" PRIu64, bytes);
    int err = put(path, bytes ? text : version->none);
    if (err)
        bench_die("%s: %s", path, strerror(-err));
}

void bound_enter(void)
{
    int fd = open(procs, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, "0", 1) != 1)
        _exit(126);
    close(fd);
}

void bound_add(pid_t pid)
{
    char text[16];

    snprintf(text, sizeof text, "%d", (int)pid);
    int err = put(procs, text);
    if (err)
        bench_die("%s: %s", procs, strerror(-err));
}

static uint64_t number(const char *file)
{
    char path[PATH_BYTES + 64];
    uint64_t value = 0;

    snprintf(path, sizeof path, "%s/%s", group, file);
    FILE *f = fopen(path, "re");
    if (!f || fscanf(f, "%" SCNu64, &value) != 1)
        bench_die("%s: %s", path, strerror(errno));
    fclose(f);
    return value;
}

/* Of memory.stat. */
static uint64_t stat_of(const char *word)
{
    char path[PATH_BYTES + 64], line[128];
    uint64_t value = 0;

    snprintf(path, sizeof path, "%s/memory.stat", group);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, word, strlen(word)))
            value = strtoull(line + strlen(word), NULL, 10);
    if (f)
        fclose(f);
    return value;
}

struct bound_use bound_use(void)
{
    uint64_t usage = number(version->usage), cache = stat_of(version->file), shmem = stat_of(version->shmem);
    uint64_t droppable = cache > shmem ? cache - shmem : 0;

    return (struct bound_use){.held = usage > droppable ? usage - droppable : 0,
                              .swapped =
                                  version->swap ? stat_of(version->swap) : number("memory.swap.current")};
}

void bound_restore(void)
{
    for (unsigned tries = 0; rmdir(group) && errno == EBUSY && tries < 6000; tries++)
        bench_sleep(0.01); /* whoever was in it is just going */
}
