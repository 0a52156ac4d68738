/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see mappers.h. Processes come and go meanwhile: one that has gone maps nothing. */
#include "memd/daemon/mappers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define PATH_BYTES 320

/* One line of maps: ADDRESSES PERMS OFFSET MAJOR:MINOR INODE PATH. */
static void take_line(const struct mappers_search *s, const char *line, pid_t pid)
{
    unsigned major_dev, minor_dev;
    unsigned long ino;

    if (sscanf(line, "%*x-%*x %*4s %*x %x:%x %lu", &major_dev, &minor_dev, &ino) != 3 || !ino)
        return;
    for (size_t i = 0; i < s->nfiles; i++)
        if (s->file[i].ino == ino && s->file[i].dev == makedev(major_dev, minor_dev))
            s->file[i].pid = pid;
}

/* Returns the number of lines, or -errno. */
static long read_maps(const struct mappers_search *s, const char *path, pid_t pid)
{
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t room = 0;
    long n = 0;

    if (!f)
        return -errno;
    errno = 0;
    for (; getline(&line, &room, f) >= 0; n++)
        take_line(s, line, pid);
    long err = feof(f) ? n : errno ? -errno : -EIO;
    free(line);
    fclose(f);
    return err;
}

/* The first thread of a process may have ended before the others: then only those show the mappings. */
static long read_threads(const struct mappers_search *s, pid_t pid)
{
    char path[PATH_BYTES];
    long n = 0;

    snprintf(path, sizeof path, "%s/%d/task", s->proc_root, (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return -errno;
    for (struct dirent *d; n <= 0 && (d = readdir(dir));) {
        int tid = atoi(d->d_name);
        if (tid <= 0 || tid == pid)
            continue;
        snprintf(path, sizeof path, "%s/%d/task/%d/maps", s->proc_root, (int)pid, tid);
        n = read_maps(s, path, pid);
        if (n < 0 && n != -ENOENT && n != -ESRCH)
            break;
    }
    closedir(dir);
    return n;
}

/* Root's are not suspected: init of a container can't be read even by root, and never ends. */
static void suspect(const struct mappers_search *s, pid_t pid)
{
    char path[PATH_BYTES];
    struct stat st;

    snprintf(path, sizeof path, "%s/%d", s->proc_root, (int)pid);
    if (stat(path, &st) || !st.st_uid)
        return;
    for (size_t i = 0; i < s->nfiles; i++)
        for (uint32_t u = 0; u < s->file[i].nuids; u++)
            if (s->file[i].uids[u] == st.st_uid)
                s->file[i].pid = pid;
}

static int look_at(const struct mappers_search *s, pid_t pid)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "%s/%d/maps", s->proc_root, (int)pid);
    long n = read_maps(s, path, pid);
    if (n == 0)
        n = read_threads(s, pid);
    if (n == -EACCES || n == -EPERM)
        suspect(s, pid);
    return n >= 0 || n == -ENOENT || n == -ESRCH || n == -EACCES || n == -EPERM ? 0 : (int)n;
}

static int compare_pids(const void *a, const void *b)
{
    pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
    return x < y ? -1 : x > y;
}

static int look_at_all(const struct mappers_search *s)
{
    DIR *dir = opendir(s->proc_root);
    int err = 0;

    if (!dir)
        return -errno;
    while (!err) {
        errno = 0;
        struct dirent *d = readdir(dir);
        if (!d) {
            err = -errno;
            break;
        }
        pid_t pid = atoi(d->d_name);
        if (pid <= 0 || (s->nskip && bsearch(&pid, s->skip, s->nskip, sizeof pid, compare_pids)))
            continue;
        err = s->stop && atomic_load(s->stop) ? -ECANCELED : look_at(s, pid);
    }
    closedir(dir);
    return err;
}

int mappers_find(const struct mappers_search *s)
{
    for (size_t i = 0; i < s->nfiles; i++)
        s->file[i].pid = 0;
    int err = look_at_all(s);
    return err ? err : look_at_all(s);
}
