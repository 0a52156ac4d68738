/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's numbers. A process that is gone counts as nothing. */
#include "bench/dedup/dedup.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The number behind `key` in a file of "key: number kB" lines, in bytes. */
static uint64_t kib_field(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    size_t length = strlen(key);
    uint64_t kib = 0;
    char line[256];

    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, length) && line[length] == ':') {
            kib = strtoull(line + length + 1, NULL, 10);
            break;
        }
    if (f)
        fclose(f);
    return kib * 1024;
}

uint64_t count_pss(pid_t pid)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    return kib_field(path, "Pss");
}

uint64_t count_ksm_items(pid_t pid)
{
    char path[64], line[128];
    uint64_t n = 0;

    snprintf(path, sizeof path, "/proc/%d/ksm_stat", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "ksm_rmap_items %" SCNu64, &n) == 1)
            break;
    if (f)
        fclose(f);
    return n;
}

uint64_t count_available(void)
{
    return kib_field("/proc/meminfo", "MemAvailable");
}

uint64_t count_cpu_ns(pid_t pid)
{
    struct timespec ts;
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts))
        return 0;
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t count_slab(const char *const *names, size_t n)
{
    FILE *f = fopen("/proc/slabinfo", "re");
    char line[512], name[64];
    uint64_t active, size, all, bytes = 0;

    while (f && fgets(line, sizeof line, f))
        for (size_t i = 0; i < n; i++)
            if (sscanf(line, "%63s %" SCNu64 " %" SCNu64 " %" SCNu64, name, &active, &all, &size) == 4 &&
                !strcmp(name, names[i]))
                bytes += active * size;
    if (f)
        fclose(f);
    return bytes;
}

double count_now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

pid_t count_find_kthread(const char *name)
{
    DIR *dir = opendir("/proc");
    pid_t found = 0;

    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        char path[300], comm[32] = "";
        snprintf(path, sizeof path, "/proc/%s/comm", e->d_name);
        FILE *f = fopen(path, "re");
        if (f && fscanf(f, "%31s", comm) == 1 && !strcmp(comm, name))
            found = atoi(e->d_name);
        if (f)
            fclose(f);
    }
    if (dir)
        closedir(dir);
    return found;
}
