/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kit: what the engine's tests share: failing, scaling, guest memory, and the kernel's view of it.
 *
 * Guest memory is read and written through guest_*(): a guest's accesses race with the engine's reads by
 * design, so ThreadSanitizer does not look at them.
 */
#ifndef TESTS_ENGINE_KIT_H
#define TESTS_ENGINE_KIT_H

#include "memd/memd.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define PAGE         4096ul
#define CHUNK        (2ul << 20)
#define KIT_CLOSE_MS 20000u /* for what takes milliseconds where nobody else wants a CPU */

/* Prints where and what, and ends the process with 1; any thread. */
void kit_fail(const char *file, int line, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
#define FAIL(...) kit_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond, ...)       \
    do {                       \
        if (!(cond))           \
            FAIL(__VA_ARGS__); \
    } while (0)
/* A call that returns 0 or -errno. */
#define OK(call)                                   \
    do {                                           \
        int ok_ = (call);                          \
        if (ok_)                                   \
            FAIL("%s: %s", #call, kit_error(ok_)); \
    } while (0)
#define EQUALS(a, b)                                           \
    do {                                                       \
        long long a_ = (long long)(a), b_ = (long long)(b);    \
        if (a_ != b_)                                          \
            FAIL("%s is %lld, not %lld (%s)", #a, a_, b_, #b); \
    } while (0)
const char *kit_error(int err);

/* Ends the process with 77 and the reason as its last line. */
void kit_skip(const char *reason) __attribute__((noreturn));
/* First of all in main(): skips the program unless an engine can be opened here. With MEMD_TEST_CASE set,
 * only test cases that match it are run. */
void kit_begin(void);

/* `full` times MEMD_TEST_SCALE, at least `least`. */
uint64_t kit_scaled(uint64_t full, uint64_t least);
bool kit_sanitized(void);
uint64_t kit_ms(void);
/* A directory of this test's own, for sockets and files. */
const char *kit_tmp(void);
/* A child that dies with us and runs fn; its exit status is fn's result. */
pid_t kit_fork(int (*fn)(void *arg), void *arg);
int kit_wait(pid_t pid);  /* its exit status */
void kit_reap(pid_t pid); /* which must be 0 */

/* ---- engines */

struct memd *kit_engine(const char *name, const char *run_dir);
uint32_t kit_region(struct memd *m, void *hva, uint64_t bytes);
struct memd_stats kit_stats(struct memd *m);
void kit_wait_connected(struct memd *m);

/* ---- guest memory */

/* Private anonymous memory aligned to a chunk; with huge pages disabled unless `huge`. */
void *guest_map(uint64_t bytes, bool huge);
void guest_unmap(void *hva, uint64_t bytes);
uint64_t guest_read(const void *hva);
void guest_write(void *hva, uint64_t value);
void guest_read_bytes(void *to, const void *hva, size_t bytes);
/* Content number `what` of a page: 0 is all zero, equal numbers are equal pages. */
void guest_fill(void *page, uint64_t what);
/* Offset of the first byte that is not content `what`, or -1. */
long guest_differs(const void *page, uint64_t what);
/* The kernel cannot read it, either: EFAULT, and no signal. */
bool guest_poisoned(const void *hva);

/* ---- the kernel's view */

struct kit_smaps {
    uint64_t anon_bytes, anon_huge_bytes, rss_bytes, pss_bytes, locked_bytes, file_vmas, vmas;
};
struct kit_smaps kit_smaps(const void *hva, uint64_t bytes);
/* The kernel gives a page to whoever reads what is not there, not its shared zero page. */
bool kit_reads_take_pages(void);
struct kit_smaps kit_smaps_of(pid_t pid, uint64_t hva, uint64_t bytes);
uint64_t kit_pagemap(const void *hva);
uint64_t kit_pagemap_of(pid_t pid, uint64_t hva);
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_FILE    (1ull << 61)
#define PAGEMAP_PFN     ((1ull << 55) - 1)
unsigned kit_count_fds(void);
unsigned kit_count_threads(void);
unsigned kit_count_vmas(void);
/* Waits until one of these counts is n: what has just ended may be seen for another moment, and engines open
 * files now and then. */
void kit_wait_count(const char *what, unsigned (*count)(void), unsigned n);

#endif
