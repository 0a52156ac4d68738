/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Huge pages: looked at without arming them, kept whole while the guest goes on writing, refused to merges;
 * broken when the daemon says so, and only those, and counted.
 */
#include "rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define XXH_INLINE_ALL
#include <xxhash.h>

#define CHUNKS 6u
#define NPAGES (CHUNKS * 512u)
#define ZEROED 4u /* this chunk is half zero */
#define BROKEN 3u /* and this one is broken first */

static uint64_t content(uint32_t page)
{
    return page / 512 == ZEROED && page % 2 ? 0 : 1 + page;
}

struct survey {
    uint64_t hash[NPAGES];
    uint32_t hashed; /* pages named in HASHES */
};

static void hear(struct script_vm *vm, const struct wire_rec *rec, void *ctx)
{
    const struct wire_rec_hashes *h = (const void *)rec;
    struct survey *s = ctx;

    (void)vm;
    for (uint32_t i = 0; rec->type == WIRE_REC_SURVEY && i < h->count; i++)
        s->hash[h->page + i] = h->hash[i] ? h->hash[i] : 1; /* 1: said to be zero */
    if (rec->type == WIRE_REC_HASHES)
        s->hashed += h->count;
}

static bool surveyed_all(struct script_vm *vm, void *arg)
{
    const struct survey *s = arg;

    (void)vm;
    for (uint32_t i = 0; i < NPAGES; i++)
        if (!s->hash[i])
            return false;
    return true;
}

static uint64_t huge_bytes(const struct rig *rig)
{
    return kit_smaps(rig->ram, NPAGES * PAGE).anon_huge_bytes;
}

static uint64_t private_bytes(const struct rig *rig)
{
    return kit_smaps(rig->ram, NPAGES * PAGE).anon_bytes;
}

static void check_survey(const struct survey *s)
{
    uint64_t copy[PAGE / 8];

    for (uint32_t i = 0; i < NPAGES; i++) {
        guest_fill(copy, content(i));
        uint64_t hash = content(i) ? XXH3_64bits(copy, PAGE) : 1;
        CHECK(s->hash[i] == hash, "page %u: the survey says %#llx, not %#llx", i,
              (unsigned long long)s->hash[i], (unsigned long long)hash);
    }
}

static bool all_pages_of_broken(struct script_vm *vm, void *arg)
{
    (void)vm;
    return ((const struct survey *)arg)->hashed >= 512;
}

static struct rig huge_open(struct survey *survey)
{
    static struct wire_rec_budget budget;
    struct script_options options = {.budget = NULL};
    char *ram = guest_map(NPAGES * PAGE, true);

    for (uint32_t i = 0; i < NPAGES; i++)
        guest_fill(ram + i * PAGE, content(i));
    if (kit_smaps(ram, NPAGES * PAGE).anon_huge_bytes != NPAGES * PAGE)
        kit_skip("the kernel gives no transparent huge pages (/sys/kernel/mm/transparent_hugepage/enabled)");
    struct rig rig = rig_open_at(&options, ram, NPAGES);
    memset(survey, 0, sizeof *survey);
    pthread_mutex_lock(&rig.script->lock);
    rig.script->tap = hear;
    rig.script->tap_ctx = survey;
    pthread_mutex_unlock(&rig.script->lock);
    budget = script_budget_full();
    script_budget(rig.vm, &budget);
    CHECK(script_wait(rig.vm, surveyed_all, survey, SCRIPT_WAIT_MS), "not all huge pages are surveyed");
    return rig;
}

/* rig_propose() borrows the tap; here the survey goes on listening. */
static void propose(struct rig *rig, uint32_t chunk, uint32_t *ret_frame)
{
    *ret_frame = script_frames(rig->script, rig_page(rig, chunk * 512), 512);
    CHECK(script_merge(rig->vm, rig->region, chunk * 512, *ret_frame, 512), "the session is over");
    CHECK(script_fence(rig->vm), "the session is over");
}

static void kept_whole(void **state)
{
    static struct survey survey;
    struct rig rig = huge_open(&survey);
    uint32_t frame;

    (void)state;
    check_survey(&survey);
    EQUALS(huge_bytes(&rig), NPAGES * PAGE);
    EQUALS(kit_stats(rig.memd).skipped_pages, NPAGES);
    for (uint32_t i = 0; i < NPAGES; i += 7) /* the guest writes, and nothing is split by that */
        guest_fill(rig_page(&rig, i), content(i));
    for (uint32_t c = 0; c < CHUNKS; c++)
        propose(&rig, c, &frame);
    script_wait_rounds(rig.vm, 5);
    EQUALS(huge_bytes(&rig), NPAGES * PAGE);
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->merged, 0);
    EQUALS(rig.vm->refused[WIRE_WHY_HUGE], NPAGES);
    EQUALS(survey.hashed, 0);
    pthread_mutex_unlock(&rig.script->lock);
    EQUALS(kit_stats(rig.memd).zero_drops, 0);
    EQUALS(kit_stats(rig.memd).huge_broken, 0);
    rig_check(&rig, content);
    OK(memd_close(rig.memd, 10000));
    EQUALS(huge_bytes(&rig), NPAGES * PAGE);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

static void broken_on_order(void **state)
{
    static struct survey survey;
    struct rig rig = huge_open(&survey);
    uint32_t frame;

    (void)state;
    script_break(rig.vm, rig.region, BROKEN * 512);
    CHECK(script_wait(rig.vm, all_pages_of_broken, &survey, SCRIPT_WAIT_MS), "a broken page is not hashed");
    EQUALS(huge_bytes(&rig), NPAGES * PAGE - CHUNK);
    EQUALS(kit_stats(rig.memd).huge_broken, 1);
    EQUALS(kit_stats(rig.memd).skipped_pages, NPAGES - 512);
    propose(&rig, BROKEN, &frame);
    EQUALS(kit_stats(rig.memd).merged_pages, 512);
    EQUALS(huge_bytes(&rig), NPAGES * PAGE - CHUNK);
    EQUALS(private_bytes(&rig), NPAGES * PAGE - CHUNK);
    script_break(rig.vm, rig.region, ZEROED * 512);
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; kit_stats(rig.memd).zero_pages < 256; usleep(2000))
        CHECK(kit_ms() < limit, "%llu zero pages dropped, of 256",
              (unsigned long long)kit_stats(rig.memd).zero_pages);
    EQUALS(kit_stats(rig.memd).zero_pages, 256);
    EQUALS(kit_stats(rig.memd).huge_broken, 2);
    EQUALS(private_bytes(&rig), NPAGES * PAGE - CHUNK - 256 * PAGE);
    EQUALS(huge_bytes(&rig), NPAGES * PAGE - 2 * CHUNK);
    /* breaking what is broken, or nonsense, changes nothing */
    script_break(rig.vm, rig.region, BROKEN * 512);
    script_break(rig.vm, rig.region, BROKEN * 512 + 7);
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(kit_stats(rig.memd).huge_broken, 2);
    rig_check(&rig, content);
    rig_close(&rig);
}

/* A huge page that is discarded in part is found to be none any more. */
static void discarded_in_part(void **state)
{
    static struct survey survey;
    struct rig rig = huge_open(&survey);

    (void)state;
    OK(memd_discard(rig.memd, rig.region, PAGE * 10, PAGE * 20));
    for (uint32_t i = 10; i < 30; i++)
        CHECK(guest_differs(rig_page(&rig, i), 0) < 0, "page %u is not zero after a discard", i);
    OK(memd_discard(rig.memd, rig.region, CHUNK, CHUNK)); /* a whole one */
    CHECK(private_bytes(&rig) <= NPAGES * PAGE - CHUNK, "discarded memory is still there");
    for (uint32_t i = 10; i < 30; i++)
        guest_fill(rig_page(&rig, i), content(i));
    for (uint32_t i = 512; i < 1024; i++)
        guest_fill(rig_page(&rig, i), content(i));
    rig_check(&rig, content);
    script_wait_rounds(rig.vm, 5);
    rig_check(&rig, content);
    rig_close(&rig);
}

/* The region ends amid a huge page that takes no part: that one is not surveyed. */
static void cut_by_the_end(void **state)
{
    static struct wire_rec_budget budget;
    struct script_options options = {.budget = &budget};
    char *ram = guest_map(4 * CHUNK, true);
    char *locked = ram + 2 * CHUNK;

    (void)state;
    budget = script_budget_full();
    for (uint32_t i = 0; i < 2048; i++)
        guest_fill(ram + i * PAGE, 1 + i);
    CHECK(!syscall(SYS_mlock, locked, 2 * CHUNK), "mlock");
    if (kit_smaps(locked, 2 * CHUNK).anon_huge_bytes != 2 * CHUNK)
        kit_skip("the kernel gives no transparent huge pages (/sys/kernel/mm/transparent_hugepage/enabled)");
    struct rig rig = rig_open_at(&options, ram + CHUNK / 2, 1024);
    script_wait_rounds(rig.vm, 4);
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->surveyed, 512);
    EQUALS(rig.vm->sessions_seen, 1);
    pthread_mutex_unlock(&rig.script->lock);
    script_break(rig.vm, rig.region, 768);
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(kit_smaps(locked, 2 * CHUNK).anon_huge_bytes, 2 * CHUNK);
    for (uint32_t i = 0; i < 2048; i++)
        CHECK(guest_differs(ram + i * PAGE, 1 + i) < 0, "page %u differs", i);
    rig.npages = 0;
    rig_close(&rig);
    guest_unmap(ram, 4 * CHUNK);
}

static void wait_zero_pages(const struct rig *rig, uint64_t want)
{
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; kit_stats(rig->memd).zero_pages != want; usleep(2000))
        CHECK(kit_ms() < limit, "%llu zero pages are counted, not %llu",
              (unsigned long long)kit_stats(rig->memd).zero_pages, (unsigned long long)want);
}

/* Pages that were dropped, and written and made one huge page of while nobody looked, are not counted as
 * zero. */
static void filled_again(void **state)
{
    static struct survey survey;
    struct rig rig = huge_open(&survey);

    (void)state;
    script_break(rig.vm, rig.region, ZEROED * 512);
    wait_zero_pages(&rig, 256);
    script_merging(rig.vm, false);
    CHECK(script_fence(rig.vm), "the session is over");
    for (uint32_t i = ZEROED * 512; i < (ZEROED + 1) * 512; i++)
        guest_fill(rig_page(&rig, i), 1 + i);
    if (madvise(rig_page(&rig, ZEROED * 512), CHUNK, MADV_COLLAPSE))
        kit_skip("MADV_COLLAPSE");
    script_merging(rig.vm, true);
    wait_zero_pages(&rig, 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_whole),        cmocka_unit_test(broken_on_order),
        cmocka_unit_test(discarded_in_part), cmocka_unit_test(cut_by_the_end),
        cmocka_unit_test(filled_again),
    };

    kit_begin();
    return cmocka_run_group_tests_name("huge", tests, NULL, NULL);
}
