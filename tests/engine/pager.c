/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pager, one property at a time: exact numbers, and what the kernel says; contents after every way home;
 * what must not leave; forks, a daemon that dies, memory that is taken back. memd-test: timeout=180
 */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <liburing.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define NPAGES  1536u
#define WAIT_MS 20000u
#define ALL     WIRE_PAGEOUT_ALL

/* Compressible, and different in every page. */
static uint64_t word_of(uint32_t page, unsigned i)
{
    return (page + 1) * 0x9e3779b97f4a7c15ull ^ i / 16;
}

static void fill(char *hva, uint32_t page)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        guest_write(hva + i * 8, word_of(page, i));
}

static void check(const char *hva, uint32_t page)
{
    uint64_t copy[PAGE / 8];

    guest_read_bytes(copy, hva, PAGE);
    for (unsigned i = 0; i < PAGE / 8; i++)
        CHECK(copy[i] == word_of(page, i), "page %u: byte %u is %#llx, not %#llx", page, i * 8,
              (unsigned long long)copy[i], (unsigned long long)word_of(page, i));
}

static void check_all(const struct rig *rig)
{
    for (uint32_t i = 0; i < rig->npages; i++)
        check(rig_page(rig, i), i);
}

static struct rig pager_rig(const struct wire_rec_budget *budget, bool huge)
{
    struct script_options options = {.budget = budget};
    char *ram = guest_map(NPAGES * PAGE, huge);

    for (uint32_t i = 0; i < NPAGES; i++)
        fill(ram + i * PAGE, i);
    return rig_open_at(&options, ram, NPAGES);
}

/* Without a budget nothing is scanned: only orders change anything. */
static struct rig quiet_rig(void)
{
    return pager_rig(NULL, false);
}

static uint64_t order(struct rig *rig, uint16_t type, uint64_t pages, uint32_t flags)
{
    struct wire_rec_paged done = script_paged(rig->vm, script_page(rig->vm, type, pages, 0, flags));

    EQUALS(done.error, 0);
    return done.pages;
}

static uint64_t rss(const struct rig *rig)
{
    return kit_smaps(rig->ram, rig->npages * PAGE).rss_bytes / PAGE;
}

static void out_and_in(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL | WIRE_PAGEOUT_PARK), NPAGES);
    EQUALS(kit_stats(rig.memd).parked_pages, NPAGES);
    EQUALS(script_count_state(rig.vm, 0, WIRE_PAGE_PARKED), NPAGES);
    EQUALS(rss(&rig), 0);
    check(rig_page(&rig, 9), 9);
    EQUALS(kit_stats(rig.memd).parked_faults, 1);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL), NPAGES);
    EQUALS(kit_stats(rig.memd).packed_pages, NPAGES);
    EQUALS(script_count_state(rig.vm, 0, WIRE_PAGE_PACKED), NPAGES);
    EQUALS(rss(&rig), 0);
    CHECK(kit_stats(rig.memd).pool_bytes < NPAGES * PAGE / 4, "the pool takes %llu KiB",
          (unsigned long long)kit_stats(rig.memd).pool_bytes >> 10);
    check(rig_page(&rig, 700), 700);
    EQUALS(kit_stats(rig.memd).packed_faults, 1);
    EQUALS(order(&rig, WIRE_REC_PAGEIN, 100, 0), 100);
    EQUALS(kit_stats(rig.memd).packed_pages, NPAGES - 101);
    EQUALS(order(&rig, WIRE_REC_PAGEIN, UINT64_MAX, 0), NPAGES - 101);
    EQUALS(rss(&rig), NPAGES);
    EQUALS(kit_stats(rig.memd).pool_bytes, 0);
    check_all(&rig);
    EQUALS(kit_stats(rig.memd).packed_faults, 1);
    rig_close(&rig);
}

static void by_the_hand(void **state)
{
    struct rig rig = quiet_rig();
    uint64_t total = 0;

    (void)state;
    /* each goes on where the last one ended */
    for (unsigned i = 0; i < 5; i++)
        total += order(&rig, WIRE_REC_PAGEOUT, 300, ALL);
    EQUALS(total, 1500);
    EQUALS(kit_stats(rig.memd).packed_pages, 1500);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, 300, ALL), 36);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, 300, ALL), 0);
    check_all(&rig);
    rig_close(&rig);
}

static uint32_t raw_page(uint32_t page)
{
    return page % 4 == 1;
}

static void zero_and_raw(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    for (uint32_t i = 0; i < NPAGES; i++)
        if (raw_page(i))
            guest_fill(rig_page(&rig, i), 1 + i);
        else if (i % 4 == 2)
            guest_fill(rig_page(&rig, i), 0);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL), NPAGES / 4 * 3);
    EQUALS(kit_stats(rig.memd).zero_pages, NPAGES / 4);
    EQUALS(kit_stats(rig.memd).packed_pages, NPAGES / 2);
    EQUALS(rss(&rig), NPAGES / 4);
    for (uint32_t i = 0; i < NPAGES; i++)
        if (raw_page(i) || i % 4 == 2)
            CHECK(guest_differs(rig_page(&rig, i), raw_page(i) ? 1 + i : 0) < 0, "page %u differs", i);
        else
            check(rig_page(&rig, i), i);
    rig_close(&rig);
}

static void discard_reads_zero(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL | WIRE_PAGEOUT_PARK);
    OK(memd_discard(rig.memd, rig.region, 0, 100 * PAGE));
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL);
    OK(memd_discard(rig.memd, rig.region, 50 * PAGE, 600 * PAGE));
    EQUALS(kit_stats(rig.memd).packed_pages, NPAGES - 650);
    for (uint32_t i = 0; i < NPAGES; i++)
        if (i < 650)
            CHECK(guest_differs(rig_page(&rig, i), 0) < 0, "page %u is not zero", i);
        else
            check(rig_page(&rig, i), i);
    rig_close(&rig);
}

/* Accesses to fresh memory are the kernel's again some time after everything has come home. */
static void missing_goes_off(void **state)
{
    struct rig rig = quiet_rig();
    uint64_t faults, limit = kit_ms() + WAIT_MS;

    (void)state;
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL);
    order(&rig, WIRE_REC_PAGEIN, UINT64_MAX, 0);
    do {
        CHECK(kit_ms() < limit, "first touches still go through the fault server");
        usleep(50000);
        OK(memd_discard(rig.memd, rig.region, 8 * PAGE, PAGE));
        faults = kit_stats(rig.memd).faults;
        guest_write(rig_page(&rig, 8), 1);
    } while (kit_stats(rig.memd).faults != faults);
    fill(rig_page(&rig, 8), 8);
    check_all(&rig);
    rig_close(&rig);
}

static void pinned_stays(void **state)
{
    struct rig rig = quiet_rig();
    struct iovec io = {rig_page(&rig, 100), 16 * PAGE};
    struct io_uring ring;

    (void)state;
    OK(io_uring_queue_init(4, &ring, 0));
    OK(io_uring_register_buffers(&ring, &io, 1));
    OK(memd_pin(rig.memd, rig.region, 1024 * PAGE, PAGE));
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL), 1024 - 16);
    EQUALS(rss(&rig), 512 + 16);
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_PINNED], (512 + 16) * PAGE);
    OK(memd_pin(rig.memd, rig.region, 0, PAGE)); /* brings a chunk home */
    EQUALS(kit_stats(rig.memd).packed_pages, 512);
    OK(memd_unpin(rig.memd, rig.region, 0, PAGE));
    OK(memd_unpin(rig.memd, rig.region, 1024 * PAGE, PAGE));
    io_uring_queue_exit(&ring);
    check_all(&rig);
    rig_close(&rig);
}

static int look(void *arg)
{
    check_all(arg);
    return 0;
}

static void child_sees_all(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    order(&rig, WIRE_REC_PAGEOUT, 600, ALL | WIRE_PAGEOUT_PARK);
    order(&rig, WIRE_REC_PAGEOUT, 600, ALL);
    kit_reap(kit_fork(look, &rig));
    EQUALS(kit_stats(rig.memd).packed_pages + kit_stats(rig.memd).parked_pages, 0);
    check_all(&rig);
    rig_close(&rig);
}

/* The engine serves without a daemon, and takes everything back. */
static void daemon_gone(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL);
    script_vanish(rig.script);
    for (uint32_t i = 0; i < NPAGES / 2; i++)
        check(rig_page(&rig, i), i);
    OK(memd_close(rig.memd, WAIT_MS));
    check_all(&rig);
    script_appear(rig.script);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

static void paused(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    order(&rig, WIRE_REC_PAGEOUT, 500, ALL);
    OK(memd_pause(rig.memd));
    uint64_t id = script_page(rig.vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, ALL);
    usleep(100000);
    EQUALS(kit_stats(rig.memd).packed_pages, 500);
    check_all(&rig);
    EQUALS(kit_stats(rig.memd).packed_pages, 0);
    OK(memd_resume(rig.memd));
    EQUALS(script_paged(rig.vm, id).pages, NPAGES);
    check_all(&rig);
    rig_close(&rig);
}

/* A page that comes home unchanged is not hashed again; one that was written is. */
static void unchanged_is_known(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct rig rig = pager_rig(&budget, false);
    uint64_t limit = kit_ms() + WAIT_MS;

    (void)state;
    while (kit_stats(rig.memd).unshared_pages < NPAGES) {
        CHECK(kit_ms() < limit, "%llu pages are hashed",
              (unsigned long long)kit_stats(rig.memd).unshared_pages);
        usleep(10000);
    }
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, 0), NPAGES);
    uint64_t hashes = rig.vm->hashes;
    check_all(&rig);
    guest_write(rig_page(&rig, 3), word_of(3, 0));
    script_wait_rounds(rig.vm, 4);
    EQUALS(kit_stats(rig.memd).unshared_pages, NPAGES);
    EQUALS(rig.vm->hashes - hashes, 1);
    rig_close(&rig);
}

/* A huge page goes as a whole, and only if everything is to go. */
static void huge(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct rig rig = pager_rig(&budget, true);

    (void)state;
    if (madvise(rig.ram, NPAGES * PAGE, MADV_COLLAPSE) ||
        kit_smaps(rig.ram, NPAGES * PAGE).anon_huge_bytes != NPAGES * PAGE) {
        rig_close(&rig);
        skip();
    }
    script_round(rig.vm);
    script_wait_rounds(rig.vm, 2);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, 0), 0);
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).anon_huge_bytes, NPAGES * PAGE);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL), NPAGES);
    EQUALS(rss(&rig), 0);
    check_all(&rig);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(out_and_in),
        cmocka_unit_test(by_the_hand),
        cmocka_unit_test(zero_and_raw),
        cmocka_unit_test(discard_reads_zero),
        cmocka_unit_test(missing_goes_off),
        cmocka_unit_test(pinned_stays),
        cmocka_unit_test(child_sees_all),
        cmocka_unit_test(daemon_gone),
        cmocka_unit_test(paused),
        cmocka_unit_test(unchanged_is_known),
        cmocka_unit_test(huge),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
