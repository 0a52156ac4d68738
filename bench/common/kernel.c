/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see kernel.h. Everything is read anew at each call; nothing is kept. */
#include "bench/common/kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES     512
#define MEMFDS_MAX     4096
#define PAGEMAP_PFN    ((1ull << 55) - 1)
#define PAGEMAP_HERE   (1ull << 63)
#define PAGEMAP_AT_ONE 256 /* entries of one read */

static FILE *proc_open(pid_t pid, const char *file)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    return fopen(path, "re");
}

/* "key: number kB"; false if the line is of another key. */
static bool line_kib(const char *line, const char *key, uint64_t *ret_bytes)
{
    size_t length = strlen(key);

    if (strncmp(line, key, length) || line[length] != ':')
        return false;
    *ret_bytes = strtoull(line + length + 1, NULL, 10) * 1024;
    return true;
}

void kernel_add_rollup(pid_t pid, struct kernel_rollup *rollup)
{
    FILE *f = proc_open(pid, "smaps_rollup");
    const struct {
        const char *key;
        uint64_t *sum;
    } fields[] = {
        {"Pss", &rollup->pss},
        {"Pss_Anon", &rollup->pss_anon},
        {"Pss_File", &rollup->pss_file},
        {"Pss_Shmem", &rollup->pss_shmem},
        {"AnonHugePages", &rollup->anon_huge},
    };
    char line[LINE_BYTES];
    uint64_t bytes;

    if (!f)
        return;
    while (fgets(line, sizeof line, f))
        for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
            if (line_kib(line, fields[i].key, &bytes))
                *fields[i].sum += bytes;
    fclose(f);
}

unsigned kernel_count_maps(pid_t pid)
{
    FILE *f = proc_open(pid, "maps");
    char line[LINE_BYTES];
    unsigned n = 0;

    while (f && fgets(line, sizeof line, f))
        n++;
    if (f)
        fclose(f);
    return n;
}

uint64_t kernel_pss_outside(pid_t pid, uint64_t start, uint64_t bytes, const char *dir)
{
    FILE *f = proc_open(pid, "smaps");
    uint64_t from, to, pss, sum = 0;
    bool counts = false;
    char line[LINE_BYTES];

    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2)
            counts = (to <= start || from >= start + bytes) && (!dir || !strstr(line, dir));
        else if (counts && line_kib(line, "Pss", &pss))
            sum += pss;
    }
    if (f)
        fclose(f);
    return sum;
}

uint64_t kernel_cpu_ns(pid_t pid)
{
    struct timespec ts;
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts))
        return 0;
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Free pages on the lists of the CPUs. */
static uint64_t cpu_lists_bytes(void)
{
    FILE *f = fopen("/proc/zoneinfo", "re");
    char line[LINE_BYTES];
    uint64_t pages, sum = 0;

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, " count: %" SCNu64, &pages) == 1)
            sum += pages * (uint64_t)sysconf(_SC_PAGESIZE);
    if (f)
        fclose(f);
    return sum;
}

uint64_t kernel_available_bytes(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    char line[LINE_BYTES];
    uint64_t bytes = 0;

    while (f && fgets(line, sizeof line, f) && !line_kib(line, "MemAvailable", &bytes))
        ;
    if (f)
        fclose(f);
    return bytes + cpu_lists_bytes();
}

pid_t kernel_thread_find(const char *name)
{
    DIR *dir = opendir("/proc");
    pid_t found = 0;

    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        char comm[32] = "";
        int pid = atoi(e->d_name);
        FILE *f = pid > 0 ? proc_open(pid, "comm") : NULL;
        if (f && fscanf(f, "%31s", comm) == 1 && !strcmp(comm, name))
            found = pid;
        if (f)
            fclose(f);
    }
    if (dir)
        closedir(dir);
    return found;
}

/* ---------------------------------------------------------------- slabs and tmpfs */

uint64_t kernel_vma_slab_bytes(void)
{
    static const char *const names[] = {"vm_area_struct", "anon_vma", "anon_vma_chain", "maple_node"};
    FILE *f = fopen("/proc/slabinfo", "re");
    uint64_t active, objects, object_bytes, sum = 0;
    char line[LINE_BYTES], name[64];

    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%63s %" SCNu64 " %" SCNu64 " %" SCNu64, name, &active, &objects, &object_bytes) !=
            4)
            continue;
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            if (!strcmp(name, names[i]))
                sum += objects * object_bytes; /* slabs are taken whole, used or not */
    }
    if (f)
        fclose(f);
    return sum;
}

static uint64_t tree_blocks; /* nftw() has no context */

static int add_blocks(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)ftw;
    if (type == FTW_F && S_ISREG(st->st_mode))
        tree_blocks += (uint64_t)st->st_blocks;
    return 0;
}

uint64_t kernel_tree_bytes(const char *dir)
{
    tree_blocks = 0;
    nftw(dir, add_blocks, 16, FTW_PHYS);
    return tree_blocks * 512;
}

struct seen {
    size_t n;
    ino_t inode[MEMFDS_MAX]; /* memfds all lie on one internal tmpfs */
};

static bool seen_before(struct seen *seen, ino_t inode)
{
    for (size_t i = 0; i < seen->n; i++)
        if (seen->inode[i] == inode)
            return true;
    if (seen->n < MEMFDS_MAX)
        seen->inode[seen->n++] = inode;
    return false;
}

static uint64_t memfd_blocks(pid_t pid, struct seen *seen)
{
    char path[320], target[64];
    uint64_t blocks = 0;
    struct stat st;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, "/proc/%d/fd/%s", (int)pid, e->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length <= 0)
            continue;
        target[length] = '\0';
        if (!strncmp(target, "/memfd:", 7) && !stat(path, &st) && !seen_before(seen, st.st_ino))
            blocks += (uint64_t)st.st_blocks;
    }
    if (dir)
        closedir(dir);
    return blocks;
}

uint64_t kernel_memfd_bytes(const pid_t *pid, size_t npids)
{
    static struct seen seen;
    uint64_t blocks = 0;

    seen.n = 0;
    for (size_t i = 0; i < npids; i++)
        blocks += memfd_blocks(pid[i], &seen);
    return blocks * 512;
}

/* Shared memory that is neither in a file there nor a memfd would be missed by counting blocks, so the larger
 * counts. */
uint64_t kernel_used_bytes(const pid_t *pid, size_t npids, const char *dir)
{
    struct kernel_rollup rollup = {0};
    uint64_t blocks = dir ? kernel_tree_bytes(dir) + kernel_memfd_bytes(pid, npids) : 0;

    for (size_t i = 0; i < npids; i++)
        kernel_add_rollup(pid[i], &rollup);
    return rollup.pss_anon + rollup.pss_file + (blocks > rollup.pss_shmem ? blocks : rollup.pss_shmem);
}

/* ---------------------------------------------------------------- pages */

uint64_t kernel_ksm_items(pid_t pid)
{
    FILE *f = proc_open(pid, "ksm_stat");
    char line[LINE_BYTES];
    uint64_t n = 0;

    while (f && fgets(line, sizeof line, f) && sscanf(line, "ksm_rmap_items %" SCNu64, &n) != 1)
        ;
    if (f)
        fclose(f);
    return n;
}

int kernel_pagemap_open(pid_t pid)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int kernel_frames_read(int pagemap_fd, uint64_t first, size_t npages, uint64_t *ret_pfn)
{
    uint64_t entry[PAGEMAP_AT_ONE];

    for (size_t done = 0; done < npages;) {
        size_t n = npages - done < PAGEMAP_AT_ONE ? npages - done : PAGEMAP_AT_ONE;
        ssize_t got =
            pread(pagemap_fd, entry, n * sizeof entry[0], (off_t)((first + done) * sizeof entry[0]));
        if (got < (ssize_t)sizeof entry[0])
            return got < 0 ? -errno : -EIO;
        n = (size_t)got / sizeof entry[0];
        for (size_t i = 0; i < n; i++)
            ret_pfn[done + i] = entry[i] & PAGEMAP_HERE ? entry[i] & PAGEMAP_PFN : 0;
        done += n;
    }
    return 0;
}
