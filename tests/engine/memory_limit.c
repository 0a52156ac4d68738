/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages that are out of RAM do not fit into the VMM's memory cgroup any more: leaving memd, and bringing
 * pages home, is refused and says why, instead of having the kernel end the VMM; guests go on; a forked child
 * does without the memory, instead of waiting for ever or seeing zeros; and with room again it works. Nor do
 * REMOTE pages come home for an older daemon before there is room. Both versions of cgroups.
 * memd-test: timeout=120
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES  16384u /* 64 MiB */
#define ROOM    (16ull << 20)
#define WAIT_MS 20000u
#define ALL     (WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP)
#define RUN     512u  /* pages that are merged at a time */
#define RESTS   1500u /* ms */

static const struct hierarchy {
    const char *root, *limit, *usage;
} hierarchies[] = {
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"},
    {"/sys/fs/cgroup", "memory.max", "memory.current"},
};

static const struct hierarchy *hierarchy;
static char group[128];

static int group_write(const char *dir, const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int err = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return err;
}

static unsigned long long group_usage(void)
{
    unsigned long long bytes = 0;
    char path[256];

    snprintf(path, sizeof path, "%s/%s", group, hierarchy->usage);
    FILE *f = fopen(path, "re");
    CHECK(f && fscanf(f, "%llu", &bytes) == 1, "%s: %s", path, strerror(errno));
    fclose(f);
    return bytes;
}

static void limit_to(unsigned long long bytes)
{
    char text[32];

    snprintf(text, sizeof text, "%llu", bytes);
    OK(group_write(group, hierarchy->limit, text));
}

/* The test proper, in a child that lives in the group. */
static _Atomic unsigned complaints;

static void hear(void *ctx, enum memd_log_level level, const char *message)
{
    (void)ctx, (void)level;
    if (strstr(message, "are to be had"))
        atomic_fetch_add(&complaints, 1);
}

static void fill(const struct rig *rig, uint32_t i)
{
    for (unsigned w = 0; w < PAGE / 8; w++)
        guest_write(rig_page(rig, i) + w * 8, (i + 1) * 0x9e3779b97f4a7c15ull ^ w / 16);
}

static void check(const struct rig *rig, uint32_t i)
{
    for (unsigned w = 0; w < PAGE / 8; w += 64)
        CHECK(guest_read(rig_page(rig, i) + w * 8) == ((i + 1) * 0x9e3779b97f4a7c15ull ^ w / 16),
              "page %u differs", i);
}

static void close_checked(struct rig *rig)
{
    OK(memd_close(rig->memd, WAIT_MS));
    for (uint32_t i = 0; i < NPAGES; i++)
        check(rig, i);
    script_close(rig->script);
    guest_unmap(rig->ram, NPAGES * PAGE);
}

/* Children: none of it is there, nor comes anything else to lie there; all of it is. */
static int finds_nothing(void *arg)
{
    const struct rig *rig = arg;

    for (unsigned i = 0; i < 64; i++)
        CHECK(mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0) != MAP_FAILED,
              "mmap: %s", strerror(errno));
    for (uint32_t i = 0; i < NPAGES; i++)
        CHECK(guest_poisoned(rig_page(rig, i)), "the child can read page %u", i);
    return 0;
}

static int sees_all(void *arg)
{
    const struct rig *rig = arg;

    for (uint32_t i = 0; i < NPAGES; i++)
        check(rig, i);
    return 0;
}

static struct rig rig_in_group(const struct script_options *options)
{
    char pid[16];

    snprintf(pid, sizeof pid, "%d", (int)getpid());
    OK(group_write(group, "cgroup.procs", pid));
    struct rig rig = {
        .script = script_open(options), .ram = guest_map(NPAGES * PAGE, false), .npages = NPAGES};
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(&rig, i);
    struct memd_options o = {.size = sizeof o, .name = "vm", .run_dir = rig.script->run_dir, .log = hear};
    OK(memd_open(&o, &rig.memd));
    rig.region = kit_region(rig.memd, rig.ram, NPAGES * PAGE);
    rig.vm = script_wait_vm(rig.script, "vm");
    script_wait_region(rig.vm, rig.region);
    return rig;
}

static void new_daemon(struct rig *rig, uint16_t map_version)
{
    script_vanish(rig->script);
    rig->script->options.map_version = map_version;
    script_appear(rig->script);
}

static int remote_in_group(void *arg)
{
    struct wire_rec_budget budget = script_budget_full();

    (void)arg;
    budget.scan_pages_per_s = 0;
    struct rig rig = rig_in_group(&(struct script_options){.budget = &budget});
    for (uint32_t i = 0; i < NPAGES / 2; i += RUN) {
        uint32_t frame = script_frames(rig.script, rig_page(&rig, i), RUN);
        EQUALS(rig_propose(&rig, i, frame, RUN).merged, RUN);
        script_retire(rig.script, frame);
    }
    EQUALS(script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0,
                                            WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_MERGED))
               .error,
           0);
    EQUALS(kit_stats(rig.memd).remote_pages, NPAGES / 2);

    limit_to(group_usage() + ROOM);
    uint64_t before = rig.vm->sessions_seen;
    new_daemon(&rig, 1);
    usleep(RESTS * 1000);
    EQUALS(kit_stats(rig.memd).connected, 0);
    for (uint32_t i = 0; i < NPAGES / 2; i += 16) /* 2 MiB */
        check(&rig, i);
    EQUALS(kit_stats(rig.memd).remote_pages, NPAGES / 2 - NPAGES / 32);
    new_daemon(&rig, 0); /* it has not made up its mind about who is there */
    script_wait_back(rig.vm, before);
    EQUALS(kit_stats(rig.memd).remote_pages, NPAGES / 2 - NPAGES / 32);

    limit_to(1ull << 40);
    before = rig.vm->sessions_seen;
    new_daemon(&rig, 1);
    script_wait_back(rig.vm, before);
    EQUALS(kit_stats(rig.memd).remote_pages, 0);
    close_checked(&rig);
    return 0;
}

static int in_group(void *arg)
{
    struct rig rig = rig_in_group(&(struct script_options){.swap = arg});

    EQUALS(script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, ALL)).error, 0);
    EQUALS(kit_stats(rig.memd).swapped_pages, NPAGES);

    limit_to(group_usage() + ROOM);
    EQUALS(memd_region_del(rig.memd, rig.region, WAIT_MS), -ENOMEM);
    EQUALS(memd_close(rig.memd, WAIT_MS), -ENOMEM);
    EQUALS(atomic_load(&complaints), 2);
    EQUALS(script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEIN, UINT64_MAX, 0, 0)).error, ENOMEM);
    for (uint32_t i = 0; i < NPAGES; i += 16) /* 4 MiB */
        check(&rig, i);

    EQUALS(memd_pin(rig.memd, rig.region, 0, NPAGES * PAGE), -ENOMEM);
    kit_reap(kit_fork(finds_nothing, &rig));
    for (uint32_t i = 1; i < NPAGES; i += 16)
        check(&rig, i);

    limit_to(1ull << 40);
    kit_reap(kit_fork(sees_all, &rig));
    close_checked(&rig);
    return 0;
}

static bool make_group(void)
{
    for (size_t i = 0; i < sizeof hierarchies / sizeof *hierarchies; i++) {
        char path[256];
        hierarchy = &hierarchies[i];
        snprintf(group, sizeof group, "%s/memd-test-%d", hierarchy->root, (int)getpid());
        if (mkdir(group, 0755))
            continue;
        snprintf(path, sizeof path, "%s/%s", group, hierarchy->limit);
        if (!access(path, W_OK))
            return true;
        rmdir(group);
    }
    return false;
}

int main(void)
{
    int (*const part[])(void *arg) = {in_group, remote_in_group};
    static char path[160];
    int status = 0;

    kit_begin();
    if (!make_group())
        kit_skip("no memory cgroup can be made here");
    snprintf(path, sizeof path, "%s/limit.swap", kit_tmp());
    for (unsigned i = 0; i < 2 && !status; i++) {
        pid_t pid = kit_fork(part[i], path);
        while (waitpid(pid, &status, 0) < 0)
            CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
    }
    for (unsigned tries = 0; rmdir(group) && errno == EBUSY && tries < 100; tries++)
        usleep(20000);
    unlink(path);
    CHECK(WIFEXITED(status), "the VMM was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}
