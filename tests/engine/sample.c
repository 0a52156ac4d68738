/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The working set by samples: it comes out right for memory of which it is known how much is used, samples
 * stand in nobody's way and are never lost, and waits are counted. memd-test: timeout=180
 *
 * How near it must come. HOT_PERCENT of all pages, chosen at random, are read all the time. A period's share
 * of SAMPLES pages has a standard error of sqrt(0.4 * 0.6 / 512) = 2.2 points, its mean over 8 periods 0.8;
 * the bound, 10% of 40%, is 4 points: five times that. Samples idle at an age are fewer: half of the groups
 * of 32 pages are given up each time, which leaves 64 pages or more among those looked at, 6 points; 20 are
 * allowed.
 */
#include "rig.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define NPAGES        4096u
#define SAMPLES       512u
#define HOT_PERCENT   40u
#define WAIT_MS       30000u
#define PERIOD_MS_MAX 3200u
#define AGES          4u /* are known after 8 periods, or some more */
#define WRITERS       2u
#define DISCARDED     512u /* pages of the first chunk, in the storm: the main thread's */
#define TURNS_FULL    600u

/* Compressible, and different in every page. The first words are the writers'. */
static uint64_t word_of(uint32_t page, unsigned i)
{
    return (page + 1) * 0x9e3779b97f4a7c15ull ^ i / 16;
}

static void fill(char *hva, uint32_t page)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        guest_write(hva + i * 8, i < WRITERS ? 0 : word_of(page, i));
}

static void check(const char *hva, uint32_t page)
{
    uint64_t copy[PAGE / 8];

    guest_read_bytes(copy, hva, PAGE);
    for (unsigned i = WRITERS; i < PAGE / 8; i++)
        CHECK(copy[i] == word_of(page, i), "page %u: byte %u is %#llx, not %#llx", page, i * 8,
              (unsigned long long)copy[i], (unsigned long long)word_of(page, i));
}

static void check_all(const struct rig *rig)
{
    for (uint32_t i = 0; i < rig->npages; i++)
        check(rig_page(rig, i), i);
}

static struct wire_rec_budget sampling(uint32_t pages, uint32_t ms)
{
    /* nothing is scanned: only samples and orders change anything */
    return (struct wire_rec_budget){
        .quiet_ms = 10, .round_ms_max = 1000, .sample_pages = pages, .sample_ms = ms};
}

static struct rig sample_rig(const struct wire_rec_budget *budget, bool huge)
{
    struct script_options options = {.budget = budget};
    char *ram = guest_map(NPAGES * PAGE, huge);

    for (uint32_t i = 0; i < NPAGES; i++)
        fill(ram + i * PAGE, i);
    return rig_open_at(&options, ram, NPAGES);
}

#define STAT(rig, field) atomic_load(&(rig)->vm->shm->stats.field)

/* However long they take on a busy machine: they go on. */
static void wait_periods(const struct rig *rig, uint64_t n)
{
    uint64_t limit = kit_ms() + WAIT_MS, seen = 0;

    for (uint64_t is; (is = STAT(rig, sample_periods)) < n; usleep(10000)) {
        if (is != seen)
            limit = kit_ms() + WAIT_MS;
        seen = is;
        CHECK(kit_ms() < limit, "only %llu periods are over", (unsigned long long)is);
    }
}

static void wait_no_samples(const struct rig *rig)
{
    uint64_t limit = kit_ms() + WAIT_MS;

    while (STAT(rig, sampled_pages) ||
           STAT(rig, sample_periods)) { /* nothing is said that is not measured any more */
        CHECK(kit_ms() < limit, "%llu pages are samples", (unsigned long long)STAT(rig, sampled_pages));
        usleep(5000);
    }
}

/* All of the first cohort: as many as are wanted, since all pages are there; returns how many. */
static uint64_t wait_cohort(struct rig *rig)
{
    uint64_t limit = kit_ms() + WAIT_MS, n = 0, parked;
    unsigned looks = 0; /* that found nothing new */

    while (looks < 10) {
        CHECK(kit_ms() < limit, "no samples");
        usleep(50000);
        parked = script_count_state(rig->vm, 0, WIRE_PAGE_PARKED);
        /* a page may be drawn twice, and is then two samples */
        bool same = parked == n && STAT(rig, sampled_pages) == n && n >= SAMPLES * 3 / 4;
        looks = same ? looks + 1 : 0;
        n = parked;
    }
    return n;
}

static void assert_near(const char *what, uint64_t is, double expected, double share)
{
    CHECK((double)is > expected * (1 - share) && (double)is < expected * (1 + share), "%s: %llu, not %.0f",
          what, (unsigned long long)is, expected);
}

static uint64_t next_random(uint64_t *x)
{
    *x = *x * 6364136223846793005ull + 1442695040888963407ull;
    return *x >> 33;
}

/* ---- a load of known size */

struct load {
    const struct rig *rig;
    bool hot[NPAGES];
    _Atomic uint64_t longest_ms; /* all of them once */
    _Atomic bool stop;
};

static void *read_hot(void *arg)
{
    struct load *l = arg;

    for (uint64_t begun = kit_ms(), took; !atomic_load(&l->stop); begun += took) {
        for (uint32_t i = 0; i < NPAGES; i++)
            if (l->hot[i])
                guest_read(rig_page(l->rig, i));
        usleep(2000);
        took = kit_ms() - begun;
        if (took > atomic_load(&l->longest_ms))
            atomic_store(&l->longest_ms, took);
    }
    return NULL;
}

/* Half of a cohort's groups are given up at each age, by chance all of them: another cohort gets so old. */
static void wait_ages(const struct rig *rig)
{
    wait_periods(rig, 10);
    for (uint64_t n = 11; STAT(rig, idle_ages) < AGES && n <= 30; n++)
        wait_periods(rig, n);
}

/* The load is of known size only if within each period all of it was read. Where that gets too little of a
 * CPU, once more with longer ones. */
static void wait_known_periods(struct rig *rig, struct load *l, uint32_t ms)
{
    wait_ages(rig);
    while (atomic_load(&l->longest_ms) > ms / 2 && ms < PERIOD_MS_MAX) {
        const struct wire_rec_budget off = sampling(0, ms), longer = sampling(SAMPLES, ms *= 2);
        script_budget(rig->vm, &off);
        wait_no_samples(rig);
        atomic_store(&l->longest_ms, 0);
        script_budget(rig->vm, &longer);
        wait_ages(rig);
    }
}

static void known_load(void **state)
{
    const uint32_t ms = kit_sanitized() ? 1000 : 400;
    struct wire_rec_budget budget = sampling(SAMPLES, ms);
    static struct load l;
    struct rig rig = sample_rig(&budget, false);
    uint64_t random = kit_ms(), nhot = 0;
    pthread_t thread;

    (void)state;
    l.rig = &rig;
    for (uint32_t i = 0; i < NPAGES; i++)
        nhot += l.hot[i] = next_random(&random) % 100 < HOT_PERCENT;
    CHECK(!pthread_create(&thread, NULL, read_hot, &l), "pthread_create");
    wait_known_periods(&rig, &l, ms);
    uint64_t set = STAT(&rig, working_set_pages), ages = STAT(&rig, idle_ages);
    uint64_t samplable = STAT(&rig, samplable_pages);
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    assert_near("samplable pages", samplable, NPAGES, 0.01);
    assert_near("the working set", set, (double)nhot, 0.1);
    CHECK(ages >= AGES, "%llu ages are known after 30 periods", (unsigned long long)ages);
    for (uint64_t i = 0; i < ages; i++)
        assert_near("idle pages", STAT(&rig, idle_pages[i]), (double)(NPAGES - nhot), 0.2 / 0.6);
    CHECK(STAT(&rig, sampled_faults), "no sample was touched");
    EQUALS(kit_stats(rig.memd).parked_faults, 0);
    EQUALS(kit_stats(rig.memd).page_ins, 0);
    EQUALS(kit_stats(rig.memd).parked_pages, 0);

    /* nobody touches anything any more: slowly down, but down */
    uint64_t until = STAT(&rig, sample_periods) + 12;
    wait_periods(&rig, until);
    CHECK(STAT(&rig, working_set_pages) < set / 2, "%llu pages in use after 12 idle periods",
          (unsigned long long)STAT(&rig, working_set_pages));
    check_all(&rig);
    rig_close(&rig);
}

/* ---- what must not matter */

static void off_again(void **state)
{
    struct wire_rec_budget budget = sampling(SAMPLES, 20), off = sampling(0, 20);
    struct rig rig = sample_rig(&budget, false);

    (void)state;
    wait_periods(&rig, 5);
    script_budget(rig.vm, &off);
    wait_no_samples(&rig);
    EQUALS(script_count_state(rig.vm, 0, WIRE_PAGE_PARKED), 0);
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).rss_bytes, NPAGES * PAGE);
    check_all(&rig);
    rig_close(&rig);
}

static uint64_t order(struct rig *rig, uint16_t type, uint64_t pages, uint32_t flags)
{
    struct wire_rec_paged done = script_paged(rig->vm, script_page(rig->vm, type, pages, 0, flags));

    EQUALS(done.error, 0);
    return done.pages;
}

/* Samples are not packed because they are parked, unless all is to go, and are no part of what an order says
 * it has moved. */
static void orders_and_samples(void **state)
{
    struct wire_rec_budget budget = sampling(SAMPLES, 600000); /* one cohort, which stays */
    struct rig rig = sample_rig(&budget, false);

    (void)state;
    uint64_t n = wait_cohort(&rig);
    EQUALS(kit_stats(rig.memd).parked_pages, 0);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_PARK),
           0); /* nothing is known to be quiet */
    EQUALS(STAT(&rig, sampled_pages), n);
    EQUALS(order(&rig, WIRE_REC_PAGEIN, UINT64_MAX, 0), 0);
    EQUALS(kit_stats(rig.memd).page_ins, 0);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL), NPAGES);
    EQUALS(kit_stats(rig.memd).packed_pages, NPAGES);
    check_all(&rig);
    rig_close(&rig);
}

/* An ordinary order passes samples by. */
static void samples_are_not_packed(void **state)
{
    struct wire_rec_budget budget = sampling(SAMPLES, 600000);
    struct rig rig = sample_rig(&budget, false);

    (void)state;
    uint64_t n = wait_cohort(&rig);
    /* written[] is false once pages are armed: by rounds, with merging on */
    struct wire_rec_budget on = script_budget_full();
    on.sample_pages = SAMPLES;
    on.sample_ms = 600000;
    script_budget(rig.vm, &on);
    script_wait_rounds(rig.vm, 4);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, 0), NPAGES - n);
    EQUALS(kit_stats(rig.memd).packed_pages, NPAGES - n);
    EQUALS(script_count_state(rig.vm, 0, WIRE_PAGE_PARKED), n);
    check_all(&rig);
    rig_close(&rig);
}

static void daemon_gone(void **state)
{
    struct wire_rec_budget budget = sampling(SAMPLES, 100);
    struct rig rig = sample_rig(&budget, false);

    (void)state;
    wait_periods(&rig, 3);
    script_vanish(rig.script);
    for (uint32_t i = 0; i < NPAGES / 2; i++)
        check(rig_page(&rig, i), i);
    usleep(300000);
    check_all(&rig);
    OK(memd_close(rig.memd, WAIT_MS));
    check_all(&rig);
    script_appear(rig.script);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

static void huge_pages_stay_whole(void **state)
{
    struct wire_rec_budget budget = sampling(SAMPLES, 50);
    struct rig rig = sample_rig(&(struct wire_rec_budget){.quiet_ms = 10}, true);

    (void)state;
    if (madvise(rig.ram, NPAGES * PAGE, MADV_COLLAPSE) ||
        kit_smaps(rig.ram, NPAGES * PAGE).anon_huge_bytes != NPAGES * PAGE) {
        rig_close(&rig);
        skip();
    }
    script_budget(rig.vm, &budget);
    usleep(500000);
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).anon_huge_bytes, NPAGES * PAGE);
    EQUALS(STAT(&rig, sampled_pages), 0);
    check_all(&rig);
    rig_close(&rig);
}

/* ---- waits */

static uint64_t waits(const struct rig *rig, enum wire_tier tier)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < WIRE_LATENCY_BUCKETS; i++)
        n += STAT(rig, latency[tier][i]);
    return n;
}

/* They are counted when the waiter has gone on, and told of a tenth of a second later. */
static void assert_waits(const struct rig *rig, enum wire_tier tier, uint64_t expected)
{
    uint64_t limit = kit_ms() + WAIT_MS;

    while (waits(rig, tier) != expected) {
        CHECK(kit_ms() < limit, "%llu waits of tier %d, not %llu", (unsigned long long)waits(rig, tier), tier,
              (unsigned long long)expected);
        usleep(10000);
    }
    CHECK(!expected || STAT(rig, latency_ns[tier]) >= expected, "they took no time");
}

static void every_wait_is_counted(void **state)
{
    struct wire_rec_budget budget = sampling(0, 1000);
    char swap[160];
    struct script_options options = {.budget = &budget, .swap = swap};
    char *ram = guest_map(NPAGES * PAGE, false);

    (void)state;
    snprintf(swap, sizeof swap, "%s/sample.swap", kit_tmp());
    unlink(swap);
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(ram + i * PAGE, i);
    struct rig rig = rig_open_at(&options, ram, NPAGES);
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_PARK);
    for (uint32_t i = 0; i < 100; i++)
        check(rig_page(&rig, i), i);
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL);
    for (uint32_t i = 0; i < 200; i++)
        check(rig_page(&rig, i), i);
    OK(memd_discard(rig.memd, rig.region, 200 * PAGE, 50 * PAGE));
    for (uint32_t i = 200; i < 250; i++)
        fill(rig_page(&rig, i), i);
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP);
    for (uint32_t i = 0; i < 300; i++)
        check(rig_page(&rig, i), i);
    assert_waits(&rig, WIRE_TIER_PARKED, kit_stats(rig.memd).parked_faults);
    assert_waits(&rig, WIRE_TIER_PACKED, kit_stats(rig.memd).packed_faults);
    assert_waits(&rig, WIRE_TIER_SWAPPED, kit_stats(rig.memd).swapped_faults);
    assert_waits(&rig, WIRE_TIER_ZERO, 50);
    EQUALS(kit_stats(rig.memd).parked_faults, 100);
    EQUALS(kit_stats(rig.memd).packed_faults, 200);
    EQUALS(kit_stats(rig.memd).swapped_faults, 300);
    check_all(&rig);
    rig_close(&rig);
}

/* ---- a storm: everything at once, and nothing is lost */

struct writer {
    const struct rig *rig;
    unsigned nr;
    uint64_t random;
    uint64_t *last; /* by page */
    _Atomic bool *stop;
};

static void *writer_main(void *arg)
{
    struct writer *w = arg;

    while (!atomic_load_explicit(w->stop, memory_order_relaxed)) {
        for (unsigned i = 0; i < 64; i++) {
            uint32_t page = DISCARDED + (uint32_t)next_random(&w->random) % (NPAGES - DISCARDED);
            char *slot = rig_page(w->rig, page) + w->nr * 8;
            uint64_t is = guest_read(slot);
            CHECK(is == w->last[page], "page %u: writer %u finds %llu, not %llu: a write is lost", page,
                  w->nr, (unsigned long long)is, (unsigned long long)w->last[page]);
            guest_write(slot, ++w->last[page]);
            check(rig_page(w->rig, page), page);
        }
        usleep(1000);
    }
    return NULL;
}

static int look(void *arg)
{
    check_all(arg);
    return 0;
}

static void discard_some(struct rig *rig, uint64_t *random)
{
    uint32_t page = (uint32_t)next_random(random) % (DISCARDED - 16);

    OK(memd_discard(rig->memd, rig->region, page * PAGE, 16 * PAGE));
    for (uint32_t i = page; i < page + 16; i++) {
        CHECK(guest_differs(rig_page(rig, i), 0) < 0, "page %u is not zero after a discard", i);
        fill(rig_page(rig, i), i);
    }
}

static void pin_some(struct rig *rig, uint64_t *random)
{
    uint64_t offset = next_random(random) % (NPAGES / 512) * CHUNK;

    OK(memd_pin(rig->memd, rig->region, offset, CHUNK));
    for (uint32_t i = 0; i < 512; i++)
        CHECK(kit_pagemap(rig->ram + offset + i * PAGE) & PAGEMAP_PRESENT,
              "page %u of a pinned chunk is not there", i);
    OK(memd_unpin(rig->memd, rig->region, offset, CHUNK));
}

static void turn(struct rig *rig, uint64_t nr, uint64_t *random)
{
    const struct wire_rec_budget off = sampling(0, 10);
    struct wire_rec_budget on = script_budget_full();

    on.sample_pages = SAMPLES;
    on.sample_ms = 10 + (uint32_t)next_random(random) % 3;
    if (nr % 2)
        discard_some(rig, random);
    if (nr % 8 == 2)
        pin_some(rig, random);
    if (nr % 64 == 10)
        kit_reap(kit_fork(look, rig));
    if (nr % 16 == 4)
        order(rig, WIRE_REC_PAGEOUT, 1 + next_random(random) % 500, WIRE_PAGEOUT_ALL);
    if (nr % 32 == 6)
        order(rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_PARK);
    if (nr % 32 == 14)
        order(rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP);
    if (nr % 16 == 12)
        order(rig, WIRE_REC_PAGEIN, UINT64_MAX, 0);
    if (nr % 50 == 49)
        script_budget(rig->vm, &off);
    if (nr % 50 == 0)
        script_budget(rig->vm, &on);
    usleep(5000);
}

static void storm(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    budget.sample_pages = SAMPLES;
    budget.sample_ms = 10;
    char swap[160];
    struct script_options options = {.match = SCRIPT_MATCH_EQUAL, .budget = &budget, .swap = swap};
    char *ram = guest_map(NPAGES * PAGE, false);
    struct writer writer[WRITERS];
    pthread_t thread[WRITERS];
    _Atomic bool stop = false;
    uint64_t random = 42, turns = kit_scaled(TURNS_FULL, 130);

    (void)state;
    snprintf(swap, sizeof swap, "%s/storm.swap", kit_tmp());
    unlink(swap);
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(ram + i * PAGE, i);
    struct rig rig = rig_open_at(&options, ram, NPAGES);
    wait_periods(&rig, 1); /* it has been looked through */
    for (unsigned w = 0; w < WRITERS; w++) {
        writer[w] = (struct writer){&rig, w, w + 1, calloc(NPAGES, sizeof(uint64_t)), &stop};
        CHECK(writer[w].last && !pthread_create(&thread[w], NULL, writer_main, &writer[w]), "pthread_create");
    }
    for (uint64_t i = 0; i < turns; i++)
        turn(&rig, i, &random);
    atomic_store(&stop, true);
    for (unsigned w = 0; w < WRITERS; w++)
        pthread_join(thread[w], NULL);
    uint64_t touched = STAT(&rig, sampled_faults);
    check_all(&rig);
    for (unsigned w = 0; w < WRITERS; w++) {
        for (uint32_t i = DISCARDED; i < NPAGES; i++)
            EQUALS(guest_read(rig_page(&rig, i) + w * 8), writer[w].last[i]);
        free(writer[w].last);
    }
    CHECK(touched > 100, "only %llu samples were touched", (unsigned long long)touched);
    OK(memd_close(rig.memd, WAIT_MS));
    check_all(&rig);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

/* What is about to be dropped or merged is not kept from it. */
static void first_it_is_looked_through(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.match = SCRIPT_MATCH_EQUAL, .budget = &budget};
    char *ram = guest_map(NPAGES * PAGE, false);
    (void)state;

    memset(ram, 0, NPAGES * PAGE); /* there, and zero */
    for (uint32_t i = 0; i < NPAGES; i += 2)
        fill(ram + i * PAGE, i);
    budget.sample_pages = SAMPLES;
    budget.sample_ms = WAIT_MS;
    struct rig rig = rig_open_at(&options, ram, NPAGES);
    for (uint64_t limit = kit_ms() + WAIT_MS; !STAT(&rig, sampled_pages); usleep(1000))
        CHECK(kit_ms() < limit, "no samples are taken");
    EQUALS(STAT(&rig, zero_drops), NPAGES / 2);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_it_is_looked_through),
        cmocka_unit_test(known_load),
        cmocka_unit_test(off_again),
        cmocka_unit_test(orders_and_samples),
        cmocka_unit_test(samples_are_not_packed),
        cmocka_unit_test(daemon_gone),
        cmocka_unit_test(huge_pages_stay_whole),
        cmocka_unit_test(every_wait_is_counted),
        cmocka_unit_test(storm),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
