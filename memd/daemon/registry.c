/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see registry.h. A file is written under another name and renamed: a daemon killed
 * while writing leaves a whole one or none. */
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
#define FILE_BYTES  (CORE_NAME_BYTES + 40)

static void file_name(const struct registry_entry *entry, char name[FILE_BYTES])
{
    snprintf(name, FILE_BYTES, "%d.%" PRIu64 ".%s", (int)entry->pid, entry->start, entry->name);
}

static int open_engines(int dir_fd)
{
    if (mkdirat(dir_fd, ENGINES_DIR, 0700) && errno != EEXIST)
        return -errno;
    int fd = openat(dir_fd, ENGINES_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static int write_file(int engines_fd, const char *name, const struct registry_entry *entry)
{
    char text[64];
    int len = snprintf(text, sizeof text, "uid %u\nmerge %s\n", (unsigned)entry->uid,
                       entry->merge_on ? "on" : "off");
    int fd = openat(engines_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, (size_t)len);
    int err = n < 0 ? -errno : n != len ? -ENOSPC : 0;
    close(fd);
    return err;
}

int registry_write(int dir_fd, const struct registry_entry *entry)
{
    char name[FILE_BYTES];
    file_name(entry, name);
    int engines_fd = open_engines(dir_fd);
    if (engines_fd < 0)
        return engines_fd;

    int err = write_file(engines_fd, "new", entry);
    if (!err && renameat(engines_fd, "new", engines_fd, name))
        err = -errno;
    close(engines_fd);
    return err;
}

int registry_remove(int dir_fd, const struct registry_entry *entry)
{
    char name[FILE_BYTES];
    file_name(entry, name);
    int engines_fd = open_engines(dir_fd);
    if (engines_fd < 0)
        return engines_fd;
    int err = unlinkat(engines_fd, name, 0) ? -errno : 0;
    close(engines_fd);
    return err;
}

static int read_entry(int engines_fd, const char *name, struct registry_entry *ret_entry)
{
    struct registry_entry entry = {0};
    char text[64], merge[4];
    int pid, at = 0;
    unsigned uid;

    if (sscanf(name, "%d.%" SCNu64 ".%n", &pid, &entry.start, &at) != 2 || !at || pid <= 0 || !name[at] ||
        strlen(name + at) >= sizeof entry.name)
        return -EINVAL;
    strcpy(entry.name, name + at);
    entry.pid = pid;

    int fd = openat(engines_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n < 0)
        return -EIO;
    text[n] = '\0';
    if (sscanf(text, "uid %u merge %3s", &uid, merge) != 2)
        return -EINVAL;
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
        if (read_entry(engines_fd, file->d_name, &entry)) {
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
