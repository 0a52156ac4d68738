/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory runs short. First the frame store: memd stops merging, says so, and no guest is harmed. Then a
 * guest: its memory cgroup has no room for what it wants to write; the kernel ends it, as it would without
 * memd, and those it shared frames with go on.
 *
 * memd-test: timeout=240 san=address
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/kvm/kit.h"
#include "tests/kvm/spawn.h"

#define GUESTS     3
#define DEATH_MS   60000u
#define ROOM_BYTES (16ull << 20)

/* Where memory cgroups are made, and what their files are called in this version. */
static const struct hierarchy {
    const char *root, *limit, *usage;
} hierarchies[] = {
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"},
    {"/sys/fs/cgroup", "memory.max", "memory.current"},
};

static char group[128];
static pid_t member; /* the guest in the group; 0: none, or gone */

static void remove_group(void)
{
    if (member) {
        kill(member, SIGKILL);
        waitpid(member, NULL, 0);
    }
    for (int tries = 0; group[0] && rmdir(group) && errno == EBUSY && tries < 100; tries++)
        usleep(20000);
}

static int write_file(const char *name, unsigned long long value)
{
    char path[256], text[32];
    int length = snprintf(text, sizeof text, "%llu", value);
    int fd, error = 0;

    snprintf(path, sizeof path, "%s/%s", group, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, (size_t)length) != length)
        error = -errno;
    close(fd);
    return error;
}

static unsigned long long read_file(const char *name)
{
    char path[256];
    unsigned long long value = 0;
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", group, name);
    file = fopen(path, "r");
    CHECK(file && fscanf(file, "%llu", &value) == 1, "%s: %s", path, strerror(errno));
    fclose(file);
    return value;
}

/* A group of our own with memory accounting, or NULL when this machine gives none. */
static const struct hierarchy *make_group(void)
{
    for (size_t i = 0; i < sizeof hierarchies / sizeof *hierarchies; i++) {
        snprintf(group, sizeof group, "%s/memd-test-%d", hierarchies[i].root, (int)getpid());
        if (mkdir(group, 0755) == 0) {
            char path[256];
            snprintf(path, sizeof path, "%s/%s", group, hierarchies[i].limit);
            if (access(path, W_OK) == 0) {
                atexit(remove_group);
                return &hierarchies[i];
            }
            rmdir(group);
        }
    }
    group[0] = '\0';
    return NULL;
}

/* Two guests with the same seed: unique content within each, all of it common, a frame for every page. */
static void store_full(void)
{
    static struct kit_daemon daemon;
    struct kit_vm vms[2];
    char text[KIT_LINE_MAX];

    kit_daemon_create(&daemon, KIT_ARGS("--store-max", "1M"));
    for (int g = 0; g < 2; g++)
        kit_vm_start(&daemon, &vms[g], g ? "f2" : "f1",
                     KIT_ARGS("--domain", "web", "--mem", "32", "--thp", "off", "--seed", "7", "--zero", "10",
                              "--verify", "500"));
    kit_total_reaches(&daemon, "pages_shared", 200); /* 1 MiB are 256 frames */
    for (int g = 0; g < 2; g++)
        kit_vm_verified(&vms[g]);
    CHECK(kit_total(&daemon, "pages_shared") <= 256, "the store grew past its limit");
    CHECK(kit_memctl(&daemon, text, sizeof text, KIT_ARGS("status")) == 0 && strstr(text, "warning"),
          "memctl status does not say that the store is full: %s", text);
    for (int g = 0; g < 2; g++)
        kit_vm_end(&vms[g]);
    kit_daemon_end(&daemon);
}

static void put_into_group(pid_t pid)
{
    CHECK(write_file("cgroup.procs", (unsigned long long)pid) == 0, "moving %d into the cgroup", (int)pid);
    member = pid;
}

static void guest_full(void)
{
    const struct hierarchy *hierarchy = make_group();
    static struct kit_daemon daemon;
    struct kit_vm vms[GUESTS];
    int64_t sharing;
    int status;

    if (!hierarchy) {
        printf("skipped: no memory cgroup can be made here\n");
        return;
    }
    kit_daemon_create(&daemon, NULL);
    for (int g = 0; g < GUESTS; g++) {
        static const char *const names[GUESTS] = {"victim", "p2", "p3"};
        kit_vm_start(&daemon, &vms[g], names[g],
                     KIT_ARGS("--domain", "web", "--mem", "64", "--thp", "off", "--zero", "30", "--shared",
                              "90", "--verify", "300"));
    }
    put_into_group(vms[0].pid);
    kit_settle(&daemon, 60);
    sharing = kit_total(&daemon, "pages_sharing");
    /* memory charged before the move stays where it was; what is new must fit into this */
    CHECK(write_file(hierarchy->limit, read_file(hierarchy->usage) + ROOM_BYTES) == 0, "setting the limit");
    CHECK(write(vms[0].to, "rewrite\n", 8) == 8, "no command to the victim");
    status = spawn_end(vms[0].pid, 0, DEATH_MS);
    member = 0;
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the victim ended with status 0x%x",
          (unsigned)status);
    kit_total_falls(&daemon, "vms", GUESTS - 1);
    kit_total_falls(&daemon, "pages_sharing", sharing - (int64_t)vms[0].pages / 4);
    for (int g = 1; g < GUESTS; g++) {
        kit_vm_verified(&vms[g]);
        kit_vm_end(&vms[g]);
    }
    kit_daemon_end(&daemon);
}

int main(void)
{
    kit_need_kvm();
    store_full();
    guest_full();
    return 0;
}
