/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merged pages that give up their mapping and keep their frame. memd-test: timeout=300
 *
 * Frames that nobody refers to are overwritten at once: one that is freed while a page is REMOTE shows in
 * what the page is found to hold. The storm of merged_out.c has REMOTE pages in it, too.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES   1024u
#define LET_GO   (WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_MERGED)
#define TO_SWAP  (LET_GO | WIRE_PAGEOUT_SWAP)
#define RESTS_MS 1500u /* long enough for several attempts at a session */

static char swap_path[160];

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

/* Nothing is scanned: what happens is what the test orders. */
static struct script_options quiet(void)
{
    static struct wire_rec_budget budget;

    budget = script_budget_full();
    budget.scan_pages_per_s = 0;
    snprintf(swap_path, sizeof swap_path, "%s/remote.swap", kit_tmp());
    unlink(swap_path);
    return (struct script_options){.budget = &budget, .swap = swap_path};
}

static struct rig quiet_rig(void)
{
    struct script_options options = quiet();

    return rig_open(&options, NPAGES, unique);
}

static uint32_t count(struct rig *rig, enum wire_page_state state)
{
    return script_count_state(rig->vm, rig->region, state);
}

static void order(struct rig *rig, uint16_t type, uint64_t pages, uint32_t flags)
{
    EQUALS(script_paged(rig->vm, script_page(rig->vm, type, pages, 0, flags)).error, 0);
}

static void await_refs(struct rig *rig, uint64_t n)
{
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; script_count(rig->script).shared != n; usleep(2000))
        CHECK(kit_ms() < limit, "%llu frames are referred to, not %llu",
              (unsigned long long)script_count(rig->script).shared, (unsigned long long)n);
}

/* The first half in one mapping, of the second every other four pages; all of it cold. */
static uint32_t merge(struct rig *rig)
{
    uint32_t frame = script_frames(rig->script, rig_page(rig, 0), NPAGES / 2);

    EQUALS(rig_propose(rig, 0, frame, NPAGES / 2).merged, NPAGES / 2);
    script_retire(rig->script, frame);
    frame = script_frames(rig->script, rig_page(rig, NPAGES / 2), NPAGES / 2);
    for (uint32_t i = 0; i < NPAGES / 2; i += 8)
        EQUALS(rig_propose(rig, NPAGES / 2 + i, frame + i, 4).merged, 4);
    script_retire(rig->script, frame);
    return NPAGES / 4 * 3;
}

/* Nothing is left over: no reference, and what was a frame can be anything. */
static void check_home(struct rig *rig)
{
    rig_check(rig, unique);
    await_refs(rig, 0);
    EQUALS(count(rig, WIRE_PAGE_REMOTE), 0);
    EQUALS(kit_stats(rig->memd).remote_pages, 0);
    CHECK(script_recycle(rig->script) == 2, "the frames are not free");
    rig_check(rig, unique);
}

static uint32_t merge_and_let_go(struct rig *rig)
{
    uint32_t n = merge(rig);

    order(rig, WIRE_REC_PAGEOUT, UINT64_MAX, LET_GO);
    EQUALS(count(rig, WIRE_PAGE_REMOTE), n);
    EQUALS(kit_stats(rig->memd).remote_pages, n);
    EQUALS(script_count(rig->script).shared, n);
    EQUALS(script_recycle(rig->script), 0);
    return n;
}

static void go_and_come_back(struct rig *rig)
{
    uint64_t before = rig->vm->sessions_seen;

    script_vanish(rig->script);
    script_appear(rig->script);
    script_wait_back(rig->vm, before);
}

/* ---- down and up */

static void out_and_back(void **state)
{
    struct rig rig = quiet_rig();
    uint64_t outs = 0, faults = 0;

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        uint64_t plain = kit_smaps(rig.ram, NPAGES * PAGE).vmas;
        uint32_t n = merge(&rig);
        uint64_t before = kit_smaps(rig.ram, NPAGES * PAGE).vmas;
        struct wire_rec_paged done =
            script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, LET_GO));
        EQUALS(done.error, 0);
        CHECK(done.pages <= NPAGES - n, "%llu pages are said to be out: a frame that is kept is no page",
              (unsigned long long)done.pages);
        struct memd_stats st = kit_stats(rig.memd);
        EQUALS(count(&rig, WIRE_PAGE_REMOTE), n);
        EQUALS(st.remote_pages, n);
        EQUALS(st.merged_pages + st.vmas_used, 0);
        EQUALS(st.remote_outs, outs += n);
        EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).file_vmas, 0);
        CHECK(before > plain + 100 && kit_smaps(rig.ram, NPAGES * PAGE).vmas <= plain + 2,
              "%llu mappings, merged %llu, then %llu", (unsigned long long)plain, (unsigned long long)before,
              (unsigned long long)kit_smaps(rig.ram, NPAGES * PAGE).vmas);
        EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).rss_bytes, (NPAGES - n) * PAGE);
        EQUALS(script_recycle(rig.script), 0);
        for (uint32_t page = 0; round && page < NPAGES / 2; page++) /* half of it is written to */
            guest_write(rig_page(&rig, page), guest_read(rig_page(&rig, page)));
        faults += round ? NPAGES / 2 : 0;
        if (round == 2)
            order(&rig, WIRE_REC_PAGEIN, UINT64_MAX, 0);
        faults += round == 0 ? n : round == 1 ? n - NPAGES / 2 : 0;
        check_home(&rig);
        EQUALS(kit_stats(rig.memd).remote_faults, faults);
        EQUALS(count(&rig, WIRE_PAGE_PRIVATE), NPAGES);
    }
    rig_close(&rig);
}

/* Who has enough, or may write nothing, lets go of what is cold; what somebody touches stays mapped. */
static void only_what_is_cold(void **state)
{
    uint64_t limit = kit_ms() + 60000;
    struct rig rig = quiet_rig();

    (void)state;
    uint32_t n = merge(&rig);
    for (uint32_t page = 0; page < NPAGES; page++) /* all of it has been touched once */
        guest_read(rig_page(&rig, page));
    do {
        CHECK(kit_ms() < limit, "cold pages stay mapped");
        order(&rig, WIRE_REC_PAGEOUT, 1, 0);
        EQUALS(guest_differs(rig_page(&rig, 3), unique(3)), -1);
        CHECK(count(&rig, WIRE_PAGE_SHARED) >= NPAGES / 2, "what is touched is not mapped any more");
        usleep(100000);
    } while (count(&rig, WIRE_PAGE_SHARED) == n);
    EQUALS(count(&rig, WIRE_PAGE_REMOTE), NPAGES / 4);
    EQUALS(count(&rig, WIRE_PAGE_SHARED), NPAGES / 2); /* one mapping, with something hot in it */
    EQUALS(script_unmerge(rig.vm), 0);
    check_home(&rig);
    rig_close(&rig);
}

/* Wanted in the swap file, they go there like merged pages, and before these. */
static void on_to_the_swap_file(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        uint32_t n = merge_and_let_go(&rig), in_ram = NPAGES - n;
        order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP | WIRE_PAGEOUT_PARK);
        EQUALS(count(&rig, WIRE_PAGE_REMOTE), n);
        order(&rig, WIRE_REC_PAGEOUT, 100 + in_ram, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP);
        CHECK(count(&rig, WIRE_PAGE_REMOTE) >= n - 100 - in_ram && count(&rig, WIRE_PAGE_REMOTE) < n,
              "of %u REMOTE pages %u are left", n, count(&rig, WIRE_PAGE_REMOTE));
        order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, TO_SWAP);
        EQUALS(count(&rig, WIRE_PAGE_SWAPPED), NPAGES);
        check_home(&rig);
    }
    rig_close(&rig);
}

/* ---- the daemon */

static void daemon_gone(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    merge_and_let_go(&rig);
    uint64_t before = rig.vm->sessions_seen;
    script_vanish(rig.script);
    for (uint32_t page = 0; page < NPAGES; page += 3)
        EQUALS(guest_differs(rig_page(&rig, page), unique(page)), -1);
    usleep(400000); /* the engine looks for a daemon in between */
    rig_check(&rig, unique);
    EQUALS(kit_stats(rig.memd).remote_pages, 0);
    script_appear(rig.script);
    script_wait_back(rig.vm, before);
    check_home(&rig);
    rig_close(&rig);
}

static void daemon_restarted(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    uint32_t n = merge_and_let_go(&rig);
    for (unsigned i = 0; i < 3; i++) {
        go_and_come_back(&rig);
        EQUALS(count(&rig, WIRE_PAGE_REMOTE), n);
        EQUALS(script_count(rig.script).shared, n);
        EQUALS(script_recycle(rig.script), 0);
    }
    check_home(&rig);
    rig_close(&rig);
}

static void hold_adopted(struct script *s, bool hold)
{
    pthread_mutex_lock(&s->lock);
    s->hold_adopted = hold;
    pthread_mutex_unlock(&s->lock);
}

static bool is_counted(struct script_vm *vm)
{
    pthread_mutex_lock(&vm->script->lock);
    bool is = vm->state == VM_READY;
    pthread_mutex_unlock(&vm->script->lock);
    return is;
}

/* While its page maps are being counted no frame field may change: pages come home all the same. */
static void touched_while_counted(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    merge_and_let_go(&rig);
    uint64_t before = rig.vm->sessions_seen;
    script_vanish(rig.script);
    hold_adopted(rig.script, true);
    script_appear(rig.script);
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; !is_counted(rig.vm); usleep(2000))
        CHECK(kit_ms() < limit, "the engine does not come back");
    rig_check(&rig, unique);
    EQUALS(kit_stats(rig.memd).remote_pages, 0);
    hold_adopted(rig.script, false); /* and it is checked that nothing has changed */
    script_wait_back(rig.vm, before);
    check_home(&rig);
    rig_close(&rig);
}

/* One that knows nothing of this state gets page maps without it. */
static void older_daemon(void **state)
{
    struct script_options options = quiet();
    struct rig rig = rig_open(&options, NPAGES, unique);

    (void)state;
    merge_and_let_go(&rig);
    uint64_t before = rig.vm->sessions_seen;
    script_vanish(rig.script);
    rig.script->options.map_version = 1;
    script_appear(rig.script);
    script_wait_back(rig.vm, before);
    EQUALS(rig.vm->map_version, 1);
    check_home(&rig);
    uint32_t n = merge(&rig);
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, LET_GO);
    EQUALS(count(&rig, WIRE_PAGE_SHARED), n);
    before = rig.vm->sessions_seen;
    script_vanish(rig.script);
    rig.script->options.map_version = 0;
    script_appear(rig.script);
    script_wait_back(rig.vm, before);
    EQUALS(rig.vm->map_version, WIRE_MAP_VERSION_MAX);
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, LET_GO);
    EQUALS(count(&rig, WIRE_PAGE_REMOTE), n);
    check_home(&rig);
    rig_close(&rig);
}

/* A daemon with a store of its own is none for an engine with pages in another, mapped or not: they are not
 * compared again before they become REMOTE. */
static void keeps_to_its_store(bool remote)
{
    struct rig rig = rig_open_losing(&(struct script_options){0}, guest_map(NPAGES * PAGE, false), NPAGES);
    struct script *s = rig.script;
    int own = s->store_fd, other = memfd_create("memd-store", MFD_CLOEXEC);

    for (uint32_t page = 0; page < NPAGES; page++)
        guest_fill(rig_page(&rig, page), unique(page));
    CHECK(other >= 0 && !ftruncate(other, (off_t)(s->nblocks * SCRIPT_BLOCK_FRAMES * PAGE)), "memfd");
    script_budget(rig.vm, &(struct wire_rec_budget){.flags = WIRE_BUDGET_MERGE, .vmas_max = 60000});
    if (remote)
        merge_and_let_go(&rig);
    else
        merge(&rig);
    uint64_t before = rig.vm->sessions_seen;
    script_vanish(s);
    s->store_fd = other;
    script_appear(s);
    usleep(RESTS_MS * 1000);
    EQUALS(kit_stats(rig.memd).connected, 0);
    for (uint32_t page = 0; page < NPAGES / 2; page++)
        EQUALS(guest_differs(rig_page(&rig, page), unique(page)), -1);
    script_vanish(s);
    s->store_fd = own;
    close(other);
    script_appear(s);
    script_wait_back(rig.vm, before);
    if (!remote) {
        order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, LET_GO);
        EQUALS(count(&rig, WIRE_PAGE_REMOTE), NPAGES / 4 * 3);
    } else {
        EQUALS(count(&rig, WIRE_PAGE_REMOTE), NPAGES / 4);
    }
    check_home(&rig);
    rig_close(&rig);
}

static void another_store(void **state)
{
    (void)state;
    keeps_to_its_store(false);
    keeps_to_its_store(true);
}

/* The store is cut off under it: a memory error, and neither a wait for ever nor other bytes. */
static void store_cut_off(void **state)
{
    struct rig rig = rig_open_losing(&(struct script_options){0}, guest_map(NPAGES * PAGE, false), NPAGES);
    uint64_t gpa;

    (void)state;
    for (uint32_t page = 0; page < NPAGES; page++)
        guest_fill(rig_page(&rig, page), unique(page));
    script_budget(rig.vm, &(struct wire_rec_budget){.flags = WIRE_BUDGET_MERGE, .vmas_max = 60000});
    uint32_t n = merge_and_let_go(&rig);
    CHECK(!ftruncate(rig.script->store_fd, 0), "ftruncate: %s", strerror(errno));
    for (uint32_t page = 0; page < NPAGES / 2; page++)
        CHECK(guest_poisoned(rig_page(&rig, page)), "page %u is there", page);
    EQUALS(memd_pin(rig.memd, rig.region, NPAGES / 2 * PAGE, PAGE), -EHWPOISON); /* of all of its chunk */
    EQUALS(count(&rig, WIRE_PAGE_REMOTE), 0);
    for (uint32_t page = NPAGES / 2; page < NPAGES; page++)
        CHECK(guest_poisoned(rig_page(&rig, page)) == (page % 8 < 4), "page %u", page);
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; rig_lost(&gpa) != n; usleep(2000))
        CHECK(kit_ms() < limit, "the VMM was told of %u pages", rig_lost(&gpa));
    EQUALS(script_count(rig.script).shared, n);
    OK(memd_discard(rig.memd, rig.region, 0, NPAGES * PAGE));
    await_refs(&rig, 0);
    for (uint32_t page = 0; page < NPAGES; page++)
        EQUALS(guest_differs(rig_page(&rig, page), 0), -1);
    rig_close(&rig);
}

/* ---- what the VMM does */

static void discarded(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    uint32_t n = merge_and_let_go(&rig);
    OK(memd_discard(rig.memd, rig.region, 100 * PAGE, 50 * PAGE));
    await_refs(&rig, n - 50);
    EQUALS(kit_stats(rig.memd).remote_pages, n - 50);
    script_vanish(rig.script); /* the references of these are told of later */
    OK(memd_discard(rig.memd, rig.region, 150 * PAGE, 50 * PAGE));
    script_appear(rig.script);
    await_refs(&rig, n - 100);
    for (uint32_t page = 100; page < 200; page++) {
        EQUALS(guest_differs(rig_page(&rig, page), 0), -1);
        guest_fill(rig_page(&rig, page), unique(page));
    }
    check_home(&rig);
    rig_close(&rig);
}

static void brought_home(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    uint32_t n = merge_and_let_go(&rig);
    OK(memd_pin(rig.memd, rig.region, 0, PAGE)); /* all of its chunk */
    EQUALS(count(&rig, WIRE_PAGE_REMOTE), n - 512);
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, LET_GO);
    order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, TO_SWAP);
    EQUALS(count(&rig, WIRE_PAGE_PRIVATE), 512);
    OK(memd_unpin(rig.memd, rig.region, 0, PAGE));
    check_home(&rig);

    merge_and_let_go(&rig);
    EQUALS(script_unmerge(rig.vm), 0);
    EQUALS(count(&rig, WIRE_PAGE_REMOTE), 0);
    EQUALS(script_count(rig.script).shared, 0);
    script_merging(rig.vm, false);
    script_merging(rig.vm, true);
    check_home(&rig);

    merge_and_let_go(&rig);
    OK(memd_region_cut(rig.memd, rig.region, 100 * PAGE, 600 * PAGE, MEMD_INELIGIBLE_OTHER, KIT_CLOSE_MS));
    OK(memd_region_refresh(rig.memd, rig.region, 100 * PAGE, 600 * PAGE));
    rig_check(&rig, unique);
    OK(memd_region_del(rig.memd, rig.region, KIT_CLOSE_MS)); /* the script counts what is given back */
    script_wait_no_region(rig.vm, rig.region);
    EQUALS(script_count(rig.script).shared, 0);
    rig_check(&rig, unique);
    rig.region = kit_region(rig.memd, rig.ram, NPAGES * PAGE);
    script_wait_region(rig.vm, rig.region);
    script_recycle(rig.script);
    merge_and_let_go(&rig);
    OK(memd_close(rig.memd, KIT_CLOSE_MS));
    for (uint32_t page = 0; page < NPAGES; page++)
        EQUALS(guest_differs(rig_page(&rig, page), unique(page)), -1);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

/* A child has the bytes, and none of the parent's frames after they have been freed. */
static void forked(void **state)
{
    struct rig rig = quiet_rig();
    int go[2];
    char c;

    (void)state;
    merge_and_let_go(&rig);
    CHECK(!pipe(go), "pipe");
    pid_t pid = fork();
    CHECK(pid >= 0, "fork: %s", strerror(errno));
    if (!pid) {
        close(go[1]);
        CHECK(!read(go[0], &c, 1), "read");
        rig_check(&rig, unique);
        _exit(0);
    }
    for (uint32_t page = 0; page < NPAGES; page++)
        guest_write(rig_page(&rig, page), ~0ull);
    close(go[0]);
    close(go[1]);
    EQUALS(kit_wait(pid), 0);
    for (uint32_t page = 0; page < NPAGES; page++)
        guest_fill(rig_page(&rig, page), unique(page));
    check_home(&rig);
    rig_close(&rig);
}

static void touched_by_the_kernel(void **state)
{
    struct rig rig = quiet_rig();
    uint64_t copy[PAGE / 8];
    char path[160];

    (void)state;
    snprintf(path, sizeof path, "%s/direct", kit_tmp());
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
    if (fd < 0)
        kit_skip("needs a file system with O_DIRECT for the test's files");
    unlink(path);
    merge_and_let_go(&rig);
    for (uint32_t page = 0; page < 64; page++) {
        CHECK(pwrite(fd, rig_page(&rig, page), PAGE, (off_t)(page * PAGE)) == (ssize_t)PAGE, "write: %s",
              strerror(errno));
        CHECK(pread(fd, rig_page(&rig, 100 + page), PAGE, (off_t)(page * PAGE)) == (ssize_t)PAGE, "read: %s",
              strerror(errno));
    }
    for (uint32_t page = 0; page < 64; page++) {
        guest_read_bytes(copy, rig_page(&rig, 100 + page), PAGE);
        EQUALS(guest_differs(copy, unique(page)), -1);
        guest_fill(rig_page(&rig, 100 + page), unique(100 + page));
    }
    EQUALS(kit_stats(rig.memd).remote_faults, 128);
    check_home(&rig);
    close(fd);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(out_and_back),          cmocka_unit_test(only_what_is_cold),
        cmocka_unit_test(on_to_the_swap_file),   cmocka_unit_test(daemon_gone),
        cmocka_unit_test(daemon_restarted),      cmocka_unit_test(touched_while_counted),
        cmocka_unit_test(older_daemon),          cmocka_unit_test(another_store),
        cmocka_unit_test(store_cut_off),         cmocka_unit_test(discarded),
        cmocka_unit_test(brought_home),          cmocka_unit_test(forked),
        cmocka_unit_test(touched_by_the_kernel),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
