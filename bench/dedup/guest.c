/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest: a process that fills private memory by a recipe, then does what single-letter commands on a pipe
 * say: 'w' times first writes to pages that have duplicates, 'q' ends. It ends with its parent, too (EOF).
 */
#include "bench/dedup/dedup.h"
#include "bench/memvm/mkimage/recipe.h"
#include "memd/memd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FAMILY      7
#define WRITES      500
#define BLOCK_PAGES RECIPE_BLOCK_PAGES
#define ALIGN_BYTES (2ul << 20)

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* ---- in the guest's process */

static double time_first_writes(char *ram, size_t npages, const struct recipe *recipe)
{
    static uint8_t kind[BLOCK_PAGES];
    static double ns[WRITES];
    unsigned n = 0;

    for (size_t block = 0; block < npages / BLOCK_PAGES && n < WRITES; block++) {
        recipe_describe(block * BLOCK_PAGES, BLOCK_PAGES, recipe, kind, NULL);
        for (size_t i = 0; i < BLOCK_PAGES && n < WRITES; i += 61) { /* spread over the block */
            volatile char *byte = ram + (block * BLOCK_PAGES + i) * RECIPE_PAGE_BYTES;
            if (kind[i] != RECIPE_DUP)
                continue;
            double begun = now_ns();
            *byte = (char)n; /* a store alone: nothing has mapped the page for reading before */
            ns[n++] = now_ns() - begun;
        }
    }
    qsort(ns, n, sizeof ns[0], compare);
    return n ? ns[n / 2] : 0;
}

static struct memd *enrol(const char *run_dir, unsigned number, char *ram, size_t bytes)
{
    char name[32];
    struct memd *memd;
    uint32_t region;

    snprintf(name, sizeof name, "bench%u", number);
    struct memd_options options = {
        .size = sizeof options, .name = name, .domain = "bench", .run_dir = run_dir};
    struct memd_region_desc desc = {
        .size = sizeof desc, .hva = ram, .bytes = bytes, .node = -1, .name = "ram"};
    int err = memd_open(&options, &memd);
    if (!err)
        err = memd_region_add(memd, &desc, &region);
    if (err)
        quit("guest %u: cannot enrol its memory: %s", number, strerror(-err));
    return memd;
}

static void guest_main(enum side side, unsigned number, size_t bytes, const char *run_dir, int in, int out)
{
    struct recipe recipe = RECIPE_DEFAULT(number + 1, FAMILY);
    char *map = mmap(NULL, bytes + ALIGN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char command = 'r';

    if (map == MAP_FAILED)
        quit("guest %u: no memory", number);
    char *ram = map + (-(uintptr_t)map & (ALIGN_BYTES - 1));
    madvise(ram, bytes, MADV_NOHUGEPAGE);
    recipe_fill(ram, 0, bytes / RECIPE_PAGE_BYTES, &recipe);
    if (side == SIDE_KSM && madvise(ram, bytes, MADV_MERGEABLE))
        quit("guest %u: MADV_MERGEABLE: %s", number, strerror(errno));
    if (side == SIDE_MEMD)
        enrol(run_dir, number, ram, bytes);
    do {
        double answer = command == 'w' ? time_first_writes(ram, bytes / RECIPE_PAGE_BYTES, &recipe) : 0;
        if (write(out, &answer, sizeof answer) != sizeof answer)
            break;
    } while (read(in, &command, 1) == 1 && command != 'q');
    _exit(0);
}

/* ---- in the benchmark's */

static double ask(struct guests *g, unsigned i, char command)
{
    double answer;

    if ((command && write(g->command[i], &command, 1) != 1) ||
        read(g->answer[i], &answer, sizeof answer) != sizeof answer)
        quit("guest %u has died", i);
    return answer;
}

void guests_start(struct guests *g, enum side side, unsigned n, size_t bytes, const char *run_dir)
{
    *g = (struct guests){.n = n, .bytes = bytes};
    for (unsigned i = 0; i < n; i++) {
        int in[2], out[2];
        if (pipe(in) || pipe(out))
            quit("pipe: %s", strerror(errno));
        g->pid[i] = fork();
        if (g->pid[i] < 0)
            quit("fork: %s", strerror(errno));
        if (!g->pid[i]) {
            signal(SIGINT, SIG_IGN);
            for (unsigned k = 0; k < i; k++) {
                close(g->command[k]);
                close(g->answer[k]);
            }
            close(in[1]);
            close(out[0]);
            guest_main(side, i, bytes, run_dir, in[0], out[1]);
        }
        close(in[0]);
        close(out[1]);
        g->command[i] = in[1];
        g->answer[i] = out[0];
    }
    for (unsigned i = 0; i < n; i++)
        ask(g, i, 0);
}

double guests_first_write_ns(struct guests *g)
{
    double ns[GUESTS_MAX];

    for (unsigned i = 0; i < g->n; i++)
        ns[i] = ask(g, i, 'w');
    qsort(ns, g->n, sizeof ns[0], compare);
    return ns[g->n / 2];
}

void guests_end(struct guests *g)
{
    for (unsigned i = 0; i < g->n; i++)
        close(g->command[i]);
    for (unsigned i = 0; i < g->n; i++) {
        close(g->answer[i]);
        waitpid(g->pid[i], NULL, 0);
    }
    g->n = 0;
}
