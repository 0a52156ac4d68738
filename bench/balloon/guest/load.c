/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * load: what guests of the benchmark do. Runs in the guest, static.
 *
 *     load warm OWNER FILE_MIB ANON_MIB
 *         as after some time of use: the first part of the data disk is in the page cache, memory was used
 *         and freed
 *     load job OWNER FROM_MIB FILE_MIB ANON_MIB READS
 *         prints "SECONDS TIMES_KILLED"
 *     load need EXTRA_MIB MAX_MIB
 *         prints "MS THERE_MS AVAILABLE_MIB"; MS is -1 if it was killed, -2 if it is more than MAX_MIB
 *     load oom
 *         OOM kills of this guest so far
 *     load available
 *         MiB that are available
 *
 * A job reads pieces of a part of the disk at random, each many times, and has a memory area of its own at
 * hand, a page of which it rewrites with each piece; everything it reads is checked. If the guest's kernel
 * kills it, it begins anew, and its time goes on. `need` allocates what is available and EXTRA_MIB more: MS
 * is the time the latter took, THERE_MS what as much of the former took.
 */
#include "bench/balloon/guest/page.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DISK        "/dev/vdb"
#define PIECE_PAGES 16u
#define MIB         (1ul << 20)
#define MIB_PAGES   (MIB / PAGE_BYTES)
#define WRONG       3 /* exit code: a byte was not as it should be */
#define KILLS_MAX   20u

static struct page piece[PIECE_PAGES] __attribute__((aligned(PAGE_BYTES)));

static _Noreturn void die(int code, const char *what)
{
    printf("load: %s\n", what);
    fflush(stdout);
    _exit(code);
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The figure behind a word at the beginning of a line. */
static unsigned long figure(const char *path, const char *word)
{
    char line[256];
    unsigned long value = 0;
    size_t n = strlen(word);
    FILE *f = fopen(path, "re");

    if (!f)
        die(1, path);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, word, n)) {
            value = strtoul(line + n, NULL, 10);
            break;
        }
    fclose(f);
    return value;
}

static unsigned long available_bytes(void)
{
    return figure("/proc/meminfo", "MemAvailable:") * 1024;
}

static void read_piece(int disk, uint64_t owner, uint64_t first)
{
    if (pread(disk, piece, sizeof piece, (off_t)(first * PAGE_BYTES)) != sizeof piece)
        die(1, "cannot read " DISK);
    for (unsigned i = 0; i < PIECE_PAGES; i++)
        if (!page_is(&piece[i], owner, first + i))
            die(WRONG, "a page of " DISK " is not what is there");
}

/* May be more than the guest has at the moment: what matters is whether it can be touched. */
static uint64_t *area_of(unsigned long bytes)
{
    uint64_t *area =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED)
        die(1, "no address space");
    return area;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Of a page of the area: words that tell which it is and how often it was written. */
static void area_write(uint64_t *area, uint64_t page, uint64_t times)
{
    uint64_t *at = area + page * PAGE_WORDS;

    for (unsigned i = 0; i < PAGE_WORDS; i += 64)
        at[i] = page << 32 | times;
}

static uint64_t area_read(const uint64_t *area, uint64_t page)
{
    const uint64_t *at = area + page * PAGE_WORDS;

    for (unsigned i = 0; i < PAGE_WORDS; i += 64)
        if (at[i] >> 32 != page || at[i] != at[0])
            die(WRONG, "a page of the job's memory is not what was written");
    return at[0] & UINT32_MAX;
}

static void job(uint64_t owner, unsigned long from_mib, unsigned long file_mib, unsigned long anon_mib,
                unsigned long reads)
{
    int disk = open(DISK, O_RDONLY | O_CLOEXEC);
    uint64_t pages = anon_mib * MIB_PAGES, pieces = file_mib * MIB_PAGES / PIECE_PAGES,
             state = 0x9e3779b97f4a7c15 * (owner + 1), written = 0;
    uint64_t *area = area_of(anon_mib * MIB);

    if (!pages || !pieces)
        die(2, "a job needs memory and a file");
    for (uint64_t page = 0; page < pages; page++)
        area_write(area, page, 0);
    for (unsigned long i = 0; i < reads; i++) {
        read_piece(disk, owner, from_mib * MIB_PAGES + next_random(&state) % pieces * PIECE_PAGES);
        uint64_t page = next_random(&state) % pages;
        area_write(area, page, area_read(area, page) + 1);
    }
    for (uint64_t page = 0; page < pages; page++)
        written += area_read(area, page);
    if (written != reads)
        die(WRONG, "writes to the job's memory are lost");
}

/* What has been read of a disk stays in the page cache only as long as somebody has it open: from now on. */
static void keep_open(int disk)
{
    pid_t pid = fork();

    if (pid < 0)
        die(1, "no process");
    if (pid)
        return;
    for (int fd = 0; fd < disk; fd++)
        close(fd); /* whoever waits for our output waits for nobody else's */
    for (;;)
        pause();
}

static void warm(uint64_t owner, unsigned long file_mib, unsigned long anon_mib)
{
    int disk = open(DISK, O_RDONLY | O_CLOEXEC);
    uint64_t *area = area_of(anon_mib * MIB);

    if (disk < 0)
        die(1, DISK);
    keep_open(disk);
    for (uint64_t page = 0; page < anon_mib * MIB_PAGES; page++)
        area_write(area, page, 0);
    munmap(area, anon_mib * MIB);
    for (uint64_t page = 0; page < file_mib * MIB_PAGES; page += PIECE_PAGES)
        read_piece(disk, owner, page);
}

/* In a child, since it may be killed. False: it was. */
static bool survives(void (*work)(char **words), char **words)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        work(words);
        fflush(stdout);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        die(1, "no process");
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return false;
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    return true;
}

static unsigned long number(const char *word)
{
    char *end;
    unsigned long value = strtoul(word, &end, 10);

    if (*end || end == word)
        die(2, word);
    return value;
}

static void work_job(char **words)
{
    job(number(words[0]), number(words[1]), number(words[2]), number(words[3]), number(words[4]));
}

static void work_need(char **words)
{
    unsigned long available = available_bytes(), bytes = available + number(words[0]) * MIB;
    if (bytes > number(words[1]) * MIB) {
        printf("-2 0 %lu\n", available / MIB);
        return;
    }
    volatile char *area = (volatile char *)area_of(bytes);
    double begun_s = now_s(), lacking_s = 0;

    for (unsigned long at = 0; at < bytes; at += PAGE_BYTES) {
        if (!lacking_s && at >= available)
            lacking_s = now_s();
        area[at] = 1;
    }
    double ended_s = now_s(), there_s = lacking_s - begun_s;
    printf("%.3f %.3f %lu\n", (ended_s - lacking_s) * 1000,
           there_s * 1000 * (double)(bytes - available) / (double)available, available / MIB);
}

static int run(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "warm")) {
        warm(number(argv[2]), number(argv[3]), number(argv[4]));
    } else if (argc == 7 && !strcmp(argv[1], "job")) {
        double begun_s = now_s();
        unsigned kills = 0;
        while (!survives(work_job, argv + 2))
            if (++kills == KILLS_MAX)
                die(1, "killed again and again");
        printf("%.3f %u\n", now_s() - begun_s, kills);
    } else if (argc == 4 && !strcmp(argv[1], "need")) {
        if (!survives(work_need, argv + 2))
            puts("-1 0 0");
    } else if (argc == 2 && !strcmp(argv[1], "oom")) {
        printf("%lu\n", figure("/proc/vmstat", "oom_kill "));
    } else if (argc == 2 && !strcmp(argv[1], "available")) {
        printf("%lu\n", available_bytes() / MIB);
    } else {
        die(2, "see load.c");
    }
    return 0;
}

int main(int argc, char **argv)
{
    return run(argc, argv);
}
