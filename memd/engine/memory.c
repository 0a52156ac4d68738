/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much memory this process can still have: what the host has available, and what the memory cgroups the
 * process is in leave it, whichever is least. Asked before pages are brought home: a process that exceeds its
 * cgroup's limit is ended by the kernel, and refusing is better.
 *
 * Both versions of cgroups, each group up to the root. What cannot be read limits nothing. Any thread; no
 * allocation.
 */
#include "memd/engine/memory.h"

#include "memd/engine/maps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES 512

/* The names of a cgroup's files, in each version. */
static const struct version {
    const char *limit, *usage, *inactive, *active;
} v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ", "total_active_file "},
  v2 = {"memory.max", "memory.current", "inactive_file ", "active_file "};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t number_in(const char *dir, const char *name, uint64_t otherwise)
{
    char path[PATH_BYTES + 64];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_number(path, otherwise);
}

/* What the kernel drops before it refuses: cached files. */
static uint64_t cached(const char *dir, const struct version *v)
{
    char path[PATH_BYTES + 64], line[128];
    uint64_t bytes = 0;
    struct lines l;

    snprintf(path, sizeof path, "%s/memory.stat", dir);
    if (!lines_open(&l, path))
        while (lines_next(&l, line, sizeof line)) {
            uint64_t n = 0;
            if (!strncmp(line, v->inactive, strlen(v->inactive)))
                sscanf(line + strlen(v->inactive), "%" SCNu64, &n);
            else if (!strncmp(line, v->active, strlen(v->active)))
                sscanf(line + strlen(v->active), "%" SCNu64, &n);
            bytes += n;
        }
    lines_close(&l);
    return bytes;
}

static uint64_t room_in(const char *dir, const struct version *v)
{
    uint64_t limit = number_in(dir, v->limit, UINT64_MAX);

    if (limit == UINT64_MAX)
        return UINT64_MAX;
    uint64_t usage = number_in(dir, v->usage, 0), drops = cached(dir, v);
    usage -= least(usage, drops);
    return limit - least(limit, usage);
}

/* The group at `path` below `root`, and those it is in. */
static uint64_t room_up(const char *root, const char *path, const struct version *v)
{
    char dir[PATH_BYTES];
    uint64_t room = UINT64_MAX;
    size_t base = strlen(root);

    if ((size_t)snprintf(dir, sizeof dir, "%s%s", root, path) >= sizeof dir)
        return room;
    for (;;) {
        room = least(room, room_in(dir, v));
        char *slash = strrchr(dir + base, '/');
        if (!slash)
            return room;
        *slash = '\0';
    }
}

static bool names_memory(const char *controllers, const char *end)
{
    const char *at = strstr(controllers, "memory");

    return at && at < end && (at == controllers || at[-1] == ',') && (at[6] == ',' || at + 6 == end);
}

static uint64_t cgroup_room(const char *proc, const char *cgroups)
{
    char path[PATH_BYTES], root[PATH_BYTES], line[PATH_BYTES];
    uint64_t room = UINT64_MAX;
    struct lines l;

    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    int err = lines_open(&l, path);
    while (!err && lines_next(&l, line, sizeof line)) { /* NUMBER:CONTROLLERS:PATH */
        char *controllers = strchr(line, ':'), *at = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!at)
            continue;
        controllers++;
        if (at == controllers) {
            room = least(room, room_up(cgroups, at + 1, &v2));
            snprintf(root, sizeof root, "%.480s/unified", cgroups);
            room = least(room, room_up(root, at + 1, &v2));
        } else if (names_memory(controllers, at)) {
            snprintf(root, sizeof root, "%.480s/memory", cgroups);
            room = least(room, room_up(root, at + 1, &v1));
        }
    }
    lines_close(&l);
    return room;
}

uint64_t memory_available(const char *proc, const char *cgroups)
{
    char path[PATH_BYTES], line[128];
    uint64_t kib = 0;
    struct lines l;

    snprintf(path, sizeof path, "%s/meminfo", proc);
    if (!lines_open(&l, path))
        while (lines_next(&l, line, sizeof line) && sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) != 1)
            ;
    lines_close(&l);
    return least(kib << 10, cgroup_room(proc, cgroups));
}

uint64_t mem_available_bytes(void)
{
    return memory_available("/proc", "/sys/fs/cgroup");
}
