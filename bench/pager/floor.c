/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see floor.h. The server waits in read() and is ended by pthread_cancel(). */
#include "bench/pager/floor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <lz4.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFDIO_MOVE /* headers older than Linux 6.8 */
struct uffdio_move {
    __u64 dst, src, len, mode;
    __s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

struct bare {
    const struct floor *floor;
    size_t npages;
    int uffd, error;
    char *area, *aside;
    char **packed; /* by page */
    int *packed_bytes;
};

int floor_pin(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return 0;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) ? -errno : 0;
}

double floor_touch(const char *page)
{
    uint64_t begun = bench_now_ns();

    (void)*(volatile const uint64_t *)page;
    return (double)(bench_now_ns() - begun);
}

/* ---- the server */

static int install(struct bare *b, uint64_t address)
{
    static __thread char page[BENCH_PAGE_BYTES] __attribute__((aligned(BENCH_PAGE_BYTES)));
    uint64_t offset = (address & ~(BENCH_PAGE_BYTES - 1)) - (uintptr_t)b->area;
    struct uffdio_move move = {
        .dst = (uintptr_t)b->area + offset, .src = (uintptr_t)b->aside + offset, .len = BENCH_PAGE_BYTES};
    struct uffdio_copy copy = {
        .dst = (uintptr_t)b->area + offset, .src = (uintptr_t)page, .len = BENCH_PAGE_BYTES};
    size_t nr = offset / BENCH_PAGE_BYTES;

    if (!b->floor->packed)
        return ioctl(b->uffd, UFFDIO_MOVE, &move) ? -errno : 0;
    if (LZ4_decompress_safe(b->packed[nr], page, b->packed_bytes[nr], sizeof page) != sizeof page)
        return -EIO;
    return ioctl(b->uffd, UFFDIO_COPY, &copy) ? -errno : 0;
}

static void *serve(void *arg)
{
    struct bare *b = arg;
    struct uffd_msg msg;

    b->error = floor_pin(b->floor->server_cpu);
    while (read(b->uffd, &msg, sizeof msg) == sizeof msg) {
        int err = install(b, msg.arg.pagefault.address);
        while (err == -EAGAIN)
            err = install(b, msg.arg.pagefault.address);
        if (err)
            b->error = err;
    }
    return NULL;
}

/* ---- before */

static int open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MOVE};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd < 0 ? -errno : fd;
}

static char *memory(size_t bytes)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_NOHUGEPAGE);
    return p;
}

/* All pages, packed, one after the other. */
static int pack_all(struct bare *b, const char *image)
{
    size_t at = 0;

    for (size_t i = 0; i < b->npages; i++) {
        b->packed[i] = b->aside + at;
        b->packed_bytes[i] = LZ4_compress_default(image + i * BENCH_PAGE_BYTES, b->packed[i],
                                                  BENCH_PAGE_BYTES, BENCH_PAGE_BYTES);
        if (b->packed_bytes[i] <= 0)
            return -EIO;
        at += ((size_t)b->packed_bytes[i] + 15) / 16 * 16;
    }
    return 0;
}

static int prepare(struct bare *b, const char *image)
{
    size_t bytes = b->npages * BENCH_PAGE_BYTES;
    struct uffdio_register reg = {.range = {(uintptr_t)b->area, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};

    if (!b->area || !b->aside || !b->packed || !b->packed_bytes)
        return -ENOMEM;
    b->uffd = open_uffd();
    if (b->uffd < 0)
        return b->uffd;
    if (ioctl(b->uffd, UFFDIO_REGISTER, &reg))
        return -errno;
    if (b->floor->packed)
        return pack_all(b, image);
    memcpy(b->aside, image, bytes);
    return 0;
}

/* ---- the measurement */

static int touch_all(const struct bare *b, const uint32_t *order, double *ns)
{
    int err = floor_pin(b->floor->toucher_cpu);

    for (unsigned i = 0; i < b->floor->npages && !err && !b->error; i++)
        ns[i] = floor_touch(b->area + (size_t)order[i] * BENCH_PAGE_BYTES);
    return err ? err : b->error;
}

int floor_measure(const struct floor *floor, const char *image, size_t npages, const uint32_t *order,
                  double *ret_p50_ns, double *ret_p99_ns)
{
    size_t bytes = npages * BENCH_PAGE_BYTES;
    struct bare b = {.floor = floor,
                     .npages = npages,
                     .uffd = -1,
                     .area = memory(bytes),
                     .aside = memory(bytes),
                     .packed = malloc(npages * sizeof(char *)),
                     .packed_bytes = malloc(npages * sizeof(int))};
    double *ns = malloc(floor->npages * sizeof *ns);
    pthread_t server;
    int err = ns ? prepare(&b, image) : -ENOMEM;

    if (!err)
        err = -pthread_create(&server, NULL, serve, &b);
    if (!err) {
        err = touch_all(&b, order, ns);
        pthread_cancel(server);
        pthread_join(server, NULL);
        *ret_p50_ns = bench_median(ns, floor->npages);
        *ret_p99_ns = bench_percentile(ns, floor->npages, 99);
    }
    if (b.uffd >= 0)
        close(b.uffd);
    munmap(b.area, bytes);
    munmap(b.aside, bytes);
    free(b.packed);
    free(b.packed_bytes);
    free(ns);
    return err;
}
