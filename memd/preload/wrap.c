/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the engine gets instead of libc in this library (ld --wrap): the hooks are for the program, and so is
 * its allocator, whose memory the engine may be looking after: it must never wait for a page it is holding.
 *
 *   system calls   straight to the kernel; those that make descriptors are in fds.c
 *   malloc()       pages of its own, cut into powers of two, never given back below LARGE; what an engine
 *                  allocates is little, and mostly for good
 *   threads        marked, so that hooks called from deep inside of libc pass them by
 *   libnuma        its constructor reads /sys in every program; one number is all that is wanted
 */
#include "memd/preload/sys.h"
#include "memd/preload/track.h"

#include "memd/engine/maps.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BYTES (256u << 10)
#define LARGE       (64u << 10)
#define CLASSES     17u /* powers of two, up to LARGE */

void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *addr, size_t bytes);
void *__wrap_mremap(void *addr, size_t bytes, size_t new_bytes, int flags, ...);
int __wrap_madvise(void *addr, size_t bytes, int advice);
int __wrap_mprotect(void *addr, size_t bytes, int prot);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
void __wrap_free(void *p);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *), void *arg);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *), void *arg);
int __wrap_numa_available(void);
int __wrap_numa_num_configured_nodes(void);

/* ---- system calls */

void *__wrap_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return sys_mmap(addr, bytes, prot, flags, fd, offset);
}

int __wrap_munmap(void *addr, size_t bytes)
{
    return sys_munmap(addr, bytes);
}

void *__wrap_mremap(void *addr, size_t bytes, size_t new_bytes, int flags, ...)
{
    void *new_addr = NULL;
    va_list ap;

    va_start(ap, flags);
    if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
        new_addr = va_arg(ap, void *);
    va_end(ap);
    return sys_mremap(addr, bytes, new_bytes, flags, new_addr);
}

int __wrap_madvise(void *addr, size_t bytes, int advice)
{
    return sys_madvise(addr, bytes, advice);
}

int __wrap_mprotect(void *addr, size_t bytes, int prot)
{
    return sys_mprotect(addr, bytes, prot);
}

/* ---- memory */

struct block {
    size_t bytes; /* of the whole, this header included */
    struct block *next;
};
static_assert(sizeof(struct block) == 16, "what follows is aligned to 16");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *unused[CLASSES];
static char *arena;
static size_t arena_left;

static void lock_it(void)
{
    pthread_mutex_lock(&lock);
}

static void unlock_it(void)
{
    pthread_mutex_unlock(&lock);
}

void wrap_fork_prepare(void)
{
    lock_it();
}

void wrap_fork_done(void)
{
    unlock_it();
}

void wrap_watch_forks(void)
{
    pthread_atfork(wrap_fork_prepare, wrap_fork_done, wrap_fork_done);
}

static void *map(size_t bytes)
{
    void *p = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static struct block *take(unsigned class)
{
    size_t bytes = (size_t)1 << class;
    struct block *b = unused[class];

    if (b) {
        unused[class] = b->next;
        return b;
    }
    if (arena_left < bytes) { /* the rest is lost */
        arena = map(ARENA_BYTES);
        arena_left = arena ? ARENA_BYTES : 0;
    }
    if (arena_left < bytes)
        return NULL;
    b = (struct block *)arena;
    arena += bytes;
    arena_left -= bytes;
    return b;
}

void *__wrap_malloc(size_t bytes)
{
    unsigned class = 5;
    struct block *b;

    if (bytes > SIZE_MAX / 2) {
        errno = ENOMEM;
        return NULL;
    }
    bytes += sizeof *b;
    if (bytes > LARGE) {
        bytes = (bytes + 4095) & ~(size_t)4095;
        b = map(bytes);
    } else {
        while ((size_t)1 << class < bytes)
            class ++;
        bytes = (size_t)1 << class;
        lock_it();
        b = take(class);
        unlock_it();
    }
    if (!b) {
        errno = ENOMEM;
        return NULL;
    }
    b->bytes = bytes;
    return b + 1;
}

void __wrap_free(void *p)
{
    struct block *b = p;
    int saved = errno;

    if (!p)
        return;
    b--;
    if (b->bytes > LARGE) {
        sys_munmap(b, b->bytes);
        errno = saved;
        return;
    }
    unsigned class = (unsigned)__builtin_ctzll(b->bytes);
    lock_it();
    b->next = unused[class];
    unused[class] = b;
    unlock_it();
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    size_t total;

    if (__builtin_mul_overflow(n, bytes, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = __wrap_malloc(total);
    return p ? memset(p, 0, total) : NULL;
}

void *__wrap_realloc(void *p, size_t bytes)
{
    void *grown = __wrap_malloc(bytes);

    if (grown && p) {
        size_t had = ((struct block *)p)[-1].bytes - sizeof(struct block);
        memcpy(grown, p, had < bytes ? had : bytes);
        __wrap_free(p);
    }
    return grown;
}

/* ---- threads */

struct start {
    void *(*main)(void *);
    void *arg;
};

static void *start(void *p)
{
    struct start s = *(struct start *)p;

    __wrap_free(p);
    track_mark_own();
    return s.main(s.arg);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *), void *arg)
{
    struct start *s = __wrap_malloc(sizeof *s);

    if (!s)
        return ENOMEM;
    *s = (struct start){main, arg};
    int err = __real_pthread_create(thread, attr, start, s);
    if (err)
        __wrap_free(s);
    return err;
}

/* ---- NUMA */

int __wrap_numa_available(void)
{
    return 0;
}

/* "0" or "0-3" */
int __wrap_numa_num_configured_nodes(void)
{
    char line[64] = "0";
    struct lines l;

    if (!lines_open(&l, "/sys/devices/system/node/possible"))
        lines_next(&l, line, sizeof line);
    lines_close(&l);
    const char *last = strrchr(line, '-');
    int n = atoi(last ? last + 1 : line) + 1;
    return n > 0 ? n : 1;
}
