/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see sample.h. */
#include "guest-agent/sample.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Tasks waiting for 20 ms within half a second are news. */
#define TRIGGER      "some 20000 500000"
#define CGROUPS_MAX  512u /* looked at */
#define DIRENT_BYTES 2048u

static int open_below(const char *root, const char *name, int flags)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof path, "%s/%s", root, name) >= (int)sizeof path)
        return -ENAMETOOLONG;
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Have the kernel say when tasks wait for memory. Needs privileges for a window below 2 s. */
static int open_trigger(const char *proc_root)
{
    int fd = open_below(proc_root, "pressure/memory", O_RDWR | O_NONBLOCK);

    if (fd >= 0 && write(fd, TRIGGER, sizeof TRIGGER) != sizeof TRIGGER) {
        close(fd);
        return -1;
    }
    return fd < 0 ? -1 : fd;
}

int sampler_open(struct sampler *s, const char *proc_root, const char *cgroup_dir)
{
    s->meminfo_fd = open_below(proc_root, "meminfo", O_RDONLY);
    s->vmstat_fd = open_below(proc_root, "vmstat", O_RDONLY);
    s->pressure_fd = open_below(proc_root, "pressure/memory", O_RDONLY);
    s->trigger_fd = s->pressure_fd < 0 ? -1 : open_trigger(proc_root);
    s->cgroup_fd = cgroup_dir ? open(cgroup_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    s->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    return s->meminfo_fd < 0 ? s->meminfo_fd : 0;
}

/* A file of /proc. One that is made as a whole comes with the first read; others are handed out in pieces. */
static size_t read_text(struct sampler *s, int fd, bool in_pieces)
{
    size_t n = 0;
    ssize_t got;

    while (fd >= 0 && n < sizeof s->text) {
        got = pread(fd, s->text + n, sizeof s->text - n, (off_t)n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
        if (!in_pieces)
            break;
    }
    return n;
}

void sampler_look(struct sampler *s, struct sample *sample)
{
    struct timespec up;

    parse_meminfo(s->text, read_text(s, s->meminfo_fd, false), sample);
    parse_pressure(s->text, read_text(s, s->pressure_fd, false), sample);
    clock_gettime(CLOCK_BOOTTIME, &up);
    sample_set(sample, AGENT_UPTIME_MS, (uint64_t)up.tv_sec * 1000 + (uint64_t)up.tv_nsec / 1000000);
}

void sampler_look_closer(struct sampler *s, struct sample *sample)
{
    parse_vmstat(s->text, read_text(s, s->vmstat_fd, true), s->page_bytes, sample);
}

/* ---------------------------------------------------------------- cgroups */

/* Of getdents64(2). */
struct entry {
    uint64_t ino;
    int64_t off;
    uint16_t bytes;
    uint8_t type;
    char name[];
};

static bool read_current(int dir_fd, const char *name, uint64_t *ret_bytes)
{
    char path[NAME_MAX + 32], text[32];

    snprintf(path, sizeof path, "%.*s/memory.current", NAME_MAX, name);
    int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, text, sizeof text);
    close(fd);
    return got > 0 && parse_number(text, (size_t)got, ret_bytes);
}

/* Keep the list sorted. A name that is too long is cut. */
static unsigned insert(struct agent_consumer top[AGENT_CONSUMERS_MAX], unsigned n, const char *name,
                       uint64_t bytes)
{
    unsigned at = n;

    while (at > 0 && top[at - 1].bytes < bytes)
        at--;
    if (at == AGENT_CONSUMERS_MAX)
        return n;
    n += n < AGENT_CONSUMERS_MAX;
    memmove(&top[at + 1], &top[at], (n - at - 1) * sizeof top[0]);
    memset(&top[at], 0, sizeof top[at]);
    top[at].bytes = bytes;
    memcpy(top[at].name, name, strnlen(name, sizeof top[at].name - 1));
    return n;
}

unsigned sampler_consumers(struct sampler *s, struct agent_consumer top[AGENT_CONSUMERS_MAX])
{
    char entries[DIRENT_BYTES] __attribute__((aligned(8)));
    unsigned n = 0, looked = 0;
    uint64_t bytes;
    long got;

    if (s->cgroup_fd < 0 || lseek(s->cgroup_fd, 0, SEEK_SET))
        return 0;
    while ((got = syscall(SYS_getdents64, s->cgroup_fd, entries, sizeof entries)) > 0)
        for (long at = 0; at < got;) {
            const struct entry *entry = (const struct entry *)(entries + at);
            at += entry->bytes;
            if (entry->type != DT_DIR || entry->name[0] == '.')
                continue;
            if (looked++ == CGROUPS_MAX)
                return n;
            if (read_current(s->cgroup_fd, entry->name, &bytes) && bytes)
                n = insert(top, n, entry->name, bytes);
        }
    return n;
}

uint64_t sample_boot(const char *proc_root)
{
    uint64_t boot = 0;
    char text[64];
    int fd = open_below(proc_root, "sys/kernel/random/boot_id", O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text);

    if (fd >= 0)
        close(fd);
    for (ssize_t i = 0; i < got; i++) /* any mixing will do: the kernel has drawn it */
        boot = (boot ^ (unsigned char)text[i]) * 0x100000001b3ull;
    return boot;
}
