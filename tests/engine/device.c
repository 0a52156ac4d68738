/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see device.h. */
#include "device.h"

#include "kit.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    pid_t pid;
    int to;
    FILE *from;
    char dir[128];
} device;

static void device_says(const char *what)
{
    char line[128];

    CHECK(fgets(line, sizeof line, device.from) && !strncmp(line, what, strlen(what)), "badfs: %s", line);
}

void device_open(void)
{
    const char *build = getenv("MEMD_BUILD_DIR");
    int in[2], out[2];
    char path[512];

    if (geteuid())
        kit_skip("mounting the device needs root");
    if (access("/dev/fuse", R_OK | W_OK))
        kit_skip("needs /dev/fuse");
    CHECK(build, "MEMD_BUILD_DIR is not set; run the test with %s", "tests/run.sh");
    CHECK(!unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "unshare: %s",
          strerror(errno));
    snprintf(path, sizeof path, "%s/tests/faults/badfs", build);
    snprintf(device.dir, sizeof device.dir, "%s/device", kit_tmp());
    mkdir(device.dir, 0700);
    CHECK(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC), "pipe: %s", strerror(errno));
    device.pid = fork();
    CHECK(device.pid >= 0, "fork: %s", strerror(errno));
    if (!device.pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        execl(path, "badfs", device.dir, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    device.to = in[1];
    device.from = fdopen(out[0], "re");
    device_says("ready");
}

void device_set(const char *knob, unsigned long value)
{
    dprintf(device.to, "%s %lu\n", knob, value);
    device_says("ok");
}

void device_good(void)
{
    static const char *const knobs[] = {"read-ms",     "write-ms",    "read-error", "room",
                                        "drop-writes", "write-error", "hold-reads", "hold-writes"};

    for (unsigned i = 0; i < sizeof knobs / sizeof *knobs; i++)
        device_set(knobs[i], 0);
}

void device_holds(unsigned long n)
{
    unsigned long held = 0;
    char line[128];

    for (uint64_t limit = kit_ms() + 60000; held < n; usleep(1000)) {
        CHECK(kit_ms() < limit, "only %lu requests wait for the device", held);
        dprintf(device.to, "held\n");
        CHECK(fgets(line, sizeof line, device.from) && sscanf(line, "held %lu", &held) == 1, "badfs: %s",
              line);
    }
}

const char *device_dir(void)
{
    return device.dir;
}

void device_close(void)
{
    close(device.to);
    CHECK(waitpid(device.pid, NULL, 0) == device.pid, "waitpid: %s", strerror(errno));
}
