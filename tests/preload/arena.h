/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* arena: memory of known content, advised as mergeable, and what of it is mapped from memd's frames. */
#ifndef TESTS_PRELOAD_ARENA_H
#define TESTS_PRELOAD_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096ul

struct arena {
    char *base;
    uint32_t npages;
    uint32_t zero_from, zero_to; /* expected to read as zeros */
};

void arena_fail(int line, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
#define CHECK(cond, ...)                       \
    do {                                       \
        if (!(cond))                           \
            arena_fail(__LINE__, __VA_ARGS__); \
    } while (0)

extern bool arena_alone; /* there is no memd: nothing is waited for */

struct arena arena_filled(uint32_t npages); /* and advised */
struct arena arena_merged(uint32_t npages); /* and most of it merged */
void arena_wait_merged(const struct arena *a);
void arena_wait_merged_but(const struct arena *a, uint32_t from, uint32_t to); /* these are not counted */
void arena_fill(struct arena *a, uint32_t from, uint32_t to); /* with what is expected there */
void arena_expect_zero(struct arena *a, uint32_t from, uint32_t to);
void arena_check(const struct arena *a); /* every byte */
void arena_check_page(const struct arena *a, uint32_t page);
uint32_t arena_frames(const struct arena *a, uint32_t from, uint32_t to); /* pages mapped from a store */

#endif
