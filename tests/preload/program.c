/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * program: knows nothing of memd. It advises memory as mergeable, waits until most of it is merged (unless
 * `alone`), and does to it what programs do, checking every byte.
 *
 * Use: program CASE [alone]. Prints "ok" and exits with 0, or says what is wrong and exits with 1. What each
 * case does: the functions below, in their order. `child` prints "child PID" and ends when its input does.
 *
 * memd-test: helper
 */
#include "tests/preload/arena.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

#define NPAGES 4096u
#define FROM   700u /* part that things are done to */
#define TO     2900u

static void *page_at(const struct arena *a, uint32_t page)
{
    return a->base + page * PAGE;
}

/* ---- what discards */

static void discard_with(int advice)
{
    struct arena a = arena_merged(NPAGES);

    CHECK(!madvise(page_at(&a, FROM), (TO - FROM) * PAGE, advice), "madvise %d: %d", advice, errno);
    arena_expect_zero(&a, FROM, TO);
    arena_check(&a);
    arena_fill(&a, FROM, TO);
    arena_check(&a);
    CHECK(!munmap(a.base, NPAGES * PAGE), "munmap: %d", errno);
}

static void discard(void)
{
    discard_with(MADV_DONTNEED);
    if (arena_alone) /* the kernel frees when it needs to, and knows no holes in such memory */
        return;
    discard_with(MADV_FREE);
}

/* ---- what unmaps */

static void unmap(void)
{
    struct arena a = arena_merged(NPAGES);
    unsigned char resident;

    CHECK(!munmap(page_at(&a, FROM), (TO - FROM) * PAGE), "munmap: %d", errno);
    CHECK(mincore(page_at(&a, FROM), PAGE, &resident) && errno == ENOMEM, "still mapped");
    void *p = mmap(page_at(&a, FROM), (TO - FROM) * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == MAP_FAILED && errno == EEXIST) { /* another thread's stack has come to be there */
        munmap(a.base, FROM * PAGE);
        munmap(page_at(&a, TO), (NPAGES - TO) * PAGE);
        return;
    }
    CHECK(p == page_at(&a, FROM), "mmap: %d", errno);
    arena_expect_zero(&a, FROM, TO);
    arena_check(&a);
    arena_fill(&a, FROM, TO);
    CHECK(!madvise(p, (TO - FROM) * PAGE, MADV_MERGEABLE), "madvise: %d", errno);
    arena_wait_merged(&a);
    arena_check(&a);
    munmap(a.base, NPAGES * PAGE);
}

static void map_over(void)
{
    struct arena a = arena_merged(NPAGES);

    void *p = mmap(page_at(&a, FROM), (TO - FROM) * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(p == page_at(&a, FROM), "mmap: %d", errno);
    arena_expect_zero(&a, FROM, TO);
    arena_check(&a);
    p = mmap(page_at(&a, FROM), PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, 99, 0);
    CHECK(p == MAP_FAILED && errno == EBADF, "a bad descriptor was taken");
    arena_check(&a);
    munmap(a.base, NPAGES * PAGE);
}

/* ---- what moves */

static void resize(void)
{
    struct arena a = arena_merged(NPAGES);

    CHECK(mremap(a.base, NPAGES * PAGE, TO * PAGE, 0) == a.base, "mremap: %d", errno);
    a.npages = TO;
    arena_check(&a);
    void *wall = mmap(page_at(&a, TO), PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(wall != MAP_FAILED, "mmap: %d", errno);
    char *moved = mremap(a.base, TO * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved != a.base, "mremap: %d", errno);
    a.base = moved;
    a.npages = NPAGES;
    arena_expect_zero(&a, TO, NPAGES);
    arena_check(&a);
    arena_fill(&a, TO, NPAGES);
    arena_wait_merged(&a);
    arena_check(&a);
    munmap(wall, PAGE);
    munmap(a.base, NPAGES * PAGE);
}

static void move(void)
{
    struct arena a = arena_merged(NPAGES), b = arena_merged(NPAGES), c = arena_merged(NPAGES);

    char *p = mremap(page_at(&a, FROM), (TO - FROM) * PAGE, (TO - FROM) * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
                     page_at(&b, FROM));
    CHECK(p == page_at(&b, FROM), "mremap: %d", errno);
    arena_check(&b); /* the same bytes lay there */
    char *q = mremap(c.base, NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    CHECK(q != MAP_FAILED, "mremap: %d", errno);
    struct arena d = c;
    d.base = q;
    arena_check(&d);
    arena_expect_zero(&c, 0, NPAGES);
    arena_check(&c);
    munmap(d.base, NPAGES * PAGE);
    munmap(a.base, FROM * PAGE);
    munmap(page_at(&a, TO), (NPAGES - TO) * PAGE);
    munmap(b.base, NPAGES * PAGE);
    munmap(c.base, NPAGES * PAGE);
}

/* ---- what protects and locks */

static void protect(void)
{
    struct arena a = arena_merged(NPAGES);
    int null = open("/dev/zero", O_RDONLY);

    CHECK(!mprotect(page_at(&a, FROM), (TO - FROM) * PAGE, PROT_READ), "mprotect: %d", errno);
    arena_check(&a);
    CHECK(read(null, page_at(&a, FROM), PAGE) < 0 && errno == EFAULT, "it can be written");
    CHECK(!mprotect(page_at(&a, FROM), (TO - FROM) * PAGE, PROT_READ | PROT_WRITE), "mprotect: %d", errno);
    arena_fill(&a, FROM, TO);
    arena_wait_merged(&a);
    arena_check(&a);
    close(null);
    munmap(a.base, NPAGES * PAGE);
}

static void lock(void)
{
    struct arena a = arena_merged(NPAGES);
    uint64_t bytes = (TO - FROM) * PAGE;

    CHECK(!mlock(page_at(&a, FROM), bytes), "mlock: %d", errno);
    arena_check(&a);
    CHECK(arena_frames(&a, FROM, TO) == 0, "locked memory is merged");
    sleep(2);
    CHECK(arena_frames(&a, FROM, TO) == 0, "locked memory is merged again");
    CHECK(madvise(page_at(&a, FROM), PAGE, MADV_DONTNEED) && errno == EINVAL, "locked memory was discarded");
    CHECK(!munlock(page_at(&a, FROM), bytes), "munlock: %d", errno);
    arena_wait_merged(&a);
    arena_check(&a);
    CHECK(!mlockall(MCL_CURRENT), "mlockall: %d", errno);
    arena_check(&a);
    CHECK(arena_frames(&a, 0, NPAGES) == 0, "locked memory is merged");
    CHECK(!munlockall(), "munlockall: %d", errno);
    arena_wait_merged(&a);
    arena_check(&a);
    munmap(a.base, NPAGES * PAGE);
}

/* ---- what advises */

static void advise(void)
{
    static const int advices[] = {MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP,      MADV_DODUMP,
                                  MADV_DONTFORK, MADV_DOFORK,     MADV_WILLNEED,      MADV_COLD,
                                  MADV_NORMAL,   MADV_RANDOM,     MADV_POPULATE_READ, MADV_POPULATE_WRITE};
    struct arena a = arena_merged(NPAGES);

    for (unsigned i = 0; i < sizeof advices / sizeof *advices; i++) {
        CHECK(!madvise(page_at(&a, FROM), (TO - FROM) * PAGE, advices[i]), "madvise %d: %d", advices[i],
              errno);
        arena_check(&a);
    }
    arena_wait_merged(&a);
    CHECK(!madvise(page_at(&a, FROM), (TO - FROM) * PAGE, MADV_UNMERGEABLE), "unmergeable: %d", errno);
    CHECK(arena_frames(&a, FROM, TO) == 0, "still merged");
    arena_check(&a);
    sleep(2);
    CHECK(arena_frames(&a, FROM, TO) == 0, "merged though not wanted");
    CHECK(!madvise(a.base, NPAGES * PAGE, MADV_WIPEONFORK), "wipeonfork: %d", errno);
    arena_check(&a);
    CHECK(madvise(a.base + 1, PAGE, MADV_MERGEABLE) && errno == EINVAL, "an odd address was taken");
    CHECK(madvise(a.base, PAGE, 12345) && errno == EINVAL, "a nonsense advice was taken");
    arena_check(&a);
    munmap(a.base, NPAGES * PAGE);
}

/* ---- fork */

static void await_child(pid_t pid)
{
    int status;

    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status), "child: %#x", status);
}

/* What it does is its own; the parent looks at its memory afterwards. */
static int child_does(struct arena *a)
{
    arena_check(a);
    CHECK(!madvise(page_at(a, FROM), (TO - FROM) * PAGE, MADV_DONTNEED), "madvise: %d", errno);
    arena_expect_zero(a, FROM, TO);
    arena_check(a);
    arena_fill(a, FROM, TO);
    memset(page_at(a, 3), 0x77, PAGE);
    CHECK(!munmap(page_at(a, FROM), PAGE), "munmap: %d", errno);
    return 0;
}

static void forks(void)
{
    struct arena a = arena_merged(NPAGES), kept = arena_merged(64);
    unsigned char resident;

    CHECK(!madvise(kept.base, kept.npages * PAGE, MADV_DONTFORK), "madvise: %d", errno);
    for (unsigned i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (!pid) {
            CHECK(mincore(kept.base, PAGE, &resident) && errno == ENOMEM, "DONTFORK was lost");
            _exit(child_does(&a));
        }
        await_child(pid);
        arena_check(&a);
    }
    pid_t pid = fork();
    if (!pid) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    await_child(pid);
    CHECK(!system("true"), "system");
    arena_fill(&a, 0, NPAGES);
    arena_wait_merged(&a);
    arena_check(&a);
    arena_check(&kept);
    munmap(a.base, NPAGES * PAGE);
    munmap(kept.base, kept.npages * PAGE);
}

/* A child does to what it has inherited what would show the file behind it. */
static int child_moves(struct arena *a)
{
    enum { HALF = (TO - FROM) / 2 };
    static uint64_t before[HALF];

    for (uint32_t p = 0; p < HALF; p++) /* its first word tells a page */
        before[p] = *(uint64_t *)page_at(a, FROM + p);
    char *grown = mremap(page_at(a, FROM), HALF * PAGE, (HALF + 64) * PAGE, MREMAP_MAYMOVE);
    CHECK(grown != MAP_FAILED, "mremap: %d", errno);
    for (uint32_t p = 0; p < HALF; p++)
        CHECK(*(uint64_t *)(grown + p * PAGE) == before[p], "page %u did not come along", p);
    for (uint64_t i = 0; i < 64 * PAGE; i++)
        CHECK(!grown[HALF * PAGE + i], "byte %llu of what it grew by is not zero", (unsigned long long)i);
    CHECK(!madvise(grown, HALF * PAGE, MADV_DONTNEED), "madvise: %d", errno);
    for (uint64_t i = 0; i < HALF * PAGE; i++)
        CHECK(!grown[i], "byte %llu is there again", (unsigned long long)i);
    char *rest = page_at(a, FROM + HALF);
    CHECK(mremap(rest, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL) != MAP_FAILED,
          "mremap: %d", errno);
    for (uint64_t i = 0; i < 64 * PAGE; i++)
        CHECK(!rest[i], "byte %llu is still there", (unsigned long long)i);
    CHECK(!madvise(a->base, 64 * PAGE, MADV_WIPEONFORK), "MADV_WIPEONFORK: %d", errno);
    return 0;
}

static void child_remaps(void)
{
    struct arena a = arena_merged(NPAGES);
    pid_t pid = fork();

    if (!pid)
        _exit(child_moves(&a));
    await_child(pid);
    arena_check(&a);
}

static volatile sig_atomic_t faulted;
static sigjmp_buf after_fault;

static void on_fault(int signo)
{
    (void)signo;
    faulted = 1;
    siglongjmp(after_fault, 1);
}

/* Guard pages are nobody's to read, and stay. */
static void guards(void)
{
    const struct sigaction act = {.sa_handler = on_fault};
    struct arena a = arena_filled(NPAGES);

    if (madvise(page_at(&a, FROM), 8 * PAGE, MADV_GUARD_INSTALL)) {
        CHECK(errno == EINVAL, "MADV_GUARD_INSTALL: %d", errno); /* before Linux 6.13 */
        return;
    }
    CHECK(!mprotect(a.base, NPAGES * PAGE, PROT_READ | PROT_WRITE), "mprotect: %d", errno);
    arena_wait_merged(&a);
    sigaction(SIGSEGV, &act, NULL);
    for (uint32_t p = FROM; p < FROM + 8; p++) {
        faulted = 0;
        if (!sigsetjmp(after_fault, 1))
            (void)*(volatile char *)page_at(&a, p);
        CHECK(faulted, "page %u can be read", p);
    }
    CHECK(!madvise(page_at(&a, FROM), 8 * PAGE, MADV_GUARD_REMOVE), "MADV_GUARD_REMOVE: %d", errno);
    arena_expect_zero(&a, FROM, FROM + 8);
    arena_check(&a);
}

/* A child that goes on: memd knows it by a name of its own. */
static void child(void)
{
    struct arena a = arena_merged(NPAGES);
    char c;
    pid_t pid = fork();

    if (!pid) {
        struct arena own = arena_filled(NPAGES);
        arena_wait_merged(&own);
        while (read(STDIN_FILENO, &c, 1) > 0)
            ;
        arena_check(&a);
        arena_check(&own);
        _exit(0);
    }
    printf("child %d\n", (int)pid);
    fflush(stdout);
    await_child(pid);
    arena_check(&a);
}

/* ---- a userfaultfd of the program's own */

static int own_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    CHECK(fd >= 0 && !ioctl(fd, UFFDIO_API, &api), "userfaultfd: %d", errno);
    return fd;
}

struct touch {
    const struct arena *a;
    uint32_t page;
};

static void *touch_page(void *arg)
{
    const struct touch *t = arg;

    CHECK(*(volatile char *)page_at(t->a, t->page) == 0x5a, "not what was put there");
    return NULL;
}

static void userfault(void)
{
    static char filled[4096] __attribute__((aligned(4096)));
    struct arena a = arena_merged(NPAGES);
    struct touch t = {&a, FROM + 5};
    struct uffd_msg msg;
    pthread_t thread;

    int fd = own_uffd();
    struct uffdio_register reg = {.range = {(uintptr_t)page_at(&a, FROM), (TO - FROM) * PAGE},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    CHECK(ioctl(fd, UFFDIO_REGISTER, (void *)8) && errno == EFAULT, "a wrong pointer: %d", errno);
    CHECK(!ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER: %d", errno);
    arena_check(&a);
    CHECK(!madvise(page_at(&a, t.page), PAGE, MADV_DONTNEED), "madvise: %d", errno);
    CHECK(!pthread_create(&thread, NULL, touch_page, &t), "pthread_create");
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 10000) == 1 && read(fd, &msg, sizeof msg) == sizeof msg, "no fault was reported");
    memset(filled, 0x5a, sizeof filled);
    struct uffdio_copy copy = {.dst = (uintptr_t)page_at(&a, t.page), .src = (uintptr_t)filled, .len = PAGE};
    CHECK(!ioctl(fd, UFFDIO_COPY, &copy), "UFFDIO_COPY: %d", errno);
    pthread_join(thread, NULL);
    CHECK(!ioctl(fd, UFFDIO_UNREGISTER, &reg.range), "UFFDIO_UNREGISTER: %d", errno);
    arena_fill(&a, t.page, t.page + 1);
    arena_wait_merged(&a);
    CHECK(!ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER: %d", errno);
    arena_check(&a);
    close(fd); /* nobody says so */
    arena_wait_merged(&a);
    arena_check(&a);
    munmap(a.base, NPAGES * PAGE);
}

/* ---- descriptors: as daemons do, and as careless programs do */

static void descriptors(void)
{
    struct arena a = arena_merged(NPAGES);

    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    arena_check(&a);
    arena_fill(&a, FROM, TO);
    CHECK(!close_range(3, ~0u, 0), "close_range: %d", errno);
    closefrom(3);
    for (int fd = 3; fd < 600; fd++)
        CHECK(dup2(0, fd) == fd || errno == EBUSY, "dup2: %d", errno);
    CHECK(!close_range(3, ~0u, 0), "close_range: %d", errno);
    CHECK(open("/dev/null", O_RDONLY) == 3 && !close(3), "a descriptor is left");
    CHECK(close(3) && errno == EBADF, "closed twice");
    arena_wait_merged(&a);
    arena_check(&a);
    munmap(a.base, NPAGES * PAGE);
}

/* ---- what a program may count on */

static unsigned entries(const char *dir)
{
    DIR *d = opendir(dir);
    unsigned n = 0;

    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* Nothing is advised: no thread, no descriptor. */
static void nothing(void)
{
    unsigned descriptors = entries("/proc/self/fd");
    char *p = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memset(p, 1, NPAGES * PAGE);
    sleep(1);
    CHECK(!madvise(p, PAGE, MADV_DONTNEED) && !munmap(p, NPAGES * PAGE), "errno %d", errno);
    CHECK(entries("/proc/self/task") == 1, "%u threads", entries("/proc/self/task"));
    CHECK(entries("/proc/self/fd") == descriptors, "%u descriptors", entries("/proc/self/fd"));
}

static volatile sig_atomic_t alarms;

static void on_alarm(int signo)
{
    (void)signo;
    alarms++;
}

/* Signals come where they should: masks and handlers are the program's. */
static void signals(void)
{
    const struct sigaction act = {.sa_handler = on_alarm};
    sigset_t before, after;

    sigaction(SIGALRM, &act, NULL);
    sigemptyset(&before);
    sigaddset(&before, SIGUSR2);
    sigprocmask(SIG_SETMASK, &before, NULL);
    struct arena a = arena_merged(NPAGES);
    CHECK(!madvise(a.base, PAGE, MADV_DONTNEED), "madvise: %d", errno);
    arena_expect_zero(&a, 0, 1);
    sigprocmask(SIG_SETMASK, NULL, &after);
    for (int s = 1; s < 32; s++)
        CHECK(sigismember(&before, s) == sigismember(&after, s), "signal %d is masked differently", s);
    alarm(1);
    sleep(2);
    CHECK(alarms == 1, "%d alarms", (int)alarms);
    arena_check(&a);
}

/* More pieces of memory than memd takes at once: those that were left alone get their turn when others go. */
static void pieces(void)
{
    enum { MANY = 80, FEW_PAGES = 256 };
    struct arena a[MANY];

    for (unsigned i = 0; i < MANY; i++) {
        a[i] = arena_filled(FEW_PAGES);
        /* a gap to the next one */
        CHECK(mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED, "mmap: %d",
              errno);
    }
    arena_wait_merged(&a[0]);
    for (unsigned i = 0; i < MANY / 2; i++) {
        arena_check(&a[i]);
        CHECK(!munmap(a[i].base, FEW_PAGES * PAGE), "munmap: %d", errno);
    }
    for (unsigned i = MANY / 2; i < MANY; i++) {
        arena_wait_merged(&a[i]);
        arena_check(&a[i]);
    }
}

/* A thread that is cancelled inside of a call leaves nothing locked behind. */
static void *call_cancelled(void *arg)
{
    const struct arena *a = arg;

    pthread_cancel(pthread_self()); /* takes effect at the next call that can be cancelled */
    mlock(page_at(a, FROM), 16 * PAGE);
    mprotect(page_at(a, FROM), 16 * PAGE, PROT_READ | PROT_WRITE);
    return NULL;
}

static void cancel(void)
{
    struct arena a = arena_merged(NPAGES);
    pthread_t thread;

    for (unsigned i = 0; i < 5; i++) {
        CHECK(!pthread_create(&thread, NULL, call_cancelled, &a), "pthread_create");
        CHECK(!pthread_join(thread, NULL), "pthread_join");
    }
    CHECK(!madvise(a.base, PAGE, MADV_DONTNEED), "madvise: %d", errno);
    arena_expect_zero(&a, 0, 1);
    arena_check(&a);
}

/* The program ends with its last thread, the main one being gone already. */
static void *last_thread(void *arg)
{
    (void)arg;
    usleep(300000);
    puts("ok");
    fflush(stdout);
    return NULL;
}

static void main_first(void)
{
    struct arena a = arena_merged(NPAGES);
    pthread_t thread;

    arena_check(&a);
    CHECK(!pthread_create(&thread, NULL, last_thread, NULL), "pthread_create");
    pthread_exit(NULL);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {{"discard", discard},
                 {"unmap", unmap},
                 {"map_over", map_over},
                 {"resize", resize},
                 {"move", move},
                 {"protect", protect},
                 {"lock", lock},
                 {"advise", advise},
                 {"forks", forks},
                 {"child", child},
                 {"userfault", userfault},
                 {"nothing", nothing},
                 {"signals", signals},
                 {"descriptors", descriptors},
                 {"pieces", pieces},
                 {"cancel", cancel},
                 {"child_remaps", child_remaps},
                 {"guards", guards},
                 {"main_first", main_first}};

    arena_alone = argc > 2 && !strcmp(argv[2], "alone");
    for (unsigned i = 0; argc > 1 && i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[1], cases[i].name)) {
            cases[i].run();
            puts("ok");
            return 0;
        }
    fprintf(stderr, "usage: program CASE [alone]\n");
    return 2;
}
