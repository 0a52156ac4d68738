/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * forking_vmm: a VMM with an engine whose guest RAM is not excluded from fork, and a child of its child that
 * has inherited it and closed every descriptor, as daemons do.
 *
 * Use: forking_vmm NAME DOMAIN DIR. Prints "ready PID" when half of its pages are merged and PID maps them.
 * SIGUSR1 makes the VMM write all of its pages and print "written". The grandchild talks through files, as it
 * has nothing else: when DIR/check appears it compares all of its memory, writes "good" or "bad" to
 * DIR/verdict and removes DIR/check; when DIR/end appears it ends.
 *
 * memd-test: helper
 */
#include "memd/memd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define NPAGES   4096u
#define CONTENTS 1024u
#define WORDS    (MEMD_PAGE_BYTES / sizeof(uint64_t))

static uint64_t *ram;

static void fill(uint32_t contents)
{
    for (uint32_t page = 0; page < NPAGES; page++)
        for (uint32_t word = 0; word < WORDS; word++)
            ram[page * WORDS + word] = (uint64_t)(page % contents + 1) << 32 | word;
}

static bool is_whole(void)
{
    for (uint32_t page = 0; page < NPAGES; page++)
        for (uint32_t word = 0; word < WORDS; word++)
            if (ram[page * WORDS + word] != ((uint64_t)(page % CONTENTS + 1) << 32 | word))
                return false;
    return true;
}

static void verdict(const char *dir, const char *check)
{
    char path[PATH_MAX], made[PATH_MAX];
    const char *text = is_whole() ? "good\n" : "bad\n";

    snprintf(path, sizeof path, "%s/verdict", dir);
    snprintf(made, sizeof made, "%s/verdict.new", dir);
    FILE *f = fopen(made, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) || unlink(check) || rename(made, path))
        _exit(1);
}

static void grandchild(const char *dir)
{
    char check[PATH_MAX], end[PATH_MAX];

    snprintf(check, sizeof check, "%s/check", dir);
    snprintf(end, sizeof end, "%s/end", dir);
    for (; access(end, F_OK); usleep(20000))
        if (!access(check, F_OK))
            verdict(dir, check);
    _exit(0);
}

/* Returns the grandchild's pid; the child has ended. */
static pid_t fork_twice(const char *dir)
{
    pid_t pid, grand = -1;
    int fds[2];

    if (pipe(fds) || (pid = fork()) < 0)
        exit(1);
    if (!pid) {
        pid = fork();
        if (pid) {
            ssize_t n = write(fds[1], &pid, sizeof pid);
            _exit(n != sizeof pid);
        }
        setsid();
        close_range(0, UINT_MAX, 0);
        grandchild(dir);
    }
    if (read(fds[0], &grand, sizeof grand) != sizeof grand || waitpid(pid, NULL, 0) != pid)
        exit(1);
    close(fds[0]);
    close(fds[1]);
    return grand;
}

int main(int argc, char **argv)
{
    struct memd_options options = {.size = sizeof options, .name = argv[1], .domain = argv[2]};
    struct memd_region_desc desc = {.size = sizeof desc, .bytes = NPAGES * MEMD_PAGE_BYTES, .node = -1};
    struct memd_stats stats = {.size = sizeof stats};
    struct memd *memd;
    sigset_t set;
    uint32_t region;
    int sig;

    if (argc != 4)
        return 2;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    ram = mmap(NULL, desc.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    desc.hva = ram;
    if (ram == MAP_FAILED || madvise(ram, desc.bytes, MADV_NOHUGEPAGE))
        return 1;
    fill(CONTENTS);
    int err = memd_open(&options, &memd);
    if (!err)
        err = memd_region_add(memd, &desc, &region);
    if (err) {
        fprintf(stderr, "forking_vmm: %s\n", strerror(-err));
        return 1;
    }
    do {
        usleep(20000);
        err = memd_stats(memd, &stats);
    } while (!err && stats.merged_pages < NPAGES / 2);
    printf("ready %d\n", (int)fork_twice(argv[3]));
    fflush(stdout);
    while (!sigwait(&set, &sig)) {
        fill(NPAGES); /* of other contents than before, but for the first pages */
        puts("written");
        fflush(stdout);
    }
    return 1;
}
