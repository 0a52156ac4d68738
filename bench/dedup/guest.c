/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see guest.h. One thread, besides those of memd's engine. Pages are enrolled with
 * neither huge nor read-ahead advice but what their content kind says, aligned so that huge pages are whole.
 */
#include "bench/dedup/guest.h"

#include "bench/common/join.h"
#include "bench/common/kernel.h"
#include "bench/dedup/writer.h"
#include "memd/memd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HUGE_BYTES      (2ul << 20)
#define FIRST_WRITES    400u /* of each sort */
#define FLAGS_KSM       (1ull << 21)
#define ENTRY_HERE      (1ull << 63)
#define ENTRY_FILE      (1ull << 61)
#define ENTRY_PFN       ((1ull << 55) - 1)
#define RAND_MULTIPLIER 0x9e3779b97f4a7c15ull

struct guest {
    const struct guest_config *config;
    char *ram;
    size_t npages;
    struct memd *memd;
    struct writer writer;
};

static double thread_cpu_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static int complain(const struct guest *guest, const char *what, int error)
{
    fprintf(stderr, "dedup: guest %u: %s: %s\n", guest->config->number, what, strerror(-error));
    return error;
}

/* ---------------------------------------------------------------- memory */

static int fill(struct guest *guest, struct guest_answer *answer)
{
    const struct content *content = &guest->config->content;
    size_t bytes = content->npages * BENCH_PAGE_BYTES;
    char *map = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED)
        return complain(guest, "memory", -errno);
    guest->ram = map + (-(uintptr_t)map & (HUGE_BYTES - 1));
    guest->npages = content->npages;
    guest->writer =
        (struct writer){.ram = guest->ram, .npages = guest->npages, .guest = guest->config->number};
    if (madvise(guest->ram, bytes, content->kind == CONTENT_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
        return complain(guest, "transparent huge pages", -errno);
    content_fill(guest->ram, content);
    answer->value[0] = (double)(uintptr_t)guest->ram;
    return 0;
}

static uint64_t check(const struct guest *guest)
{
    static uint64_t id[CONTENT_BLOCK_PAGES], expected[BENCH_PAGE_BYTES / sizeof(uint64_t)];
    uint64_t wrong = 0;

    for (size_t first = 0; first < guest->npages; first += CONTENT_BLOCK_PAGES) {
        size_t n = guest->npages - first < CONTENT_BLOCK_PAGES ? guest->npages - first : CONTENT_BLOCK_PAGES;
        content_describe(&guest->config->content, first, n, NULL, id);
        for (size_t i = 0; i < n; i++) {
            recipe_page(expected, id[i]);
            wrong += memcmp(expected, guest->ram + (first + i) * BENCH_PAGE_BYTES, sizeof expected) != 0;
        }
    }
    return wrong;
}

/* ---------------------------------------------------------------- merging */

static int open_memd(struct guest *guest)
{
    const char *what;
    char name[32];

    snprintf(name, sizeof name, "bench%u", guest->config->number);
    int error = join_memd(name, guest->config->run_dir, JOIN_ANY_CPU, &guest->memd, &what);
    return error ? complain(guest, what, error) : 0;
}

static int enrol(struct guest *guest)
{
    const char *what;
    int error = join_enrol(guest->memd, guest->ram, guest->npages * BENCH_PAGE_BYTES, &what);

    return error ? complain(guest, what, error) : 0;
}

/* ---------------------------------------------------------------- first writes */

struct page_probe {
    int pagemap, kpageflags;
};

/* Merged: a page of KSM; a page of a file, which memd's frames are; or one that memd mapped and nobody read.
 */
static bool is_merged(const struct page_probe *probe, const char *at)
{
    uint64_t entry, flags;

    if (pread(probe->pagemap, &entry, sizeof entry,
              (off_t)((uintptr_t)at / BENCH_PAGE_BYTES * sizeof entry)) != sizeof entry)
        return false;
    if (!(entry & ENTRY_HERE) || entry & ENTRY_FILE)
        return true;
    if (pread(probe->kpageflags, &flags, sizeof flags, (off_t)((entry & ENTRY_PFN) * sizeof flags)) !=
        sizeof flags)
        return false;
    return flags & FLAGS_KSM;
}

/* Writes what is there already: word 0 of a page is its content id. */
static double time_write(char *at, uint64_t id)
{
    uint64_t begun = bench_now_ns();

    *(volatile uint64_t *)at = id;
    return (double)(bench_now_ns() - begun);
}

static int first_writes(const struct guest *guest, struct guest_answer *answer)
{
    static uint8_t kind[CONTENT_BLOCK_PAGES];
    static uint64_t id[CONTENT_BLOCK_PAGES];
    static double ns[2][FIRST_WRITES]; /* not read before, read before */
    struct page_probe probe = {open("/proc/self/pagemap", O_RDONLY), open("/proc/kpageflags", O_RDONLY)};
    size_t n[2] = {0, 0}, blocks = guest->npages / CONTENT_BLOCK_PAGES, step = 7;

    if (probe.pagemap < 0 || probe.kpageflags < 0)
        return complain(guest, "/proc/self/pagemap, /proc/kpageflags", -errno);
    if (FIRST_WRITES * 2 / (blocks ? blocks : 1) < CONTENT_BLOCK_PAGES / 4 / 37)
        step = 37; /* spread over the memory */
    for (size_t block = 0; block < blocks; block++) {
        content_describe(&guest->config->content, block * CONTENT_BLOCK_PAGES, CONTENT_BLOCK_PAGES, kind, id);
        for (size_t i = 0; i < CONTENT_BLOCK_PAGES; i += step) {
            char *at = guest->ram + (block * CONTENT_BLOCK_PAGES + i) * BENCH_PAGE_BYTES;
            bool read_before = i / step % 2;
            if (kind[i] != RECIPE_DUP || n[read_before] == FIRST_WRITES || !is_merged(&probe, at))
                continue;
            if (read_before)
                (void)*(volatile char *)at;
            ns[read_before][n[read_before]++] = time_write(at, id[i]);
        }
    }
    close(probe.pagemap);
    close(probe.kpageflags);
    for (int i = 0; i < 2; i++)
        answer->value[i] = bench_median(ns[i], n[i]);
    return 0;
}

/* ---------------------------------------------------------------- random access */

/* One bit a page: whether it may be written, being nobody else's. */
static uint8_t *unique_pages(const struct guest *guest)
{
    uint8_t *kind = malloc(guest->npages);

    if (kind)
        content_describe(&guest->config->content, 0, guest->npages, kind, NULL);
    return kind;
}

/* Reads, anywhere; some are followed by a write of the same, if the page is unique. */
static int access_randomly(const struct guest *guest, const struct guest_order *order,
                           struct guest_answer *answer)
{
    uint8_t *kind = unique_pages(guest);
    uint64_t random = guest->config->number + 1, sum = 0;

    if (!kind)
        return complain(guest, "random access", -ENOMEM);
    double begun_s = bench_now_s(), cpu_s = thread_cpu_s();
    for (uint64_t i = 0; i < order->access.accesses; i++) {
        random = random * RAND_MULTIPLIER + 1;
        size_t page = (size_t)(((unsigned __int128)random * guest->npages) >> 64);
        volatile uint64_t *word = (uint64_t *)(guest->ram + page * BENCH_PAGE_BYTES) + (random >> 20) % 512;
        uint64_t value = *word;
        if (kind[page] == RECIPE_UNIQUE && (random >> 13) % 100 < order->access.writes_percent)
            *word = value;
        sum += value;
    }
    answer->value[0] = bench_now_s() - begun_s;
    answer->value[1] = thread_cpu_s() - cpu_s;
    free(kind);
    return sum == 1 ? -EIO : 0; /* so that the reads are not left out */
}

/* ---------------------------------------------------------------- orders */

static int carry_out(struct guest *guest, const struct guest_order *order, struct guest_answer *answer)
{
    if (!guest->ram && order->op != GUEST_FILL)
        return complain(guest, "an order before its memory was filled", -EINVAL);
    switch (order->op) {
    case GUEST_FILL:
        return fill(guest, answer);
    case GUEST_OPEN:
        return open_memd(guest);
    case GUEST_ENROL:
        return enrol(guest);
    case GUEST_PAUSE:
        return memd_pause(guest->memd);
    case GUEST_RESUME:
        return memd_resume(guest->memd);
    case GUEST_FIRST_WRITE:
        return first_writes(guest, answer);
    case GUEST_CHECK:
        answer->value[0] = (double)check(guest);
        return 0;
    case GUEST_ACCESS:
        return access_randomly(guest, order, answer);
    case GUEST_WORK:
        answer->value[0] = writer_work(&guest->writer, &order->plan);
        return 0;
    case GUEST_READ_EVENTS:
        answer->value[0] = (double)writer_read_events(&guest->writer, &order->plan);
        return 0;
    case GUEST_END:
        break;
    }
    return 0;
}

void guest_main(const void *config, int socket)
{
    struct guest guest = {.config = config};
    struct guest_order order;

    while (recv(socket, &order, sizeof order, 0) == sizeof order && order.op != GUEST_END) {
        struct guest_answer answer = {0};
        answer.error = carry_out(&guest, &order, &answer);
        if (send(socket, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer)
            break;
    }
    _exit(0); /* no close: as a VMM that ends */
}
