/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See maps.h. */
#include "memd/engine/maps.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_BYTES 512u

int lines_open(struct lines *l, const char *path)
{
    l->at = l->end = 0;
    l->fd = open(path, O_RDONLY | O_CLOEXEC);
    return l->fd < 0 ? -errno : 0;
}

void lines_close(struct lines *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

static bool refill(struct lines *l)
{
    ssize_t n;

    do
        n = read(l->fd, l->buf, sizeof l->buf);
    while (n < 0 && errno == EINTR);
    l->at = 0;
    l->end = n > 0 ? (size_t)n : 0;
    return n > 0;
}

bool lines_next(struct lines *l, char *line, size_t size)
{
    size_t n = 0;

    if (l->fd < 0 || (l->at == l->end && !refill(l)))
        return false;
    do {
        char c = l->buf[l->at++];
        if (c == '\n')
            break;
        if (n + 1 < size)
            line[n++] = c;
    } while (l->at < l->end || refill(l));
    line[n] = 0;
    return true;
}

uint64_t file_number(const char *path, uint64_t otherwise)
{
    char line[32], *end = line;
    struct lines l;

    if (!lines_open(&l, path) && lines_next(&l, line, sizeof line)) {
        uint64_t n = strtoull(line, &end, 10);
        otherwise = end != line ? n : otherwise;
    }
    lines_close(&l);
    return otherwise;
}

bool mapping_has(const struct mapping *v, const char *two_letters)
{
    char want[5] = {' ', two_letters[0], two_letters[1], ' ', 0};

    return strstr(v->flags, want);
}

/* A mapping's first line; false: it is another line of smaps. */
static bool first_line(const char *line, struct mapping *ret_v)
{
    uint64_t start, end;
    unsigned long inode;
    char perms[5];

    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %lu", &start, &end, perms, &inode) != 4)
        return false;
    *ret_v = (struct mapping){.start = start,
                              .end = end,
                              .file = inode != 0,
                              .readable = perms[0] == 'r',
                              .writable = perms[1] == 'w',
                              .shared = perms[3] == 's'};
    return true;
}

int mappings_each(uint64_t start, uint64_t end, bool with_flags, mapping_fn *fn, void *ctx)
{
    struct mapping v = {0};
    uint64_t done = start;
    char line[LINE_BYTES];
    struct lines l;
    int err = lines_open(&l, with_flags ? "/proc/self/smaps" : "/proc/self/maps");

    while (!err && done < end && lines_next(&l, line, sizeof line)) {
        bool first = first_line(line, &v);
        if (first && v.start >= end)
            break;
        if (v.end <= done || (with_flags ? strncmp(line, "VmFlags:", 8) : !first))
            continue;
        if (with_flags)
            snprintf(v.flags, sizeof v.flags, "%.150s ", line + 8);
        /* what fn does may join a mapping with the next, and /proc then shows both again as one */
        v.start = v.start > done ? v.start : done;
        done = v.end;
        err = fn(ctx, &v);
    }
    lines_close(&l);
    return err;
}
