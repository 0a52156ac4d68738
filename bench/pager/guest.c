/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see guest.h. One thread, besides those of memd's engine. What it needs beside guest
 * memory is allocated and filled before anything is measured. Pages are touched in a random order that goes
 * on from one order to the next.
 */
#include "bench/pager/guest.h"

#include "bench/common/join.h"
#include "bench/pager/burn.h"
#include "memd/memd.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HUGE_BYTES      (2ul << 20)
#define ENTRY_SWAPPED   (1ull << 62)
#define RAND_MULTIPLIER 0x9e3779b97f4a7c15ull
#define QUIET_MS        2
#define QUIET_MAX       100000u
#define FAULT_NS        3000.0 /* no access to a page that is there takes so long, but for interrupts */
#define LOOK_ACCESSES   4096u  /* between two looks at the clock */
#define WRITE_PERCENT   5u     /* of the accesses of a job */
#define BATCH_PAGES     256u

struct guest {
    const struct guest_config *config;
    char *ram;
    size_t npages;
    uint32_t *order; /* all pages, shuffled */
    size_t at;       /* where in it the next page to be touched is */
    uint64_t *first_word;
    uint32_t *hot, *cold, *written;
    size_t nhot, ncold, nwritten, cold_at;
    uint64_t random;
    int image;
    struct memd *memd;
};

static int complain(const struct guest *guest, const char *what, int error)
{
    fprintf(stderr, "pager: guest %u: %s: %s\n", guest->config->number, what, strerror(-error));
    return error;
}

static char *page_at(const struct guest *guest, size_t page)
{
    return guest->ram + page * BENCH_PAGE_BYTES;
}

static size_t draw(struct guest *guest, size_t n)
{
    guest->random = guest->random * RAND_MULTIPLIER + 1;
    return (size_t)(((unsigned __int128)guest->random * n) >> 64);
}

/* ---------------------------------------------------------------- memory */

static int tables(struct guest *guest)
{
    size_t n = guest->npages;
    uint32_t *words = malloc(4 * n * sizeof *words);

    guest->first_word = malloc(n * sizeof *guest->first_word);
    if (!words || !guest->first_word)
        return -ENOMEM;
    guest->order = words;
    guest->hot = words + n;
    guest->cold = words + 2 * n;
    guest->written = words + 3 * n;
    for (size_t i = 0; i < n; i++) {
        guest->order[i] = (uint32_t)i;
        guest->first_word[i] = *(uint64_t *)page_at(guest, i);
        if (guest_page_hot(i))
            guest->hot[guest->nhot++] = (uint32_t)i;
        else
            guest->cold[guest->ncold++] = (uint32_t)i;
        if (guest_page_written(i))
            guest->written[guest->nwritten++] = (uint32_t)i;
    }
    for (size_t i = n; i > 1; i--) {
        size_t k = draw(guest, i);
        uint32_t swap = guest->order[i - 1];
        guest->order[i - 1] = guest->order[k];
        guest->order[k] = swap;
    }
    return 0;
}

static int load(struct guest *guest, struct guest_answer *answer)
{
    size_t bytes = guest->config->npages * BENCH_PAGE_BYTES, done = 0;
    char *map = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED)
        return complain(guest, "memory", -errno);
    guest->image = open(guest->config->image, O_RDONLY | O_CLOEXEC);
    if (guest->image < 0)
        return complain(guest, guest->config->image, -errno);
    guest->ram = map + (-(uintptr_t)map & (HUGE_BYTES - 1));
    guest->npages = guest->config->npages;
    guest->random = guest->config->number + 1;
    if (madvise(guest->ram, bytes, MADV_NOHUGEPAGE))
        return complain(guest, "transparent huge pages", -errno);
    for (ssize_t n; done < bytes; done += (size_t)n) {
        n = pread(guest->image, guest->ram + done, bytes - done, (off_t)done);
        if (n <= 0)
            return complain(guest, guest->config->image, n ? -errno : -EIO);
    }
    answer->value[0] = (double)(uintptr_t)guest->ram;
    answer->value[1] = getpid();
    answer->value[2] = (double)guest->npages;
    int err = tables(guest);
    return err ? complain(guest, "memory", err) : 0;
}

static uint64_t check(const struct guest *guest)
{
    static char batch[BATCH_PAGES * BENCH_PAGE_BYTES];
    uint64_t wrong = 0;

    for (size_t first = 0; first < guest->npages; first += BATCH_PAGES) {
        size_t n = guest->npages - first < BATCH_PAGES ? guest->npages - first : BATCH_PAGES;
        ssize_t bytes = (ssize_t)(n * BENCH_PAGE_BYTES);
        if (pread(guest->image, batch, (size_t)bytes, (off_t)(first * BENCH_PAGE_BYTES)) != bytes)
            return guest->npages;
        for (size_t i = 0; i < n; i++)
            wrong += !guest_page_written(first + i) &&
                     memcmp(batch + i * BENCH_PAGE_BYTES, page_at(guest, first + i), BENCH_PAGE_BYTES) != 0;
    }
    return wrong;
}

/* ---------------------------------------------------------------- memd */

static int open_memd(struct guest *guest, int cpu)
{
    const char *what;
    int error = join_memd(guest->config->name, guest->config->run_dir, cpu, &guest->memd, &what);

    return error ? complain(guest, what, error) : 0;
}

static int enrol(struct guest *guest)
{
    const char *what;
    int error = join_enrol(guest->memd, guest->ram, guest->npages * BENCH_PAGE_BYTES, &what);

    return error ? complain(guest, what, error) : 0;
}

static int tell_stats(const struct guest *guest, struct guest_answer *answer)
{
    struct memd_stats s = {.size = sizeof s};
    int error = memd_stats(guest->memd, &s);
    const double value[GUEST_STATS_N] = {
        [STAT_PARKED] = (double)s.parked_pages,
        [STAT_PACKED] = (double)s.packed_pages,
        [STAT_SWAPPED] = (double)s.swapped_pages,
        [STAT_POOL_BYTES] = (double)s.pool_bytes,
        [STAT_SWAP_BYTES] = (double)s.swap_bytes,
        [STAT_SWAP_WRITTEN_BYTES] = (double)s.swap_written_bytes,
        [STAT_PARKED_FAULTS] = (double)s.parked_faults,
        [STAT_PACKED_FAULTS] = (double)s.packed_faults,
        [STAT_SWAPPED_FAULTS] = (double)s.swapped_faults,
        [STAT_FAULTS] = (double)s.faults,
        [STAT_ENGINE_CPU_NS] = (double)s.cpu_ns,
    };

    memcpy(answer->value, value, sizeof value);
    return error;
}

/* ---------------------------------------------------------------- the kernel's swap */

static double pages_in_swap(const struct guest *guest)
{
    uint64_t entry[BATCH_PAGES], n = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    size_t base = (uintptr_t)guest->ram / BENCH_PAGE_BYTES;

    for (size_t page = 0; page < guest->npages; page += BATCH_PAGES) {
        size_t want = guest->npages - page < BATCH_PAGES ? guest->npages - page : BATCH_PAGES;
        ssize_t got = pread(fd, entry, want * sizeof entry[0], (off_t)((base + page) * sizeof entry[0]));
        for (ssize_t i = 0; i < got / (ssize_t)sizeof entry[0]; i++)
            n += entry[i] >> 62 == ENTRY_SWAPPED >> 62; /* and not present */
    }
    close(fd);
    return (double)n;
}

static int page_out(const struct guest *guest, bool cold_only, struct guest_answer *answer)
{
    double cpu_s = burn_thread_cpu_s();

    for (size_t page = 0, end; page < guest->npages; page = end) {
        for (end = page + 1; end < guest->npages && guest_page_hot(end) == guest_page_hot(page);)
            end++;
        if (cold_only && guest_page_hot(page))
            continue;
        if (!cold_only)
            end = guest->npages;
        if (madvise(page_at(guest, page), (end - page) * BENCH_PAGE_BYTES, MADV_PAGEOUT))
            return complain(guest, "MADV_PAGEOUT", -errno);
    }
    answer->value[0] = burn_thread_cpu_s() - cpu_s;
    answer->value[1] = pages_in_swap(guest);
    return 0;
}

static void read_all(const struct guest *guest, struct guest_answer *answer)
{
    answer->value[1] = pages_in_swap(guest);
    double begun_s = bench_now_s();
    for (size_t page = 0; page < guest->npages; page++)
        (void)*(volatile uint64_t *)page_at(guest, page);
    answer->value[0] = bench_now_s() - begun_s;
}

/* ---------------------------------------------------------------- faults */

static size_t next_page(struct guest *guest)
{
    if (guest->at == guest->npages)
        guest->at = 0;
    return guest->order[guest->at++];
}

static int faults(struct guest *guest, const struct floor *how, struct guest_answer *answer)
{
    double *ns = malloc(how->npages * sizeof *ns);
    cpu_set_t before;
    uint64_t wrong = 0;

    sched_getaffinity(0, sizeof before, &before);
    int err = ns ? floor_pin(how->toucher_cpu) : -ENOMEM;
    for (unsigned i = 0; i < how->npages && !err; i++) {
        size_t page = next_page(guest);
        ns[i] = floor_touch(page_at(guest, page));
        wrong += *(uint64_t *)page_at(guest, page) != guest->first_word[page];
    }
    sched_setaffinity(0, sizeof before, &before);
    if (!err) {
        answer->value[0] = bench_median(ns, how->npages);
        answer->value[1] = bench_percentile(ns, how->npages, 99);
    }
    free(ns);
    if (wrong)
        return complain(guest, "pages came back with another content", -EBADMSG);
    return err;
}

static int bare_faults(struct guest *guest, const struct floor *floor, struct guest_answer *answer)
{
    cpu_set_t before;

    sched_getaffinity(0, sizeof before, &before);
    int err =
        floor_measure(floor, guest->ram, guest->npages, guest->order, &answer->value[0], &answer->value[1]);
    sched_setaffinity(0, sizeof before, &before);
    return err ? complain(guest, "bare userfaultfd", err) : 0;
}

/* Late: from when it was due until the page has been read. */
static int be_quiet(struct guest *guest, double until_s, struct guest_answer *answer)
{
    double *late_ns = malloc(QUIET_MAX * sizeof *late_ns), due_s = bench_now_s();
    unsigned n = 0;

    if (!late_ns)
        return complain(guest, "memory", -ENOMEM);
    while (due_s < until_s && n < QUIET_MAX) {
        bench_sleep_until(due_s);
        (void)*(volatile uint64_t *)page_at(guest, next_page(guest));
        double now_s = bench_now_s();
        late_ns[n++] = (now_s - due_s) * 1e9;
        due_s += QUIET_MS * 1e-3;
        if (due_s < now_s)
            due_s = now_s + QUIET_MS * 1e-3;
    }
    answer->value[0] = bench_median(late_ns, n);
    answer->value[1] = bench_percentile(late_ns, n, 99);
    answer->value[2] = n;
    free(late_ns);
    return 0;
}

static void thrash(struct guest *guest, double until_s, struct guest_answer *answer)
{
    uint64_t slow = 0, n = 0;

    for (double now_s = bench_now_s(); now_s < until_s; now_s = ++n % 64 ? now_s : bench_now_s())
        slow += floor_touch(page_at(guest, next_page(guest))) > FAULT_NS;
    answer->value[0] = (double)slow;
}

/* ---------------------------------------------------------------- the job */

static void access_hot(struct guest *guest)
{
    bool write = draw(guest, 100) < WRITE_PERCENT;
    size_t page = write ? guest->written[draw(guest, guest->nwritten)] : guest->hot[draw(guest, guest->nhot)];
    volatile uint64_t *word = (uint64_t *)page_at(guest, page) + (guest->random >> 20) % 512;
    uint64_t value = *word;

    if (write)
        *word = value + 1;
}

static void job(struct guest *guest, const struct guest_order *order, struct guest_answer *answer)
{
    double begun_s = bench_now_s(), cpu_s = burn_thread_cpu_s(), now_s = begun_s;
    uint64_t n = 0, cold = 0;

    while (order->job.accesses ? n < order->job.accesses : now_s < order->job.until_s) {
        for (unsigned i = 0; i < LOOK_ACCESSES; i++)
            access_hot(guest);
        n += LOOK_ACCESSES;
        now_s = bench_now_s();
        for (; cold < (uint64_t)((now_s - begun_s) * order->job.cold_per_s); cold++)
            (void)*(volatile uint64_t *)page_at(guest, guest->cold[draw(guest, guest->ncold)]);
    }
    answer->value[0] = now_s - begun_s;
    answer->value[1] = burn_thread_cpu_s() - cpu_s;
    answer->value[2] = (double)n;
}

/* ---------------------------------------------------------------- orders */

static int carry_out(struct guest *guest, const struct guest_order *order, struct guest_answer *answer)
{
    if (!guest->order && order->op != GUEST_LOAD)
        return complain(guest, "an order before its memory was filled", -EINVAL);
    switch (order->op) {
    case GUEST_LOAD:
        return load(guest, answer);
    case GUEST_OPEN:
        return open_memd(guest, order->engine_cpu);
    case GUEST_ENROL:
        return enrol(guest);
    case GUEST_STATS:
        return tell_stats(guest, answer);
    case GUEST_PAGEOUT:
        return page_out(guest, order->cold_only, answer);
    case GUEST_READ:
        read_all(guest, answer);
        return 0;
    case GUEST_FAULTS:
        return faults(guest, &order->floor, answer);
    case GUEST_FLOOR:
        return bare_faults(guest, &order->floor, answer);
    case GUEST_JOB:
        job(guest, order, answer);
        return 0;
    case GUEST_QUIET:
        return be_quiet(guest, order->until_s, answer);
    case GUEST_THRASH:
        thrash(guest, order->until_s, answer);
        return 0;
    case GUEST_BURN:
        return burn(order->burn.share, order->burn.nice, order->burn.nthreads, order->burn.until_s);
    case GUEST_CHECK:
        answer->value[0] = (double)check(guest);
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
