/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See arena.h. */
#include "tests/preload/arena.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CONTENTS    61u /* each page is one of so many, none of them zero */
#define WAIT_TENTHS 900u

bool arena_alone;

void arena_fail(int line, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "line %d: ", line);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    _exit(1);
}

/* Eight bytes of page `page` at word `word`. */
static uint64_t content(uint32_t page, uint32_t word)
{
    return (page % CONTENTS + 1) * 0x9e3779b97f4a7c15u ^ word;
}

void arena_fill(struct arena *a, uint32_t from, uint32_t to)
{
    for (uint32_t p = from; p < to; p++)
        for (uint32_t w = 0; w < PAGE / 8; w++)
            ((uint64_t *)(a->base + p * PAGE))[w] = content(p, w);
    a->zero_from = a->zero_to = 0;
}

void arena_expect_zero(struct arena *a, uint32_t from, uint32_t to)
{
    a->zero_from = from;
    a->zero_to = to;
}

void arena_check_page(const struct arena *a, uint32_t page)
{
    const volatile uint64_t *word = (const void *)(a->base + page * PAGE);
    bool zero = page >= a->zero_from && page < a->zero_to;

    for (uint32_t w = 0; w < PAGE / 8; w++) {
        uint64_t want = zero ? 0 : content(page, w), got = word[w];
        CHECK(got == want, "page %u, word %u: %" PRIx64 ", not %" PRIx64, page, w, got, want);
    }
}

void arena_check(const struct arena *a)
{
    for (uint32_t p = 0; p < a->npages; p++)
        arena_check_page(a, p);
}

struct arena arena_filled(uint32_t npages)
{
    struct arena a = {.npages = npages};

    a.base = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(a.base != MAP_FAILED, "mmap: %d", errno);
    arena_fill(&a, 0, npages);
    CHECK(!madvise(a.base, npages * PAGE, MADV_MERGEABLE), "madvise: %d", errno);
    return a;
}

struct arena arena_merged(uint32_t npages)
{
    struct arena a = arena_filled(npages);

    arena_wait_merged(&a);
    return a;
}

uint32_t arena_frames(const struct arena *a, uint32_t from, uint32_t to)
{
    uint64_t low = (uintptr_t)a->base + from * PAGE, high = (uintptr_t)a->base + to * PAGE, bytes = 0;
    FILE *f = fopen("/proc/self/maps", "re");
    char line[512];

    CHECK(f, "/proc/self/maps: %d", errno);
    while (fgets(line, sizeof line, f)) {
        uint64_t start, end;
        unsigned long inode;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*x %*s %lu", &start, &end, &inode) != 3 || !inode)
            continue;
        start = start > low ? start : low;
        end = end < high ? end : high;
        bytes += start < end ? end - start : 0;
    }
    fclose(f);
    return (uint32_t)(bytes / PAGE);
}

void arena_wait_merged_but(const struct arena *a, uint32_t from, uint32_t to)
{
    uint32_t all = a->npages - (to - from), n, most = 0;

    for (unsigned i = 0;
         !arena_alone && (n = arena_frames(a, 0, from) + arena_frames(a, to, a->npages)) < all / 10 * 9;
         i++) {
        if (n > most) { /* it goes on */
            most = n;
            i = 0;
        }
        CHECK(i < WAIT_TENTHS, "only %u of %u pages are merged", n, all);
        usleep(100000);
    }
}

void arena_wait_merged(const struct arena *a)
{
    arena_wait_merged_but(a, a->npages, a->npages);
}
