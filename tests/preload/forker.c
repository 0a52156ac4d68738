/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * forker: a program that forks when told to, and whose child looks at all of its mergeable memory.
 *
 * Use: forker MIB. Says "ready"; for each line it reads, "fork: ERROR", or what the child has come to: "child
 * sees all", "child sees PAGE differ", "child: signal N". Ends with its input. With "daemon" for a line the
 * fork is one from within libc (forkpty), which no hook sees.
 *
 * memd-test: helper
 */
#include "tests/preload/arena.h"

#include <errno.h>
#include <pty.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS        (PAGE / sizeof(uint64_t))
#define PAGES_OF_MIB 256u

static uint64_t word_of(size_t page, size_t word)
{
    return (page + 1) * 0x9e3779b97f4a7c15ull ^ word / 16; /* compressible, and no page like another */
}

static int look(const uint64_t *memory, size_t npages)
{
    for (size_t p = 0; p < npages; p++)
        for (size_t w = 0; w < WORDS; w++)
            if (memory[p * WORDS + w] != word_of(p, w))
                return 1;
    return 0;
}

static void tell(pid_t pid)
{
    int status;

    if (pid < 0) {
        printf("fork: %s\n", strerror(errno));
        return;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status))
        printf("child: signal %d\n", WTERMSIG(status));
    else
        puts(WEXITSTATUS(status) ? "child sees pages differ" : "child sees all");
}

int main(int argc, char **argv)
{
    size_t npages = argc > 1 ? (size_t)atoi(argv[1]) * PAGES_OF_MIB : 0;
    uint64_t *memory = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char line[32];

    if (memory == MAP_FAILED || madvise(memory, npages * PAGE, MADV_MERGEABLE)) {
        perror("forker");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t p = 0; p < npages; p++)
        for (size_t w = 0; w < WORDS; w++)
            memory[p * WORDS + w] = word_of(p, w);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        int pty = -1;
        pid_t pid = strcmp(line, "daemon\n") ? fork() : forkpty(&pty, NULL, NULL, NULL);
        if (!pid)
            _exit(look(memory, npages));
        tell(pid);
        if (pty >= 0)
            close(pty);
    }
    return look(memory, npages);
}
