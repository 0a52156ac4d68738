/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests that only read while their merged pages come home. Nobody writes and nothing is pinned, so no page
 * may be taken for written, keep its store mapping, or lose its reference too early: what a reader finds is
 * what was there all the time.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define NPAGES      2048u
#define NREADERS    2u
#define PIECE       128u /* pages of one proposal */
#define PAUSE_SPINS 500u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

struct reader {
    const struct rig *rig;
    atomic_bool *stop;
    uint32_t step;
    pthread_t thread;
    uint64_t pages, sum;
};

/* A word of each page, in an order and at a pace that have pages touched for the first time since their merge
 * at any moment of the unmerge. */
static void *read_on(void *arg)
{
    struct reader *r = arg;

    for (uint32_t page = r->step; !atomic_load(r->stop); page = (page + r->step) % NPAGES, r->pages++) {
        r->sum += (unsigned char)*(volatile char *)rig_page(r->rig, page);
        if (r->pages < NPAGES)
            for (unsigned i = 0; i < PAUSE_SPINS; i++)
                __builtin_ia32_pause();
    }
    return NULL;
}

/* Only guest memory maps the frames, as after a restart of the daemon and before the next comparison. */
static void forget_frames(struct rig *rig)
{
    uint64_t before = rig->vm->sessions_seen;

    script_vanish(rig->script);
    script_appear(rig->script);
    script_wait_back(rig->vm, before);
    madvise(rig->script->store, rig->script->nblocks * SCRIPT_BLOCK_FRAMES * PAGE, MADV_DONTNEED);
}

static void merge_all(struct rig *rig)
{
    uint32_t merged = 0;

    for (uint32_t page = 0; page < NPAGES; page += PIECE) {
        uint32_t frame = script_frames(rig->script, rig_page(rig, page), PIECE);
        merged += rig_propose(rig, page, frame, PIECE).merged;
        script_retire(rig->script, frame);
    }
    EQUALS(merged, NPAGES);
    EQUALS(script_count_state(rig->vm, rig->region, WIRE_PAGE_SHARED), NPAGES);
}

static void unmerged_beside_readers(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    unsigned rounds = kit_scaled(200, 8);

    (void)state;
    budget.scan_pages_per_s = 0;
    struct rig rig = rig_open(&options, NPAGES, unique);
    for (unsigned i = 0; i < rounds; i++) {
        struct reader readers[NREADERS];
        atomic_bool stop = false;
        merge_all(&rig);
        forget_frames(&rig);
        for (unsigned k = 0; k < NREADERS; k++) {
            readers[k] = (struct reader){.rig = &rig, .stop = &stop, .step = k ? NPAGES - 37 : 35};
            CHECK(!pthread_create(&readers[k].thread, NULL, read_on, &readers[k]), "pthread_create");
        }
        EQUALS(script_unmerge(rig.vm), 0);
        EQUALS(script_count_state(rig.vm, rig.region, WIRE_PAGE_BROKEN), 0);
        EQUALS(script_count_state(rig.vm, rig.region, WIRE_PAGE_SHARED), 0);
        script_recycle(rig.script); /* the frames hold garbage from here on */
        atomic_store(&stop, true);
        for (unsigned k = 0; k < NREADERS; k++)
            pthread_join(readers[k].thread, NULL);
        rig_check(&rig, unique);
        script_merging(rig.vm, false);
        script_merging(rig.vm, true);
    }
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unmerged_beside_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
