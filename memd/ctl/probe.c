/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * probe: see probe.h. Interfaces newer than the oldest headers memctl builds with (Linux 6.1) are spelt out
 * here, under names of our own so that newer headers do no harm.
 */
#include "memd/ctl/probe.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul

struct probe_move {
    uint64_t dst, src, len, mode;
    int64_t move;
};
struct probe_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct probe_region {
    uint64_t start, end, categories;
};
static_assert(sizeof(struct probe_move) == 40, "UFFDIO_MOVE");
static_assert(sizeof(struct probe_scan) == 96, "PAGEMAP_SCAN");

#define PROBE_UFFD_NEW         _IO(0xAA, 0x00)
#define PROBE_UFFD_MOVE        _IOWR(UFFDIO, 0x05, struct probe_move)
#define PROBE_PAGEMAP_SCAN     _IOWR('f', 16, struct probe_scan)
#define PROBE_SCAN_WP_MATCHING 1ull
#define PROBE_PAGE_WRITTEN     2ull
#define PROBE_PAGE_PRESENT     8ull
#define PROBE_PAGE_SWAPPED     16ull

/* A userfaultfd with `features`, or -errno. ret_known: what the kernel offers. */
static int uffd_open(const char *device, uint64_t features, uint64_t *ret_known)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    int device_fd = open(device, O_RDWR | O_CLOEXEC);

    if (device_fd < 0)
        return -errno;
    int uffd = ioctl(device_fd, PROBE_UFFD_NEW, O_CLOEXEC | O_NONBLOCK);
    int error = errno;
    close(device_fd);
    if (uffd < 0)
        return -error;
    if (ioctl(uffd, UFFDIO_API, &api)) {
        error = errno;
        close(uffd);
        return -error;
    }
    *ret_known = api.features;
    return uffd;
}

static char *pages_map(size_t npages)
{
    char *pages = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        return NULL;
    madvise(pages, npages * PAGE, MADV_NOHUGEPAGE);
    return pages;
}

static int uffd_register(int uffd, const char *page, uint64_t mode)
{
    struct uffdio_register reg = {.range = {(uintptr_t)page, PAGE}, .mode = mode};

    return ioctl(uffd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

/* Move a written page over a hole and look at what arrived. */
static int try_move(int uffd)
{
    char *pages = pages_map(2);
    int result;

    if (!pages)
        return -ENOMEM;
    strcpy(pages, "probe");
    struct probe_move move = {.dst = (uintptr_t)(pages + PAGE), .src = (uintptr_t)pages, .len = PAGE};
    result = uffd_register(uffd, pages + PAGE, UFFDIO_REGISTER_MODE_MISSING);
    if (!result && ioctl(uffd, PROBE_UFFD_MOVE, &move))
        result = -errno;
    if (!result && strcmp(pages + PAGE, "probe"))
        result = -EIO;
    munmap(pages, 2 * PAGE);
    return result;
}

/* Pages written since the last call, which are re-armed; or -errno. */
static int scan(int pagemap_fd, const char *page)
{
    struct probe_region region;
    struct probe_scan arg = {
        .size = sizeof arg,
        .flags = PROBE_SCAN_WP_MATCHING,
        .start = (uintptr_t)page,
        .end = (uintptr_t)page + PAGE,
        .vec = (uintptr_t)&region,
        .vec_len = 1,
        .category_mask = PROBE_PAGE_WRITTEN,
        .category_anyof_mask = PROBE_PAGE_PRESENT | PROBE_PAGE_SWAPPED,
        .return_mask = PROBE_PAGE_WRITTEN,
    };
    int result = ioctl(pagemap_fd, PROBE_PAGEMAP_SCAN, &arg);

    return result < 0 ? -errno : result;
}

/* Arm a page, see that it is quiet, write it, see that it is not. */
static int try_tracking(int uffd)
{
    char *page = pages_map(1);
    int pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int result = pagemap_fd < 0 ? -errno : page ? 0 : -ENOMEM;

    if (!result) {
        *(volatile char *)page = 1;
        result = uffd_register(uffd, page, UFFDIO_REGISTER_MODE_WP);
    }
    if (!result) {
        result = scan(pagemap_fd, page); /* arms */
        if (result >= 0)
            result = scan(pagemap_fd, page) == 0 ? 0 : -ENODATA;
    }
    if (!result) {
        *(volatile char *)page = 2;
        result = scan(pagemap_fd, page) == 1 ? 0 : -ENODATA;
    }
    if (page)
        munmap(page, PAGE);
    if (pagemap_fd >= 0)
        close(pagemap_fd);
    return result;
}

void probe_kernel(const char *device, struct probe *ret_probe)
{
    struct probe probe = {.missing = PROBE_FEATURES, .move_error = ENOSYS, .tracking_error = ENOSYS};
    uint64_t known = 0;
    int uffd = uffd_open(device, 0, &known);

    if (uffd < 0) {
        probe.device_error = -uffd;
    } else {
        close(uffd);
        probe.missing = PROBE_FEATURES & ~known;
        uffd = uffd_open(device, PROBE_FEATURES & known, &known);
    }
    if (uffd >= 0) {
        if (!(probe.missing & PROBE_FEATURE_MOVE))
            probe.move_error = -try_move(uffd);
        if (!(probe.missing & PROBE_FEATURE_WP_ASYNC))
            probe.tracking_error = -try_tracking(uffd);
        close(uffd);
    }
    *ret_probe = probe;
}
