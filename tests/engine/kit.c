/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see kit.h. */
#include "kit.h"

#include "memd/memd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define GUEST __attribute__((no_sanitize("thread", "address"), noinline))

void kit_fail(const char *file, int line, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "%s:%d: ", file, line);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    fflush(NULL);
    _exit(1);
}

const char *kit_error(int err)
{
    return strerror(err < 0 ? -err : err);
}

void kit_skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    fflush(NULL);
    _exit(77);
}

/* In a child, so that the caller has never had an engine. */
static int probe(void *arg)
{
    struct memd_options o = {.size = sizeof o, .name = "probe", .flags = MEMD_OPEN_NO_DAEMON};
    struct memd *m;
    int err = memd_open(&o, &m);

    (void)arg;
    return err ? -err : 0;
}

void kit_begin(void)
{
    int status = kit_wait(kit_fork(probe, NULL));

    cmocka_set_test_filter(getenv("MEMD_TEST_CASE"));
    if (status == ENOSYS)
        kit_skip("the kernel lacks UFFDIO_MOVE or PAGEMAP_SCAN (Linux 6.8)");
    if (status == EPERM)
        kit_skip("no access to /dev/userfaultfd");
    CHECK(!status, "memd_open: %s", kit_error(status));
}

static double scale(void)
{
    const char *text = getenv("MEMD_TEST_SCALE");
    double s = text ? atof(text) : 0.1;

    return s > 0 ? s : 0.1;
}

uint64_t kit_scaled(uint64_t full, uint64_t least)
{
    uint64_t n = (uint64_t)((double)full * scale());

    return n < least ? least : n;
}

bool kit_sanitized(void)
{
    const char *san = getenv("MEMD_SAN");

    return san && *san;
}

uint64_t kit_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

const char *kit_tmp(void)
{
    const char *tmp = getenv("MEMD_TEST_TMP");

    if (!tmp)
        tmp = getenv("TMPDIR");
    return tmp ? tmp : "/tmp";
}

pid_t kit_fork(int (*fn)(void *arg), void *arg)
{
    pid_t parent = getpid();

    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    int status = fn(arg);
    fflush(NULL);
    _exit(status);
}

int kit_wait(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
    CHECK(WIFEXITED(status), "child %d was ended by signal %d", (int)pid, WTERMSIG(status));
    return WEXITSTATUS(status);
}

void kit_reap(pid_t pid)
{
    int status = kit_wait(pid);

    CHECK(status == 0, "child %d exited with %d", (int)pid, status);
}

/* ---- engines */

struct memd *kit_engine(const char *name, const char *run_dir)
{
    struct memd_options o = {.size = sizeof o, .name = name, .run_dir = run_dir, .domain = "test"};
    struct memd *m;

    if (!run_dir)
        o.flags = MEMD_OPEN_NO_DAEMON;
    OK(memd_open(&o, &m));
    return m;
}

uint32_t kit_region(struct memd *m, void *hva, uint64_t bytes)
{
    struct memd_region_desc d = {.size = sizeof d, .hva = hva, .bytes = bytes, .node = -1, .name = "ram"};
    uint32_t region;

    OK(memd_region_add(m, &d, &region));
    return region;
}

struct memd_stats kit_stats(struct memd *m)
{
    struct memd_stats st = {.size = sizeof st};

    OK(memd_stats(m, &st));
    return st;
}

void kit_wait_connected(struct memd *m)
{
    uint64_t limit = kit_ms() + 20000;

    while (!kit_stats(m).connected) {
        CHECK(kit_ms() < limit, "the engine did not join within 20 s");
        usleep(1000);
    }
}

/* ---- guest memory */

void *guest_map(uint64_t bytes, bool huge)
{
    char *p = mmap(NULL, bytes + CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED, "mmap: %s", strerror(errno));
    char *at = p + (-(uintptr_t)p & (CHUNK - 1));
    if (at > p)
        munmap(p, (size_t)(at - p));
    if (p + CHUNK > at)
        munmap(at + bytes, (size_t)(p + CHUNK - at));
    madvise(at, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return at;
}

void guest_unmap(void *hva, uint64_t bytes)
{
    munmap(hva, bytes);
}

GUEST uint64_t guest_read(const void *hva)
{
    return *(const volatile uint64_t *)hva;
}

GUEST void guest_write(void *hva, uint64_t value)
{
    *(volatile uint64_t *)hva = value;
}

GUEST void guest_read_bytes(void *to, const void *hva, size_t bytes)
{
    const volatile uint64_t *from = hva;
    uint64_t *words = to;

    for (size_t i = 0; i < bytes / 8; i++)
        words[i] = from[i];
}

static inline uint64_t content_word(uint64_t what, unsigned i)
{
    uint64_t x = what * 0x9e3779b97f4a7c15ull + i;

    if (!what)
        return 0;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    return x ^ (x >> 27);
}

GUEST void guest_fill(void *page, uint64_t what)
{
    volatile uint64_t *words = page;

    for (unsigned i = 0; i < PAGE / 8; i++)
        words[i] = content_word(what, i);
}

GUEST long guest_differs(const void *page, uint64_t what)
{
    const volatile uint64_t *words = page;

    for (unsigned i = 0; i < PAGE / 8; i++)
        if (words[i] != content_word(what, i))
            return (long)(i * 8);
    return -1;
}

bool guest_poisoned(const void *hva)
{
    int fds[2];
    char byte;

    CHECK(!pipe(fds), "pipe");
    ssize_t n = write(fds[1], hva, 1);
    CHECK(n == 1 || errno == EFAULT, "write: %s", strerror(errno));
    if (n == 1)
        CHECK(read(fds[0], &byte, 1) == 1, "read");
    close(fds[0]);
    close(fds[1]);
    return n != 1;
}

/* ---- the kernel's view */

static bool smaps_field(const char *line, const char *name, uint64_t *sum)
{
    size_t n = strlen(name);
    uint64_t kib;

    if (strncmp(line, name, n) || sscanf(line + n, "%" SCNu64, &kib) != 1)
        return false;
    *sum += kib << 10;
    return true;
}

/* Counts mappings that lie in the range as a whole; parts of others are counted too. */
struct kit_smaps kit_smaps_of(pid_t pid, uint64_t hva, uint64_t bytes)
{
    uint64_t limit = hva + bytes, start, end, inode;
    struct kit_smaps s = {0};
    bool inside = false;
    char line[512], path[64];

    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    FILE *f = fopen(path, "re");

    CHECK(f, "smaps: %s", strerror(errno));
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*x %*s %" SCNu64, &start, &end, &inode) == 3) {
            inside = start < limit && end > hva;
            s.vmas += inside;
            s.file_vmas += inside && inode;
        } else if (inside) {
            (void)(smaps_field(line, "Rss:", &s.rss_bytes) || smaps_field(line, "Pss:", &s.pss_bytes) ||
                   smaps_field(line, "Anonymous:", &s.anon_bytes) ||
                   smaps_field(line, "AnonHugePages:", &s.anon_huge_bytes) ||
                   smaps_field(line, "Locked:", &s.locked_bytes));
        }
    }
    fclose(f);
    return s;
}

struct kit_smaps kit_smaps(const void *hva, uint64_t bytes)
{
    return kit_smaps_of(getpid(), (uintptr_t)hva, bytes);
}

bool kit_reads_take_pages(void)
{
    char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(page != MAP_FAILED, "mmap: %d", errno);
    (void)*(volatile const char *)page;
    bool takes = kit_smaps(page, PAGE).anon_bytes > 0;
    munmap(page, PAGE);
    return takes;
}

uint64_t kit_pagemap_of(pid_t pid, uint64_t hva)
{
    char path[64];
    uint64_t e = 0;

    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && pread(fd, &e, sizeof e, (off_t)(hva / PAGE * 8)) == 8, "%s: %s", path, strerror(errno));
    close(fd);
    return e;
}

uint64_t kit_pagemap(const void *hva)
{
    return kit_pagemap_of(getpid(), (uintptr_t)hva);
}

static unsigned count_dir(const char *path)
{
    DIR *d = opendir(path);
    unsigned n = 0;

    CHECK(d, "%s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

unsigned kit_count_fds(void)
{
    return count_dir("/proc/self/fd") - 1; /* the directory itself */
}

unsigned kit_count_threads(void)
{
    return count_dir("/proc/self/task");
}

void kit_wait_count(const char *what, unsigned (*count)(void), unsigned n)
{
    uint64_t limit = kit_ms() + 20000;

    for (unsigned is; (is = count()) != n; usleep(1000))
        CHECK(kit_ms() < limit, "%s: %u, not %u", what, is, n);
}

unsigned kit_count_vmas(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    unsigned n = 0;

    CHECK(f, "maps: %s", strerror(errno));
    for (int c; (c = getc(f)) != EOF;)
        n += c == '\n';
    fclose(f);
    return n;
}
