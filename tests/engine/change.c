/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a VMM does to the mappings of a region: part of it is cut out and comes back, is unmapped, mapped
 * over, gets other attributes; memory that cannot take part is reported, and discarded all the same. No byte
 * may change but those that were given up, no frame be kept or given back too early.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES        1536u
#define FIRST         100u /* of what is changed: from the middle of a chunk to the middle of another */
#define END           1100u
#define TIMEOUT       2000u
#define WRITERS       2u
#define RACE_MS       4000u
#define ENOUGH_CUTS   10u
#define ENOUGH_MERGES 100u
#define ENOUGH_OUTS   1000u
#define QUIET_US      30000u
#define HEAL_TURNS    4u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static struct wire_rec_budget full;

static struct rig merged_open(void)
{
    struct script_options options = {.budget = &full};

    full = script_budget_full();
    full.scan_pages_per_s = 0;
    struct rig rig = rig_open(&options, NPAGES, unique);
    for (uint32_t p = 0; p < NPAGES; p += 512)
        EQUALS(rig_merge(&rig, p, 512), 512);
    return rig;
}

static int cut(struct rig *rig, uint32_t first, uint32_t end, enum memd_ineligible why)
{
    return memd_region_cut(rig->memd, rig->region, first * PAGE, (end - first) * PAGE, why, TIMEOUT);
}

static int refresh(struct rig *rig, uint32_t first, uint32_t end)
{
    return memd_region_refresh(rig->memd, rig->region, first * PAGE, (end - first) * PAGE);
}

static void errors(void **state)
{
    struct rig rig = merged_open();
    const uint64_t bytes = NPAGES * PAGE;

    (void)state;
    EQUALS(memd_region_cut(NULL, 0, 0, PAGE, MEMD_INELIGIBLE_LOCKED, 0), -EINVAL);
    EQUALS(memd_region_cut(rig.memd, 63, 0, PAGE, MEMD_INELIGIBLE_LOCKED, 0), -ENOENT);
    EQUALS(memd_region_cut(rig.memd, rig.region, 0, PAGE, MEMD_INELIGIBLE_COUNT, 0), -EINVAL);
    EQUALS(memd_region_cut(rig.memd, rig.region, 1, PAGE, MEMD_INELIGIBLE_LOCKED, 0), -EINVAL);
    EQUALS(memd_region_cut(rig.memd, rig.region, bytes, PAGE, MEMD_INELIGIBLE_LOCKED, 0), -EINVAL);
    EQUALS(memd_unmap(rig.memd, rig.ram, PAGE, NULL, NULL), -EINVAL);
    EQUALS(memd_region_refresh(rig.memd, rig.region, bytes, PAGE), -EINVAL);
    EQUALS(memd_region_advise(rig.memd, rig.region, 0, PAGE, MADV_WIPEONFORK), -EINVAL);
    EQUALS(memd_region_advise(rig.memd, rig.region, 0, bytes + PAGE, MADV_DONTDUMP), -EINVAL);
    OK(memd_region_cut(rig.memd, rig.region, 0, 0, MEMD_INELIGIBLE_LOCKED, 0));
    OK(memd_region_refresh(rig.memd, rig.region, bytes, 0));
    OK(memd_pin(rig.memd, rig.region, 0, PAGE));
    EQUALS(cut(&rig, 0, 1, MEMD_INELIGIBLE_LOCKED), -EBUSY);
    OK(memd_unpin(rig.memd, rig.region, 0, PAGE));
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- cutting out and coming back */

static void cut_out_and_back(void **state)
{
    struct rig rig = merged_open();
    char *from = rig_page(&rig, FIRST);
    const uint64_t bytes = (END - FIRST) * PAGE;

    (void)state;
    for (uint32_t p = FIRST + 5; p < END; p += 50) /* some of it written since */
        guest_write(rig_page(&rig, p), guest_read(rig_page(&rig, p)));
    OK(cut(&rig, FIRST, END, MEMD_INELIGIBLE_LOCKED));
    EQUALS(kit_smaps(from, bytes).file_vmas, 0);
    struct memd_stats st = kit_stats(rig.memd);
    EQUALS(st.ineligible_bytes[MEMD_INELIGIBLE_LOCKED], bytes);
    EQUALS(st.merged_pages, NPAGES - (END - FIRST));
    CHECK(!syscall(SYS_mlock, from, bytes), "mlock: %d", errno);
    rig_check(&rig, unique);
    EQUALS(rig_merge(&rig, FIRST + 10, 8), 0);

    OK(refresh(&rig, FIRST, END)); /* locked it is, and stays out */
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_LOCKED], bytes);
    CHECK(!syscall(SYS_munlock, from, bytes), "munlock: %d", errno);
    OK(refresh(&rig, FIRST, END));
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_LOCKED], 0);
    EQUALS(rig_merge(&rig, FIRST, 200), 200);
    rig_check(&rig, unique);

    OK(cut(&rig, FIRST, END, MEMD_INELIGIBLE_OTHER));
    CHECK(!mprotect(from, bytes, PROT_READ), "mprotect: %d", errno);
    OK(refresh(&rig, 0, NPAGES));
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_OTHER], bytes);
    CHECK(!mprotect(from, bytes, PROT_READ | PROT_WRITE), "mprotect: %d", errno);
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* Whoever asks the kernel which pages are there gets the answer it got before. */
static void zeros_are_there_again(void **state)
{
    const uint32_t touched = NPAGES / 2;
    struct script_options options = {.budget = &full};
    unsigned char resident[NPAGES];

    (void)state;
    full = script_budget_full();
    full.quiet_ms = 1;
    struct rig rig = rig_open(&options, NPAGES, NULL);
    for (uint32_t p = 0; p < touched; p++)
        guest_write(rig_page(&rig, p), 0);
    uint64_t end_ms = kit_ms() + 10000;
    while (kit_stats(rig.memd).zero_pages < touched && kit_ms() < end_ms)
        usleep(10000);
    EQUALS(kit_stats(rig.memd).zero_pages, touched);
    OK(memd_discard(rig.memd, rig.region, 0, PAGE));
    OK(cut(&rig, 0, NPAGES, MEMD_INELIGIBLE_UFFD));
    CHECK(!mincore(rig.ram, NPAGES * PAGE, resident), "mincore: %d", errno);
    for (uint32_t p = 0; p < NPAGES; p++)
        CHECK((resident[p] & 1) == (p && p < touched), "page %u is %sthere", p,
              resident[p] & 1 ? "" : "not ");
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).anon_bytes, 0);
    rig_close(&rig);
}

/* ---- unmapping */

struct over {
    void *hva;
    uint64_t bytes;
    bool map, refuse;
    unsigned calls;
};

static int map_over(void *ctx)
{
    struct over *o = ctx;

    o->calls++;
    if (o->refuse)
        return -EAGAIN;
    if (o->map)
        return mmap(o->hva, o->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                    0) == MAP_FAILED
                   ? -errno
                   : 0;
    return munmap(o->hva, o->bytes) ? -errno : 0;
}

static void unmapped_and_mapped_again(void **state)
{
    struct rig rig = merged_open();
    struct over o = {.hva = rig_page(&rig, FIRST), .bytes = (END - FIRST) * PAGE, .refuse = true};

    (void)state;
    EQUALS(memd_unmap(rig.memd, o.hva, o.bytes, map_over, &o), -EAGAIN);
    EQUALS(kit_stats(rig.memd).merged_pages, NPAGES);
    rig_check(&rig, unique);
    o.refuse = false;
    OK(memd_unmap(rig.memd, o.hva, o.bytes, map_over, &o));
    EQUALS(o.calls, 2);
    EQUALS(kit_stats(rig.memd).merged_pages, NPAGES - (END - FIRST));
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_OTHER], o.bytes);
    OK(refresh(&rig, FIRST, END));
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_OTHER], o.bytes);

    o.map = true;
    OK(map_over(&o) ? -errno : 0);
    for (uint32_t p = FIRST; p < END; p++)
        guest_fill(rig_page(&rig, p), unique(p));
    OK(refresh(&rig, FIRST, END));
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_OTHER], 0);
    EQUALS(rig_merge(&rig, FIRST, 100), 100);
    rig_check(&rig, unique);
    OK(memd_unmap(rig.memd, o.hva, o.bytes, map_over, &o)); /* merged memory */
    for (uint32_t p = FIRST; p < END; p++)
        guest_fill(rig_page(&rig, p), unique(p));
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- attributes */

static void attributes_stay(void **state)
{
    struct rig rig = merged_open();
    const uint64_t half = NPAGES / 2 * PAGE;

    (void)state;
    OK(memd_region_advise(rig.memd, rig.region, 0, half, MADV_DONTDUMP));
    OK(memd_region_advise(rig.memd, rig.region, half, half, MADV_DONTFORK));
    OK(memd_region_advise(rig.memd, rig.region, 0, 2 * half, MADV_NOHUGEPAGE));
    EQUALS(kit_stats(rig.memd).merged_pages, NPAGES);
    OK(memd_region_advise(rig.memd, rig.region, 0, half, MADV_DODUMP));
    OK(memd_region_advise(rig.memd, rig.region, half, half, MADV_DOFORK));
    OK(memd_region_cut(rig.memd, rig.region, 0, NPAGES * PAGE, MEMD_INELIGIBLE_OTHER, TIMEOUT));
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).vmas, 1);
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- what cannot take part */

static void all_zero(const char *ram, uint32_t npages)
{
    for (uint32_t i = 0; i < npages; i++)
        CHECK(guest_differs(ram + i * PAGE, 0) < 0, "page %u is not zero", i);
}

static void ineligible_is_reported_and_discarded(void **state)
{
    const int anon = MAP_PRIVATE | MAP_ANONYMOUS;
    struct memd *m = kit_engine("vm", NULL);
    char *ram = guest_map(64 * PAGE, false);
    uint32_t region;

    (void)state;
    int fd = memfd_create("ram", 0);
    CHECK(fd >= 0 && !ftruncate(fd, 64 * PAGE), "memfd: %d", errno);
    CHECK(mmap(ram, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == ram, "mmap");
    CHECK(mmap(ram + 16 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 16 * PAGE) !=
              MAP_FAILED,
          "mmap");
    CHECK(mmap(ram + 48 * PAGE, 16 * PAGE, PROT_READ, anon | MAP_FIXED, -1, 0) != MAP_FAILED, "mmap");
    CHECK(!syscall(SYS_mlock, ram + 32 * PAGE, 16 * PAGE), "mlock: %d", errno);
    for (uint32_t i = 0; i < 48; i++) {
        guest_fill(ram + i * PAGE, 1 + i);
        CHECK(pwrite(fd, ram + i * PAGE, PAGE, (off_t)(i * PAGE)) == PAGE, "pwrite: %d", errno);
    }
    const struct memd_region_desc d = {
        .size = sizeof d, .hva = ram, .bytes = 64 * PAGE, .node = -1, .flags = MEMD_REGION_KEEP};
    struct memd_region_desc without = d;
    without.flags = 0;
    EQUALS(memd_region_add(m, &without, &region), -ENOTSUP);
    OK(memd_region_add(m, &d, &region));
    struct memd_stats st = kit_stats(m);
    EQUALS(st.guest_bytes, 64 * PAGE);
    EQUALS(st.ineligible_bytes[MEMD_INELIGIBLE_SHARED], 32 * PAGE);
    EQUALS(st.ineligible_bytes[MEMD_INELIGIBLE_LOCKED], 16 * PAGE);
    EQUALS(st.ineligible_bytes[MEMD_INELIGIBLE_OTHER], 16 * PAGE);
    OK(memd_discard(m, region, 0, 48 * PAGE));
    all_zero(ram, 48);
    OK(memd_discard(m, region, 48 * PAGE, 16 * PAGE)); /* anonymous: zeros as by the kernel */
    munmap(ram + 60 * PAGE, 4 * PAGE);
    EQUALS(memd_discard(m, region, 48 * PAGE, 16 * PAGE), -ENOMEM);
    CHECK(mmap(ram + 60 * PAGE, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED, "mmap");
    EQUALS(memd_discard(m, region, 48 * PAGE, 16 * PAGE), -EACCES);
    close(fd);
    OK(memd_close(m, TIMEOUT));
    guest_unmap(ram, 64 * PAGE);
}

/* ---- all of it at once */

static atomic_bool stop;

struct writer {
    struct rig *rig;
    uint64_t *count; /* by page */
    uint32_t first;
};

/* Counters: word 0 of every WRITERS-th page. What is lost shows at the end. */
static void *write_counters(void *arg)
{
    struct writer *w = arg;

    for (uint32_t p = w->first; !atomic_load(&stop); p += WRITERS) {
        if (p >= NPAGES) {
            p = w->first;
            usleep(QUIET_US); /* long enough for pages to be merged */
        }
        guest_write(rig_page(w->rig, p), ++w->count[p]);
    }
    return NULL;
}

static void *fork_now_and_then(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop)) {
        pid_t pid = fork();
        if (!pid)
            _exit(0);
        kit_reap(pid);
        usleep(200000);
    }
    return NULL;
}

static bool enough(const struct rig *rig, uint64_t cuts, uint64_t outs)
{
    return cuts > ENOUGH_CUTS && kit_stats(rig->memd).merges > ENOUGH_MERGES && outs > ENOUGH_OUTS;
}

static void nothing_is_lost(void **state)
{
    static uint64_t count[NPAGES];
    const struct script_options options = {.budget = &full, .match = SCRIPT_MATCH_ALL};
    pthread_t thread[WRITERS], forker;
    struct writer w[WRITERS];
    uint64_t cuts = 0, outs = 0;

    (void)state;
    srand(3);
    full = script_budget_full();
    full.quiet_ms = 1;
    struct rig rig = rig_open(&options, NPAGES, NULL);
    for (uint32_t i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){&rig, count, i};
        CHECK(!pthread_create(&thread[i], NULL, write_counters, &w[i]), "pthread_create");
    }
    CHECK(!pthread_create(&forker, NULL, fork_now_and_then, NULL), "pthread_create");
    uint64_t end_ms = kit_ms() + kit_scaled(10 * RACE_MS, RACE_MS / 2), limit_ms = end_ms + 60000;
    while (kit_ms() < end_ms || (kit_ms() < limit_ms && !enough(&rig, cuts, outs))) {
        uint32_t first = (uint32_t)rand() % NPAGES, end = first + 1 + (uint32_t)rand() % (NPAGES - first);
        uint64_t id = cuts % 2 ? script_page(rig.vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, WIRE_PAGEOUT_ALL) : 0;
        OK(cut(&rig, first, end, MEMD_INELIGIBLE_OTHER));
        OK(memd_region_advise(rig.memd, rig.region, 0, NPAGES * PAGE,
                              rand() % 2 ? MADV_DONTDUMP : MADV_DODUMP));
        OK(refresh(&rig, first, end));
        outs += id ? script_paged(rig.vm, id).pages : 0;
        cuts++;
        usleep(QUIET_US / 2);
    }
    atomic_store(&stop, true);
    for (uint32_t i = 0; i < WRITERS; i++)
        pthread_join(thread[i], NULL);
    pthread_join(forker, NULL);
    for (uint32_t p = 0; p < NPAGES; p++)
        CHECK(guest_read(rig_page(&rig, p)) == count[p], "page %u has %llu, %llu was written", p,
              (unsigned long long)guest_read(rig_page(&rig, p)), (unsigned long long)count[p]);
    struct memd_stats st = kit_stats(rig.memd);
    CHECK(enough(&rig, cuts, outs), "only %llu cuts beside %llu merges and %llu pages out",
          (unsigned long long)cuts, (unsigned long long)st.merges, (unsigned long long)outs);
    printf("%llu cuts beside %llu merges, %llu heals and %llu pages out\n", (unsigned long long)cuts,
           (unsigned long long)st.merges, (unsigned long long)st.heals, (unsigned long long)outs);
    EQUALS(st.ineligible_bytes[MEMD_INELIGIBLE_OTHER], 0);
    rig_close(&rig);
}

static void wait_healed(struct rig *rig, uint64_t heals)
{
    uint64_t limit_ms = kit_ms() + 20000;

    while (kit_stats(rig->memd).heals < heals && kit_ms() < limit_ms)
        usleep(1000);
    CHECK(kit_stats(rig->memd).heals >= heals, "pages do not come home");
}

/* Written pages that are zero again are wanted home for two reasons: for being that, and with all of a
 * mapping that is written. Where few may come home at a time, the wish for one carries out those before it,
 * and that may have been for the same page. */
static void zeros_come_home_once(void **state)
{
    const uint32_t other = 512; /* as long as it has used up what may come home, nothing of the first does */
    struct rig rig = merged_open();

    (void)state;
    full.quiet_ms = full.round_ms_max = 1;
    full.heal_pages_per_s = 1024;
    for (unsigned turn = 0; turn < HEAL_TURNS; turn++) {
        uint64_t heals = kit_stats(rig.memd).heals;
        full.scan_pages_per_s = UINT32_MAX;
        script_budget(rig.vm, &full);
        for (uint32_t p = other; p < 2 * other; p++)
            guest_write(rig_page(&rig, p), guest_read(rig_page(&rig, p)));
        wait_healed(&rig, heals + other);
        for (uint32_t p = 0; p < other; p++)
            guest_fill(rig_page(&rig, p), 0);
        wait_healed(&rig, heals + 2 * other);
        full.scan_pages_per_s = 0;
        script_budget(rig.vm, &full);
        OK(cut(&rig, 0, other, MEMD_INELIGIBLE_OTHER));
        OK(refresh(&rig, 0, other));
        for (uint32_t p = 0; p < other; p++) {
            CHECK(guest_differs(rig_page(&rig, p), 0) < 0, "page %u has changed", p);
            guest_fill(rig_page(&rig, p), unique(p));
        }
        EQUALS(rig_merge(&rig, 0, other), other);
        EQUALS(rig_merge(&rig, other, other), other);
    }
    rig_check(&rig, unique);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),
        cmocka_unit_test(cut_out_and_back),
        cmocka_unit_test(zeros_are_there_again),
        cmocka_unit_test(unmapped_and_mapped_again),
        cmocka_unit_test(attributes_stay),
        cmocka_unit_test(ineligible_is_reported_and_discarded),
        cmocka_unit_test(zeros_come_home_once),
        cmocka_unit_test(nothing_is_lost),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
