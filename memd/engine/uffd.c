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
#define IS_PRESENT (1ull << 63) /* of an entry of /proc/self/pagemap */
#define IS_SWAPPED (1ull << 62)
#define IS_ARMED   (1ull << 57)
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

static int copy_all(int uffd, void *dst, const void *src, uint64_t bytes, uint64_t mode, uint64_t *ret_copied)
{
    uint64_t done = 0;
    int err = 0;

    while (done < bytes && !err) {
        struct uffdio_copy copy = {.dst = (uintptr_t)dst + done,
                                   .src = (uintptr_t)src + done,
                                   .len = bytes - done,
                                   .mode = mode | UFFDIO_COPY_MODE_DONTWAKE};
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

int uffd_copy(int uffd, void *dst, const void *src, uint64_t bytes, uint64_t *ret_copied)
{
    return copy_all(uffd, dst, src, bytes, 0, ret_copied);
}

int uffd_copy_armed(int uffd, void *dst, const void *src, uint64_t bytes, uint64_t *ret_copied)
{
    return copy_all(uffd, dst, src, bytes, UFFDIO_COPY_MODE_WP, ret_copied);
}

int uffd_copy_once(int uffd, void *dst, const void *src, uint64_t bytes, bool armed)
{
    struct uffdio_copy copy = {.dst = (uintptr_t)dst,
                               .src = (uintptr_t)src,
                               .len = bytes,
                               .mode = UFFDIO_COPY_MODE_DONTWAKE | (armed ? UFFDIO_COPY_MODE_WP : 0)};

    return call(uffd, UFFDIO_COPY, &copy);
}

int uffd_unprotect_once(int uffd, const void *hva, uint64_t bytes)
{
    struct uffdio_writeprotect wp = {.range = {(uintptr_t)hva, bytes},
                                     .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE};

    return call(uffd, UFFDIO_WRITEPROTECT, &wp);
}

bool uffd_marker_at(struct memd *m, const void *hva)
{
    uint64_t e;

    return pread(m->pagemap, &e, sizeof e, (off_t)((uintptr_t)hva / PAGE_BYTES * sizeof e)) == sizeof e &&
           e & IS_ARMED && !(e & IS_PRESENT);
}

int uffd_poison_once(struct memd *m, void *hva)
{
    struct uffdio_poison poison = {.range = {(uintptr_t)hva, PAGE_BYTES},
                                   .mode = UFFDIO_POISON_MODE_DONTWAKE};
    int err = call(m->uffd_a, UFFDIO_POISON, &poison);

    if (err != -EEXIST || !uffd_marker_at(m, hva))
        return err;
    uffd_unprotect_once(m->uffd_a, hva, PAGE_BYTES);
    return -EAGAIN;
}

int uffd_zero(int uffd, void *dst, uint64_t bytes)
{
    struct uffdio_zeropage zero = {.range = {(uintptr_t)dst, bytes}};

    return call(uffd, UFFDIO_ZEROPAGE, &zero);
}

/* ---- moving */

#define LOOK_PAGES 64u
#define IS_THERE   (IS_PRESENT | IS_SWAPPED)

/* How many pages of these are at `dst` and nowhere at `src` any more. */
static uint32_t gone_over(struct memd *m, const char *dst, const char *src, uint64_t bytes)
{
    uint32_t n = (uint32_t)(bytes / PAGE_BYTES), i = 0;
    uint64_t at_dst[LOOK_PAGES], at_src[LOOK_PAGES];
    ssize_t want;

    n = n < LOOK_PAGES ? n : LOOK_PAGES;
    want = (ssize_t)(n * sizeof *at_dst);
    if (pread(m->pagemap, at_dst, (size_t)want, (off_t)((uintptr_t)dst / PAGE_BYTES * sizeof *at_dst)) !=
            want ||
        pread(m->pagemap, at_src, (size_t)want, (off_t)((uintptr_t)src / PAGE_BYTES * sizeof *at_src)) !=
            want)
        return 0;
    while (i < n && at_dst[i] & IS_THERE && !(at_src[i] & IS_THERE))
        i++;
    return i;
}

/* One call. Linux 6.18 moves runs of pages, but keeps the EAGAIN of a try of its own that failed before (a
 * writer had just changed the first page's entry): what it moves then is not counted, it tries again, and
 * finds the pages at their destination (move_pages in mm/userfaultfd.c). So after EEXIST it has to be looked
 * up whether they have been moved. Nobody else can have filled `dst`: see uffd_move() in engine.h. */
static int move_some(struct memd *m, char *dst, const char *src, uint64_t bytes, uint64_t mode,
                     uint64_t *ret_moved)
{
    struct uffdio_move move = {
        .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = bytes, .mode = mode | UFFDIO_MOVE_MODE_DONTWAKE};
    int err = call(m->uffd_a, UFFDIO_MOVE, &move);

    *ret_moved = move.move > 0 ? (uint64_t)move.move : 0;
    if (err == -EEXIST && !*ret_moved)
        *ret_moved = gone_over(m, dst, src, bytes) * PAGE_BYTES;
    return *ret_moved == bytes ? 0 : err;
}

int uffd_move_once(struct memd *m, void *dst, const void *src)
{
    uint64_t moved;

    return move_some(m, dst, src, PAGE_BYTES, 0, &moved);
}

int uffd_move(struct memd *m, void *dst, const void *src, uint64_t bytes, uint64_t mode, uint64_t *ret_moved)
{
    uint64_t done = 0, moved;
    unsigned stalled = 0;
    int err = 0;

    while (done < bytes) {
        err = move_some(m, (char *)dst + done, (const char *)src + done, bytes - done, mode, &moved);
        done += moved;
        if (moved) {
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
                              .category_inverted = q->inverted | m->guards,
                              .category_mask = q->mask | m->guards,
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
