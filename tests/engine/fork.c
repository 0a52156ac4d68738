/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fork() in a process with an engine: the child sees its memory as it was, merged pages and all, and no frame
 * is reused under it; the engine rests until the child is gone or has become another program; what the
 * program has excluded from fork stays excluded; in the child the engine does not exist.
 */
#include "rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES   1024u
#define ORPHAN_S 20u
#define RESTS_MS 300u /* long enough for an engine that does not rest to show it */

static struct wire_rec_budget full;

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

/* Second half: every other page is zero, and dropped. */
static uint64_t with_zeros(uint32_t page)
{
    return page >= 512 && page % 2 ? 0 : 1 + page;
}

static struct rig fork_open(uint64_t (*contents)(uint32_t))
{
    struct script_options options = {.budget = &full};

    full = script_budget_full();
    return rig_open(&options, NPAGES, contents);
}

static void wait_zeros(const struct rig *rig, uint64_t n)
{
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; kit_stats(rig->memd).zero_pages != n; usleep(2000))
        CHECK(kit_ms() < limit, "%llu zero pages dropped, not %llu",
              (unsigned long long)kit_stats(rig->memd).zero_pages, (unsigned long long)n);
}

/* Proposes until all that can be merged is. */
static void merge_all(struct rig *rig, uint32_t page, uint32_t count, uint32_t want)
{
    uint32_t frame = script_frames(rig->script, rig_page(rig, page), count), merged = 0, why = 0;

    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; merged < want; usleep(20000)) {
        struct rig_answer a = rig_propose(rig, page, frame, count);
        CHECK(kit_ms() < limit, "%u of %u pages merged, reason %u, first page %#llx", merged, want, why,
              (unsigned long long)script_entry(rig->vm, rig->region, page));
        merged += a.merged;
        why = a.why;
    }
}

/* ---- children */

struct child {
    struct rig *rig;
    uint64_t (*contents)(uint32_t);
    int go; /* a byte here ends it; -1: at once */
};

/* Sees every byte, for as long as it lives; then writes, which is nobody else's business. */
static int look(void *arg)
{
    const struct child *c = arg;
    char byte;

    do
        for (uint32_t i = 0; i < NPAGES; i++)
            CHECK(guest_differs(rig_page(c->rig, i), c->contents(i)) < 0, "the child sees page %u differ", i);
    while (c->go >= 0 && read(c->go, &byte, 1) < 0 && errno == EAGAIN);
    for (uint32_t i = 0; i < NPAGES; i += 2)
        guest_fill(rig_page(c->rig, i), 90000 + i);
    for (uint32_t i = 0; i < NPAGES; i++)
        CHECK(guest_differs(rig_page(c->rig, i), i % 2 ? c->contents(i) : 90000 + i) < 0,
              "the child's own writes: page %u differs", i);
    return 0;
}

static void child_sees_all(void **state)
{
    struct rig rig = fork_open(with_zeros);
    struct child c = {&rig, with_zeros, -1};

    (void)state;
    EQUALS(rig_merge(&rig, 0, 512), 512);
    wait_zeros(&rig, 256);
    guest_write(rig_page(&rig, 7), guest_read(rig_page(&rig, 7))); /* one is broken */
    kit_reap(kit_fork(look, &c));
    rig_check(&rig, with_zeros); /* the child's writes are not seen */
    OK(memd_discard(rig.memd, rig.region, 0, PAGE));
    guest_fill(rig_page(&rig, 0), unique(0));
    merge_all(&rig, 600, 100, 50);
    rig_check(&rig, with_zeros);
    rig_close(&rig);
}

/* While the child lives: no merge, no fence answered, so no frame is reused. */
static void *recycle_main(void *arg)
{
    struct rig *rig = arg;

    for (unsigned i = 0; i < 10; i++) {
        CHECK(script_fence(rig->vm), "the session is over");
        script_recycle(rig->script);
        usleep(20000); /* for the engine to see what was written, and to say so */
    }
    return NULL;
}

static void frames_stay(void **state)
{
    struct rig rig = fork_open(unique);
    uint32_t frame = script_frames(rig.script, rig.ram, 512);
    struct child c = {.rig = &rig, .contents = unique};
    pthread_t thread;
    int go[2];

    (void)state;
    CHECK(!pipe2(go, O_NONBLOCK | O_CLOEXEC), "pipe");
    c.go = go[0];
    EQUALS(rig_propose(&rig, 0, frame, 512).merged, 512);
    script_retire(rig.script, frame);
    pid_t pid = kit_fork(look, &c);
    /* the parent lets go of every frame, by writing and by discarding */
    for (uint32_t i = 0; i < 256; i++)
        guest_fill(rig_page(&rig, i), 70000 + i);
    OK(memd_discard(rig.memd, rig.region, CHUNK / 2, CHUNK / 2));
    uint64_t fenced = rig.vm->fenced;
    CHECK(!pthread_create(&thread, NULL, recycle_main, &rig), "pthread_create");
    uint32_t other = script_frames(rig.script, rig_page(&rig, 512), 100);
    script_merge(rig.vm, rig.region, 512, other, 100);
    usleep(RESTS_MS * 1000);
    EQUALS(kit_stats(rig.memd).merges, 512);
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->fenced, fenced);
    pthread_mutex_unlock(&rig.script->lock);
    CHECK(write(go[1], "x", 1) == 1, "write");
    kit_reap(pid);
    CHECK(script_fence(rig.vm), "the session is over");
    pthread_join(thread, NULL);
    EQUALS(kit_stats(rig.memd).merges, 612); /* what was proposed meanwhile */
    for (uint32_t i = 0; i < NPAGES; i++)
        CHECK(guest_differs(rig_page(&rig, i), i < 256   ? 70000 + i
                                               : i < 512 ? 0
                                                         : unique(i)) < 0,
              "page %u differs", i);
    close(go[0]);
    close(go[1]);
    rig_close(&rig);
}

/* The child goes at once, and leaves a child of its own that has the same memory. */
static int leave_a_child(void *arg)
{
    pid_t pid = fork();

    if (!pid) {
        alarm(ORPHAN_S); /* it has no parent to die with */
        _exit(look(arg));
    }
    return pid < 0;
}

static void check_rests(struct rig *rig, int go)
{
    uint64_t merges = kit_stats(rig->memd).merges;
    uint32_t other = script_frames(rig->script, rig_page(rig, 512), 100);

    usleep(RESTS_MS * 1000 / 2);
    script_merge(rig->vm, rig->region, 512, other, 100);
    usleep(RESTS_MS * 1000);
    EQUALS(kit_stats(rig->memd).merges, merges);
    CHECK(write(go, "x", 1) == 1, "write");
}

static void grandchild(void **state)
{
    struct rig rig = fork_open(unique);
    struct child c = {.rig = &rig, .contents = unique};
    int go[2];

    (void)state;
    CHECK(!pipe2(go, O_NONBLOCK | O_CLOEXEC), "pipe");
    c.go = go[0];
    EQUALS(rig_merge(&rig, 0, 512), 512);
    kit_reap(kit_fork(leave_a_child, &c));
    check_rests(&rig, go[1]);
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(kit_stats(rig.memd).merges, 612);
    rig_check(&rig, unique);
    close(go[0]);
    close(go[1]);
    rig_close(&rig);
}

/* No descriptor is free to hear from the child. */
static int no_descriptors(void *arg)
{
    struct rig rig = fork_open(unique);
    struct child c = {.rig = &rig, .contents = unique};
    struct rlimit limit, none = {.rlim_cur = 3, .rlim_max = 3};
    int go[2];

    (void)arg;
    CHECK(!pipe2(go, O_NONBLOCK | O_CLOEXEC), "pipe");
    c.go = go[0];
    EQUALS(rig_merge(&rig, 0, 512), 512);
    CHECK(!getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
    none.rlim_max = limit.rlim_max;
    CHECK(!setrlimit(RLIMIT_NOFILE, &none), "setrlimit");
    pid_t pid = fork();
    if (!pid) {
        alarm(ORPHAN_S);
        _exit(look(&c));
    }
    CHECK(pid > 0 && !setrlimit(RLIMIT_NOFILE, &limit), "fork, setrlimit");
    check_rests(&rig, go[1]);
    EQUALS(kit_wait(pid), 0);
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(kit_stats(rig.memd).merges, 612); /* what was proposed meanwhile */
    rig_check(&rig, unique);
    rig_close(&rig);
    return 0;
}

static void forked_without_descriptors(void **state)
{
    (void)state;
    kit_reap(kit_fork(no_descriptors, NULL));
}

/* More children at once than the engine can know one by one: it rests as long as one of them lives. */
#define CROWD 150u

static void crowd(void **state)
{
    struct rig rig = fork_open(unique);
    struct child c = {.rig = &rig, .contents = unique};
    pid_t pid[CROWD];
    int go[2];

    (void)state;
    CHECK(!pipe2(go, O_CLOEXEC), "pipe");
    c.go = go[0];
    EQUALS(rig_merge(&rig, 0, 512), 512);
    for (unsigned i = 0; i < CROWD; i++)
        pid[i] = kit_fork(look, &c);
    uint64_t merges = kit_stats(rig.memd).merges;
    script_merge(rig.vm, rig.region, 512, script_frames(rig.script, rig_page(&rig, 512), 100), 100);
    for (unsigned i = 0; i < CROWD; i++) {
        if (i == CROWD / 2 || i == CROWD - 1)
            usleep(RESTS_MS * 1000);
        EQUALS(kit_stats(rig.memd).merges, merges);
        CHECK(write(go[1], "x", 1) == 1, "write"); /* one of them ends */
        pid_t gone = waitpid(-1, NULL, 0);
        CHECK(gone > 0, "waitpid: %s", strerror(errno));
    }
    (void)pid;
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(kit_stats(rig.memd).merges, merges + 100);
    rig_check(&rig, unique);
    close(go[0]);
    close(go[1]);
    rig_close(&rig);
}

/* ---- a tracer that holds the child at birth */

/* Until a byte comes, or all who could write one are gone. */
static int trace_parent(void *arg)
{
    const int *pipes = arg; /* [0], [1]: we trace; [2], [3]: the child may go on */
    pid_t parent = getppid(), held = 0;
    int status;
    char byte = 't';

    close(pipes[3]);
    CHECK(!ptrace(PTRACE_SEIZE, parent, NULL, PTRACE_O_TRACEFORK), "PTRACE_SEIZE: %s", strerror(errno));
    CHECK(write(pipes[1], &byte, 1) == 1, "write");
    while (!held) {
        pid_t pid = waitpid(-1, &status, __WALL);
        CHECK(pid > 0, "waitpid: %s", strerror(errno));
        if (pid != parent && WIFSTOPPED(status))
            held = pid;
        else if (WIFSTOPPED(status))
            ptrace(PTRACE_CONT, pid, NULL, status >> 16 ? 0 : WSTOPSIG(status));
    }
    /* the parent's own stop, if it came second */
    while (read(pipes[2], &byte, 1) < 0 || waitpid(parent, &status, __WALL | WNOHANG) > 0)
        ptrace(PTRACE_CONT, parent, NULL, 0);
    ptrace(PTRACE_DETACH, held, NULL, 0);
    return 0;
}

static void traced(void **state)
{
    struct rig rig = fork_open(unique);
    struct child c = {.rig = &rig, .contents = unique, .go = -1};
    int pipes[4];
    char byte;

    (void)state;
    CHECK(!pipe2(pipes, O_CLOEXEC) && !pipe2(pipes + 2, O_CLOEXEC | O_NONBLOCK), "pipe");
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    EQUALS(rig_merge(&rig, 0, 512), 512);
    pid_t tracer = kit_fork(trace_parent, pipes);
    CHECK(read(pipes[0], &byte, 1) == 1, "no tracer");
    alarm(ORPHAN_S);
    pid_t pid = kit_fork(look, &c); /* comes back though the child has not run */
    alarm(0);
    CHECK(write(pipes[3], "x", 1) == 1, "write");
    kit_reap(pid);
    kit_reap(tracer);
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(rig_merge(&rig, 512, 100), 100);
    rig_check(&rig, unique);
    for (unsigned i = 0; i < 4; i++)
        close(pipes[i]);
    rig_close(&rig);
}

/* ---- a vfork() child works on its parent's memory */

static void vforked(void **state)
{
    const char *san = getenv("MEMD_SAN");
    volatile int discarded = -1;

    (void)state;
    if (san && !strcmp(san, "thread")) {
        print_message("skipped: ThreadSanitizer makes vfork() a fork()\n");
        skip();
    }
    struct rig rig = fork_open(unique);
    EQUALS(rig_merge(&rig, 0, 512), 512);
    pid_t pid = vfork();
    if (!pid) {
        discarded = memd_discard(rig.memd, rig.region, 0, 8 * PAGE);
        _exit(0);
    }
    kit_reap(pid);
    EQUALS(discarded, 0);
    for (uint32_t i = 0; i < NPAGES; i++)
        CHECK(guest_differs(rig_page(&rig, i), i < 8 ? 0 : unique(i)) < 0, "page %u differs", i);
    rig_close(&rig);
}

/* What the daemon says meanwhile waits, and the worker sleeps. */
static void worker_rests(void **state)
{
    struct rig rig = fork_open(unique);
    struct child c = {.rig = &rig, .contents = unique};
    int go[2];

    (void)state;
    CHECK(!pipe2(go, O_CLOEXEC), "pipe");
    c.go = go[0];
    pid_t pid = kit_fork(look, &c);
    script_round(rig.vm);
    usleep(RESTS_MS * 1000);
    uint64_t before = kit_stats(rig.memd).cpu_ns;
    usleep(3 * RESTS_MS * 1000);
    uint64_t used = kit_stats(rig.memd).cpu_ns - before;
    CHECK(used < RESTS_MS * 1000000ull / 2, "the engine has used %llu ms of %u",
          (unsigned long long)used / 1000000, 3 * RESTS_MS);
    CHECK(write(go[1], "x", 1) == 1, "write");
    kit_reap(pid);
    close(go[0]);
    close(go[1]);
    rig_close(&rig);
}

/* ---- forks while everything moves */

struct mover {
    struct rig *rig;
    atomic_bool stop;
};

static void *move_main(void *arg)
{
    struct mover *m = arg;

    while (!atomic_load(&m->stop)) {
        for (uint32_t page = 0; page < NPAGES; page += 512) {
            uint32_t frame = script_frames(m->rig->script, rig_page(m->rig, page), 512);
            if (!frame)
                continue;
            script_merge(m->rig->vm, m->rig->region, page, frame, 512);
            script_retire(m->rig->script, frame);
        }
        script_fence(m->rig->vm);
        script_unmerge(m->rig->vm);
        script_merging(m->rig->vm, false);
        script_merging(m->rig->vm, true);
        script_recycle(m->rig->script);
    }
    return NULL;
}

static void many_forks(void **state)
{
    struct rig rig = fork_open(with_zeros);
    struct child c = {&rig, with_zeros, -1};
    struct mover m = {.rig = &rig};
    uint64_t turns = kit_scaled(400, 10);
    pthread_t thread;

    (void)state;
    CHECK(!pthread_create(&thread, NULL, move_main, &m), "pthread_create");
    for (uint64_t i = 0; i < turns; i++) {
        pid_t pid = kit_fork(look, &c), second = i % 4 ? 0 : kit_fork(look, &c);
        rig_check(&rig, with_zeros);
        kit_reap(pid);
        if (second)
            kit_reap(second);
        if (i % 3)
            continue;
        /* what the guest writes after the fork can be moved at once; and the engine needs time to work in */
        for (uint32_t page = 0; page < NPAGES; page += 2)
            guest_fill(rig_page(&rig, page), with_zeros(page));
        usleep(150000);
    }
    atomic_store(&m.stop, true);
    pthread_join(thread, NULL);
    CHECK(kit_stats(rig.memd).merges > 0, "nothing was merged between the forks");
    rig_check(&rig, with_zeros);
    rig_close(&rig);
}

/* ---- exec */

static pid_t fork_exec(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        execl("/bin/sleep", "sleep", "60", (char *)NULL);
        _exit(127);
    }
    CHECK(pid > 0, "fork: %s", strerror(errno));
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* A child that executes another program does not keep the engine from its work. */
static void exec_ends_it(void **state)
{
    struct rig rig = fork_open(unique);
    char *const argv[] = {"sleep", "60", NULL};
    pid_t pid = fork_exec(), spawned;
    extern char **environ;

    (void)state;
    merge_all(&rig, 0, 100, 100); /* beside a living program */
    CHECK(!posix_spawn(&spawned, "/bin/sleep", NULL, NULL, argv, environ), "posix_spawn");
    CHECK(system("true") == 0, "system() fails");
    merge_all(&rig, 512, 100, 100);
    end_child(pid);
    end_child(spawned);
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- the engine in the child */

/* The names of open descriptors that belong to an engine. */
static unsigned engine_fds(void)
{
    static const char *const marks[] = {"userfaultfd", "pagemap", "memd-page-map", "script-session"};
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    for (struct dirent *e; d && (e = readdir(d));) {
        char path[300], target[256] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
        if (readlink(path, target, sizeof target - 1) < 0)
            continue;
        for (unsigned i = 0; i < sizeof marks / sizeof *marks; i++)
            n += strstr(target, marks[i]) != NULL;
    }
    if (d)
        closedir(d);
    return n;
}

static int no_engine_here(void *arg)
{
    struct rig *rig = arg;
    struct memd_stats st = {.size = sizeof st};
    struct memd_region_desc d = {.size = sizeof d, .hva = rig->ram, .bytes = PAGE, .node = -1};
    uint32_t region;

    EQUALS(memd_stats(rig->memd, &st), -ECHILD);
    EQUALS(memd_region_add(rig->memd, &d, &region), -ECHILD);
    EQUALS(memd_region_del(rig->memd, 0, 0), -ECHILD);
    EQUALS(memd_discard(rig->memd, 0, 0, PAGE), -ECHILD);
    EQUALS(memd_pin(rig->memd, 0, 0, PAGE), -ECHILD);
    EQUALS(memd_unpin(rig->memd, 0, 0, PAGE), -ECHILD);
    EQUALS(memd_pause(rig->memd), -ECHILD);
    EQUALS(memd_resume(rig->memd), -ECHILD);
    EQUALS(memd_close(rig->memd, 0), -ECHILD);
    /* an uffd of the parent kept open here would outlive it; the script's own session memory is not ours */
    CHECK(engine_fds() <= 1, "%u descriptors of the engine are open in the child", engine_fds());
    /* it may fork in its turn, and have an engine of its own */
    kit_reap(kit_fork(look, &(struct child){rig, unique, -1}));
    struct memd *own = kit_engine("child", NULL);
    char *ram = guest_map(CHUNK, false);
    memset(ram, 0, CHUNK);
    kit_region(own, ram, CHUNK);
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; kit_stats(own).zero_pages < 512; usleep(1000))
        CHECK(kit_ms() < limit, "the child's engine does not work");
    kit_reap(kit_fork(look, &(struct child){rig, unique, -1}));
    OK(memd_close(own, KIT_CLOSE_MS));
    for (uint32_t i = 0; i < NPAGES; i++)
        CHECK(guest_differs(rig_page(rig, i), unique(i)) < 0, "page %u differs", i);
    return 0;
}

static void in_the_child(void **state)
{
    const char *san = getenv("MEMD_SAN");

    (void)state;
    if (san && !strcmp(san, "thread")) {
        print_message("skipped: ThreadSanitizer does not do threads in a child of threads\n");
        skip();
    }
    struct rig rig = fork_open(unique);
    EQUALS(rig_merge(&rig, 0, 512), 512);
    kit_reap(kit_fork(no_engine_here, &rig));
    rig_check(&rig, unique);
    EQUALS(rig_merge(&rig, 512, 100), 100);
    rig_close(&rig);
}

/* ---- memory the program has excluded */

static bool is_mapped(const char *hva)
{
    unsigned char vec;

    return !mincore((void *)(uintptr_t)hva, PAGE, &vec);
}

static int excluded_is_absent(void *arg)
{
    struct rig *rig = arg;

    for (uint32_t i = 0; i < NPAGES; i += 16)
        CHECK(!is_mapped(rig_page(rig, i)), "page %u is in the child", i);
    return 0;
}

/* With nothing shared the engine need not rest. */
static void excluded(void **state)
{
    struct script_options options = {.budget = &full};
    char *ram = guest_map(NPAGES * PAGE, false);
    int go[2];

    (void)state;
    full = script_budget_full();
    for (uint32_t i = 0; i < NPAGES; i++)
        guest_fill(ram + i * PAGE, unique(i));
    CHECK(!madvise(ram, NPAGES * PAGE, MADV_DONTFORK), "madvise");
    struct rig rig = rig_open_at(&options, ram, NPAGES);
    EQUALS(rig_merge(&rig, 0, 100), 100);
    EQUALS(rig_merge(&rig, 300, 100), 100);
    EQUALS(script_unmerge(rig.vm), 0); /* what came home is excluded, too */
    script_merging(rig.vm, false);
    script_merging(rig.vm, true);
    EQUALS(rig_merge(&rig, 300, 100), 100);
    OK(memd_discard(rig.memd, rig.region, 300 * PAGE, 10 * PAGE));
    kit_reap(kit_fork(excluded_is_absent, &rig));
    CHECK(!pipe2(go, O_CLOEXEC), "pipe");
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(go[1]);
        _exit(read(go[0], &byte, 1) != 0);
    }
    EQUALS(rig_merge(&rig, 512, 100), 100); /* beside a living child */
    close(go[0]);
    close(go[1]);
    kit_reap(pid);
    OK(memd_close(rig.memd, KIT_CLOSE_MS));
    kit_reap(kit_fork(excluded_is_absent, &rig)); /* as the program had it */
    script_close(rig.script);
    guest_unmap(ram, NPAGES * PAGE);
}

/* After close, memory the program had not excluded is inherited again. */
static void inherited_after_close(void **state)
{
    struct rig rig = fork_open(unique);

    (void)state;
    EQUALS(rig_merge(&rig, 0, 512), 512);
    OK(memd_close(rig.memd, KIT_CLOSE_MS));
    kit_reap(kit_fork(look, &(struct child){&rig, unique, -1}));
    rig_check(&rig, unique);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(child_sees_all), cmocka_unit_test(frames_stay),
        cmocka_unit_test(exec_ends_it),   cmocka_unit_test(in_the_child),
        cmocka_unit_test(excluded),       cmocka_unit_test(inherited_after_close),
        cmocka_unit_test(grandchild),     cmocka_unit_test(forked_without_descriptors),
        cmocka_unit_test(worker_rests),   cmocka_unit_test(many_forks),
        cmocka_unit_test(crowd),          cmocka_unit_test(traced),
        cmocka_unit_test(vforked),
    };

    kit_begin();
    return cmocka_run_group_tests_name("fork", tests, NULL, NULL);
}
