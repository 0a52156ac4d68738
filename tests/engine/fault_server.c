/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fault server waits for: with nothing but faults to answer it is in read(), which costs a fault
 * less than poll(); and it is again after all that made it look at more. It hears whoever wants that while
 * it is in read(), also when all memory is locked.
 */
#include "rig.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES  256u
#define WAIT_MS 20000u

static pid_t server_tid(void)
{
    DIR *d = opendir("/proc/self/task");
    pid_t tid = 0;

    for (struct dirent *e; d && !tid && (e = readdir(d));) {
        char path[300], comm[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "re");
        if (f && fgets(comm, sizeof comm, f) && !strcmp(comm, "memd-fault\n"))
            tid = (pid_t)atoi(e->d_name);
        if (f)
            fclose(f);
    }
    if (d)
        closedir(d);
    CHECK(tid, "no fault server");
    return tid;
}

/* The server sleeps in read() of a userfaultfd. */
static bool reads(void)
{
    char path[64], target[64];
    unsigned long fd;
    long call;

    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)server_tid());
    FILE *f = fopen(path, "re");
    bool sleeps = f && fscanf(f, "%ld %lx", &call, &fd) == 2 && call == SYS_read; /* else "running" */
    if (f)
        fclose(f);
    if (!sleeps)
        return false;
    snprintf(path, sizeof path, "/proc/self/fd/%lu", fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    return n > 0 && !strncmp(target, "anon_inode:[userfaultfd]", (size_t)n);
}

/* After what made it look at more, it does so until the next fault. */
static void reads_after(const struct rig *rig, uint32_t page)
{
    uint64_t limit = kit_ms() + WAIT_MS;

    CHECK(guest_differs(rig_page(rig, page), page + 1) == -1, "page %u is damaged", page);
    while (!reads()) {
        CHECK(kit_ms() < limit, "the fault server does not wait in read()");
        usleep(1000);
    }
}

static void order(struct rig *rig, uint16_t type, uint32_t flags)
{
    EQUALS(script_paged(rig->vm, script_page(rig->vm, type, UINT64_MAX, 0, flags)).error, 0);
}

static void out(struct rig *rig, uint32_t flags)
{
    order(rig, WIRE_REC_PAGEOUT, WIRE_PAGEOUT_ALL | flags);
}

static uint64_t contents(uint32_t page)
{
    return page + 1;
}

static void parked_and_packed(void **state)
{
    struct rig rig = rig_open(&(struct script_options){0}, NPAGES, contents);

    (void)state;
    out(&rig, WIRE_PAGEOUT_PARK);
    reads_after(&rig, 3);
    out(&rig, 0);
    reads_after(&rig, 4);
    reads_after(&rig, 5);
    order(&rig, WIRE_REC_PAGEIN, 0);
    rig_check(&rig, contents);
    rig_close(&rig);
}

static void swapped(void **state)
{
    char path[200];
    struct script_options options = {.swap = path};

    (void)state;
    snprintf(path, sizeof path, "%s/vm.swap", kit_tmp());
    struct rig rig = rig_open(&options, NPAGES, contents);
    out(&rig, WIRE_PAGEOUT_SWAP);
    EQUALS(kit_stats(rig.memd).swapped_pages, NPAGES);
    reads_after(&rig, 7);
    reads_after(&rig, 200);
    order(&rig, WIRE_REC_PAGEIN, 0);
    rig_check(&rig, contents);
    rig_close(&rig);
    unlink(path);
}

/* One protects pages, the other waits for a turn of the server. */
static void healed_and_cut(void **state)
{
    struct wire_rec_budget budget = script_budget_full();

    budget.scan_pages_per_s = 0;
    struct rig rig = rig_open(&(struct script_options){.budget = &budget}, NPAGES, contents);

    (void)state;
    EQUALS(rig_merge(&rig, 0, NPAGES / 2), NPAGES / 2);
    out(&rig, WIRE_PAGEOUT_PARK);
    reads_after(&rig, NPAGES - 1);
    for (uint32_t i = 0; i < NPAGES / 2; i += 2)
        guest_fill(rig_page(&rig, i), i + 1);
    EQUALS(script_unmerge(rig.vm), 0);
    reads_after(&rig, NPAGES - 2);
    OK(memd_region_cut(rig.memd, rig.region, (NPAGES - 8) * PAGE, 8 * PAGE, MEMD_INELIGIBLE_OTHER,
                       KIT_CLOSE_MS));
    reads_after(&rig, NPAGES - 10);
    rig_check(&rig, contents);
    rig_close(&rig);
}

/* mlockall() fills all memory there is, the bell as well. */
static void heard_when_locked(void **state)
{
    struct rig rig = rig_open(&(struct script_options){0}, NPAGES, contents);
    char *other = guest_map(CHUNK, false);
    uint32_t second = kit_region(rig.memd, other, CHUNK);

    (void)state;
    script_wait_region(rig.vm, second);
    out(&rig, WIRE_PAGEOUT_PARK);
    reads_after(&rig, 3);
    if (mlockall(MCL_CURRENT))
        kit_skip("mlockall() is refused: RLIMIT_MEMLOCK");
    OK(memd_region_del(rig.memd, second, KIT_CLOSE_MS));
    munlockall();
    out(&rig, WIRE_PAGEOUT_PARK);
    reads_after(&rig, 4);
    rig_check(&rig, contents);
    guest_unmap(other, CHUNK);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parked_and_packed),
        cmocka_unit_test(swapped),
        cmocka_unit_test(healed_and_cut),
        cmocka_unit_test(heard_when_locked),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
