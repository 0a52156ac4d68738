/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see proc.h. */
#include "memd/daemon/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATH_BYTES 192

/* Read a small file whole. Returns its length or -errno. */
static ssize_t read_file(const char *path, char *buf, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, buf, bytes - 1);
    int err = errno;
    close(fd);
    if (n < 0)
        return -err;
    buf[n] = '\0';
    return n;
}

/* Of /proc/PID/stat: what is asked of it here. */
struct stat_line {
    char state;
    uint64_t user_ticks, system_ticks, start;
};

static int read_stat(const char *proc_root, pid_t pid, struct stat_line *ret)
{
    char path[PATH_BYTES], buf[1024];
    snprintf(path, sizeof path, "%s/%d/stat", proc_root, (int)pid);
    ssize_t n = read_file(path, buf, sizeof buf);
    if (n < 0)
        return n == -ENOENT ? -ESRCH : (int)n;

    /* the command's name is in parentheses and may hold anything; field 3, the state, follows the last one */
    const char *rest = strrchr(buf, ')');
    if (!rest || sscanf(rest + 1,
                        " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64
                        " %*d %*d %*d %*d %*d %*d %" SCNu64,
                        &ret->state, &ret->user_ticks, &ret->system_ticks, &ret->start) != 4)
        return -EPROTO;
    return ret->state == 'Z' || ret->state == 'X' ? -ESRCH : 0;
}

int proc_start_time(const char *proc_root, pid_t pid, uint64_t *ret_start)
{
    struct stat_line line;
    int err = read_stat(proc_root, pid, &line);

    if (!err)
        *ret_start = line.start;
    return err;
}

int proc_read_cpu(const char *proc_root, pid_t pid, uint64_t *ret_ns)
{
    struct stat_line line;
    int err = read_stat(proc_root, pid, &line);

    if (!err)
        *ret_ns = (line.user_ticks + line.system_ticks) * (1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
    return err;
}

int proc_open_pidfd(const char *proc_root, pid_t pid, uint64_t start)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return -errno;
    /* the pid may have been taken by another process before the open: then its start differs */
    uint64_t now_start;
    int err = proc_start_time(proc_root, pid, &now_start);
    if (!err && now_start != start)
        err = -ESRCH;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

bool proc_has_ended(int pidfd)
{
    struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

int proc_read_memory(const char *proc_root, struct proc_memory *ret_memory)
{
    char path[PATH_BYTES], buf[4096];
    snprintf(path, sizeof path, "%s/meminfo", proc_root);
    ssize_t n = read_file(path, buf, sizeof buf);
    if (n < 0)
        return (int)n;

    uint64_t total_kib, available_kib;
    const char *total = strstr(buf, "MemTotal:"), *available = strstr(buf, "MemAvailable:");
    if (!total || !available || sscanf(total, "MemTotal: %" SCNu64, &total_kib) != 1 ||
        sscanf(available, "MemAvailable: %" SCNu64, &available_kib) != 1)
        return -EPROTO;
    *ret_memory =
        (struct proc_memory){.total_bytes = total_kib * 1024, .available_bytes = available_kib * 1024};
    return 0;
}

int proc_read_anon(const char *proc_root, pid_t pid, uint64_t *ret_bytes)
{
    char path[PATH_BYTES], buf[256];
    snprintf(path, sizeof path, "%s/%d/statm", proc_root, (int)pid);
    ssize_t n = read_file(path, buf, sizeof buf);
    if (n < 0)
        return (int)n;

    uint64_t resident, shared; /* pages; shared: of files and shared memory */
    if (sscanf(buf, "%*u %" SCNu64 " %" SCNu64, &resident, &shared) != 2 || resident < shared)
        return -EPROTO;
    *ret_bytes = (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
    return 0;
}

int proc_read_locked(const char *proc_root, pid_t pid, uint64_t *ret_bytes)
{
    static const char *const keys[] = {"\nVmLck:", "\nVmPin:"};
    char path[PATH_BYTES], buf[4096];
    uint64_t kib, all = 0;

    snprintf(path, sizeof path, "%s/%d/status", proc_root, (int)pid);
    ssize_t n = read_file(path, buf, sizeof buf);
    if (n < 0)
        return (int)n;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *at = strstr(buf, keys[i]);
        if (at && sscanf(at + strlen(keys[i]), "%" SCNu64, &kib) == 1)
            all += kib << 10;
    }
    *ret_bytes = all;
    return 0;
}

int proc_read_stall(const char *proc_root, struct proc_stall *ret_stall)
{
    char path[PATH_BYTES], buf[256];
    snprintf(path, sizeof path, "%s/pressure/memory", proc_root);
    ssize_t n = read_file(path, buf, sizeof buf);
    if (n < 0)
        return (int)n;

    struct proc_stall stall = {0};
    const char *some = strstr(buf, "some avg10="), *full = strstr(buf, "full avg10=");
    if (!some || sscanf(some, "some avg10=%lf", &stall.some) != 1 ||
        (full && sscanf(full, "full avg10=%lf", &stall.full) != 1))
        return -EPROTO;
    *ret_stall = stall;
    return 0;
}

uint64_t proc_max_map_count(const char *proc_root, uint64_t fallback)
{
    char path[PATH_BYTES], buf[64];
    uint64_t count;
    snprintf(path, sizeof path, "%s/sys/vm/max_map_count", proc_root);
    if (read_file(path, buf, sizeof buf) < 0 || sscanf(buf, "%" SCNu64, &count) != 1)
        return fallback;
    return count;
}
