/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fork() in a process with an engine.
 *
 * Guest RAM and everything of the engine is MADV_DONTFORK, so that a probe (heal.c) and a careless helper
 * process cost nothing. Memory that the program itself had not excluded must be in its child: it is let in
 * for the time of the fork. No page is aside then, because engine.work is held across it, and none is out.
 *
 * A child that has such memory shares the parent's pages: they can't be moved, and merged ones map frames no
 * page map speaks for. So the engine stops moving pages and answering the daemon (which then frees no frame)
 * until the child has exited or executed another program. The child tells its pid through a pipe whose write
 * end closes with exec or exit; a child that only closed all its descriptors is found out by its mappings.
 * Nobody waits for the pid: a tracer may hold the child. Where there are too many children, or no
 * descriptors, they share a pipe that was opened with the engine (the crowd's): it counts as one child when
 * its write end here is closed, and that is as soon as another can take its place.
 *
 * A child of the child may be missed, and all of them may outlive us: what can be in use by whom is not for
 * the engine to find out. It counts the forks that shared memory where the daemon sees it, which then looks
 * for such processes before it frees a frame.
 *
 * What is out has to come home first, and may not fit: into the host, or into the process's memory cgroup.
 * That is waited for, but not for ever. fork_fits() tells those who can refuse a fork (memd-run's fork()). A
 * handler cannot: then the child gets none of the memory, and what it would find there is a fault, never
 * other bytes.
 *
 * In the child the engine does not exist: its descriptors are closed (the daemon must not take the child for
 * the VMM), and every API call returns -ECHILD. A page that is wiped in every child tells whose memory this
 * is: a vfork() child has another pid and works on the engine's own memory; the child of a clone() that no
 * handler saw (stray) has the pid of nobody.
 */
#include "memd/engine/engine.h"
#include "memd/engine/maps.h"
#include "memd/engine/out.h"
#include "memd/engine/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CHILDREN_MAX 64
#define LOOK_NS      100000000ull
#define ROOM_NS      5000000000ull /* as long pages that are out are given to come home */
#define ROOM_STEP_US 1000000u

struct child {
    bool used;
    int pipe, pidfd; /* pidfd: -1 if there is none */
    pid_t pid;       /* the last that was heard of by this pipe; 0: none yet */
};

/* The list and the children: list_lock, taken before any engine.work. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct memd *engines;
static struct child children[CHILDREN_MAX];
static _Atomic unsigned nchildren;
static _Atomic uint64_t looked_ns;
static int fork_pipe[2] = {-1, -1}; /* of the fork under way */
static int crowd[2] = {-1, -1};     /* as long as there are engines */
static bool crowded;                /* some child has it */
static _Atomic pid_t *owner;        /* the process whose memory this is, see fork_watch() */
static bool handlers;
static int cancel_before; /* of the thread that forks: pthread_setcancelstate() */
static bool shared;       /* the fork under way lets memory in */
static bool heir;         /* this process is such a child */

/* Part of what the program expects to find in its children. */
static bool is_let_in(const struct segment *s)
{
    return s->why == SEGMENT_TAKES_PART && !(s->vma_flags & VMA_DONTFORK);
}

static bool shares_fork(const struct memd *m)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        for (uint32_t s = 0; m->regions[i] && s < m->regions[i]->parts.n; s++)
            if (is_let_in(&m->regions[i]->parts.at[s]))
                return true;
    return false;
}

static void advise(struct memd *m, int advice)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        for (uint32_t s = 0; r && s < r->parts.n; s++)
            if (is_let_in(&r->parts.at[s]))
                madvise(page_hva(r, r->parts.at[s].first), r->parts.at[s].npages * PAGE_BYTES, advice);
    }
}

/* The child finds nothing where it would have found memory; neither does whatever it maps later come to lie
 * there, where it would be taken for that. Not by way of libc, which may be stood in front of. */
static void keep_apart(struct memd *m)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        for (uint32_t s = 0; r && s < r->parts.n; s++)
            if (is_let_in(&r->parts.at[s]))
                syscall(SYS_mmap, page_hva(r, r->parts.at[s].first), r->parts.at[s].npages * PAGE_BYTES,
                        PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    }
}

static int home_all(struct memd *m)
{
    int err = 0;

    for (unsigned i = 0; i < MEMD_REGIONS_MAX && !err; i++)
        err = m->regions[i] ? out_home_region(m, m->regions[i]) : 0;
    return err;
}

/* What is out would read as zeros in the child: it comes home first. False: that has not been possible for
 * ROOM_NS. Others get the lock between two attempts: a balloon may be about to make the room. */
static bool bring_home(struct memd *m)
{
    uint64_t limit = now_ns() + ROOM_NS;

    while (home_all(m)) {
        if (now_ns() >= limit)
            return false;
        work_breathe(m, ROOM_STEP_US);
    }
    return true;
}

int fork_fits(void)
{
    int before, ignored, err = 0;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    pthread_mutex_lock(&list_lock);
    for (struct memd *m = engines; m && !err; m = m->next) {
        work_lock_api(m);
        err = shares_fork(m) ? home_all(m) : 0;
        work_unlock_api(m);
    }
    pthread_mutex_unlock(&list_lock);
    pthread_setcancelstate(before, &ignored);
    return err;
}

/* True: the memory is let in. */
static bool let_in(struct memd *m)
{
    if (!shares_fork(m))
        return false;
    if (!bring_home(m)) {
        log_msg(m, MEMD_LOG_ERROR,
                "pages that are out do not fit: a forked child does without the memory, and faults where it "
                "uses it");
        return false;
    }
    advise(m, MADV_DOFORK);
    if (m->forks != WIRE_FORKS_HEIR)
        m->forks++;
    if (m->session.shm) /* before there is a child: it may outlive us, and this is the last we say */
        atomic_store(&m->session.shm->stats.forks, m->forks);
    return true;
}

void fork_home(struct memd *m)
{
    memd_pause(m);
    work_lock_api(m);
    if (shares_fork(m))
        bring_home(m);
    work_unlock_api(m);
}

static bool readable(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};

    return fd >= 0 && poll(&p, 1, 0) == 1 && p.revents;
}

/* Does the process still map a store? Only asked of a child whose pipe has closed. */
static bool maps_store(pid_t pid)
{
    char path[64], line[512];
    bool found = false;
    struct lines l;

    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    int err = lines_open(&l, path);
    while (!err && !found && lines_next(&l, line, sizeof line))
        found = strstr(line, "/store/") || strstr(line, "memd-store");
    lines_close(&l);
    return err ? err != -ENOENT && err != -ESRCH : found;
}

/* Reads the next pid that was said; false: none, for now. */
static bool hear_pid(struct child *c)
{
    pid_t pid;

    if (read(c->pipe, &pid, sizeof pid) != sizeof pid || pid <= 0)
        return false;
    if (c->pidfd >= 0)
        close(c->pidfd);
    c->pid = pid;
    c->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return true;
}

static bool hung_up(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, 0) == 1 && p.revents & POLLHUP;
}

static bool child_gone(struct child *c)
{
    /* the pipe first: the child may be dead, and children of its own that share the same memory alive */
    if (!hung_up(c->pipe)) {
        if (!c->pid)
            hear_pid(c);
        return false;
    }
    do /* what has said nothing has died before it could */
        if (c->pid && !readable(c->pidfd) && maps_store(c->pid))
            return false;
    while (hear_pid(c));
    return true;
}

static unsigned free_slot(void)
{
    unsigned slot = 0;

    while (slot < CHILDREN_MAX && children[slot].used)
        slot++;
    return slot;
}

static void take_slot(unsigned slot, int pipe)
{
    children[slot] = (struct child){.used = true, .pipe = pipe, .pidfd = -1};
}

/* list_lock held */
static void forget_gone(void)
{
    int fresh[2];

    for (unsigned i = 0; i < CHILDREN_MAX; i++) {
        struct child *c = &children[i];
        if (!c->used || !child_gone(c))
            continue;
        close(c->pipe);
        if (c->pidfd >= 0)
            close(c->pidfd);
        c->used = false;
        atomic_fetch_sub(&nchildren, 1);
    }
    unsigned slot = free_slot();
    if (!crowded || slot == CHILDREN_MAX || pipe2(fresh, O_CLOEXEC | O_NONBLOCK))
        return;
    take_slot(slot, crowd[0]); /* counted already */
    close(crowd[1]);
    crowd[0] = fresh[0];
    crowd[1] = fresh[1];
    crowded = false;
}

void fork_prepare(void)
{
    int before;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    pthread_mutex_lock(&list_lock);
    cancel_before = before;
    shared = false;
    for (struct memd *m = engines; m; m = m->next) {
        work_lock_api(m);
        m->let_in = let_in(m);
        shared |= m->let_in;
    }
    if (shared && free_slot() == CHILDREN_MAX)
        forget_gone();
    if (!shared || free_slot() == CHILDREN_MAX || pipe2(fork_pipe, O_CLOEXEC | O_NONBLOCK))
        fork_pipe[0] = fork_pipe[1] = -1;
}

static void forked(void)
{
    int before = cancel_before, ignored;

    pthread_mutex_unlock(&list_lock);
    pthread_setcancelstate(before, &ignored);
}

void fork_parent(void)
{
    for (struct memd *m = engines; m; m = m->next)
        if (m->let_in) {
            advise(m, MADV_DONTFORK);
            m->forked = true;
        }
    if (fork_pipe[0] >= 0) { /* also if the fork has failed: it is soon found to be gone */
        close(fork_pipe[1]);
        take_slot(free_slot(), fork_pipe[0]);
        atomic_fetch_add(&nchildren, 1);
        fork_pipe[0] = fork_pipe[1] = -1;
    } else if (shared && !crowded) {
        crowded = true;
        atomic_fetch_add(&nchildren, 1);
    }
    for (struct memd *m = engines; m; m = m->next)
        work_unlock_api(m);
    forked();
}

/* The parent may have been killed; SIGPIPE is not for the program, which knows of no pipe. */
static void say_pid(int fd)
{
    const struct timespec now = {0};
    sigset_t pipe_only, before, pending;
    char name[24] = "";

    /* by the name the parent knows it under: it may be the first of a namespace of its own */
    pid_t pid = readlink("/proc/self", name, sizeof name - 1) > 0 ? (pid_t)strtol(name, NULL, 10) : getpid();
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
    if (write(fd, &pid, sizeof pid) < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&pipe_only, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* In the child: only async-signal-safe calls. */
void fork_child(void)
{
    for (struct memd *m = engines; m; m = m->next) {
        if (!m->let_in)
            keep_apart(m);
        swapfile_leave(m->pager->swap);
        if (!m->pager->swap && m->pager->swap_fd >= 0)
            close(m->pager->swap_fd);
        for (unsigned i = 0; i < m->session.nstores; i++)
            close(m->session.store_fd[i]);
        for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
            if (m->regions[i])
                close(m->regions[i]->map_fd);
        const int fds[] = {m->session.sock, m->session.kick_up, m->session.kick_down, m->uffd_a,
                           m->uffd_b,       m->pagemap,         m->wake_worker,       m->wake_fault};
        for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
            if (fds[i] >= 0)
                close(fds[i]);
    }
    /* stays open until exec or exit, here and in children of ours */
    int said = !shared ? -1 : fork_pipe[1] >= 0 ? fork_pipe[1] : crowd[1];
    if (said >= 0)
        say_pid(said);
    const int pipes[] = {fork_pipe[0], fork_pipe[1], crowd[0], crowd[1]};
    for (unsigned i = 0; i < sizeof pipes / sizeof *pipes; i++)
        if (pipes[i] >= 0 && pipes[i] != said)
            close(pipes[i]);
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (children[i].used) {
            close(children[i].pipe);
            if (children[i].pidfd >= 0)
                close(children[i].pidfd);
            children[i].used = false;
        }
    /* this process has no engines: it may fork, and open some of its own, which say what it has inherited */
    heir |= shared;
    engines = NULL;
    atomic_store(&nchildren, 0);
    fork_pipe[0] = fork_pipe[1] = crowd[0] = crowd[1] = -1;
    crowded = false;
    if (owner)
        atomic_store(owner, getpid());
    forked();
}

/* ---- whose memory this is */

bool fork_is_ours(const struct memd *m)
{
    return atomic_load_explicit(owner, memory_order_relaxed) == m->pid;
}

bool fork_is_stray(void)
{
    return owner && !atomic_load_explicit(owner, memory_order_relaxed);
}

bool fork_is_vforked(void)
{
    return owner && atomic_load_explicit(owner, memory_order_relaxed) != getpid();
}

static int own(void)
{
    void *page;

    if (owner) {
        if (fork_is_stray()) /* and wants engines of its own */
            atomic_store(owner, getpid());
        return 0;
    }
    page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return -errno;
    if (madvise(page, PAGE_BYTES, MADV_WIPEONFORK)) {
        int err = -errno;
        munmap(page, PAGE_BYTES);
        return err;
    }
    owner = page;
    atomic_store(owner, getpid());
    return 0;
}

/* ---- the list of engines */

int fork_watch(void)
{
    pthread_mutex_lock(&list_lock);
    int err = own();
    if (!err && !handlers)
        err = -pthread_atfork(fork_prepare, fork_parent, fork_child);
    handlers |= !err;
    pthread_mutex_unlock(&list_lock);
    return err;
}

int fork_enlist(struct memd *m)
{
    int err = fork_watch();

    if (err)
        return err;
    pthread_mutex_lock(&list_lock);
    if (crowd[0] < 0 && pipe2(crowd, O_CLOEXEC | O_NONBLOCK)) {
        err = -errno;
        crowd[0] = crowd[1] = -1;
    } else {
        m->next = engines;
        engines = m;
    }
    pthread_mutex_unlock(&list_lock);
    return err;
}

void fork_delist(struct memd *m)
{
    pthread_mutex_lock(&list_lock);
    for (struct memd **p = &engines; *p; p = &(*p)->next)
        if (*p == m) {
            *p = m->next;
            break;
        }
    if (!engines && !crowded && crowd[0] >= 0) {
        close(crowd[0]);
        close(crowd[1]);
        crowd[0] = crowd[1] = -1;
    }
    pthread_mutex_unlock(&list_lock);
}

bool fork_is_heir(void)
{
    return heir;
}

bool fork_pending(struct memd *m)
{
    uint64_t now;

    if (!atomic_load(&nchildren))
        return false;
    now = now_ns();
    /* list_lock comes before engine.work, which our caller holds: only look if nobody forks right now */
    if (now - atomic_load(&looked_ns) < LOOK_NS || pthread_mutex_trylock(&list_lock))
        return true;
    atomic_store(&looked_ns, now);
    forget_gone();
    pthread_mutex_unlock(&list_lock);
    (void)m;
    return atomic_load(&nchildren);
}
