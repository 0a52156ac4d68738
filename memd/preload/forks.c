/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Forks that libc calls no handlers for: _Fork(), and clone() without CLONE_VM. A child has to find the
 * memory it expects in such a case, too, so what fork() would call is called here, in the same order.
 * Handlers of others are not, nor does such a child get an engine before it advises memory itself: it may do
 * little until it executes a program (no thread is started).
 *
 * A raw syscall(SYS_clone) is not seen: its child has none of the memory that is looked after.
 */
#include "memd/engine/engine.h"
#include "memd/preload/sys.h"
#include "memd/preload/track.h"

#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>

#define EXPORT __attribute__((visibility("default")))

/* Registered last, called first; the others in their order. */
static void prepare(void)
{
    track_fork_prepare();
    fork_prepare();
    wrap_fork_prepare();
}

static void in_parent(void)
{
    int saved = errno;

    wrap_fork_done();
    fork_parent();
    track_fork_parent();
    errno = saved;
}

static void in_child(void)
{
    int saved = errno;

    wrap_fork_done();
    fork_child();
    track_fork_child();
    errno = saved;
}

static pid_t (*next_fork)(void);
static int (*next_clone)(int (*)(void *), void *, int, void *, ...);

/* Not when they are called: that may be in a signal handler. */
__attribute__((constructor)) static void find_next(void)
{
    next_fork = (pid_t(*)(void))dlsym(RTLD_NEXT, "_Fork");
    next_clone = (int (*)(int (*)(void *), void *, int, void *, ...))dlsym(RTLD_NEXT, "clone");
}

EXPORT pid_t _Fork(void)
{
    if (!next_fork) { /* before glibc 2.34 */
        errno = ENOSYS;
        return -1;
    }
    prepare();
    pid_t pid = next_fork();
    if (pid)
        in_parent();
    else
        in_child();
    return pid;
}

struct start {
    int (*fn)(void *arg);
    void *arg;
};

static int child_main(void *p)
{
    struct start s = *(struct start *)p;

    in_child();
    return s.fn(s.arg);
}

EXPORT int clone(int (*fn)(void *arg), void *stack, int flags, void *arg, ...)
{
    pid_t *parent_tid, *child_tid;
    va_list ap;
    void *tls;

    va_start(ap, arg);
    parent_tid = va_arg(ap, pid_t *);
    tls = va_arg(ap, void *);
    child_tid = va_arg(ap, pid_t *);
    va_end(ap);
    if (!next_clone)
        find_next();
    if (!next_clone) {
        errno = ENOSYS;
        return -1;
    }
    if (flags & CLONE_VM || !fn || !stack)
        return next_clone(fn, stack, flags, arg, parent_tid, tls, child_tid);
    struct start s = {fn, arg};
    prepare();
    int pid = next_clone(child_main, stack, flags, &s, parent_tid, tls, child_tid);
    in_parent();
    return pid;
}
