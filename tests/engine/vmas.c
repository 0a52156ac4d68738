/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running out of mappings (I9): by the daemon's budget, and by the kernel's limit (vm.max_map_count), which
 * the test reaches by filling its own process with mappings. Merging stops and says so, every byte stays, a
 * discard still reads as zeros; with room again it goes on.
 */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES     1024u
#define VMAS_FEW   60u
#define LIMIT_MAX  300000u
#define ROOM_LEFT  40u
#define RECOVER_MS 20000u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

/* Every second page of the first chunk: each needs a mapping of its own. */
static uint32_t merge_singles(struct rig *rig, uint32_t first, uint32_t n, uint32_t *why)
{
    uint32_t merged = 0;

    *why = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t frame = script_frame(rig->script, rig_page(rig, first + 2 * i));
        struct rig_answer a = rig_propose(rig, first + 2 * i, frame, 1);
        merged += a.merged;
        if (a.why)
            *why = a.why;
    }
    return merged;
}

static bool says_map_count(struct script_vm *vm, void *arg)
{
    (void)arg;
    return vm->state == VM_LIVE && vm->shm->stats.state == WIRE_VM_MAP_COUNT;
}

static bool says_running(struct script_vm *vm, void *arg)
{
    (void)arg;
    return vm->state == VM_LIVE && vm->shm->stats.state == WIRE_VM_RUNNING;
}

static void budget_used_up(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    uint32_t why, merged;

    (void)state;
    budget.vmas_max = VMAS_FEW;
    struct rig rig = rig_open(&options, NPAGES, unique);
    unsigned before = kit_smaps(rig.ram, NPAGES * PAGE).vmas;
    merged = merge_singles(&rig, 0, 200, &why);
    unsigned after = kit_smaps(rig.ram, NPAGES * PAGE).vmas;
    CHECK(merged > 0 && merged <= VMAS_FEW / 2, "%u singles merged within %u mappings", merged, VMAS_FEW);
    CHECK(after - before <= VMAS_FEW, "%u mappings added, %u allowed", after - before, VMAS_FEW);
    EQUALS(why, WIRE_WHY_MAP_COUNT);
    CHECK(kit_stats(rig.memd).vmas_used <= VMAS_FEW, "it says %llu",
          (unsigned long long)kit_stats(rig.memd).vmas_used);
    EQUALS(kit_stats(rig.memd).vmas_limit, VMAS_FEW);
    rig_check(&rig, unique);
    budget.vmas_max = 60000;
    script_budget(rig.vm, &budget);
    EQUALS(merge_singles(&rig, 512, 200, &why), 200);
    EQUALS(why, 0);
    /* less than is used: nothing is taken back, nothing is added */
    budget.vmas_max = VMAS_FEW;
    script_budget(rig.vm, &budget);
    EQUALS(merge_singles(&rig, 401, 10, &why), 0);
    EQUALS(why, WIRE_WHY_MAP_COUNT);
    rig_check(&rig, unique);
    EQUALS(script_unmerge(rig.vm), 0);
    rig_check(&rig, unique);
    EQUALS(kit_stats(rig.memd).vmas_used, 0);
    rig_close(&rig);
}

/* ---- the kernel's limit */

struct filler {
    char *map;
    uint64_t bytes;
};

static uint64_t max_map_count(void)
{
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
    unsigned long long n = 0;

    if (!f || fscanf(f, "%llu", &n) != 1)
        n = 0;
    if (f)
        fclose(f);
    return n;
}

/* Mappings of one page each until only about ROOM_LEFT more fit. */
static struct filler fill_up(uint64_t limit)
{
    struct filler f = {.bytes = limit * PAGE * 2};
    f.map = mmap(NULL, f.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(f.map != MAP_FAILED, "mmap: %s", strerror(errno));
    uint64_t pages = 0;
    while (!mprotect(f.map + pages * 2 * PAGE, PAGE, PROT_READ))
        pages++;
    CHECK(errno == ENOMEM, "mprotect: %s", strerror(errno));
    for (unsigned i = 0; i < ROOM_LEFT / 2 && pages; i++) /* two each: its own, and the one behind it */
        mprotect(f.map + --pages * 2 * PAGE, PAGE, PROT_NONE);
    return f;
}

struct worker {
    struct rig *rig;
    atomic_bool stop;
    uint64_t count[NPAGES];
};

/* The guest: counts in every fourth page of the second chunk, looks at the others. */
static void *guest_main(void *arg)
{
    struct worker *w = arg;

    for (uint32_t i = 512; !atomic_load(&w->stop); i = i + 1 < NPAGES ? i + 1 : 512) {
        char *word = rig_page(w->rig, i) + 64;
        if (i % 4) {
            CHECK(guest_differs(rig_page(w->rig, i), unique(i)) < 0, "page %u differs", i);
            continue;
        }
        CHECK(guest_read(word) == w->count[i], "page %u: %llu, not %llu", i,
              (unsigned long long)guest_read(word), (unsigned long long)w->count[i]);
        guest_write(word, ++w->count[i]);
        if (i % 64 == 0)
            usleep(200);
    }
    return NULL;
}

/* Whatever is asked of the engine at the limit: an answer, and no byte lost. */
static void live_at_the_limit(struct rig *rig)
{
    uint32_t why, merged = merge_singles(rig, 0, 200, &why);

    CHECK(merged < 100, "%u singles merged where %u mappings were left", merged, ROOM_LEFT);
    EQUALS(why, WIRE_WHY_MAP_COUNT);
    CHECK(script_wait(rig->vm, says_map_count, NULL, SCRIPT_WAIT_MS), "the engine does not say so");
    for (uint32_t i = 0; i < 512; i++)
        CHECK(guest_differs(rig_page(rig, i), unique(i)) < 0, "page %u differs", i);
    for (uint32_t i = 0; i < 40; i++) { /* merged and other pages */
        int err = memd_discard(rig->memd, rig->region, i * PAGE, PAGE);
        CHECK(err == 0 || err == -ENOMEM, "discard: %s", kit_error(err));
        CHECK(guest_differs(rig_page(rig, i), 0) < 0, "page %u is not zero after a discard (%d)", i, err);
        guest_fill(rig_page(rig, i), unique(i));
    }
    /* an unmerge may fail, and then keeps what it has */
    int err = script_unmerge(rig->vm);
    CHECK(err == 0 || err == ENOMEM, "UNMERGE: %s", kit_error(err));
    script_merging(rig->vm, false);
    script_merging(rig->vm, true);
    for (uint32_t i = 0; i < 512; i++)
        CHECK(guest_differs(rig_page(rig, i), unique(i)) < 0, "page %u differs", i);
}

static void kernel_limit(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    static struct worker worker;
    uint64_t limit = max_map_count(), until;
    pthread_t thread;
    uint32_t why;

    (void)state;
    if (!limit || limit > LIMIT_MAX) {
        print_message("skipped: vm.max_map_count is %llu, more than can be used up here\n",
                      (unsigned long long)limit);
        skip();
    }
    struct rig rig = rig_open(&options, NPAGES, unique);
    worker = (struct worker){.rig = &rig};
    for (uint32_t i = 512; i < NPAGES; i += 4)
        guest_write(rig_page(&rig, i) + 64, 0);
    CHECK(!pthread_create(&thread, NULL, guest_main, &worker), "pthread_create");
    CHECK(rig_merge(&rig, 512, 512) > 0, "nothing is merged");
    struct filler filler = fill_up(limit);
    live_at_the_limit(&rig);
    munmap(filler.map, filler.bytes);
    /* with room again, all goes on by itself */
    uint32_t merged = 0;
    for (until = kit_ms() + RECOVER_MS; merged < 20 && kit_ms() < until; usleep(100000))
        merged += merge_singles(&rig, 300, 20, &why);
    CHECK(merged >= 20, "%u singles merged after there was room again", merged);
    CHECK(script_wait(rig.vm, says_running, NULL, SCRIPT_WAIT_MS), "the engine does not say that it goes on");
    atomic_store(&worker.stop, true);
    pthread_join(thread, NULL);
    for (uint32_t i = 0; i < 512; i++)
        CHECK(guest_differs(rig_page(&rig, i), unique(i)) < 0, "page %u differs", i);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budget_used_up),
        cmocka_unit_test(kernel_limit),
    };

    kit_begin();
    return cmocka_run_group_tests_name("vmas", tests, NULL, NULL);
}
