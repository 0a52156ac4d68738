/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The calls of libc that this library stands in front of. Each does what it always did; where the range it
 * is about may concern memd (a comparison of two addresses, nothing more in a program that never advised
 * anything), it goes by way of track.h.
 *
 *   madvise      MADV_MERGEABLE and MADV_UNMERGEABLE are for memd, not for the kernel's KSM; what discards
 *                and what sets attributes goes by way of the engine; what the engine cannot follow
 *                (MADV_WIPEONFORK and the like) takes the range out of it first
 *   process_madvise
 *                the same, for each of its ranges
 *   munmap, mmap(MAP_FIXED), shmat(SHM_REMAP), mremap, mprotect, mlock*
 *   close, close_range, closefrom, dup2, dup3
 *                do not know the engine's descriptors
 *   fork         is refused where what is out cannot come home: it must be in the child
 *   __register_atfork
 *                our handlers come first
 *   unshare, setns
 *                where a thread of ours is in the way it ends, and memd comes back afterwards
 *   ioctl        UFFDIO_REGISTER: memd steps aside (a range has one userfaultfd); _UNREGISTER: it comes back
 *
 * What does not come through libc's public names (its own allocator's calls, syscall()) is not seen.
 */
#include "memd/preload/fds.h"
#include "memd/preload/hand.h"
#include "memd/preload/sys.h"
#include "memd/preload/track.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/uio.h>

#define EXPORT __attribute__((visibility("default")))
#define PAGE   4096ull

#define FORK_TRIES 5 /* a second between them */

static uint64_t page_up(uint64_t at)
{
    return (at + PAGE - 1) & ~(PAGE - 1);
}

static int result(int err)
{
    if (err) {
        errno = -err;
        return -1;
    }
    return 0;
}

/* A range as the kernel would take it; false: let the kernel say what is wrong with it. */
static bool range_of(const void *addr, size_t bytes, uint64_t *ret_start, uint64_t *ret_end)
{
    *ret_start = (uintptr_t)addr;
    *ret_end = page_up(*ret_start + bytes);
    return *ret_start % PAGE == 0 && *ret_end > *ret_start;
}

/* ---- mapping and unmapping */

struct mapping_call {
    void *addr;
    size_t bytes, new_bytes;
    int prot, flags, fd;
    off_t offset;
    void *new_addr, *ret;
};

static int call_mmap(void *ctx)
{
    struct mapping_call *c = ctx;

    c->ret = sys_mmap(c->addr, c->bytes, c->prot, c->flags, c->fd, c->offset);
    return c->ret == MAP_FAILED ? -errno : 0;
}

static int call_munmap(void *ctx)
{
    struct mapping_call *c = ctx;

    return sys_munmap(c->addr, c->bytes) ? -errno : 0;
}

static int call_mremap(void *ctx)
{
    struct mapping_call *c = ctx;

    c->ret = sys_mremap(c->addr, c->bytes, c->new_bytes, c->flags, c->new_addr);
    return c->ret == MAP_FAILED ? -errno : 0;
}

/* Memory of a size that is looked after without having been advised (memd-run --all-anon). */
static bool all_anon_wants(const struct mapping_call *c)
{
    const int never = MAP_HUGETLB | MAP_STACK | MAP_GROWSDOWN | MAP_LOCKED;
    uint64_t least = track_all_anon();

    return least && c->bytes >= least && (c->flags & MAP_PRIVATE) && (c->flags & MAP_ANONYMOUS) &&
           c->prot == (PROT_READ | PROT_WRITE) && !(c->flags & never);
}

EXPORT void *mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    struct mapping_call c = {
        .addr = addr, .bytes = bytes, .prot = prot, .flags = flags, .fd = fd, .offset = offset};
    struct track_guard guard;
    uint64_t start, end;
    bool over = flags & MAP_FIXED && range_of(addr, bytes, &start, &end) && track_hits(start, end);

    if ((!over && !all_anon_wants(&c)) || !track_enter(&guard))
        return sys_mmap(addr, bytes, prot, flags, fd, offset);
    int err = over ? track_unmap(start, end, call_mmap, &c) : call_mmap(&c);
    if (!err && all_anon_wants(&c))
        track_want((uintptr_t)c.ret, page_up((uintptr_t)c.ret + bytes));
    track_leave(&guard);
    if (err)
        errno = -err;
    return err ? MAP_FAILED : c.ret;
}

EXPORT void *mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));

EXPORT int munmap(void *addr, size_t bytes)
{
    struct mapping_call c = {.addr = addr, .bytes = bytes};
    struct track_guard guard;
    uint64_t start, end;

    if (!range_of(addr, bytes, &start, &end) || !track_hits(start, end) || !track_enter(&guard))
        return sys_munmap(addr, bytes);
    int err = track_unmap(start, end, call_munmap, &c);
    track_leave(&guard);
    return result(err);
}

struct shmat_call {
    int id, flags;
    const void *addr;
    void *ret;
};

static int call_shmat(void *ctx)
{
    struct shmat_call *c = ctx;

    c->ret = (void *)syscall(SYS_shmat, c->id, c->addr, c->flags);
    return c->ret == MAP_FAILED ? -errno : 0;
}

EXPORT void *shmat(int id, const void *addr, int flags)
{
    struct shmat_call c = {.id = id, .flags = flags, .addr = addr};
    uint64_t start = (uintptr_t)addr & ~(PAGE - 1); /* SHM_RND; else it has to be aligned */
    struct track_guard guard;
    struct shmid_ds ds;

    if (!(flags & SHM_REMAP) || !addr || shmctl(id, IPC_STAT, &ds) ||
        !track_hits(start, page_up(start + ds.shm_segsz)) || !track_enter(&guard))
        return (void *)syscall(SYS_shmat, id, addr, flags);
    int err = track_unmap(start, page_up(start + ds.shm_segsz), call_shmat, &c);
    track_leave(&guard);
    if (err)
        errno = -err;
    return err ? MAP_FAILED : c.ret;
}

/* The kernel moves one mapping at a time; what was merged, or out of RAM, may still be several. */
static int move_pieces(struct mapping_call *c)
{
    const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (c->flags & MREMAP_DONTUNMAP);
    uint64_t bytes = page_up(c->bytes), done = 0;
    char *to = c->flags & MREMAP_FIXED ? c->new_addr
                                       : sys_mmap(NULL, page_up(c->new_bytes), PROT_NONE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (to == MAP_FAILED)
        return -errno;
    for (uint64_t piece = bytes; done < bytes;) {
        if (sys_mremap((char *)c->addr + done, piece, piece, flags, to + done) != MAP_FAILED) {
            done += piece;
            piece = bytes - done;
        } else if (errno == EFAULT && piece > PAGE) {
            piece = page_up(piece / 2);
        } else {
            return -errno; /* a part has moved: as after any failure of mremap, neither place is whole */
        }
    }
    if (page_up(c->new_bytes) > bytes) { /* the last of it grows */
        sys_munmap(to + bytes, page_up(c->new_bytes) - bytes);
        if (sys_mremap(to + bytes - PAGE, PAGE, page_up(c->new_bytes) - bytes + PAGE, 0, NULL) == MAP_FAILED)
            return -errno;
    }
    c->ret = to;
    return 0;
}

static int call_move(void *ctx)
{
    struct mapping_call *c = ctx;
    int err = call_mremap(c);

    if (err == -EFAULT && c->flags & MREMAP_MAYMOVE && page_up(c->new_bytes) >= page_up(c->bytes))
        err = move_pieces(c);
    return err;
}

/* The old range is home and out; the new one takes its place in what is wanted. */
static int move(struct mapping_call *c, uint64_t start, uint64_t end)
{
    uint64_t to = (uintptr_t)c->new_addr;
    bool wanted = track_wants(start, end), fixed = c->flags & MREMAP_FIXED;
    int err = track_own(start, end);

    if (!err)
        err = track_cut(start, end, MEMD_INELIGIBLE_OTHER);
    if (err)
        return err;
    if (fixed && track_hits(to, page_up(to + c->new_bytes)))
        err = track_unmap(to, page_up(to + c->new_bytes), call_move, c);
    else
        err = call_move(c);
    if (err) {
        track_again(start, end);
        return err;
    }
    if (!(c->flags & MREMAP_DONTUNMAP))
        track_unwant(start, end);
    if (wanted)
        track_want((uintptr_t)c->ret, page_up((uintptr_t)c->ret + c->new_bytes));
    return 0;
}

static int shrink(void *ctx)
{
    const struct mapping_call *c = ctx;
    uint64_t keep = page_up(c->new_bytes);

    return sys_munmap((char *)c->addr + keep, page_up(c->bytes) - keep) ? -errno : 0;
}

EXPORT void *mremap(void *addr, size_t bytes, size_t new_bytes, int flags, ...)
{
    struct mapping_call c = {.addr = addr, .bytes = bytes, .new_bytes = new_bytes, .flags = flags};
    struct track_guard guard;
    uint64_t start, end, to;
    va_list ap;

    va_start(ap, flags);
    if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
        c.new_addr = va_arg(ap, void *);
    va_end(ap);
    to = (uintptr_t)c.new_addr;
    if (!range_of(addr, bytes, &start, &end) || !new_bytes ||
        (!track_hits(start, end) && !(flags & MREMAP_FIXED && track_hits(to, page_up(to + new_bytes)))) ||
        !track_enter(&guard))
        return sys_mremap(addr, bytes, new_bytes, flags, c.new_addr);
    int err = 0;
    if (!(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && page_up(new_bytes) <= end - start) {
        c.ret = addr;
        if (page_up(new_bytes) < end - start)
            err = track_unmap(start + page_up(new_bytes), end, shrink, &c);
    } else {
        err = move(&c, start, end);
    }
    track_leave(&guard);
    if (err)
        errno = err == -EBUSY ? EAGAIN : -err;
    return err ? MAP_FAILED : c.ret;
}

/* ---- protecting and locking */

/* Takes the range out of the engine; the caller is inside. */
static int step_aside(const void *addr, size_t bytes, enum memd_ineligible why, struct track_guard *guard,
                      bool *ret_inside)
{
    uint64_t start, end;

    *ret_inside = false;
    if (!range_of((void *)((uintptr_t)addr & ~(PAGE - 1)), bytes + (uintptr_t)addr % PAGE, &start, &end) ||
        !track_hits(start, end) || !track_enter(guard))
        return 0;
    *ret_inside = true;
    return track_cut(start, end, why);
}

/* The call has been made: where memory is plain again, it may take part again. */
static void come_back(const void *addr, size_t bytes)
{
    uint64_t start = (uintptr_t)addr & ~(PAGE - 1), end = page_up((uintptr_t)addr + bytes);
    struct track_guard guard;

    if (end <= start || !track_hits(start, end) || !track_enter(&guard))
        return;
    track_again(start, end);
    track_leave(&guard);
}

static int protect(void *addr, size_t bytes, int prot, int key)
{
    struct track_guard guard;
    bool plain = prot == (PROT_READ | PROT_WRITE) && key < 0, in = false;
    int err = plain ? 0 : step_aside(addr, bytes, MEMD_INELIGIBLE_OTHER, &guard, &in), saved = 0, ret = 0;

    if (!err) {
        ret = key < 0 ? sys_mprotect(addr, bytes, prot)
                      : (int)syscall(SYS_pkey_mprotect, addr, bytes, prot, key);
        saved = errno;
    }
    if (in)
        track_leave(&guard);
    if (err)
        return result(err == -EBUSY ? -ENOMEM : err);
    if (plain)
        come_back(addr, bytes);
    errno = saved;
    return ret;
}

EXPORT int mprotect(void *addr, size_t bytes, int prot)
{
    return protect(addr, bytes, prot, -1);
}

EXPORT int pkey_mprotect(void *addr, size_t bytes, int prot, int key)
{
    return protect(addr, bytes, prot, key);
}

static int lock_range(const void *addr, size_t bytes, unsigned flags)
{
    struct track_guard guard;
    bool in;
    int err = step_aside(addr, bytes, MEMD_INELIGIBLE_LOCKED, &guard, &in), ret = 0, saved = 0;

    if (!err) {
        ret = flags ? (int)syscall(SYS_mlock2, addr, bytes, flags) : (int)syscall(SYS_mlock, addr, bytes);
        saved = errno;
    }
    if (in && ret) {
        uint64_t start = (uintptr_t)addr & ~(PAGE - 1);
        track_again(start, page_up((uintptr_t)addr + bytes));
    }
    if (in)
        track_leave(&guard);
    if (err)
        return result(-EAGAIN);
    errno = saved;
    return ret;
}

EXPORT int mlock(const void *addr, size_t bytes)
{
    return lock_range(addr, bytes, 0);
}

EXPORT int mlock2(const void *addr, size_t bytes, unsigned flags)
{
    return lock_range(addr, bytes, flags);
}

EXPORT int munlock(const void *addr, size_t bytes)
{
    int ret = (int)syscall(SYS_munlock, addr, bytes), saved = errno;

    come_back(addr, bytes);
    errno = saved;
    return ret;
}

/* It would lock the engine's memory too, and fill the frame stores that are mapped to compare with. */
EXPORT int mlockall(int flags)
{
    struct track_guard guard;

    if (!(flags & MCL_CURRENT) || !track_hits(0, UINT64_MAX) || !track_enter(&guard))
        return (int)syscall(SYS_mlockall, flags);
    int err = track_close(), ret = err ? 0 : (int)syscall(SYS_mlockall, flags), saved = errno;
    track_leave(&guard);
    if (err)
        return result(-EAGAIN);
    errno = saved;
    return ret;
}

EXPORT int munlockall(void)
{
    int ret = (int)syscall(SYS_munlockall), saved = errno;

    come_back(NULL, UINT64_MAX - PAGE);
    errno = saved;
    return ret;
}

/* ---- advice */

enum treatment { PASS, WANT, UNWANT, DISCARD, ATTRIBUTE, LEAVE };

static enum treatment treatment_of(int advice)
{
    switch (advice) {
    case MADV_MERGEABLE:
        return WANT;
    case MADV_UNMERGEABLE:
        return UNWANT;
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
    case MADV_FREE:
    case MADV_REMOVE:
        return DISCARD;
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case MADV_DONTFORK:
    case MADV_DOFORK:
        return ATTRIBUTE;
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_WILLNEED:
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
        return PASS;
    default: /* MADV_WIPEONFORK, guard pages, poison, what is yet to come */
        return LEAVE;
    }
}

/* KSM has nothing there, or what it was given otherwise; a kernel without it does not know the advice. */
static int unmergeable(void *addr, size_t bytes)
{
    int ret = sys_madvise(addr, bytes, MADV_UNMERGEABLE);

    return ret && errno == EINVAL && !((uintptr_t)addr % PAGE) ? 0 : ret;
}

static int advise_inside(uint64_t start, uint64_t end, int advice)
{
    int err;

    switch (treatment_of(advice)) {
    case WANT:
        if (track_want(start, end))
            return -EAGAIN;
        /* where nothing is mapped the kernel says so, and does the rest; this looks and does nothing */
        return syscall(SYS_msync, start, end - start, MS_ASYNC) && errno == ENOMEM ? -ENOMEM : 0;
    case UNWANT:
        err = track_unwant(start, end);
        if (!err && unmergeable((void *)start, end - start))
            err = -errno;
        return err == -EBUSY ? -EAGAIN : err;
    case DISCARD:
        return track_discard(start, end, advice);
    case ATTRIBUTE:
        return track_advise(start, end, advice);
    default:
        err = track_own(start, end);
        if (!err)
            err = track_cut(start, end, MEMD_INELIGIBLE_OTHER);
        if (!err && sys_madvise((void *)start, end - start, advice))
            err = -errno;
        return err == -EBUSY ? -EAGAIN : err;
    }
}

EXPORT int madvise(void *addr, size_t bytes, int advice)
{
    enum treatment treatment = treatment_of(advice);
    struct track_guard guard;
    uint64_t start, end;

    if (treatment == PASS || !range_of(addr, bytes, &start, &end) ||
        (treatment != WANT && !track_hits(start, end)))
        return treatment == UNWANT ? unmergeable(addr, bytes) : sys_madvise(addr, bytes, advice);
    if (!track_enter(&guard))
        return sys_madvise(addr, bytes, advice);
    int err = advise_inside(start, end, advice);
    track_leave(&guard);
    return result(err);
}

/* ---- the program's own userfaultfd */

static int uffd_register_after_us(int fd, struct uffdio_register *reg)
{
    struct track_guard guard;
    bool in;
    int err = step_aside((void *)(uintptr_t)reg->range.start, reg->range.len, MEMD_INELIGIBLE_UFFD, &guard,
                         &in),
        ret = 0, saved = 0;

    if (!err) {
        ret = (int)syscall(SYS_ioctl, fd, UFFDIO_REGISTER, reg);
        saved = errno;
    }
    if (in)
        track_again_later(reg->range.start, reg->range.start + reg->range.len);
    if (in)
        track_leave(&guard);
    if (err)
        return result(-EBUSY);
    errno = saved;
    return ret;
}

/* Eight bytes there can be read: the kernel copies them, and then refuses what it is told to do with them. */
static bool is_readable(const void *arg)
{
    return syscall(SYS_rt_sigprocmask, -1, arg, NULL, sizeof(uint64_t)) < 0 && errno != EFAULT;
}

/* On its own memory a process may do with this whatever madvise() does (Linux 6.13), on that of others
 * nothing that concerns us. Whose it is the kernel tells when it is asked to discard nothing of it. */
EXPORT ssize_t process_madvise(int pidfd, const struct iovec *ranges, size_t n, int advice, unsigned flags)
{
    ssize_t done = 0;

    if (treatment_of(advice) == PASS || !track_hits(0, UINT64_MAX) || n > IOV_MAX ||
        syscall(SYS_process_madvise, pidfd, NULL, 0, MADV_DONTNEED, flags))
        return syscall(SYS_process_madvise, pidfd, ranges, n, advice, flags);
    for (size_t i = 0; i < n; i++)
        if (!is_readable(&ranges[i].iov_base) || !is_readable(&ranges[i].iov_len))
            return result(-EFAULT);
    for (size_t i = 0; i < n; i++) {
        if (madvise(ranges[i].iov_base, ranges[i].iov_len, advice))
            return done ? done : -1;
        done += (ssize_t)ranges[i].iov_len;
    }
    return done;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;

    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    /* a wrong pointer is the kernel's to refuse */
    if (request == UFFDIO_REGISTER && arg && is_readable(arg) &&
        is_readable((char *)arg + sizeof(struct uffdio_register) - sizeof(uint64_t)))
        return uffd_register_after_us(fd, arg);
    int ret = (int)syscall(SYS_ioctl, fd, request, arg), saved = errno;
    if (request == UFFDIO_UNREGISTER && arg && !ret) {
        const struct uffdio_range *range = arg;
        come_back((void *)(uintptr_t)range->start, range->len);
    }
    errno = saved;
    return ret;
}

/* ---- namespaces: some can only be entered by a process of one thread */

#define ALONE_TRIES   50u
#define ALONE_WAIT_US 2000u

static int call_alone(long number, long a, long b)
{
    struct track_guard guard;
    int ret = (int)syscall(number, a, b), saved = errno;

    if (!ret || saved != EINVAL || !track_has_threads() || !track_enter(&guard))
        return ret;
    if (!track_end_threads())
        for (unsigned i = 0; ret && saved == EINVAL && i < ALONE_TRIES; i++) { /* they are on their way out */
            if (i)
                usleep(ALONE_WAIT_US);
            ret = (int)syscall(number, a, b);
            saved = errno;
        }
    track_start_threads();
    track_leave(&guard);
    errno = saved;
    return ret;
}

EXPORT int unshare(int flags)
{
    return call_alone(SYS_unshare, flags, 0);
}

EXPORT int setns(int fd, int type)
{
    return call_alone(SYS_setns, fd, type);
}

/* ---- threads */

EXPORT void pthread_exit(void *value)
{
    void (*exits)(void *) __attribute__((noreturn)) = dlsym(RTLD_NEXT, "pthread_exit");

    if (syscall(SYS_gettid) == getpid())
        track_main_ends();
    exits(value);
}

/* ---- descriptors */

EXPORT int close(int fd)
{
    return fds_are_ours(fd) ? result(-EBADF) : (int)syscall(SYS_close, fd);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    unsigned at = first;
    int fd, ret = 0;

    if (first > last || flags & CLOSE_RANGE_CLOEXEC) /* that of ours is set */
        return (int)syscall(SYS_close_range, first, last, flags);
    while (!ret && at <= last && at <= INT_MAX &&
           (fd = fds_next_of_ours((int)at, last < INT_MAX ? (int)last + 1 : INT_MAX)) >= 0) {
        if ((unsigned)fd > at)
            ret = (int)syscall(SYS_close_range, at, fd - 1, flags);
        at = (unsigned)fd + 1;
    }
    return ret || at > last ? ret : (int)syscall(SYS_close_range, at, last, flags);
}

EXPORT void closefrom(int first)
{
    close_range(first < 0 ? 0 : (unsigned)first, UINT_MAX, 0);
}

EXPORT int dup3(int from, int to, int flags)
{
    return fds_are_ours(to) && from != to ? result(-EBUSY) : (int)syscall(SYS_dup3, from, to, flags);
}

EXPORT int dup2(int from, int to)
{
    return fds_are_ours(to) && from != to ? result(-EBUSY) : (int)syscall(SYS_dup2, from, to);
}

/* ---- fork */

static int fits(void)
{
    struct track_guard guard;

    if (!track_enter(&guard))
        return 0;
    int err = hand_fits();
    track_leave(&guard);
    return err;
}

EXPORT pid_t fork(void)
{
    static pid_t (*_Atomic next)(void);
    int err = fits();

    for (unsigned tries = 1; err && tries < FORK_TRIES; tries++) {
        /* what frees memory comes by way of us; fork() is no cancellation point */
        syscall(SYS_nanosleep, &(struct timespec){.tv_sec = 1}, NULL);
        err = fits();
    }
    if (err)
        return result(-ENOMEM);
    if (!next)
        next = (pid_t(*)(void))dlsym(RTLD_NEXT, "fork");
    return next ? next() : result(-ENOMEM);
}

/* ---- fork handlers: behind pthread_atfork() of every library */

typedef void fork_fn(void);
int __register_atfork(fork_fn *prepare, fork_fn *parent, fork_fn *child, void *library);

EXPORT int __register_atfork(fork_fn *prepare, fork_fn *parent, fork_fn *child, void *library)
{
    static int (*_Atomic next)(fork_fn *, fork_fn *, fork_fn *, void *);

    if (!next)
        next = (int (*)(fork_fn *, fork_fn *, fork_fn *, void *))dlsym(RTLD_NEXT, "__register_atfork");
    track_watch_forks();
    return next ? next(prepare, parent, child, library) : ENOMEM;
}
