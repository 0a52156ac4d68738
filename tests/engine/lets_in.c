/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What takes long is no reason for others to wait: however much is merged or to be pinned, whoever calls
 * meanwhile (a vCPU that discards, a fork) comes in between. Seen by what a caller finds: something that is
 * neither as it was before nor as it is afterwards. One that never comes in between finds nothing else.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define NPAGES 8192u
#define TRIES  50u /* a busy machine may have it over before the caller gets a CPU */

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static struct wire_rec_budget full;

static struct rig open_rig(void)
{
    struct script_options options = {.budget = &full};

    full = script_budget_full();
    full.scan_pages_per_s = 0;
    return rig_open(&options, NPAGES, unique);
}

/* Returns the first frame; page i gets that of i pages later. */
static uint32_t frames_of(struct rig *rig)
{
    uint32_t frame = script_frames(rig->script, rig_page(rig, 0), 512);

    for (uint32_t page = 512; page < NPAGES; page += 512)
        EQUALS(script_frames(rig->script, rig_page(rig, page), 512), frame + page);
    return frame;
}

static void merge_all(struct rig *rig, uint32_t frame)
{
    for (uint32_t page = 0; page < NPAGES; page += 512)
        EQUALS(rig_propose(rig, page, frame + page, 512).merged, 512);
}

/* ---- UNMERGE */

static void *unmerge(void *vm)
{
    EQUALS(script_unmerge(vm), 0);
    return NULL;
}

static bool has_begun(struct script_vm *vm, void *dropped)
{
    return vm->dropped > *(uint64_t *)dropped;
}

static void unmerge_lets_in(void **state)
{
    struct rig rig = open_rig();
    uint32_t frame = frames_of(&rig), tries = 0;
    uint64_t merged, dropped;
    pthread_t thread;

    (void)state;
    do {
        CHECK(tries++ < TRIES, "it is over, or has not begun, whenever somebody comes in");
        merge_all(&rig, frame);
        dropped = rig.vm->dropped;
        CHECK(!pthread_create(&thread, NULL, unmerge, rig.vm), "pthread_create");
        CHECK(script_wait(rig.vm, has_begun, &dropped, SCRIPT_WAIT_MS), "nothing comes home");
        OK(memd_pause(rig.memd)); /* it stays as it is */
        merged = kit_stats(rig.memd).merged_pages;
        rig_check(&rig, unique);
        EQUALS(kit_stats(rig.memd).merged_pages, merged);
        OK(memd_resume(rig.memd));
        pthread_join(thread, NULL);
        EQUALS(kit_stats(rig.memd).merged_pages, 0);
        rig_check(&rig, unique);
        script_merging(rig.vm, false);
        script_merging(rig.vm, true);
    } while (!merged || merged == NPAGES);
    rig_close(&rig);
}

/* ---- memd_pin() */

static void *pin(void *arg)
{
    const struct rig *rig = arg;

    OK(memd_pin(rig->memd, rig->region, 0, NPAGES * PAGE));
    return NULL;
}

static uint64_t pinned(const struct rig *rig)
{
    return kit_stats(rig->memd).ineligible_bytes[MEMD_INELIGIBLE_PINNED] / PAGE;
}

static void pin_lets_in(void **state)
{
    struct rig rig = open_rig();
    uint32_t frame = frames_of(&rig), tries = 0;
    pthread_t thread;
    uint64_t n;

    (void)state;
    do {
        CHECK(tries++ < TRIES, "it is over, or has not begun, whenever somebody comes in");
        merge_all(&rig, frame);
        CHECK(!pthread_create(&thread, NULL, pin, &rig), "pthread_create");
        while (!(n = pinned(&rig)))
            ;
        int err = memd_region_del(rig.memd, rig.region, 0);
        CHECK(!err || (err == -EBUSY && n < NPAGES), "memd_region_del: %d", err);
        if (!err) { /* the pin was over by then */
            n = NPAGES;
            script_wait_no_region(rig.vm, rig.region);
            rig.region = kit_region(rig.memd, rig.ram, NPAGES * PAGE);
            script_wait_region(rig.vm, rig.region);
        }
        pthread_join(thread, NULL);
    } while (n == NPAGES);
    EQUALS(pinned(&rig), NPAGES);
    EQUALS(kit_stats(rig.memd).merged_pages, 0);
    rig_check(&rig, unique);
    OK(memd_unpin(rig.memd, rig.region, 0, NPAGES * PAGE));
    merge_all(&rig, frame);
    rig_check(&rig, unique);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unmerge_lets_in),
        cmocka_unit_test(pin_lets_in),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
