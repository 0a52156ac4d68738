/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see spawn.h. stdout is read without stdio's buffer, a byte at a time, so that poll()
 * tells the truth about what is left; the lines are few.
 */
#include "tests/kvm/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/kvm/kit.h"

#define POLL_MS 5u

void spawn(const char *program, const char *const *args, struct spawned *ret_child)
{
    const char *dir = getenv("MEMD_BUILD_DIR");
    char path[512];
    int in[2], out[2];
    pid_t parent = getpid();

    CHECK(dir, "MEMD_BUILD_DIR is not set; run the test with tests/run.sh");
    snprintf(path, sizeof path, "%s/%s", dir, program);
    CHECK(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0, "pipe: %s", strerror(errno));
    ret_child->pid = fork();
    CHECK(ret_child->pid >= 0, "fork: %s", strerror(errno));
    if (ret_child->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(127);
        signal(SIGPIPE, SIG_DFL);
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        execv(path, (char *const *)args);
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    ret_child->to = in[1];
    ret_child->from = fdopen(out[0], "r");
    CHECK(ret_child->from, "fdopen: %s", strerror(errno));
}

bool spawn_line(struct spawned *child, char *ret_line, size_t line_bytes, uint64_t timeout_ms)
{
    struct pollfd poll_fd = {.fd = fileno(child->from), .events = POLLIN};
    uint64_t end_ms = kit_ms() + timeout_ms;
    size_t used = 0;

    while (used + 1 < line_bytes) {
        uint64_t now_ms = kit_ms();
        if (now_ms >= end_ms || poll(&poll_fd, 1, (int)(end_ms - now_ms)) <= 0)
            return false;
        if (read(poll_fd.fd, &ret_line[used], 1) != 1)
            return false;
        if (ret_line[used] == '\n')
            break;
        used++;
    }
    ret_line[used] = '\0';
    return true;
}

int spawn_end(pid_t pid, int signal_number, uint64_t timeout_ms)
{
    uint64_t end_ms = kit_ms() + timeout_ms;
    int status;
    pid_t got;

    if (signal_number)
        kill(pid, signal_number);
    while ((got = waitpid(pid, &status, WNOHANG)) == 0) {
        CHECK(kit_ms() < end_ms, "process %d does not end", (int)pid);
        usleep(POLL_MS * 1000);
    }
    CHECK(got == pid, "waitpid: %s", strerror(errno));
    return status;
}

void spawn_kill(pid_t pid)
{
    spawn_end(pid, SIGKILL, 60000);
}
