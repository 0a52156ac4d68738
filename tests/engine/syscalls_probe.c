/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What syscalls.sh traces: an engine that does all it can do. memd-test: helper
 *
 * Every function of the API is called on one thread, named "api", which does nothing else; what the engine is
 * made to do is ordered by the script on other threads. So the system calls of each thread are those of one
 * part of the engine.
 */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define NPAGES 1024u

static struct rig rig;
static pthread_barrier_t barrier;

static uint64_t contents(uint32_t page)
{
    return page < 512 ? 1 + page % 100 : page % 2 ? 0 : 1 + page;
}

/* Steps of the two threads alternate. */
static void meet(void)
{
    pthread_barrier_wait(&barrier);
}

static void *api_main(void *arg)
{
    struct memd_options o = {.size = sizeof o, .name = "vm", .domain = "test", .run_dir = arg};
    struct memd_stats st = {.size = sizeof st};
    struct memd_region_desc d = {
        .size = sizeof d, .hva = rig.ram, .bytes = NPAGES * PAGE, .node = -1, .name = "ram"};

    prctl(PR_SET_NAME, "api");
    OK(memd_open(&o, &rig.memd));
    OK(memd_region_add(rig.memd, &d, &rig.region));
    meet(); /* main: merge, drop zeros, break, heal */
    meet();
    OK(memd_discard(rig.memd, rig.region, 0, 20 * PAGE));
    OK(memd_discard(rig.memd, rig.region, 600 * PAGE, 20 * PAGE));
    OK(memd_pin(rig.memd, rig.region, 0, PAGE));
    OK(memd_unpin(rig.memd, rig.region, 0, PAGE));
    OK(memd_pause(rig.memd));
    OK(memd_resume(rig.memd));
    OK(memd_stats(rig.memd, &st));
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid, "fork: %s", strerror(errno));
    meet(); /* main: merge again, vanish, appear */
    meet();
    OK(memd_region_del(rig.memd, rig.region, KIT_CLOSE_MS));
    OK(memd_close(rig.memd, KIT_CLOSE_MS));
    return NULL;
}

static void merge(uint32_t page, uint32_t count)
{
    uint32_t frame = script_frames(rig.script, rig_page(&rig, page), count);

    CHECK(frame && script_merge(rig.vm, rig.region, page, frame, count), "the session is over");
    CHECK(script_fence(rig.vm), "the session is over");
}

static bool zeros_dropped(struct script_vm *vm, void *arg)
{
    (void)arg;
    return vm->shm && vm->shm->stats.zero_pages >= 256;
}

static bool no_breaks(struct script_vm *vm, void *arg)
{
    (void)arg;
    return vm->shm && vm->shm->stats.cow_breaks >= 200;
}

static void page(uint16_t type, uint32_t flags)
{
    script_paged(rig.vm, script_page(rig.vm, type, UINT64_MAX, 0, flags));
}

/* Touched while parked and while packed, brought home, and out again when the fork comes. */
static void page_out_and_in(void)
{
    memset(rig_page(&rig, 600), 1, PAGE);
    page(WIRE_REC_PAGEOUT, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_PARK);
    guest_read(rig_page(&rig, 600));
    page(WIRE_REC_PAGEOUT, WIRE_PAGEOUT_ALL);
    guest_read(rig_page(&rig, 600));
    page(WIRE_REC_PAGEOUT, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP);
    guest_read(rig_page(&rig, 600));
    page(WIRE_REC_PAGEIN, 0);
    page(WIRE_REC_PAGEOUT, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP);
}

static void work(void)
{
    rig.vm = script_wait_vm(rig.script, "vm");
    script_wait_region(rig.vm, rig.region);
    CHECK(script_wait(rig.vm, zeros_dropped, NULL, SCRIPT_WAIT_MS), "zero pages are not dropped");
    script_export(rig.vm, rig.region, 3, 2, 0);
    merge(0, 512);
    for (uint32_t i = 100; i < 300; i++)
        guest_fill(rig_page(&rig, i), contents(i));
    CHECK(script_wait(rig.vm, no_breaks, NULL, SCRIPT_WAIT_MS), "writes are not seen");
    merge(0, 512); /* heals what was written */
    page_out_and_in();
}

static void work_more(void)
{
    merge(0, 512);
    guest_fill(rig_page(&rig, 30), 77777);
    CHECK(script_unmerge(rig.vm) == 0, "UNMERGE fails");
    script_merging(rig.vm, false);
    script_merging(rig.vm, true);
    merge(0, 512);
    pthread_mutex_lock(&rig.script->lock);
    uint64_t sessions = rig.vm->sessions_seen;
    pthread_mutex_unlock(&rig.script->lock);
    script_vanish(rig.script);
    script_appear(rig.script);
    script_wait_back(rig.vm, sessions);
    script_wait_rounds(rig.vm, 3);
    guest_fill(rig_page(&rig, 31), 88888); /* who takes the region back has to ask for pins */
}

int main(void)
{
    struct wire_rec_budget budget = script_budget_full();
    char swap[160];
    struct script_options options = {.budget = &budget, .swap = swap};
    pthread_t api;

    snprintf(swap, sizeof swap, "%s/probe.swap", kit_tmp());

    rig.npages = NPAGES;
    rig.ram = guest_map(NPAGES * PAGE, false);
    for (uint32_t i = 0; i < NPAGES; i++)
        guest_fill(rig_page(&rig, i), contents(i));
    rig.script = script_open(&options);
    pthread_barrier_init(&barrier, NULL, 2);
    CHECK(!pthread_create(&api, NULL, api_main, rig.script->run_dir), "pthread_create");
    meet();
    work();
    meet();
    meet();
    work_more();
    meet();
    pthread_join(api, NULL);
    script_close(rig.script);
    return 0;
}
