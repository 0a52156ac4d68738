/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * place: directories, lock, socket.
 *
 *   RUN_DIR/memd.lock     locked (flock) while a daemon runs; the lock goes with the process
 *   RUN_DIR/memd.sock     SEQPACKET, for VMMs of any user: who may do what is decided by SO_PEERCRED
 *   RUN_DIR/store/        frame stores, if RUN_DIR is on tmpfs; else /dev/shm/memd-store.UID.HASH;
 *   store/merge-on, -off  (one of them, empty) if a user has said so for all VMs
 *   STATE_DIR/restarts    how often memd was started here
 */
#include "memd/daemon/place.h"

#include "memd/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <xxhash.h>

#define SHM_DIR        "/dev/shm"
#define MERGE_ON       "merge-on"
#define MERGE_OFF      "merge-off"
#define LOCK_TRIES     16
#define LISTEN_BACKLOG 128

struct report {
    char *text;
    size_t bytes;
};

__attribute__((format(printf, 3, 4))) static int fail(const struct report *report, int error,
                                                      const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(report->text, report->bytes, format, args);
    va_end(args);
    return -error;
}

static int make_dir(const char *path, mode_t mode, unsigned *made)
{
    if (!mkdir(path, mode)) {
        ++*made;
        return 0;
    }
    return errno == EEXIST ? 0 : -errno;
}

/* As mkdir -p, with `mode` for the last; counts those made. */
static int make_dirs(const char *path, mode_t mode, unsigned *made)
{
    char copy[600];
    int err = 0;

    snprintf(copy, sizeof copy, "%s", path);
    for (char *slash = copy + 1; !err && (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        err = make_dir(copy, 0755, made);
    }
    return err ? err : make_dir(copy, mode, made);
}

/* The last `n` of a path, as far as they are empty. */
static void remove_dirs(const char *path, unsigned n)
{
    char copy[600];

    snprintf(copy, sizeof copy, "%s", path);
    for (char *slash; n-- && !rmdir(copy) && (slash = strrchr(copy, '/'));)
        *slash = '\0';
}

/* A daemon that ends removes its lock file: what we have locked must be what the name stands for. */
static int lock_file(const char *path, int *ret_fd)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        struct stat ours, named;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            int err = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
            close(fd);
            return err;
        }
        if (!fstat(fd, &ours) && !stat(path, &named) && ours.st_ino == named.st_ino &&
            ours.st_dev == named.st_dev) {
            *ret_fd = fd;
            return 0;
        }
        close(fd);
    }
    return -EADDRINUSE;
}

static int open_run_dir(struct core *core, const struct report *report)
{
    const char *dir = core->config.run_dir;
    char path[300];
    int err = make_dirs(dir, 0755, &core->made_run_dirs);

    if (err)
        return fail(report, -err, "cannot make the run directory %s: %s; give another with --run-dir", dir,
                    strerror(-err));
    snprintf(path, sizeof path, "%s/memd.lock", dir);
    err = lock_file(path, &core->lock_fd);
    if (err == -EADDRINUSE)
        return fail(report, -err, "another memd is serving %s; stop it, or give this one its own --run-dir",
                    dir);
    if (err)
        return fail(report, -err, "cannot write to the run directory %s: %s; give another with --run-dir",
                    dir, strerror(-err));
    return 0;
}

static int open_state_dir(struct core *core, const struct report *report)
{
    int err = make_dirs(core->config.state_dir, 0750, &core->made_state_dirs);

    if (!err && faccessat(AT_FDCWD, core->config.state_dir, R_OK | W_OK | X_OK, AT_EACCESS))
        err = -errno;
    return err ? fail(report, -err,
                      "cannot write to the state directory %s: %s; give another with --state-dir",
                      core->config.state_dir, strerror(-err))
               : 0;
}

static int count_start(struct core *core, const struct report *report)
{
    char path[300], text[32] = "";

    snprintf(path, sizeof path, "%s/restarts", core->config.state_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return fail(report, errno, "cannot write %s: %s; give another directory with --state-dir", path,
                    strerror(errno));
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    core->restarts = n > 0 ? strtoull(text, NULL, 10) : 0;
    n = snprintf(text, sizeof text, "%" PRIu64 "\n", core->restarts + 1);
    if (pwrite(fd, text, (size_t)n, 0) != n)
        log_warn("cannot write %s: %s", path, strerror(errno));
    close(fd);
    return 0;
}

static bool is_tmpfs(const char *dir)
{
    struct statfs fs;

    return !statfs(dir, &fs) && fs.f_type == TMPFS_MAGIC;
}

static int open_store_dir(struct core *core, const struct report *report)
{
    const char *run_dir = core->config.run_dir;

    if (is_tmpfs(run_dir))
        snprintf(core->store_path, sizeof core->store_path, "%s/store", run_dir);
    else {
        snprintf(core->store_path, sizeof core->store_path, SHM_DIR "/memd-store.%u.%08x",
                 (unsigned)geteuid(), (unsigned)XXH3_64bits(run_dir, strlen(run_dir)));
        if (!is_tmpfs(SHM_DIR))
            return fail(report, ENOTSUP,
                        "neither %s nor " SHM_DIR " is a tmpfs, which frames need; give a --run-dir "
                        "on a tmpfs",
                        run_dir);
        log_info("%s is not on a tmpfs: frames are kept in %s", run_dir, core->store_path);
    }
    if (mkdir(core->store_path, 0700) && errno != EEXIST)
        return fail(report, errno, "cannot make %s: %s", core->store_path, strerror(errno));
    core->store_fd = open(core->store_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (core->store_fd < 0 || fstat(core->store_fd, &st) || st.st_uid != geteuid() || st.st_mode & 077)
        return fail(report, EACCES, "%s is not a directory of this user alone; remove it", core->store_path);
    return 0;
}

static int open_socket(struct core *core, const struct report *report)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (snprintf(core->socket_path, sizeof core->socket_path, "%s/" WIRE_SOCKET_NAME, core->config.run_dir) >=
        (int)sizeof addr.sun_path)
        return fail(report, ENAMETOOLONG, "%s is too long for a socket's address", core->socket_path);
    memcpy(addr.sun_path, core->socket_path, strlen(core->socket_path) + 1);
    core->listener.fd = fd;
    unlink(core->socket_path); /* of a daemon that died: we hold the lock */
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof addr) || chmod(core->socket_path, 0666) ||
        listen(fd, LISTEN_BACKLOG))
        return fail(report, errno, "cannot listen on %s: %s", core->socket_path, strerror(errno));
    return 0;
}

int place_open(struct core *core, char *ret_error, size_t error_bytes)
{
    struct report report = {ret_error, error_bytes};
    int err = open_run_dir(core, &report);

    if (!err)
        err = open_state_dir(core, &report);
    if (!err)
        err = open_store_dir(core, &report);
    if (!err)
        err = open_socket(core, &report);
    if (!err)
        err = count_start(core, &report);
    if (err)
        place_close(core);
    return err;
}

/* ---------------------------------------------------------------- merging, on or off */

static void forget_merge(struct core *core)
{
    unlinkat(core->store_fd, MERGE_ON, 0);
    unlinkat(core->store_fd, MERGE_OFF, 0);
}

void place_keep_merge(struct core *core)
{
    int fd = openat(core->store_fd, core->merge_on ? MERGE_ON : MERGE_OFF,
                    O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        log_warn("cannot note in %s whether merging is on for the next start of memd: %s", core->store_path,
                 strerror(errno));
        return;
    }
    close(fd);
    unlinkat(core->store_fd, core->merge_on ? MERGE_OFF : MERGE_ON, 0);
}

void place_recall_merge(struct core *core)
{
    if (!core->nawaited) /* nobody is left whom it was said of: the configuration counts */
        forget_merge(core);
    else if (!faccessat(core->store_fd, MERGE_OFF, F_OK, 0))
        core->merge_on = false;
    else if (!faccessat(core->store_fd, MERGE_ON, F_OK, 0))
        core->merge_on = true;
}

/* ---------------------------------------------------------------- the end */

void place_close(struct core *core)
{
    char path[300];

    if (core->listener.fd >= 0) {
        close(core->listener.fd);
        unlink(core->socket_path);
    }
    if (core->store_fd >= 0) {
        if (!core->nkept)
            forget_merge(core);
        close(core->store_fd);
        rmdir(core->store_path); /* stays if an engine still uses a store */
    }
    if (core->lock_fd >= 0) {
        snprintf(path, sizeof path, "%s/memd.lock", core->config.run_dir);
        unlink(path);
        close(core->lock_fd);
    }
    remove_dirs(core->config.run_dir, core->made_run_dirs);
    remove_dirs(core->config.state_dir, core->made_state_dirs);
    core->listener.fd = core->store_fd = core->lock_fd = -1;
}
