/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fork() in a process with an engine.
 *
 * Guest RAM and everything of the engine is MADV_DONTFORK, so that a probe (heal.c) and a careless helper
 * process cost nothing. Memory that the program itself had not excluded must be in its child: it is let in
 * for the time of the fork. No page is aside then, because engine.work is held across it.
 *
 * A child that has such memory shares the parent's pages: they can't be moved, and merged ones map frames no
 * page map speaks for. So the engine stops moving pages and answering the daemon (which then frees no frame)
 * until the child has exited or executed another program. The child tells its pid through a pipe whose write
 * end closes with exec or exit; a child that only closed all its descriptors is found out by its mappings.
 *
 * A child of the child may be missed, and all of them may outlive us: what can be in use by whom is not for
 * the engine to find out. It counts the forks that shared memory where the daemon sees it, which then looks
 * for such processes before it frees a frame.
 *
 * In the child the engine does not exist: its descriptors are closed (the daemon must not take the child for
 * the VMM), and every API call returns -ECHILD.
 */
#include "memd/engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHILDREN_MAX 16
#define LOOK_NS      100000000ull

struct child {
    bool used;
    int pipe, pidfd;
    pid_t pid;
};

/* The list and the children: list_lock, taken before any engine.work. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct memd *engines;
static struct child children[CHILDREN_MAX];
static _Atomic unsigned nchildren;
static _Atomic uint64_t looked_ns;
static int fork_pipe[2] = {-1, -1};
static bool handlers;
static bool shared; /* the fork under way lets memory in */
static bool heir;   /* this process is such a child */

static bool shares_fork(const struct memd *m)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        for (uint32_t s = 0; m->regions[i] && s < m->regions[i]->nsegments; s++)
            if (!(m->regions[i]->segments[s].vma_flags & VMA_DONTFORK))
                return true;
    return false;
}

static void advise(struct memd *m, int advice)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        for (uint32_t s = 0; r && s < r->nsegments; s++)
            if (!(r->segments[s].vma_flags & VMA_DONTFORK))
                madvise(page_hva(r, r->segments[s].first), r->segments[s].npages * PAGE_BYTES, advice);
    }
}

static void prepare(void)
{
    pthread_mutex_lock(&list_lock);
    shared = false;
    for (struct memd *m = engines; m; m = m->next) {
        work_lock_api(m);
        if (shares_fork(m)) {
            advise(m, MADV_DOFORK);
            if (m->forks != WIRE_FORKS_HEIR)
                m->forks++;
            if (m->session.shm) /* before there is a child: it may outlive us, and this is the last we say */
                atomic_store(&m->session.shm->stats.forks, m->forks);
            shared = true;
        }
    }
    if (shared && pipe2(fork_pipe, O_CLOEXEC))
        fork_pipe[0] = fork_pipe[1] = -1;
}

/* The child's pid, -1 if there is none (fork failed) or it died before it said so. */
static pid_t hear_pid(void)
{
    struct pollfd p = {fork_pipe[0], POLLIN, 0};
    pid_t pid = -1;

    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    return read(fork_pipe[0], &pid, sizeof pid) == sizeof pid ? pid : -1;
}

static void parent(void)
{
    unsigned slot = 0;

    for (struct memd *m = engines; m; m = m->next)
        if (shares_fork(m)) {
            advise(m, MADV_DONTFORK);
            m->forked = true;
        }
    if (fork_pipe[0] >= 0) {
        close(fork_pipe[1]);
        pid_t pid = hear_pid();
        while (slot < CHILDREN_MAX && children[slot].used)
            slot++;
        if (pid > 0 && slot < CHILDREN_MAX) {
            children[slot] = (struct child){.used = true,
                                            .pipe = fork_pipe[0],
                                            .pidfd = (int)syscall(SYS_pidfd_open, pid, 0),
                                            .pid = pid};
            atomic_fetch_add(&nchildren, 1);
        } else {
            close(fork_pipe[0]);
            if (pid > 0) /* never counted down: merging rests for good, which is safe */
                atomic_fetch_add(&nchildren, 1);
        }
        fork_pipe[0] = fork_pipe[1] = -1;
    } else if (shared) { /* no descriptor was left to hear from it: the same */
        atomic_fetch_add(&nchildren, 1);
    }
    for (struct memd *m = engines; m; m = m->next)
        work_unlock_api(m);
    pthread_mutex_unlock(&list_lock);
}

/* In the child: only async-signal-safe calls. */
static void child(void)
{
    for (struct memd *m = engines; m; m = m->next) {
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
    if (fork_pipe[1] >= 0) {
        pid_t pid = getpid();
        ssize_t n = write(fork_pipe[1], &pid, sizeof pid);
        (void)n; /* the parent then takes us for dead, and so we are about to be */
        close(fork_pipe[0]);
        /* fork_pipe[1] stays open until exec or exit, here and in children of ours */
    }
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
    fork_pipe[0] = fork_pipe[1] = -1;
    pthread_mutex_unlock(&list_lock);
}

void fork_enlist(struct memd *m)
{
    pthread_mutex_lock(&list_lock);
    if (!handlers)
        handlers = !pthread_atfork(prepare, parent, child);
    m->next = engines;
    engines = m;
    pthread_mutex_unlock(&list_lock);
}

void fork_delist(struct memd *m)
{
    pthread_mutex_lock(&list_lock);
    for (struct memd **p = &engines; *p; p = &(*p)->next)
        if (*p == m) {
            *p = m->next;
            break;
        }
    pthread_mutex_unlock(&list_lock);
}

bool fork_is_heir(void)
{
    return heir;
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

    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return errno != ENOENT && errno != ESRCH;
    while (!found && fgets(line, sizeof line, f))
        found = strstr(line, "/store/") || strstr(line, "memd-store");
    fclose(f);
    return found;
}

static bool child_gone(const struct child *c)
{
    /* the pipe first: the child may be dead, and children of its own that share the same memory alive */
    return readable(c->pipe) && (readable(c->pidfd) || !maps_store(c->pid));
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
    pthread_mutex_unlock(&list_lock);
    (void)m;
    return atomic_load(&nchildren);
}
