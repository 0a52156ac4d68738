/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * KSM's settings. They are read before anything is changed, and put back at exit. A process of its own waits
 * for the benchmark's end on a pipe, so that they are put back even if it is killed.
 */
#include "bench/dedup/dedup.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DIR "/sys/kernel/mm/ksm/"

static struct {
    const char *file;
    uint64_t value;
    bool there;
} saved[] = {{"pages_to_scan", 0, false},
             {"sleep_millisecs", 0, false},
             {"smart_scan", 0, false},
             {"use_zero_pages", 0, false},
             {"run", 0, false}};

static bool get(const char *file, uint64_t *ret_value)
{
    char path[128];
    unsigned long long value;

    snprintf(path, sizeof path, DIR "%s", file);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%llu", &value) == 1;
    if (f)
        fclose(f);
    if (ok)
        *ret_value = value;
    return ok;
}

static void put(const char *file, uint64_t value)
{
    char path[128];

    snprintf(path, sizeof path, DIR "%s", file);
    FILE *f = fopen(path, "we");
    if (!f || fprintf(f, "%llu\n", (unsigned long long)value) < 0 || fclose(f))
        fprintf(stderr, "dedup: cannot write %s: %s\n", path, strerror(errno));
}

uint64_t ksm_value(const char *file)
{
    uint64_t value = 0;

    get(file, &value);
    return value;
}

static void put_back(void)
{
    put("run", 2); /* everything unmerged: nothing of ours is left */
    for (size_t i = 0; i < sizeof saved / sizeof saved[0]; i++)
        if (saved[i].there)
            put(saved[i].file, saved[i].value);
}

void ksm_save(void)
{
    int ends[2];
    char byte;

    if (access(DIR "run", W_OK))
        quit("KSM can't be set up (" DIR "run: %s); run as root on a kernel with KSM", strerror(errno));
    for (size_t i = 0; i < sizeof saved / sizeof saved[0]; i++)
        saved[i].there = get(saved[i].file, &saved[i].value);
    if (pipe(ends))
        quit("pipe: %s", strerror(errno));
    if (fork()) {
        close(ends[0]); /* ends[1] stays open until we end; guests must not keep it */
        return;
    }
    close(ends[1]);
    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
        ;
    put_back();
    _exit(0);
}

void ksm_fastest(void)
{
    put("run", 2);
    put("run", 0);
    put("pages_to_scan", 100000);
    put("sleep_millisecs", 0);
    if (saved[2].there)
        put("smart_scan", 1);
    put("use_zero_pages", 1);
}

void ksm_run(int mode)
{
    put("run", (uint64_t)mode);
}
