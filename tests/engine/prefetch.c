/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages that left together are read together: fewer reads where they are wanted together, no more where they
 * are not, and never a byte that is not the page's. memd-test: timeout=180
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES      2048u
#define ALL         (WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP)
#define CLUSTER_MIN 24u /* pages of fill() in a cluster */
#define CLUSTER_MAX 40u
#define FIRST_TRIALS                                                                       \
    12u /* clusters that may be read ahead in vain before it is known that it does not pay \
         */
#define PROBE_EVERY 64u
#define GROUPS      4u
#define BLOCK       48u /* pages of a group, two clusters or so; no multiple of 5 */
#define WAIT_MS     20000u

static char swap_path[160];
static uint32_t version[NPAGES];

/* ---- a VM of pages that pack to half */

static uint64_t word_of(uint32_t page, uint32_t v, unsigned i)
{
    uint64_t x = ((uint64_t)page << 32 | v << 16 | (i < PAGE / 16 ? i : 0xffff)) * 0x9e3779b97f4a7c15ull;

    x ^= x >> 29;
    return (x * 0xbf58476d1ce4e5b9ull) ^ x >> 32;
}

static void fill(const struct rig *rig, uint32_t page, uint32_t v)
{
    version[page] = v;
    for (unsigned i = 0; i < PAGE / 8; i++)
        guest_write(rig_page(rig, page) + i * 8, word_of(page, v, i));
}

static void check(const struct rig *rig, uint32_t page)
{
    uint64_t is[PAGE / 8];

    guest_read_bytes(is, rig_page(rig, page), PAGE);
    for (unsigned i = 0; i < PAGE / 8; i++)
        CHECK(is[i] == word_of(page, version[page], i), "page %u: byte %u is %#llx, not %#llx", page, i * 8,
              (unsigned long long)is[i], (unsigned long long)word_of(page, version[page], i));
}

static void check_all(const struct rig *rig)
{
    for (uint32_t i = 0; i < NPAGES; i++)
        check(rig, i);
}

static void all_out(struct rig *rig)
{
    struct wire_rec_paged done =
        script_paged(rig->vm, script_page(rig->vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, ALL));

    EQUALS(done.error, 0);
    EQUALS(kit_stats(rig->memd).swapped_pages, NPAGES);
}

static struct rig out_rig(void)
{
    static struct script_options options;

    snprintf(swap_path, sizeof swap_path, "%s/vm.swap", kit_tmp());
    unlink(swap_path);
    options = (struct script_options){.swap = swap_path};
    struct rig rig = rig_open_losing(&options, guest_map(NPAGES * PAGE, false), NPAGES);
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(&rig, i, 0);
    all_out(&rig);
    return rig;
}

static void close_rig(struct rig *rig)
{
    rig_close(rig);
    unlink(swap_path);
}

/* What has happened since. */
static struct memd_stats since(const struct rig *rig, const struct memd_stats *before)
{
    struct memd_stats st = kit_stats(rig->memd);

    st.swap_reads -= before->swap_reads;
    st.swapped_faults -= before->swapped_faults;
    st.prefetched_pages -= before->prefetched_pages;
    st.prefetch_used -= before->prefetch_used;
    st.prefetch_wasted -= before->prefetch_wasted;
    return st;
}

/* ---- fewer reads */

static void in_order(void **state)
{
    struct rig rig = out_rig();
    struct memd_stats before = kit_stats(rig.memd), st;

    (void)state;
    check(&rig, 0);
    st = since(&rig, &before);
    EQUALS(st.swap_reads, 1);
    CHECK(st.prefetched_pages >= CLUSTER_MIN - 1 && st.prefetched_pages < CLUSTER_MAX, "%llu read with it",
          (unsigned long long)st.prefetched_pages);
    EQUALS(st.swapped_pages, NPAGES - 1); /* what was read ahead is out all the same */
    EQUALS(script_count_state(rig.vm, 0, WIRE_PAGE_SWAPPED), NPAGES - 1);
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).rss_bytes, PAGE);
    check_all(&rig);
    st = since(&rig, &before);
    EQUALS(st.swapped_faults, NPAGES);
    EQUALS(st.prefetched_pages, st.prefetch_used + st.prefetch_wasted);
    CHECK(st.swap_reads <= NPAGES / CLUSTER_MIN && st.prefetch_used >= NPAGES - NPAGES / CLUSTER_MIN,
          "%llu reads for %u pages, %llu of them read ahead", (unsigned long long)st.swap_reads, NPAGES,
          (unsigned long long)st.prefetch_used);
    printf("%u pages in order: %llu reads\n", NPAGES, (unsigned long long)st.swap_reads);
    close_rig(&rig);
}

/* Ordered home: by clusters, too. */
static void ordered_home(void **state)
{
    struct rig rig = out_rig();
    struct memd_stats before = kit_stats(rig.memd), st;

    (void)state;
    EQUALS(script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEIN, UINT64_MAX, 0, 0)).pages, NPAGES);
    st = since(&rig, &before);
    EQUALS(st.swapped_pages, 0);
    printf("%u pages ordered home: %llu reads\n", NPAGES, (unsigned long long)st.swap_reads);
    CHECK(st.swap_reads <= NPAGES / CLUSTER_MIN * 4, "%llu reads for %u pages",
          (unsigned long long)st.swap_reads, NPAGES);
    check_all(&rig);
    close_rig(&rig);
}

/* Each group lies all over the region, and its pages were written at one time. */
static void by_groups(void **state)
{
    const uint32_t npages = NPAGES / GROUPS;
    struct rig rig = out_rig();

    (void)state;
    for (uint32_t g = 0; g < GROUPS; g++) {
        for (uint32_t i = 0; i < npages; i++)
            fill(&rig, i * GROUPS + (i + g) % GROUPS, 1 + g);
        all_out(&rig);
    }
    for (uint32_t g = 0; g < GROUPS; g++) {
        struct memd_stats before = kit_stats(rig.memd);
        for (uint32_t first = 0, n; first < npages; first += n) {
            n = npages - first < BLOCK ? npages - first : BLOCK;
            for (uint32_t k = 0; k < n; k++) { /* near each other, in no order */
                uint32_t i = first + k * 5 % n;
                check(&rig, i * GROUPS + (i + g) % GROUPS);
            }
        }
        struct memd_stats st = since(&rig, &before);
        EQUALS(st.swapped_faults, npages);
        CHECK(st.swap_reads <= npages / CLUSTER_MIN * 2 && st.prefetched_pages <= npages * 2,
              "group %u: %llu reads for %u pages, %llu pages read ahead", g,
              (unsigned long long)st.swap_reads, npages, (unsigned long long)st.prefetched_pages);
        EQUALS(st.swapped_pages, NPAGES - (g + 1) * npages);
    }
    check_all(&rig);
    close_rig(&rig);
}

/* ---- no more where it does not help */

static void alone(void **state)
{
    const uint32_t touched = NPAGES / CLUSTER_MAX;
    struct rig rig = out_rig();
    struct memd_stats before = kit_stats(rig.memd), st;
    uint64_t ahead = 0, most = 0;

    (void)state;
    /* one page of every cluster, several times over */
    for (uint32_t round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < touched; i++)
            check(&rig, i * CLUSTER_MAX + round * 7);
        st = since(&rig, &before);
        EQUALS(st.swapped_faults, (round + 1) * touched);
        CHECK(st.swap_reads <= (round + 1) * touched, "%llu reads for %u pages",
              (unsigned long long)st.swap_reads, (round + 1) * touched);
        ahead = st.prefetched_pages;
        most = (FIRST_TRIALS + (round + 1) * touched / PROBE_EVERY) * CLUSTER_MAX;
        CHECK(ahead <= most, "%llu pages were read ahead in vain", (unsigned long long)ahead);
    }
    CHECK(ahead > 0 && st.prefetch_wasted > 0, "it was not even tried");
    printf("%u pages, none near another: %llu reads, %llu pages read ahead\n", 4 * touched,
           (unsigned long long)st.swap_reads, (unsigned long long)ahead);
    /* and where it helps again, that is found out */
    before = kit_stats(rig.memd);
    check_all(&rig);
    st = since(&rig, &before);
    CHECK(st.swap_reads < st.swapped_faults / 3, "%llu reads for %llu pages: it stays off",
          (unsigned long long)st.swap_reads, (unsigned long long)st.swapped_faults);
    close_rig(&rig);
}

/* Of a cluster of which hardly anything is in the file any more, the rest is not read ahead. */
static void little_left(void **state)
{
    struct rig rig = out_rig();

    (void)state;
    for (uint32_t i = 0; i < NPAGES; i++)
        if (i % CLUSTER_MIN) {
            OK(memd_discard(rig.memd, rig.region, i * PAGE, PAGE));
            fill(&rig, i, 1);
        }
    struct memd_stats before = kit_stats(rig.memd), st;
    check_all(&rig);
    st = since(&rig, &before);
    EQUALS(st.swapped_faults, (NPAGES + CLUSTER_MIN - 1) / CLUSTER_MIN);
    EQUALS(st.prefetched_pages, 0);
    close_rig(&rig);
}

/* ---- what has changed since wins */

static void changed_since(void **state)
{
    struct rig rig = out_rig();

    (void)state;
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t page = 0; page + CLUSTER_MAX <= NPAGES; page += 2 * CLUSTER_MAX) {
            check(&rig, page + 3); /* others are read with it */
            OK(memd_discard(rig.memd, rig.region, (page + 4) * PAGE, 2 * PAGE));
            CHECK(guest_differs(rig_page(&rig, page + 4), 0) < 0, "a discarded page is not zero");
            fill(&rig, page + 4, 10 + round); /* discarded, and written anew */
            fill(&rig, page + 5, 10 + round);
            fill(&rig, page + 6, 10 + round); /* written where it was */
            /* home by another way, changed, and out again */
            OK(memd_pin(rig.memd, rig.region, (page + 7) * PAGE, PAGE));
            OK(memd_unpin(rig.memd, rig.region, (page + 7) * PAGE, PAGE));
            fill(&rig, page + 7, 20 + round);
            check(&rig, page + 8);
        }
        all_out(&rig);
        for (uint32_t page = 0; page + CLUSTER_MAX <= NPAGES; page += CLUSTER_MAX)
            for (uint32_t i = 2; i < 10; i++)
                check(&rig, page + i);
        check_all(&rig);
        all_out(&rig);
    }
    CHECK(kit_stats(rig.memd).prefetch_used > 0, "nothing was read ahead");
    check_all(&rig);
    close_rig(&rig);
}

/* The byte at `at` of the file is another, or what it was. */
static void flip(off_t at)
{
    char byte;
    int fd = open(swap_path, O_RDWR | O_CLOEXEC);

    CHECK(fd >= 0 && pread(fd, &byte, 1, at) == 1, "%s", swap_path);
    byte ^= 4;
    CHECK(pwrite(fd, &byte, 1, at) == 1, "%s", swap_path);
    close(fd);
}

/* Pages of the first cluster that the device does not give back. */
static unsigned lost_of_first(struct rig *rig)
{
    unsigned before = rig_lost(NULL), bad = 0;

    for (uint32_t i = 0; i < CLUSTER_MIN; i++) {
        if (!guest_poisoned(rig_page(rig, i))) {
            check(rig, i);
            continue;
        }
        for (uint64_t limit = kit_ms() + WAIT_MS; rig_lost(NULL) == before + bad; usleep(100))
            CHECK(kit_ms() < limit, "the VMM is not told of a lost page");
        bad++;
        OK(memd_discard(rig->memd, rig->region, i * PAGE, PAGE));
        fill(rig, i, 7);
    }
    return bad;
}

#define IN_FIRST (65536 + 30000) /* in the middle of the first cluster */

/* What was read ahead and does not open says nothing: it is read again, and what the device says then counts.
 * Nobody else's page pays for it. */
static void damaged(void **state)
{
    struct rig rig = out_rig();

    (void)state;
    flip(IN_FIRST);
    check(&rig, 0); /* the others are read with it */
    CHECK(kit_stats(rig.memd).prefetched_pages >= CLUSTER_MIN - 1, "they were not");
    EQUALS(lost_of_first(&rig), 1);
    check_all(&rig);
    close_rig(&rig);
    rig = out_rig();
    flip(IN_FIRST);
    check(&rig, 0);
    flip(IN_FIRST); /* as it was */
    EQUALS(lost_of_first(&rig), 0);
    check_all(&rig);
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_order), cmocka_unit_test(ordered_home), cmocka_unit_test(by_groups),
        cmocka_unit_test(alone),    cmocka_unit_test(little_left),  cmocka_unit_test(changed_since),
        cmocka_unit_test(damaged),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
