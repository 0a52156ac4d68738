/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see fleet.h. The script is a child; the QEMUs are its children and end with it
 * (PR_SET_PDEATHSIG), so that killing it is enough to get rid of them.
 */
#include "bench/balloon/fleet.h"

#include "bench/balloon/bound.h"
#include "bench/balloon/disks.h"
#include "bench/common/cleanup.h"
#include "bench/common/daemon.h"
#include "bench/common/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPT     "bench/balloon/guests.sh"
#define VEHICLE    "tests/qemu/guest/build.sh"
#define PATH_BYTES 512
#define TICK_MS    20u

static unsigned started;
static const char *disks;

void fleet_prepare(const struct bench *bench, size_t disk_bytes)
{
    char command[PATH_BYTES];

    if (disks)
        return;
    char *build_dir = realpath(bench->build_dir, NULL); /* QEMU is started in another directory */
    if (!build_dir)
        bench_die("%s: %s", bench->build_dir, strerror(errno));
    setenv("MEMD_BUILD_DIR", build_dir, 1);
    snprintf(command, sizeof command, VEHICLE " '%s/qemu-guest'", build_dir);
    free(build_dir);
    if (system(command))
        bench_die("the guests cannot be made");
    disks = disks_make(bench, disk_bytes);
}

static void dir_of(unsigned number, char *dir, size_t size)
{
    snprintf(dir, size, "%s/fleet%u", daemon_work_dir(), number);
}

void fleet_balloons(char *text, size_t size)
{
    char dir[256];
    size_t n = 0;

    dir_of(started, dir, sizeof dir);
    for (unsigned i = 1; i <= FLEET_GUESTS && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "[vm g%u]\nballoon = qmp:%s/g%u.balloon\n", i, dir, i);
}

/* ---- the script */

static void execute(const struct fleet *fleet, int in, int out)
{
    char number[16], mib[16];

    cleanup_child();
    bound_enter();
    snprintf(number, sizeof number, "%u", FLEET_GUESTS);
    snprintf(mib, sizeof mib, "%zu", fleet->bytes / BENCH_MIB);
    if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0)
        _exit(127);
    execl(SCRIPT, SCRIPT, fleet->dir, number, mib, disks, fleet->under_memd ? daemon_run_dir() : NULL,
          (char *)NULL);
    fprintf(stderr, "%s: %s\n", SCRIPT, strerror(errno));
    _exit(127);
}

static void read_pids(struct fleet *fleet, int fd)
{
    char text[128] = "", *rest = text;
    FILE *f = fdopen(fd, "re");

    if (!f || !fgets(text, sizeof text, f))
        bench_die("the guests have failed");
    fclose(f);
    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        fleet->pid[i] = (pid_t)strtol(rest, &rest, 10);
}

void fleet_start(const struct bench *bench, bool under_memd, struct fleet *fleet)
{
    char path[PATH_BYTES];
    int orders[2], answers[2];

    *fleet = (struct fleet){.bytes = bench->guest_bytes, .under_memd = under_memd};
    dir_of(started++, fleet->dir, sizeof fleet->dir);
    if (mkdir(fleet->dir, 0700) || pipe2(orders, O_CLOEXEC) || pipe2(answers, O_CLOEXEC))
        bench_die("%s: %s", fleet->dir, strerror(errno));
    fflush(stdout);
    fleet->script = fork();
    if (fleet->script < 0)
        bench_die("fork: %s", strerror(errno));
    if (fleet->script == 0)
        execute(fleet, orders[0], answers[1]);
    cleanup_add(fleet->script);
    close(orders[0]);
    close(answers[1]);
    fleet->hold = orders[1];
    read_pids(fleet, answers[0]);
    for (unsigned i = 0; i < FLEET_GUESTS; i++) {
        snprintf(path, sizeof path, "%s/g%u.agent", fleet->dir, i + 1);
        line_open(&fleet->guest[i], path);
        snprintf(path, sizeof path, "%s/g%u.qmp", fleet->dir, i + 1);
        line_open(&fleet->monitor[i], path);
        line_negotiate(&fleet->monitor[i]);
    }
}

void fleet_end(struct fleet *fleet)
{
    for (unsigned i = 0; i < FLEET_GUESTS; i++) {
        line_close(&fleet->guest[i]);
        line_close(&fleet->monitor[i]);
    }
    close(fleet->hold);
    waitpid(fleet->script, NULL, 0);
    cleanup_remove(fleet->script);
    bench_sleep(0.2); /* the QEMUs have been killed with it */
}

/* ---- the guests */

const char *fleet_load(struct fleet *fleet, unsigned guest, void (*tick)(void *ctx), void *ctx,
                       const char *format, ...)
{
    static char answer[LINE_BYTES];
    char words[256] = "load ";
    va_list args;

    va_start(args, format);
    vsnprintf(words + 5, sizeof words - 5, format, args);
    va_end(args);
    answer[0] = '\0';
    line_order(&fleet->guest[guest], words);
    while (!line_done(&fleet->guest[guest], TICK_MS, answer))
        if (tick)
            tick(ctx);
    return answer;
}

void fleet_wait(double s, void (*tick)(void *ctx), void *ctx)
{
    double end_s = bench_now_s() + s;

    while (bench_now_s() < end_s) {
        bench_sleep(TICK_MS * 1e-3);
        if (tick)
            tick(ctx);
    }
}

unsigned fleet_oom_kills(struct fleet *fleet)
{
    unsigned kills = 0;

    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        kills += (unsigned)strtoul(fleet_load(fleet, i, NULL, NULL, "oom"), NULL, 10);
    return kills;
}

/* ---- their balloons */

uint64_t fleet_balloon(struct fleet *fleet, unsigned guest)
{
    uint64_t bytes;

    if (!line_number(line_qmp(&fleet->monitor[guest], "{\"execute\": \"query-balloon\"}"), "actual", &bytes))
        bench_die("QEMU does not tell how large the balloon is");
    return bytes;
}

void fleet_balloon_set(struct fleet *fleet, unsigned guest, uint64_t bytes)
{
    line_qmp(&fleet->monitor[guest], "{\"execute\": \"balloon\", \"arguments\": {\"value\": %" PRIu64 "}}",
             bytes);
}

/* ---- the host's view */

/* Guest RAM is the only mapping of its size; a neighbour may have joined it. */
static uint64_t find_ram(pid_t pid, size_t bytes)
{
    char path[64], line[512];
    uint64_t from, to, found = 0;

    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f))
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " rw-p", &from, &to) == 2 && to - from >= bytes &&
            to - from < 2 * bytes)
            found = from;
    if (f)
        fclose(f);
    if (!found)
        bench_die("no mapping of %zu MiB in QEMU %d", bytes / BENCH_MIB, (int)pid);
    return found;
}

/* Anonymous memory, without that of guest RAM: files are nobody's. */
static uint64_t own_bytes(pid_t pid, size_t ram_bytes)
{
    struct kernel_rollup all = {0};

    kernel_add_rollup(pid, &all);
    uint64_t ram = all.pss - kernel_pss_outside(pid, find_ram(pid, ram_bytes), ram_bytes, NULL);
    return all.pss_anon > ram ? all.pss_anon - ram : 0;
}

uint64_t fleet_own_bytes(const struct fleet *fleet)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        bytes += own_bytes(fleet->pid[i], fleet->bytes);
    return bytes;
}
