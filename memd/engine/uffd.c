/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Thin shims over userfaultfd(2) and PAGEMAP_SCAN: each is one system call (repeated on EAGAIN where the
 * kernel only asks for patience) and returns 0 or -errno. Any thread; what they do to which range is the
 * caller's business.
 */
#include "memd/engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEATURES_A                                                                       \
    ((uint64_t)UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_MOVE | \
     UFFD_FEATURE_EVENT_REMAP)
#define FEATURES_B ((uint64_t)UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

static int call(int fd, unsigned long request, void *arg)
{
    return ioctl(fd, request, arg) ? -errno : 0;
}

/* A userfaultfd of this process that serves kernel-mode faults too, or -errno. */
static int uffd_new(int dev_fd)
{
    int fd = -1;

    if (dev_fd >= 0)
        fd = ioctl(dev_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    else
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static int uffd_new_with(int dev_fd, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    int fd = uffd_new(dev_fd);

    if (fd < 0)
        return fd;
    if (ioctl(fd, UFFDIO_API, &api)) {
        int err = errno;
        close(fd);
        return err == EINVAL ? -ENOSYS : -err;
    }
    return fd;
}

int uffd_open(struct memd *m, int dev_fd)
{
    int own = -1, a, b;

    a = uffd_new_with(dev_fd, FEATURES_A);
    if (a == -EPERM && dev_fd < 0) {
        own = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (own < 0)
            return -EPERM;
        dev_fd = own;
        a = uffd_new_with(dev_fd, FEATURES_A);
    }
    b = a < 0 ? a : uffd_new_with(dev_fd, FEATURES_B);
    if (own >= 0)
        close(own);
    if (b < 0) {
        if (a >= 0)
            close(a);
        return b;
    }
    m->uffd_a = a;
    m->uffd_b = b;
    return 0;
}

int uffd_register(int uffd, const void *hva, uint64_t bytes, uint64_t mode)
{
    struct uffdio_register reg = {.range = {(uintptr_t)hva, bytes}, .mode = mode};

    return call(uffd, UFFDIO_REGISTER, &reg);
}

int uffd_unregister(int uffd, const void *hva, uint64_t bytes)
{
    struct uffdio_range range = {(uintptr_t)hva, bytes};

    return call(uffd, UFFDIO_UNREGISTER, &range);
}

int uffd_wake(int uffd, const void *hva, uint64_t bytes)
{
    struct uffdio_range range = {(uintptr_t)hva, bytes};

    return call(uffd, UFFDIO_WAKE, &range);
}

int uffd_write_protect(int uffd, const void *hva, uint64_t bytes, bool on)
{
    struct uffdio_writeprotect wp = {.range = {(uintptr_t)hva, bytes},
                                     .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP
                                                : UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
    int err;

    while ((err = call(uffd, UFFDIO_WRITEPROTECT, &wp)) == -EAGAIN)
        sched_yield();
    return err;
}

int uffd_copy(int uffd, void *dst, const void *src, uint64_t bytes, uint64_t *ret_copied)
{
    uint64_t done = 0;
    int err = 0;

    while (done < bytes && !err) {
        struct uffdio_copy copy = {.dst = (uintptr_t)dst + done,
                                   .src = (uintptr_t)src + done,
                                   .len = bytes - done,
                                   .mode = UFFDIO_COPY_MODE_DONTWAKE};
        err = call(uffd, UFFDIO_COPY, &copy);
        if (copy.copy > 0) {
            done += (uint64_t)copy.copy;
            err = 0;
        } else if (err == -EAGAIN) {
            sched_yield();
            err = 0;
        }
    }
    *ret_copied = done;
    return err;
}

int uffd_zero(int uffd, void *dst, uint64_t bytes)
{
    struct uffdio_zeropage zero = {.range = {(uintptr_t)dst, bytes}};

    return call(uffd, UFFDIO_ZEROPAGE, &zero);
}

int uffd_move(int uffd, void *dst, const void *src, uint64_t bytes, uint64_t mode, uint64_t *ret_moved)
{
    uint64_t done = 0;
    unsigned stalled = 0;
    int err = 0;

    while (done < bytes) {
        struct uffdio_move move = {.dst = (uintptr_t)dst + done,
                                   .src = (uintptr_t)src + done,
                                   .len = bytes - done,
                                   .mode = mode | UFFDIO_MOVE_MODE_DONTWAKE};
        err = call(uffd, UFFDIO_MOVE, &move);
        if (move.move > 0) {
            done += (uint64_t)move.move;
            stalled = 0;
            continue;
        }
        /* EAGAIN without progress: a page is locked, or a remap event is unread. Both pass. */
        if (err != -EAGAIN || ++stalled > 10000)
            break;
        sched_yield();
    }
    *ret_moved = done;
    return done == bytes ? 0 : err;
}

int pagemap_scan(struct memd *m, const void *hva, uint64_t bytes, const struct scan_query *q,
                 struct page_region *vec, unsigned nvec, uint64_t *ret_end)
{
    struct pm_scan_arg arg = {.size = sizeof arg,
                              .flags = q->flags,
                              .start = (uintptr_t)hva,
                              .end = (uintptr_t)hva + bytes,
                              .vec = (uintptr_t)vec,
                              .vec_len = nvec,
                              .category_inverted = q->inverted,
                              .category_mask = q->mask,
                              .category_anyof_mask = q->anyof,
                              .return_mask = q->ret};
    int n;

    do
        n = ioctl(m->pagemap, PAGEMAP_SCAN, &arg);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    *ret_end = arg.walk_end;
    return n;
}
