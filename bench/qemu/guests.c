/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see guests.h. The script is a child with a pipe each way; the QEMUs are its children
 * and end with it (PR_SET_PDEATHSIG), so that killing it is enough to get rid of them.
 */
#include "bench/qemu/guests.h"

#include "bench/common/cleanup.h"
#include "bench/common/daemon.h"
#include "bench/common/kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPT     "bench/qemu/guests.sh"
#define PATH_BYTES 512
#define LINE_BYTES 512

/* ---------------------------------------------------------------- the script */

static void execute(const struct guests *guests, const char *tmp, const char *memd_dir, int in, int out)
{
    char number[16], mib[16];

    cleanup_child();
    setenv("MEMD_TEST_TMP", tmp, 1);
    snprintf(number, sizeof number, "%u", guests->n);
    snprintf(mib, sizeof mib, "%zu", guests->bytes / BENCH_MIB);
    if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0)
        _exit(127);
    execl(SCRIPT, SCRIPT, number, mib, memd_dir, (char *)NULL);
    fprintf(stderr, "%s: %s\n", SCRIPT, strerror(errno));
    _exit(127);
}

/* A directory of its own, in the benchmark's. */
static void make_tmp(char *path, size_t size)
{
    static unsigned number;

    snprintf(path, size, "%s/guests%u", daemon_work_dir(), number++);
    if (mkdir(path, 0700))
        bench_die("cannot make %s: %s", path, strerror(errno));
}

static void start_script(struct guests *guests, const char *memd_dir)
{
    char tmp[PATH_BYTES];
    int orders[2], answers[2];

    make_tmp(tmp, sizeof tmp);
    if (pipe2(orders, O_CLOEXEC) || pipe2(answers, O_CLOEXEC))
        bench_die("pipe: %s", strerror(errno));
    fflush(stdout);
    guests->script = fork();
    if (guests->script < 0)
        bench_die("fork: %s", strerror(errno));
    if (guests->script == 0)
        execute(guests, tmp, memd_dir, orders[0], answers[1]);
    cleanup_add(guests->script);
    close(orders[0]);
    close(answers[1]);
    guests->orders = fdopen(orders[1], "we");
    guests->answers = fdopen(answers[0], "re");
    if (!guests->orders || !guests->answers)
        bench_die("fdopen: %s", strerror(errno));
}

/* Its words on stderr say why. */
static void read_answer(const struct guests *guests, char *line, size_t size)
{
    if (!fgets(line, (int)size, guests->answers))
        bench_die("the guests have failed");
}

double guests_order(const struct guests *guests, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;

    va_start(args, format);
    vfprintf(guests->orders, format, args);
    va_end(args);
    fputc('\n', guests->orders);
    fflush(guests->orders);
    read_answer(guests, line, sizeof line);
    return strtod(line + strcspn(line, " \n"), NULL);
}

/* ---------------------------------------------------------------- QEMUs */

/* Guest RAM is the only mapping of its size; a neighbour may have joined it. */
static uint64_t find_ram(pid_t pid, size_t bytes)
{
    char path[64], line[LINE_BYTES];
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

void guests_start(const struct bench *bench, bool under_memd, struct guests *guests)
{
    char line[LINE_BYTES], *rest = line;

    *guests = (struct guests){.n = bench->guests, .bytes = bench->guest_bytes};
    char *build_dir = realpath(bench->build_dir, NULL); /* QEMU is started in another directory */
    if (!build_dir)
        bench_die("%s: %s", bench->build_dir, strerror(errno));
    setenv("MEMD_BUILD_DIR", build_dir, 1);
    free(build_dir);
    start_script(guests, under_memd ? daemon_run_dir() : NULL);
    read_answer(guests, line, sizeof line);
    for (unsigned i = 0; i < guests->n; i++) {
        guests->pid[i] = (pid_t)strtol(rest, &rest, 10);
        guests->ram[i] = find_ram(guests->pid[i], guests->bytes);
    }
}

void guests_end(struct guests *guests)
{
    int status;

    guests_order(guests, "end");
    fclose(guests->orders);
    fclose(guests->answers);
    waitpid(guests->script, &status, 0);
    cleanup_remove(guests->script);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        bench_die("the guests did not end well");
}

/* ---------------------------------------------------------------- the kernel's numbers */

/* Nanoseconds the thread has run. */
static double thread_cpu_s(pid_t pid, const char *tid)
{
    char path[96];
    uint64_t ns = 0;

    snprintf(path, sizeof path, "/proc/%d/task/%.16s/schedstat", (int)pid, tid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%" SCNu64, &ns) != 1)
        ns = 0;
    if (f)
        fclose(f);
    return (double)ns * 1e-9;
}

static bool is_of_memd(pid_t pid, const char *tid)
{
    char path[96], name[32] = "";

    snprintf(path, sizeof path, "/proc/%d/task/%.16s/comm", (int)pid, tid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%31s", name) != 1)
        name[0] = '\0';
    if (f)
        fclose(f);
    return !strncmp(name, "memd-", 5);
}

static double engine_cpu_s(pid_t pid)
{
    char path[64];
    double sum_s = 0;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.' && is_of_memd(pid, e->d_name))
            sum_s += thread_cpu_s(pid, e->d_name);
    if (dir)
        closedir(dir);
    return sum_s;
}

struct guests_cpu guests_cpu(const struct guests *guests)
{
    struct guests_cpu cpu = {0};

    for (unsigned i = 0; i < guests->n; i++) {
        double engine_s = engine_cpu_s(guests->pid[i]);
        cpu.engines_s += engine_s;
        cpu.rest_s += (double)kernel_cpu_ns(guests->pid[i]) * 1e-9 - engine_s;
    }
    return cpu;
}

unsigned guests_count_maps(const struct guests *guests)
{
    unsigned n = 0;

    for (unsigned i = 0; i < guests->n; i++)
        n += kernel_count_maps(guests->pid[i]);
    return n;
}

uint64_t guests_outside_bytes(const struct guests *guests)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < guests->n; i++)
        bytes += kernel_pss_outside(guests->pid[i], guests->ram[i], guests->bytes, daemon_run_dir());
    return bytes;
}
