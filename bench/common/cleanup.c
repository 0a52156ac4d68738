/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see cleanup.h. The end of the pipe that is written holds the guardian back; only the
 * benchmark has it. Children end with their parent by PR_SET_PDEATHSIG; before KSM's settings are put back
 * they are killed, so that unmerging them does not need memory.
 */
#include "bench/common/cleanup.h"

#include "bench/common/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN_MAX (2 * BENCH_GUESTS_MAX + 8)

static pid_t owner, guardian;
static int hold_fd = -1;
/* A handler reads it while it changes: entries are written whole, 0 stands for none. */
static volatile pid_t children[CHILDREN_MAX];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void guard(int fd, void (*restore)(void), const char *const dir[CLEANUP_DIRS])
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT};
    char byte;

    setsid();
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        signal(ignored[i], SIG_IGN);
    while (read(fd, &byte, 1) < 0 && errno == EINTR)
        ;
    restore();
    for (size_t i = 0; i < CLEANUP_DIRS; i++)
        nftw(dir[i], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    _exit(0);
}

/* Async-signal-safe. */
static void clean_up(void)
{
    if (getpid() != owner)
        return;
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        if (children[i] > 0)
            kill(children[i], SIGKILL);
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        if (children[i] > 0)
            waitpid(children[i], NULL, 0);
    close(hold_fd);
    waitpid(guardian, NULL, 0);
}

static void on_signal(int signal_number)
{
    clean_up();
    _exit(128 + signal_number);
}

void cleanup_start(void (*restore)(void), const char *const dir[CLEANUP_DIRS])
{
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal};
    int ends[2];

    if (pipe2(ends, O_CLOEXEC))
        bench_die("pipe: %s", strerror(errno));
    fflush(stdout);
    guardian = fork();
    if (guardian < 0)
        bench_die("fork: %s", strerror(errno));
    if (guardian == 0) {
        close(ends[1]);
        guard(ends[0], restore, dir);
    }
    close(ends[0]);
    owner = getpid();
    hold_fd = ends[1];
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof caught / sizeof caught[0]; i++)
        sigaction(caught[i], &action, NULL);
    atexit(clean_up);
}

static void replace(pid_t old, pid_t pid)
{
    for (size_t i = 0; i < CHILDREN_MAX; i++)
        if (children[i] == old) {
            children[i] = pid;
            return;
        }
}

void cleanup_add(pid_t pid)
{
    replace(0, pid);
}

void cleanup_remove(pid_t pid)
{
    replace(pid, 0);
}

void cleanup_child(void)
{
    static const int plain[] = {SIGINT, SIGTERM, SIGHUP};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != owner)
        _exit(1); /* it ended before the line above */
    close(hold_fd);
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        signal(plain[i], SIG_DFL);
}
