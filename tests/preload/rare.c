/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rare: as program.c, what few programs do, and some of it only by mistake. A call that does not come back
 * ends it in the end.
 *
 * memd-test: helper
 */
#include "tests/preload/arena.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NPAGES  4096u
#define FROM    700u /* part that things are done to */
#define TO      2900u
#define HANGS_S 150u

static void *page_at(const struct arena *a, uint32_t page)
{
    return a->base + page * PAGE;
}

static void await_child(pid_t pid)
{
    int status;

    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status),
          "child %d: %#x, %d", (int)pid, status, errno);
}

/* ---- a thread whose stack, and what libc has beside it, lies in merged memory */

#define STACK_FROM  1000u
#define STACK_PAGES 300u

struct stack_thread {
    struct arena arena, other;
};

/* Every byte but the stack's. */
static void check_around(const struct arena *a, uint32_t zero_to)
{
    struct arena below = {.base = a->base, .npages = STACK_FROM, .zero_to = zero_to};

    arena_check(&below);
    for (uint32_t p = STACK_FROM + STACK_PAGES; p < NPAGES; p++)
        arena_check_page(a, p);
}

static void *on_stack(void *arg)
{
    struct stack_thread *t = arg;
    struct arena *a = &t->arena;
    uint64_t bytes = NPAGES * PAGE;

    for (unsigned i = 0; i < 3; i++) {
        CHECK(!mlock(a->base, bytes) && !munlock(a->base, bytes), "mlock: %d", errno);
        CHECK(!mlock(page_at(a, STACK_FROM + 8), PAGE) && !munlock(page_at(a, STACK_FROM + 8), PAGE),
              "mlock: %d", errno);
        arena_wait_merged_but(a, STACK_FROM, STACK_FROM + STACK_PAGES);
        CHECK(!mprotect(page_at(a, STACK_FROM + STACK_PAGES), 64 * PAGE, PROT_READ), "mprotect: %d", errno);
        CHECK(!mprotect(page_at(a, STACK_FROM + STACK_PAGES), 64 * PAGE, PROT_READ | PROT_WRITE),
              "mprotect: %d", errno);
        CHECK(!mlockall(MCL_CURRENT) && !munlockall(), "mlockall: %d", errno);
        arena_wait_merged_but(a, STACK_FROM, STACK_FROM + STACK_PAGES);
        check_around(a, 0);
        pid_t pid = fork();
        if (!pid) {
            check_around(a, 0);
            _exit(0);
        }
        await_child(pid);
        CHECK(!madvise(a->base, bytes, MADV_UNMERGEABLE), "unmergeable: %d", errno);
        check_around(a, 0);
        CHECK(!madvise(a->base, bytes, MADV_MERGEABLE), "mergeable: %d", errno);
        arena_wait_merged_but(a, STACK_FROM, STACK_FROM + STACK_PAGES);
    }
    CHECK(!munmap(t->other.base, t->other.npages * PAGE), "munmap: %d", errno);
    CHECK(!madvise(a->base, STACK_FROM * PAGE, MADV_DONTNEED), "madvise: %d", errno);
    check_around(a, STACK_FROM);
    CHECK(!munmap(a->base, STACK_FROM * PAGE), "munmap: %d", errno);
    CHECK(!munmap(page_at(a, STACK_FROM + STACK_PAGES), (NPAGES - STACK_FROM - STACK_PAGES) * PAGE),
          "munmap: %d", errno);
    return NULL;
}

static void stack(void)
{
    struct stack_thread t = {.arena = arena_merged(NPAGES), .other = arena_merged(600)};
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
    CHECK(!pthread_attr_setstack(&attr, page_at(&t.arena, STACK_FROM), STACK_PAGES * PAGE), "setstack");
    CHECK(!pthread_create(&thread, &attr, on_stack, &t), "pthread_create");
    CHECK(!pthread_join(thread, NULL), "pthread_join");
    pthread_attr_destroy(&attr);
}

/* ---- children made otherwise than by fork() */

static int sees_all(void *arg)
{
    struct arena *a = arg;

    arena_check(a);
    memset(page_at(a, FROM), 0x77, PAGE);
    CHECK(!madvise(page_at(a, FROM), (TO - FROM) * PAGE, MADV_DONTNEED), "madvise: %d", errno);
    arena_expect_zero(a, FROM, TO);
    arena_check(a);
    return 0;
}

static void children(void)
{
    static char stack_of_child[65536] __attribute__((aligned(16)));
    struct arena a = arena_merged(NPAGES);

    for (unsigned i = 0; i < 3; i++) {
        pid_t pid = _Fork();
        if (!pid)
            _exit(sees_all(&a));
        await_child(pid);
        await_child(clone(sees_all, stack_of_child + sizeof stack_of_child, SIGCHLD, &a));
        pid = fork();
        if (!pid)
            _exit(sees_all(&a));
        await_child(pid);
        arena_check(&a);
    }
    arena_fill(&a, 0, NPAGES); /* it still is where it was, and is merged again */
    arena_wait_merged(&a);
    arena_check(&a);
}

/* A child of a raw clone has none of the advised memory (memd-run(1)): what it calls is refused, and comes
 * back. */
static void stray(void)
{
    struct arena a = arena_merged(NPAGES);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

    if (!pid) {
        if (arena_alone)
            _exit(sees_all(&a));
        if (!madvise(a.base, PAGE, MADV_DONTNEED) || errno != ENOMEM)
            _exit(1);
        if (munmap(a.base, NPAGES * PAGE) ||
            mmap(a.base, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != a.base)
            _exit(2);
        _exit(0);
    }
    await_child(pid);
    arena_check(&a);
}

/* What the child of vfork() does to memory it does to ours. */
static void vforked(void)
{
    struct arena a = arena_merged(NPAGES), b = arena_merged(64);
    volatile int errs[3];
    pid_t pid = vfork();

    if (!pid) {
        errs[0] = madvise(page_at(&a, FROM), (TO - FROM) * PAGE, MADV_DONTNEED) ? errno : 0;
        errs[1] = madvise(a.base, FROM * PAGE, MADV_UNMERGEABLE) ? errno : 0;
        errs[2] = munmap(b.base, 64 * PAGE) ? errno : 0;
        _exit(0);
    }
    await_child(pid);
    for (unsigned i = 0; i < 3; i++)
        CHECK(!errs[i], "call %u failed: %d", i, errs[i]);
    arena_expect_zero(&a, FROM, TO);
    arena_check(&a);
    CHECK(arena_frames(&a, 0, FROM) == 0, "still merged");
    unsigned char resident;
    CHECK(mincore(b.base, PAGE, &resident) && errno == ENOMEM, "still mapped");
    arena_fill(&a, 0, NPAGES);
    CHECK(!madvise(a.base, FROM * PAGE, MADV_MERGEABLE), "mergeable: %d", errno);
    arena_wait_merged(&a);
    arena_check(&a);
}

/* ---- what the kernel refuses */

static void refused(void)
{
    struct arena a = arena_merged(NPAGES);
    pid_t pid;

    CHECK(madvise(page_at(&a, FROM), (TO - FROM) * PAGE, MADV_REMOVE) && errno == EINVAL,
          "MADV_REMOVE of anonymous memory: %d", errno);
    arena_check(&a);
    if (!(pid = fork())) {
        CHECK(madvise(page_at(&a, FROM), (TO - FROM) * PAGE, MADV_REMOVE) && errno == EINVAL,
              "MADV_REMOVE in a child: %d", errno);
        arena_check(&a);
        _exit(0);
    }
    await_child(pid);
    CHECK(!munmap(page_at(&a, FROM), (TO - FROM) * PAGE), "munmap: %d", errno);
    CHECK(madvise(page_at(&a, FROM), PAGE, MADV_UNMERGEABLE) && errno == ENOMEM, "nothing is there: %d",
          errno);
    CHECK(madvise(page_at(&a, FROM), PAGE, MADV_MERGEABLE) && errno == ENOMEM, "nothing is there: %d", errno);
    CHECK(madvise(page_at(&a, FROM - 9), 10 * PAGE, MADV_UNMERGEABLE) && errno == ENOMEM, "a hole: %d",
          errno);
    CHECK(arena_frames(&a, FROM - 9, FROM) == 0, "still merged"); /* the rest was done */
    CHECK(madvise((void *)PAGE, PAGE, MADV_UNMERGEABLE) && errno == ENOMEM, "nothing is there: %d", errno);
    CHECK(!madvise(a.base, 0, MADV_UNMERGEABLE), "nothing: %d", errno);
}

/* ---- core dumps have merged pages (core(5): 1 is anonymous, 4 file-backed private memory) */

static unsigned long dump_filter(void)
{
    FILE *f = fopen("/proc/self/coredump_filter", "re");
    unsigned long filter = 0;

    CHECK(f && fscanf(f, "%lx", &filter) == 1, "coredump_filter");
    fclose(f);
    return filter;
}

static void dumped(void)
{
    unsigned long before = dump_filter();
    struct arena a = arena_merged(NPAGES);

    CHECK(before & 1, "this test runs where nothing is dumped: %#lx", before);
    CHECK(dump_filter() == (arena_alone ? before : before | 4), "%#lx, was %#lx", dump_filter(), before);
    arena_check(&a);
}

/* ---- shared memory mapped over it */

static void shared_over(void)
{
    struct arena a = arena_merged(NPAGES);
    uint64_t bytes = (TO - FROM) * PAGE;
    int id = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);

    CHECK(id >= 0, "shmget: %d", errno);
    void *over = shmat(id, page_at(&a, FROM), SHM_REMAP);
    int err = errno;
    shmctl(id, IPC_RMID, NULL);
    CHECK(over == page_at(&a, FROM), "shmat: %d", err);
    arena_expect_zero(&a, FROM, TO);
    arena_check(&a);
    memset(over, 0x5a, bytes);
    usleep(1500000); /* nobody puts anything else there */
    for (uint64_t i = 0; i < bytes; i++)
        CHECK(((char *)over)[i] == 0x5a, "byte %llu was changed", (unsigned long long)i);
    memset(over, 0, bytes);
    arena_check(&a);
    arena_wait_merged_but(&a, FROM, NPAGES); /* the rest is merged, or is soon */
}

/* ---- what only a process of one thread may do */

static void namespaces(void)
{
    struct arena a = arena_merged(NPAGES);
    pid_t pid = fork();

    if (!pid) {
        struct arena own = arena_merged(NPAGES); /* by now the child has threads of ours */
        if (arena_alone)
            sleep(2);
        CHECK(!unshare(CLONE_NEWUSER), "unshare: %d", errno);
        arena_check(&a);
        arena_check(&own);
        arena_wait_merged(&own);
        arena_check(&own);
        _exit(0);
    }
    await_child(pid);
    arena_check(&a);
    CHECK(!unshare(CLONE_NEWUSER), "unshare: %d", errno);
    arena_wait_merged(&a);
    arena_check(&a);
}

/* ---- more pieces than memd looks after, by far */

#define SMALL   10000u
#define SMALL_S 4.0 /* of CPU, that they may take */

static double cpu_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void small(void)
{
    struct arena a = arena_merged(NPAGES);
    char *all = mmap(NULL, 2 * SMALL * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double begun = cpu_seconds();

    CHECK(all != MAP_FAILED, "mmap: %d", errno);
    for (unsigned i = 0; i < SMALL; i++) {
        char *p = all + 2 * i * PAGE;
        CHECK(!mprotect(p, PAGE, PROT_READ | PROT_WRITE), "mprotect: %d", errno);
        *p = 1;
        CHECK(!madvise(p, PAGE, MADV_MERGEABLE), "madvise: %d", errno);
    }
    sleep(1); /* they are being looked at */
    for (unsigned i = 0; i < SMALL; i++)
        CHECK(!madvise(all + 2 * i * PAGE, PAGE, MADV_DONTNEED), "madvise: %d", errno);
    for (unsigned i = 0; i < SMALL; i++) {
        CHECK(!all[2 * i * PAGE], "not zero");
        CHECK(!munmap(all + 2 * i * PAGE, PAGE), "munmap: %d", errno);
    }
    double took = cpu_seconds() - begun;
    fprintf(stderr, "%u pieces: %.2f s of CPU\n", SMALL, took);
    CHECK(took < SMALL_S, "%.1f s", took);
    struct arena b = arena_merged(NPAGES); /* there is room for it again */
    arena_check(&a);
    arena_check(&b);
}

/* ---- a program of one thread knows what is free in its address space */

/* As much as the engine wants for what it knows of the arena. */
#define HOLE_BYTES (PAGE + NPAGES * sizeof(uint64_t))

static void hole(void)
{
    struct arena first = arena_merged(NPAGES), a = {.npages = NPAGES};

    a.base = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(a.base != MAP_FAILED, "mmap: %d", errno);
    arena_fill(&a, 0, NPAGES);
    char *at = mmap(NULL, HOLE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED && !munmap(at, HOLE_BYTES), "mmap: %d", errno);
    CHECK(!madvise(a.base, NPAGES * PAGE, MADV_MERGEABLE), "mergeable: %d", errno);
    arena_wait_merged(&a);
    CHECK(mmap(at, HOLE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at,
          "something has been mapped where memory was given up: %d", errno);
    arena_check(&first);
    arena_check(&a);
}

/* ---- advice for several ranges at once */

#define MIDDLE 1500u

static void vectored(void)
{
    struct arena a = arena_merged(NPAGES);
    struct iovec ranges[] = {{page_at(&a, FROM), (MIDDLE - FROM) * PAGE},
                             {page_at(&a, MIDDLE), (TO - MIDDLE) * PAGE},
                             {page_at(&a, TO) + 1, PAGE}};
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0), parent = (int)syscall(SYS_pidfd_open, getppid(), 0);

    CHECK(self >= 0 && parent >= 0, "pidfd_open: %d", errno);
    if (process_madvise(self, NULL, 0, MADV_DONTNEED, 0)) {
        printf("not known to this kernel\n");
        return;
    }
    CHECK(process_madvise(self, ranges, 2, MADV_DONTNEED, 1) == -1 && errno == EINVAL, "flags: %d", errno);
    CHECK(process_madvise(parent, ranges, 2, MADV_DONTNEED, 0) == -1, "somebody else's memory was discarded");
    CHECK(process_madvise(-1, ranges, 2, MADV_DONTNEED, 0) == -1 && errno == EBADF, "no process: %d", errno);
    CHECK(process_madvise(self, (void *)8, 1, MADV_DONTNEED, 0) == -1 && errno == EFAULT, "%d", errno);
    CHECK(process_madvise(self, ranges + 2, 1, MADV_DONTNEED, 0) == -1 && errno == EINVAL, "%d", errno);
    arena_check(&a);
    CHECK(process_madvise(self, ranges, 3, MADV_DONTNEED, 0) == (ssize_t)((TO - FROM) * PAGE), "%d", errno);
    arena_expect_zero(&a, FROM, TO);
    arena_check(&a);
    arena_fill(&a, FROM, TO);
    arena_wait_merged(&a);
    arena_check(&a);
    close(self);
    close(parent);
    CHECK(!munmap(a.base, NPAGES * PAGE), "munmap: %d", errno);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"stack", stack},     {"children", children},       {"stray", stray},          {"vforked", vforked},
        {"refused", refused}, {"shared_over", shared_over}, {"vectored", vectored},    {"hole", hole},
        {"small", small},     {"dumped", dumped},           {"namespaces", namespaces}};

    arena_alone = argc > 2 && !strcmp(argv[2], "alone");
    alarm(HANGS_S);
    for (unsigned i = 0; argc > 1 && i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[1], cases[i].name)) {
            cases[i].run();
            puts("ok");
            return 0;
        }
    fprintf(stderr, "usage: rare CASE [alone]\n");
    return 2;
}
