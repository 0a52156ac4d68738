/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see kit.h. This file: reporting, numbers, the daemon, memctl. */
#include "tests/kvm/kit.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/kvm/spawn.h"

#define READY_MS 20000u
#define POLL_MS  20u
#define WAIT_MS  60000u

void kit_fail(const char *file, int line, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "%s:%d: ", file, line);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

void kit_skip(const char *reason)
{
    printf("skip: %s\n", reason);
    exit(77);
}

void kit_need_kvm(void)
{
    if (access("/dev/kvm", R_OK | W_OK))
        kit_skip("needs /dev/kvm");
    if (access("/dev/userfaultfd", R_OK | W_OK))
        kit_skip("needs /dev/userfaultfd");
}

static double scale(void)
{
    const char *word = getenv("MEMD_TEST_SCALE");
    double value = word ? atof(word) : 0.1;

    return value > 0 ? value : 0.1;
}

uint64_t kit_scaled(uint64_t full, uint64_t least)
{
    uint64_t scaled = (uint64_t)((double)full * scale());

    return scaled > least ? scaled : least;
}

/* Set by SIGTERM and SIGINT; every wait of the kit looks at the clock, and there the test ends. */
static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number)
{
    interrupted = signal_number;
}

uint64_t kit_ms(void)
{
    struct timespec t;

    if (interrupted) {
        int signal_number = interrupted;
        interrupted = 0;
        FAIL("ended by signal %d", signal_number);
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t kit_patience_ms(uint64_t ms)
{
    const char *san = getenv("MEMD_SAN");

    return san && *san ? 3 * ms : ms;
}

/* Where the value of `key` starts, or NULL. */
static const char *find_key(const char *json, const char *key)
{
    char quoted[64];
    const char *at;

    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    at = strstr(json, quoted);
    return at ? at + strlen(quoted) : NULL;
}

bool kit_has(const char *json, const char *key)
{
    return find_key(json, key) != NULL;
}

int64_t kit_number(const char *json, const char *key)
{
    const char *at = find_key(json, key);

    CHECK(at, "no \"%s\" in: %.500s", key, json);
    return strtoll(at, NULL, 10);
}

/* ---------------------------------------------------------------- memd */

void kit_daemon_start(struct kit_daemon *daemon, const char *const *options)
{
    const char *args[32] = {"memd",     "--run-dir",   daemon->run_dir, "--state-dir", daemon->state_dir,
                            "--config", daemon->config};
    struct spawned child;
    char line[512];
    size_t n = 7;

    for (; options && *options; options++)
        args[n++] = *options;
    spawn("memd", args, &child);
    daemon->pid = child.pid;
    close(child.to);
    for (;;) {
        CHECK(spawn_line(&child, line, sizeof line, kit_patience_ms(READY_MS)), "memd did not get ready");
        if (strstr(line, "memd: ready"))
            break;
    }
    fclose(child.from);
}

/* The daemon of this test, for the end: a frame store must not outlive a test that fails. */
static struct kit_daemon *at_end;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void clean_up(void)
{
    if (!at_end)
        return;
    if (at_end->pid) {
        kill(at_end->pid, SIGKILL);
        waitpid(at_end->pid, NULL, 0);
    }
    nftw(at_end->run_dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    at_end = NULL;
}

static void catch_the_end(struct kit_daemon *daemon)
{
    static bool caught;
    struct sigaction action = {.sa_handler = on_signal};

    at_end = daemon;
    if (caught)
        return;
    caught = true;
    atexit(clean_up);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a guest that died is a failed check */
}

void kit_daemon_create(struct kit_daemon *daemon, const char *const *options)
{
    const char *tmp = getenv("MEMD_TEST_TMP");
    FILE *config;

    *daemon = (struct kit_daemon){.run_dir = "/dev/shm/memd-test.XXXXXX"};
    CHECK(tmp, "MEMD_TEST_TMP is not set; run the test with %s", "tests/run.sh");
    CHECK(mkdtemp(daemon->run_dir), "%s: %s", daemon->run_dir, strerror(errno));
    catch_the_end(daemon);
    snprintf(daemon->state_dir, sizeof daemon->state_dir, "%s/state", tmp);
    snprintf(daemon->config, sizeof daemon->config, "%s/memd.conf", tmp);
    config = fopen(daemon->config, "w");
    CHECK(config, "%s: %s", daemon->config, strerror(errno));
    fprintf(config, "[domain web]\n[domain db]\n");
    fclose(config);
    kit_daemon_start(daemon, options);
}

void kit_daemon_kill(struct kit_daemon *daemon)
{
    spawn_kill(daemon->pid);
    daemon->pid = 0;
}

void kit_daemon_end(struct kit_daemon *daemon)
{
    int status = spawn_end(daemon->pid, SIGTERM, kit_patience_ms(READY_MS));

    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "memd ended with status 0x%x", (unsigned)status);
    daemon->pid = 0;
    clean_up();
}

/* ---------------------------------------------------------------- memctl */

int kit_memctl(const struct kit_daemon *daemon, char *ret_text, size_t text_bytes, const char *const *args)
{
    const char *all[16] = {"memctl", "--run-dir", daemon->run_dir};
    struct spawned child;
    size_t n = 3, used = 0, got;
    int status;

    for (; *args; args++)
        all[n++] = *args;
    spawn("memctl", all, &child);
    close(child.to);
    while (used + 1 < text_bytes && (got = fread(ret_text + used, 1, text_bytes - used - 1, child.from)) > 0)
        used += got;
    ret_text[used] = '\0';
    fclose(child.from);
    while (waitpid(child.pid, &status, 0) < 0)
        CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void kit_settle(const struct kit_daemon *daemon, unsigned timeout_s)
{
    char seconds[16], text[KIT_LINE_MAX];
    int code;

    snprintf(seconds, sizeof seconds, "%u", timeout_s);
    code = kit_memctl(daemon, text, sizeof text, KIT_ARGS("settle", "--timeout", seconds));
    CHECK(code == 0, "memctl settle: exit code %d", code);
}

int64_t kit_total(const struct kit_daemon *daemon, const char *key)
{
    static char text[1 << 18];
    const char *totals;
    int code = kit_memctl(daemon, text, sizeof text, KIT_ARGS("status", "--json"));

    CHECK(code == 0, "memctl status: exit code %d", code);
    totals = strstr(text, "\"totals\"");
    CHECK(totals, "no totals in: %.500s", text);
    return kit_number(totals, key);
}

static void total_waits(const struct kit_daemon *daemon, const char *key, int64_t value, bool rises)
{
    uint64_t end_ms = kit_ms() + kit_patience_ms(WAIT_MS);
    int64_t now;

    while (now = kit_total(daemon, key), rises ? now < value : now > value) {
        CHECK(kit_ms() < end_ms, "%s stays at %lld, expected %s %lld", key, (long long)now,
              rises ? "at least" : "at most", (long long)value);
        usleep(POLL_MS * 1000);
    }
}

void kit_total_reaches(const struct kit_daemon *daemon, const char *key, int64_t value)
{
    total_waits(daemon, key, value, true);
}

void kit_total_falls(const struct kit_daemon *daemon, const char *key, int64_t value)
{
    total_waits(daemon, key, value, false);
}
