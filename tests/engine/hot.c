/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM that touches all of its memory all the while, on a CPU that others use, too, is to leave half of it,
 * and does: what brings pages home has the priority of the VMM, what takes them out is niced
 * (memd/engine/pace.h). memd-test: timeout=180
 */
#include "kit.h"
#include "rig.h"
#include "script.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define NPAGES  2048u
#define STEP    512u /* pages in an order */
#define HOGS    1u
#define WAIT_MS 100000u

static char swap_path[160];
static atomic_bool no_more;

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static int burn(void *arg)
{
    (void)arg;
    for (volatile uint64_t i = 0;; i++)
        ;
    return 0;
}

static void *touch_all(void *arg)
{
    const struct rig *rig = arg;

    while (!atomic_load(&no_more))
        for (uint32_t i = 0; i < NPAGES; i++)
            CHECK(guest_differs(rig_page(rig, i), unique(i)) < 0, "page %u is not what was written", i);
    return NULL;
}

static uint64_t in_ram(const struct rig *rig)
{
    struct memd_stats st = kit_stats(rig->memd);

    return NPAGES - st.swapped_pages - st.packed_pages;
}

/* As the policy does it while memory is low. */
static uint64_t take(struct rig *rig, uint64_t most)
{
    uint64_t has = in_ram(rig);

    if (has <= most)
        return has;
    script_paged(rig->vm, script_page(rig->vm, WIRE_REC_PAGEOUT, has - most < STEP ? has - most : STEP, 0,
                                      WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP));
    return in_ram(rig);
}

static void comes_down(void **state)
{
    cpu_set_t all, one;
    pid_t hog[HOGS];
    pthread_t thread;
    unsigned below = 0;

    (void)state;
    snprintf(swap_path, sizeof swap_path, "%s/hot.swap", kit_tmp());
    CHECK(!sched_getaffinity(0, sizeof all, &all), "sched_getaffinity");
    CPU_ZERO(&one);
    for (int cpu = 0; !CPU_COUNT(&one); cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    CHECK(!sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
    struct script_options options = {.swap = swap_path};
    struct rig rig = rig_open(&options, NPAGES, unique);
    for (unsigned i = 0; i < HOGS; i++)
        hog[i] = kit_fork(burn, NULL);
    CHECK(!pthread_create(&thread, NULL, touch_all, &rig), "pthread_create");
    uint64_t begun = kit_ms(), has = 0;
    while (below < 10) { /* looks in a row */
        has = take(&rig, NPAGES / 2);
        below = has <= NPAGES / 4 * 3 ? below + 1 : 0;
        CHECK(kit_ms() - begun < WAIT_MS, "%llu of %u pages are in RAM after %u s", (unsigned long long)has,
              NPAGES, WAIT_MS / 1000);
    }
    printf("half of it out after %llu ms\n", (unsigned long long)(kit_ms() - begun));
    atomic_store(&no_more, true);
    pthread_join(thread, NULL);
    for (unsigned i = 0; i < HOGS; i++) {
        kill(hog[i], SIGKILL);
        kit_wait(hog[i]);
    }
    CHECK(!sched_setaffinity(0, sizeof all, &all), "sched_setaffinity");
    rig_check(&rig, unique);
    rig_close(&rig);
    unlink(swap_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_down),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
