/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Engines that lie: wrong messages, wrong regions, wrong records, wrong hashes, floods. memd must end their
 * sessions with the error the protocol has for it, go on serving everybody else, and never let what they say
 * reach the bytes of another VM.
 *
 * Each liar is a process of its own, because a VM and what it holds end with its process. A guest that checks
 * itself runs in the same domain all the while.
 *
 * memd-test: timeout=120 san=address
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memd/common/clock.h"
#include "tests/faults/lies.h"
#include "tests/faults/peer.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define READY_MS 20000

static void tell_lie(const struct liar *liar)
{
    static struct peer peer;
    char reason[WIRE_REASON_BYTES];

    liar->lie(&peer);
    int error = peer_end(&peer, reason);
    CHECK(error == liar->error, "%s: refused with %d (%s), not %d", liar->name, error, reason, liar->error);
    CHECK(reason[0], "%s: no reason given", liar->name);
}

/* ---------------------------------------------------------------- lies that look like the truth */

/* Both pages are said to have this hash; the one asked for has these bytes. */
static void show(struct peer *p, uint64_t hash, const void *bytes)
{
    struct wire_rec_export ask;

    peer_hash(p, 10, hash);
    peer_hash(p, 20, hash);
    peer_kick(p);
    peer_await(p, WIRE_REC_EXPORT, &ask, sizeof ask);
    CHECK(ask.count == 1 && (ask.page == 10 || ask.page == 20), "page %u", ask.page);
    memcpy(p->shm->exports[ask.slot], bytes, WIRE_PAGE_BYTES);
    struct wire_rec_export *done = peer_record(p, WIRE_REC_EXPORTED, sizeof *done);
    done->page = ask.page;
    done->count = ask.count;
    done->slot = ask.slot;
    peer_kick(p);
}

/* Two pages are said to be equal, and what is shown of them is something else: no frame may come of it. With
 * the hash of the truth there is one. */
static void false_hashes(void)
{
    static struct peer p;
    struct wire_rec_merge merge;
    uint8_t page[WIRE_PAGE_BYTES];

    peer_join(&p, run_dir, "liar", "common");
    memset(page, 0x5a, sizeof page);
    uint64_t truth = XXH3_64bits(page, sizeof page);
    show(&p, truth ^ 1ull << 63, page);
    show(&p, truth, page);
    CHECK(!p.merges_passed, "a lie became a frame");
    peer_await(&p, WIRE_REC_MERGE, &merge, sizeof merge);
    CHECK(merge.count == 1 && (merge.page == 10 || merge.page == 20), "page %u", merge.page);
}

static void *keep_full(void *arg)
{
    struct peer *p = arg;

    for (uint64_t hash = 1;; hash += 0x9e3779b97f4a7c15ull) {
        struct wire_rec_hashes *rec = ring_reserve(&p->up, WIRE_REC_HASHES, sizeof *rec + 256 * 8);
        if (!rec) {
            ring_publish(&p->up);
            continue;
        }
        *rec = (struct wire_rec_hashes){.r = rec->r, .page = (uint32_t)hash % 512, .count = 256, .node = -1};
        for (int i = 0; i < 256; i++)
            rec->hash[i] = hash + (uint64_t)i % 7;
    }
    return NULL;
}

/* A ring that is never empty, kicks, and regions that come and go all the while. */
static void flood(void)
{
    static struct peer p;
    uint64_t end_ns = clock_now_ns() + 2 * CLOCK_S, n = 0;
    pthread_t thread;

    peer_join(&p, run_dir, "liar", "common");
    CHECK(!pthread_create(&thread, NULL, keep_full, &p), "thread");
    while (clock_now_ns() < end_ns) {
        struct wire_msg_region_add add = peer_region(p.map);
        struct wire_msg_region del = {.region = 1 + (uint32_t)(n++ % 63)};
        uint64_t one = 1;
        add.region = del.region;
        if (peer_say(&p, WIRE_REGION_ADD, &add, sizeof add, p.map_fd) ||
            peer_say(&p, WIRE_REGION_DEL, &del, sizeof del, -1) || write(p.kick_up, &one, sizeof one) < 0)
            break; /* thrown out: as good */
    }
    _exit(0); /* the thread does not end */
}

/* As many connections as there can be, with nothing said. */
static void crowd(void)
{
    static struct peer p[256];
    struct timespec second = {.tv_sec = 1};

    for (int i = 0; i < 256; i++)
        peer_connect(&p[i], run_dir);
    nanosleep(&second, NULL);
}

/* Names without end. */
static void many_names(void)
{
    static struct peer p[64];
    unsigned refused = 0;

    for (int i = 0; i < 64; i++) {
        struct wire_msg_hello hello;
        union {
            struct wire_msg msg;
            char room[512];
        } answer;
        char name[WIRE_NAME_BYTES];
        int fds[16];
        size_t nfds;

        snprintf(name, sizeof name, "liar-%d", i);
        hello = peer_hello(name, "");
        peer_connect(&p[i], run_dir);
        CHECK(!peer_say(&p[i], WIRE_HELLO, &hello, sizeof hello, -1), "send");
        if (peer_hear(&p[i], &answer, sizeof answer, fds, &nfds) == sizeof(struct wire_msg_refused))
            refused++;
    }
    CHECK(refused >= 32, "one process has %u VMs", 64 - refused);
}

static pid_t memd_pid;

static unsigned memd_fds(void)
{
    char path[64];
    unsigned n = 0;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)memd_pid);
    DIR *dir = opendir(path);
    CHECK(dir, "%s", path);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* Packets of no bytes, with descriptors. */
static void empty_packets(void)
{
    const struct timespec ms100 = {.tv_nsec = 100000000};
    unsigned before = memd_fds(), after = 0;

    for (int i = 0; i < 50; i++) {
        static struct peer p;
        char reason[WIRE_REASON_BYTES];
        peer_connect(&p, run_dir);
        const int fds[4] = {p.sock, p.sock, p.sock, p.sock}, n = i % 2 ? 4 : 1;
        CHECK(!peer_send(&p, "", 0, fds, (size_t)n), "send");
        peer_end(&p, reason);
        close(p.sock);
    }
    for (int i = 0; i < 200 && (!i || after > before + 10); i++) {
        nanosleep(&ms100, NULL);
        after = memd_fds();
    }
    CHECK(after <= before + 10, "%u descriptors, %u before", after, before);
}

/* What wakes the engine is as full as it gets, and who writes to it would wait: memd must not. */
static void blocked_kick(void)
{
    static struct peer p;
    const struct timespec ms = {.tv_nsec = 1000000};
    uint64_t most = UINT64_MAX - 1;

    peer_join(&p, run_dir, "liar", "common");
    ssize_t ignored = write(p.kick_down, &most, sizeof most);
    (void)ignored;
    CHECK(!fcntl(p.kick_down, F_SETFL, 0) && !fcntl(p.kick_up, F_SETFL, 0), "F_SETFL");
    for (unsigned i = 0; i < 200; i++) {
        atomic_store(&p.shm->down.waiting, 1);
        peer_hash(&p, i * 2, 1000 + i);
        peer_hash(&p, i * 2 + 1, 1000 + i);
        peer_kick(&p);
        nanosleep(&ms, NULL);
    }
}

/* ---------------------------------------------------------------- memd, and the guest that minds its bytes
 */

static pid_t spawn(const char *program, char *const *argv, const char *out)
{
    char path[512];
    pid_t parent = getpid(), pid;

    snprintf(path, sizeof path, "%s/%s", getenv("MEMD_BUILD_DIR"), program);
    pid = fork();
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (getppid() != parent || fd < 0 || dup2(fd, STDOUT_FILENO) < 0)
            _exit(126);
        execv(path, argv);
        _exit(127);
    }
    CHECK(pid > 0, "fork");
    return pid;
}

/* Wait for a file to hold `text`. */
static void await_text(const char *path, const char *text)
{
    const struct timespec ms10 = {.tv_nsec = 10000000};
    char buf[4096];

    for (uint64_t end_ns = clock_now_ns() + READY_MS * CLOCK_MS; clock_now_ns() < end_ns;
         nanosleep(&ms10, NULL)) {
        int fd = open(path, O_RDONLY);
        ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof buf - 1);
        if (fd >= 0)
            close(fd);
        buf[n > 0 ? n : 0] = 0;
        if (strstr(buf, text))
            return;
    }
    CHECK(0, "no \"%s\" in %s", text, path);
}

static int end_program(pid_t pid, int signal_number)
{
    int status = -1;

    kill(pid, signal_number);
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
    return status;
}

/* Run it in a process of its own; then memd must still answer. */
static void in_process(void (*run)(const void *arg), const void *arg, const char *name)
{
    char *const status[] = {"memctl", "--run-dir", run_dir, "status", NULL};
    pid_t pid = fork();
    int how;

    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(arg);
        exit(0);
    }
    CHECK(waitpid(pid, &how, 0) == pid && WIFEXITED(how) && !WEXITSTATUS(how), "%s failed", name);
    pid = spawn("memctl", status, "/dev/null");
    CHECK(waitpid(pid, &how, 0) == pid && !how, "%s: memd does not answer any more", name);
}

static void run_liar(const void *arg)
{
    tell_lie(arg);
}

static void run_plain(const void *arg)
{
    (*(void (*const *)(void))arg)();
}

static void run_all(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } others[] = {{"false_hashes", false_hashes},
                  {"flood", flood},
                  {"crowd", crowd},
                  {"many_names", many_names},
                  {"empty_packets", empty_packets},
                  {"blocked_kick", blocked_kick}};

    for (size_t i = 0; i < nlies; i++)
        in_process(run_liar, &lies[i], lies[i].name);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        in_process(run_plain, &others[i].run, others[i].name);
}

/* The number after the last "key": in a file. */
static long last_number(const char *path, const char *key)
{
    char line[8192];
    long number = -1;
    FILE *f = fopen(path, "r");

    CHECK(f, "%s", path);
    while (fgets(line, sizeof line, f)) {
        const char *at = strstr(line, key);
        number = at ? strtol(at + strlen(key), NULL, 10) : number;
    }
    fclose(f);
    return number;
}

static pid_t main_pid;

/* Also when a check has failed: what was started dies with us. */
static void remove_run_dir(void)
{
    char *const argv[] = {"rm", "-rf", run_dir, NULL};
    pid_t pid = getpid() == main_pid ? fork() : -1;

    if (!pid) {
        execvp(argv[0], argv);
        _exit(127);
    }
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

int main(void)
{
    const char *tmp = getenv("MEMD_TEST_TMP");
    char config[300], state[300], out[300], guest_out[300];

    if (access("/dev/userfaultfd", R_OK | W_OK)) {
        puts("skip: needs /dev/userfaultfd");
        return 77;
    }
    strcpy(run_dir, "/dev/shm/memd-test.XXXXXX");
    CHECK(tmp && mkdtemp(run_dir), "no directory");
    main_pid = getpid();
    atexit(remove_run_dir);
    snprintf(config, sizeof config, "%s/memd.conf", tmp);
    snprintf(state, sizeof state, "%s/state", tmp);
    snprintf(out, sizeof out, "%s/memd.out", tmp);
    snprintf(guest_out, sizeof guest_out, "%s/guest.out", tmp);
    FILE *f = fopen(config, "w");
    CHECK(f, "%s", config);
    fprintf(f, "[domain common]\nuids = %u\n", (unsigned)geteuid());
    fclose(f);

    char *const memd[] = {"memd", "--run-dir", run_dir, "--state-dir", state, "--config", config, NULL};
    memd_pid = spawn("memd", memd, out);
    await_text(out, "memd: ready");
    char *const guest[] = {"memvm",  "--accel",   "thread", "--mem",    "32",     "--shared",
                           "50",     "--zero",    "30",     "--name",   "honest", "--domain",
                           "common", "--run-dir", run_dir,  "--verify", NULL};
    pid_t guest_pid = spawn("memvm", guest, guest_out);
    await_text(guest_out, "\"ready\"");

    run_all();

    CHECK(end_program(guest_pid, SIGTERM) == 0, "the guest was harmed: see %s", guest_out);
    CHECK(last_number(guest_out, "\"verify_checks\": ") > 0, "the guest checked nothing");
    CHECK(last_number(guest_out, "\"merges\": ") > 0, "nothing of the guest was merged");
    CHECK(end_program(memd_pid, SIGTERM) == 0, "memd did not end well");
    CHECK(!rmdir(run_dir), "%s: left behind in %s", strerror(errno), run_dir);
    printf("%zu liars\n", nlies + 6);
    return 0;
}
