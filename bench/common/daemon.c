/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see daemon.h. Its messages go to a file; the file's end is shown when it fails. */
#include "bench/common/daemon.h"

#include "bench/common/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define READY        "memd: ready"
#define READY_MS     10000
#define STATUS_BYTES (1u << 20)
#define PATH_BYTES   512

static char run_dir[] = "/dev/shm/memd-bench.XXXXXX";
static char work_dir[] = "/tmp/memd-bench.XXXXXX";

const char *daemon_run_dir(void)
{
    return run_dir;
}

const char *daemon_work_dir(void)
{
    return work_dir;
}

void daemon_configure(const char *lines)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "%s/memd.conf", work_dir);
    FILE *f = fopen(path, "we");
    if (!f || fprintf(f, "[memd]\n%s\n[domain bench]\nuids = %u\n", lines, (unsigned)getuid()) < 0 ||
        fclose(f))
        bench_die("cannot write %s: %s", path, strerror(errno));
}

void daemon_prepare(void)
{
    if (!mkdtemp(run_dir))
        bench_die("cannot make a directory in /dev/shm: %s", strerror(errno));
    if (!mkdtemp(work_dir)) {
        rmdir(run_dir);
        bench_die("cannot make a directory in /tmp: %s", strerror(errno));
    }
    daemon_configure("");
}

static void show_log(void)
{
    char path[PATH_BYTES], line[512];

    snprintf(path, sizeof path, "%s/memd.err", work_dir);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        fprintf(stderr, "  %s", line);
    if (f)
        fclose(f);
}

static void execute(const struct bench *bench, int out)
{
    char program[PATH_BYTES], config[PATH_BYTES], log[PATH_BYTES];

    cleanup_child();
    snprintf(program, sizeof program, "%s/memd", bench->build_dir);
    snprintf(config, sizeof config, "%s/memd.conf", work_dir);
    snprintf(log, sizeof log, "%s/memd.err", work_dir);
    int err = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (dup2(out, STDOUT_FILENO) < 0 || err < 0 || dup2(err, STDERR_FILENO) < 0)
        _exit(127);
    execl(program, program, "--run-dir", run_dir, "--state-dir", work_dir, "--config", config, (char *)NULL);
    fprintf(stderr, "%s: %s\n", program, strerror(errno));
    _exit(127);
}

/* Reads its output until it says it is ready. The pipe stays open: it may go on talking. */
static bool wait_ready(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    char text[1024];
    size_t n = 0;

    while (n < sizeof text - 1 && poll(&poll_fd, 1, READY_MS) == 1) {
        ssize_t got = read(fd, text + n, sizeof text - 1 - n);
        if (got <= 0)
            return false;
        n += (size_t)got;
        text[n] = '\0';
        if (strstr(text, READY))
            return true;
    }
    return false;
}

pid_t daemon_start(const struct bench *bench)
{
    static int output = -1;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC))
        bench_die("pipe: %s", strerror(errno));
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0)
        execute(bench, ends[1]);
    cleanup_add(pid);
    close(ends[1]);
    if (!wait_ready(ends[0])) {
        show_log();
        bench_die("memd did not become ready");
    }
    if (output >= 0)
        close(output);
    output = ends[0];
    return pid;
}

void daemon_stop(pid_t pid)
{
    int status;

    kill(pid, SIGTERM);
    waitpid(pid, &status, 0);
    cleanup_remove(pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    show_log();
    bench_die("memd did not end well");
}

static FILE *control; /* memctl at work */
static char control_words[PATH_BYTES];

void daemon_control_begin(const struct bench *bench, const char *words)
{
    char command[2 * PATH_BYTES];

    snprintf(control_words, sizeof control_words, "%s", words);
    snprintf(command, sizeof command, "'%s/memctl' --run-dir %s %s >/dev/null", bench->build_dir, run_dir,
             words);
    control = popen(command, "re");
    if (!control)
        bench_die("memctl %s cannot be started: %s", words, strerror(errno));
}

void daemon_control_end(void)
{
    if (pclose(control))
        bench_die("memctl %s failed", control_words);
}

void daemon_control(const struct bench *bench, const char *words)
{
    daemon_control_begin(bench, words);
    daemon_control_end();
}

const char *daemon_status(const struct bench *bench)
{
    static char text[STATUS_BYTES];
    char command[PATH_BYTES];

    snprintf(command, sizeof command, "'%s/memctl' --run-dir %s status --json", bench->build_dir, run_dir);
    FILE *f = popen(command, "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (!f || pclose(f) || n == 0)
        bench_die("memctl status failed");
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = '\0';
    return text;
}

uint64_t daemon_total(const struct bench *bench, const char *key)
{
    const char *totals = strstr(daemon_status(bench), "\"totals\": {");
    char quoted[64];

    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = totals ? strstr(totals, quoted) : NULL;
    if (!at || at > strchr(totals, '}'))
        bench_die("memctl status has no total '%s'", key);
    return strtoull(at + strlen(quoted), NULL, 10);
}
