/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * storm: threads that do everything a program can do to mergeable memory, at random and all at once, each
 * to memory of its own, and know what every page must read as.
 *
 * Use: storm SECONDS SEED. Prints "ok N operations" and exits with 0, or says what is wrong and exits with 1.
 *
 * memd-test: helper
 */
#include "tests/preload/arena.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS  4u
#define NPAGES   1024u
#define CONTENTS 40u /* contents 0 is zeros */
#define MAPPED   0x100u

struct plot {
    char *base;
    uint16_t page[NPAGES]; /* contents | MAPPED */
    unsigned seed;
    bool locked;
    uint64_t operations;
};

static atomic_bool stop;

static unsigned rnd(struct plot *p, unsigned n)
{
    return (unsigned)rand_r(&p->seed) % n;
}

static char *at(const struct plot *p, uint32_t page)
{
    return p->base + page * PAGE;
}

static void put(struct plot *p, uint32_t page, unsigned what)
{
    memset(at(p, page), (int)what, PAGE);
    p->page[page] = (uint16_t)(what | MAPPED);
}

static void check(const struct plot *p, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        const volatile uint64_t *word = (const void *)at(p, i);
        uint64_t want = (p->page[i] & 0xff) * 0x0101010101010101ull;
        if (!(p->page[i] & MAPPED))
            continue;
        for (uint32_t w = 0; w < PAGE / 8; w++)
            CHECK(word[w] == want, "page %u at %p, word %u: %llx, not %llx", i, (void *)at(p, i), w,
                  (unsigned long long)word[w], (unsigned long long)want);
    }
}

/* All of [from, to) is mapped, or none of it: then somebody else may have come to be there. */
static void fresh_run(struct plot *p, uint32_t from, uint32_t to, bool advised)
{
    bool mapped = p->page[from] & MAPPED;
    char *want = at(p, from);
    char *got = mmap(want, (to - from) * PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | (mapped ? MAP_FIXED : MAP_FIXED_NOREPLACE), -1, 0);

    if (!mapped && got == MAP_FAILED && errno == EEXIST)
        return;
    CHECK(got == want, "mmap: %d", errno);
    for (uint32_t i = from; i < to; i++)
        p->page[i] = MAPPED;
    if (advised)
        CHECK(!madvise(want, (to - from) * PAGE, MADV_MERGEABLE), "madvise: %d", errno);
}

static void fresh(struct plot *p, uint32_t from, uint32_t to)
{
    bool advised = rnd(p, 4);

    for (uint32_t i = from, end; i < to; i = end) {
        for (end = i + 1; end < to && (p->page[end] & MAPPED) == (p->page[i] & MAPPED);)
            end++;
        fresh_run(p, i, end, advised);
    }
}

static void go_elsewhere(struct plot *p)
{
    /* the whole of it moves; pieces would need one mapping each */
    char *to_base = mmap(NULL, NPAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    CHECK(to_base != MAP_FAILED, "mmap: %d", errno);
    for (uint32_t i = 0; i < NPAGES; i++)
        if (p->page[i] & MAPPED)
            CHECK(mremap(at(p, i), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to_base + i * PAGE) ==
                      to_base + i * PAGE,
                  "mremap: %d", errno);
        else
            CHECK(!munmap(to_base + i * PAGE, PAGE), "munmap: %d", errno);
    p->base = to_base;
}

static void unmap(struct plot *p, uint32_t from, uint32_t to)
{
    for (uint32_t i = from, end; i < to; i = end) {
        for (end = i; end < to && p->page[end] & MAPPED;)
            p->page[end++] = 0;
        if (end > i)
            CHECK(!munmap(at(p, i), (end - i) * PAGE), "munmap: %d", errno);
        else
            end++;
    }
}

static void in_a_child(struct plot *p, uint32_t from, uint32_t to)
{
    int status;
    pid_t pid = fork();

    CHECK(pid >= 0, "fork: %d", errno);
    if (!pid) {
        check(p, 0, NPAGES);
        for (uint32_t i = from; i < to; i++)
            if (p->page[i] & MAPPED && !madvise(at(p, i), PAGE, MADV_DONTNEED))
                p->page[i] = MAPPED;
        check(p, 0, NPAGES);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status), "child: %#x", status);
}

static void lock(struct plot *p, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        if (p->page[i] & MAPPED)
            CHECK(!mlock(at(p, i), PAGE), "mlock: %d", errno);
    check(p, from, to);
    for (uint32_t i = from; i < to; i++)
        if (p->page[i] & MAPPED)
            CHECK(!munlock(at(p, i), PAGE), "munlock: %d", errno);
}

static void protect(struct plot *p, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        if (p->page[i] & MAPPED)
            CHECK(!mprotect(at(p, i), PAGE, PROT_READ), "mprotect: %d", errno);
    check(p, from, to);
    for (uint32_t i = from; i < to; i++)
        if (p->page[i] & MAPPED)
            CHECK(!mprotect(at(p, i), PAGE, PROT_READ | PROT_WRITE), "mprotect: %d", errno);
}

static void advise(struct plot *p, uint32_t from, uint32_t to, int advice)
{
    for (uint32_t i = from; i < to; i++)
        if (p->page[i] & MAPPED && !madvise(at(p, i), PAGE, advice) && advice == MADV_DONTNEED)
            p->page[i] = MAPPED;
}

static void step(struct plot *p)
{
    uint32_t from = rnd(p, NPAGES), to = from + 1 + rnd(p, rnd(p, 8) ? 32 : NPAGES - from);
    unsigned what = rnd(p, CONTENTS), dice = rnd(p, 100);

    to = to < NPAGES ? to : NPAGES;
    p->operations++;
    if (dice < 40) {
        for (uint32_t i = from; i < to; i++)
            if (p->page[i] & MAPPED)
                put(p, i, rnd(p, 2) ? what : i % CONTENTS);
    } else if (dice < 55) {
        advise(p, from, to, MADV_DONTNEED);
    } else if (dice < 60) {
        unmap(p, from, to);
    } else if (dice < 72) {
        fresh(p, from, to);
    } else if (dice < 80) {
        advise(p, from, to, rnd(p, 2) ? MADV_MERGEABLE : MADV_NOHUGEPAGE);
    } else if (dice < 83) {
        advise(p, from, to, MADV_UNMERGEABLE);
    } else if (dice < 86) {
        lock(p, from, to < from + 16 ? to : from + 16);
    } else if (dice < 89) {
        protect(p, from, to < from + 16 ? to : from + 16);
    } else if (dice < 90) {
        in_a_child(p, from, to);
    } else if (dice == 90 && !rnd(p, 10)) {
        go_elsewhere(p);
    } else {
        usleep(rnd(p, 60000));
    }
    check(p, from, to);
}

static void *storm(void *arg)
{
    struct plot *p = arg;

    p->base = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p->base != MAP_FAILED, "mmap: %d", errno);
    for (uint32_t i = 0; i < NPAGES; i++)
        p->page[i] = MAPPED;
    fresh(p, 0, NPAGES);
    for (uint32_t i = 0; i < NPAGES; i++)
        put(p, i, i % CONTENTS);
    while (!atomic_load(&stop)) {
        step(p);
        if (p->operations % 64 == 0)
            check(p, 0, NPAGES);
    }
    check(p, 0, NPAGES);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct plot plot[THREADS];
    pthread_t thread[THREADS];
    uint64_t operations = 0;

    if (argc < 3)
        return 2;
    for (unsigned i = 0; i < THREADS; i++) {
        plot[i].seed = (unsigned)atoi(argv[2]) * 100 + i;
        CHECK(!pthread_create(&thread[i], NULL, storm, &plot[i]), "pthread_create");
    }
    sleep((unsigned)atoi(argv[1]));
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        operations += plot[i].operations;
    }
    printf("ok %llu operations\n", (unsigned long long)operations);
    return 0;
}
