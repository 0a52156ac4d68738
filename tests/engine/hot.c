/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM that touches all of its memory all the while, on a CPU that others use, too, is to leave two thirds of
 * it, and does: what brings pages home has the priority of the VMM, what takes them out is niced, and pays
 * for each page what it costs where the TLBs of other CPUs are flushed by a call of the hypervisor
 * (memd/engine/pace.h). memd-test: timeout=180
 */
#include "memd/common/uapi.h"
#include "rig.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>
#include <stddef.h>

#include <cmocka.h>

#define NPAGES   8192u
#define TARGET   (NPAGES / 3) /* pages that are to stay */
#define STEP     (NPAGES / 2) /* pages in an order, as in state low */
#define HOGS     2u
#define TOUCHERS 3u
#define DEAR_NS  40000 /* a page */
#define DOWN_MS  60000u
#define HOLD_MS  4000u

static char swap_path[160];
static atomic_bool no_more;

static int64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static bool is_worker(void)
{
    static __thread int is; /* 0: not known yet */
    char name[16];

    if (!is)
        is = !prctl(PR_GET_NAME, name) && !strcmp(name, "memd-work") ? 1 : -1;
    return is > 0;
}

/* Instead of the C library's. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    if (request == UFFDIO_MOVE && is_worker()) {
        const struct uffdio_move *move = arg;
        int64_t end = cpu_ns() + (int64_t)(move->len / PAGE) * DEAR_NS;
        while (cpu_ns() < end)
            ;
    }
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

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
            (void)*(volatile const char *)rig_page(rig, i);
    return NULL;
}

static uint64_t in_ram(const struct rig *rig)
{
    struct memd_stats st = kit_stats(rig->memd);

    return NPAGES - st.swapped_pages - st.packed_pages;
}

/* As the policy does it while memory is low; returns how many pages there were. */
static uint64_t take(struct rig *rig)
{
    uint64_t has = in_ram(rig);

    if (has > TARGET)
        script_paged(rig->vm,
                     script_page(rig->vm, WIRE_REC_PAGEOUT, has - TARGET < STEP ? has - TARGET : STEP, 0,
                                 WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP));
    usleep(20000);
    return has;
}

static void press(struct rig *rig)
{
    uint64_t begun = kit_ms(), sum = 0, looks = 0;

    while (take(rig) > TARGET * 3 / 2)
        CHECK(kit_ms() - begun < DOWN_MS, "%llu of %u pages are in RAM after %u s",
              (unsigned long long)in_ram(rig), NPAGES, DOWN_MS / 1000);
    uint64_t down = kit_ms();
    for (; kit_ms() - down < HOLD_MS; looks++)
        sum += take(rig);
    printf("down after %llu ms; then %llu pages on average, %u wanted\n", (unsigned long long)(down - begun),
           (unsigned long long)(sum / looks), TARGET);
    CHECK(sum / looks < TARGET * 3 / 2, "%llu pages are in RAM on average, %u are wanted",
          (unsigned long long)(sum / looks), TARGET);
}

/* Everything on one CPU, hogs included. */
static void crowd_in(cpu_set_t *ret_all, pid_t *hog)
{
    cpu_set_t one;

    CHECK(!sched_getaffinity(0, sizeof *ret_all, ret_all), "sched_getaffinity");
    CPU_ZERO(&one);
    for (int cpu = 0; !CPU_COUNT(&one); cpu++)
        if (CPU_ISSET(cpu, ret_all))
            CPU_SET(cpu, &one);
    CHECK(!sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
    for (unsigned i = 0; i < HOGS; i++)
        hog[i] = kit_fork(burn, NULL);
}

static void comes_down(void **state)
{
    pthread_t thread[TOUCHERS];
    pid_t hog[HOGS];
    cpu_set_t all;

    (void)state;
    snprintf(swap_path, sizeof swap_path, "%s/hot.swap", kit_tmp());
    struct script_options options = {.swap = swap_path};
    crowd_in(&all, hog); /* before: an engine rests while a child shares its memory */
    struct rig rig = rig_open(&options, NPAGES, unique);
    EQUALS(kit_stats(rig.memd).held_faults, 0);
    for (unsigned i = 0; i < TOUCHERS; i++)
        CHECK(!pthread_create(&thread[i], NULL, touch_all, &rig), "pthread_create");
    press(&rig);
    struct memd_stats st = kit_stats(rig.memd);
    printf("%llu accesses were held back, for %.1f s\n", (unsigned long long)st.held_faults,
           (double)st.held_ns / 1e9);
    CHECK(st.held_faults && st.held_ns, "nobody was held back");
    atomic_store(&no_more, true);
    for (unsigned i = 0; i < TOUCHERS; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < HOGS; i++) {
        kill(hog[i], SIGKILL);
        waitpid(hog[i], NULL, 0);
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
