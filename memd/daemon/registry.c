/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see registry.h. A change of the name is one rename: a daemon killed on the way leaves
 * the old name or the new. */
#include "memd/daemon/registry.h"

#include "memd/common/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENGINES_DIR "engines"
#define FILE_BYTES  (CORE_NAME_BYTES + 60)

static void file_name(const struct registry_entry *entry, bool merge_on, char name[FILE_BYTES])
{
    snprintf(name, FILE_BYTES, "%d.%" PRIu64 ".%u.%s.%s", (int)entry->pid, entry->start, (unsigned)entry->uid,
             merge_on ? "on" : "off", entry->name);
}

static int open_engines(int dir_fd)
{
    if (mkdirat(dir_fd, ENGINES_DIR, 0700) && errno != EEXIST)
        return -errno;
    int fd = openat(dir_fd, ENGINES_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

int registry_write(int dir_fd, const struct registry_entry *entry)
{
    char name[FILE_BYTES], other[FILE_BYTES];
    int engines_fd = open_engines(dir_fd);

    if (engines_fd < 0)
        return engines_fd;
    file_name(entry, entry->merge_on, name);
    file_name(entry, !entry->merge_on, other);
    int err = renameat(engines_fd, other, engines_fd, name) ? -errno : 0;
    if (err == -ENOENT) {
        int fd = openat(engines_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        err = fd < 0 ? -errno : 0;
        if (fd >= 0)
            close(fd);
    }
    close(engines_fd);
    return err;
}

int registry_remove(int dir_fd, const struct registry_entry *entry)
{
    char name[FILE_BYTES];
    int engines_fd = open_engines(dir_fd), err = -ENOENT;

    if (engines_fd < 0)
        return engines_fd;
    /* a change may not have found its way here */
    for (int i = 0; i < 2 && err == -ENOENT; i++) {
        file_name(entry, entry->merge_on ^ i, name);
        err = unlinkat(engines_fd, name, 0) ? -errno : 0;
    }
    close(engines_fd);
    return err;
}

static int parse_name(const char *name, struct registry_entry *ret_entry)
{
    struct registry_entry entry = {0};
    char merge[4];
    int pid, at = 0;
    unsigned uid;

    if (sscanf(name, "%d.%" SCNu64 ".%u.%3[onf].%n", &pid, &entry.start, &uid, merge, &at) != 4 || !at ||
        pid <= 0 || !name[at] || strlen(name + at) >= sizeof entry.name ||
        (strcmp(merge, "on") && strcmp(merge, "off")))
        return -EINVAL;
    strcpy(entry.name, name + at);
    entry.pid = pid;
    entry.uid = uid;
    entry.merge_on = !strcmp(merge, "on");
    *ret_entry = entry;
    return 0;
}

int registry_each(int dir_fd, int (*visit)(void *ctx, const struct registry_entry *entry), void *ctx)
{
    int engines_fd = open_engines(dir_fd);
    if (engines_fd < 0)
        return engines_fd;
    DIR *dir = fdopendir(engines_fd);
    if (!dir) {
        close(engines_fd);
        return -ENOMEM;
    }

    int err = 0;
    for (struct dirent *file; !err && (file = readdir(dir));) {
        struct registry_entry entry;
        if (file->d_name[0] == '.')
            continue;
        if (parse_name(file->d_name, &entry)) {
            log_warn("engine registry: %s is not an entry, removed", file->d_name);
            unlinkat(engines_fd, file->d_name, 0);
            continue;
        }
        err = visit(ctx, &entry);
    }
    closedir(dir);
    return err;
}

int registry_destroy(int dir_fd)
{
    return unlinkat(dir_fd, ENGINES_DIR, AT_REMOVEDIR) && errno != ENOENT ? -errno : 0;
}
