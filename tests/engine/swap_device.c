/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A swap file on a device that is slow, full, fails, lies or goes away: who may wait for it, who may not, and
 * what becomes of the pages. Nothing may be read but what was written, and nobody wait for ever.
 *
 * The device is a FUSE file system (tests/faults/badfs.c) in a mount namespace of the test's own, so all of
 * the engine's calls, io_uring's and the others, meet real delays and errors. memd-test: timeout=120
 */
#include "device.h"
#include "rig.h"

#include "memd/common/uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES   1536u
#define CHUNK_AT 512u /* pages of a chunk */
#define ALL      (WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP)
#define WAIT_MS  20000u
#define SLOW_MS  400u
#define CROWD    200u

/* ---- a VM whose swap file is there */

static uint64_t word_of(uint32_t page, uint32_t version, unsigned i)
{
    return (page + 1) * 0x9e3779b97f4a7c15ull ^ (i / 8) ^ (uint64_t)version << 32;
}

static void fill(char *hva, uint32_t page, uint32_t version)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        guest_write(hva + i * 8, word_of(page, version, i));
}

static void check(const char *hva, uint32_t page, uint32_t version)
{
    uint64_t is[PAGE / 8];

    guest_read_bytes(is, hva, PAGE);
    for (unsigned i = 0; i < PAGE / 8; i++)
        CHECK(is[i] == word_of(page, version, i), "page %u: byte %u is %#llx, not %#llx", page, i * 8,
              (unsigned long long)is[i], (unsigned long long)word_of(page, version, i));
}

static void check_range(const struct rig *rig, uint32_t first, uint32_t end, uint32_t version)
{
    for (uint32_t i = first; i < end; i++)
        check(rig_page(rig, i), i, version);
}

static void fill_range(const struct rig *rig, uint32_t first, uint32_t end, uint32_t version)
{
    for (uint32_t i = first; i < end; i++)
        fill(rig_page(rig, i), i, version);
}

static struct rig device_rig(void)
{
    static struct script_options options;
    static char path[160];

    device_good();
    snprintf(path, sizeof path, "%s/vm.swap", device_dir());
    unlink(path);
    options = (struct script_options){.swap = path};
    char *ram = guest_map(NPAGES * PAGE, false);
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(ram + i * PAGE, i, 0);
    return rig_open_losing(&options, ram, NPAGES);
}

static struct wire_rec_paged order(struct rig *rig, uint16_t type, uint64_t pages, uint32_t flags)
{
    return script_paged(rig->vm, script_page(rig->vm, type, pages, 0, flags));
}

static void all_out(struct rig *rig)
{
    EQUALS(order(rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL).error, 0);
    EQUALS(kit_stats(rig->memd).swapped_pages, NPAGES);
}

/* Pages [0, 256) parked, [256, 512) packed, the others in the file, and nothing of it read ahead. */
static void on_every_rung(struct rig *rig)
{
    all_out(rig);
    OK(memd_discard(rig->memd, rig->region, 0, CHUNK_AT * PAGE));
    fill_range(rig, 0, CHUNK_AT, 1);
    EQUALS(order(rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL).pages, CHUNK_AT);
    check_range(rig, 0, CHUNK_AT / 2, 1);
    order(rig, WIRE_REC_PAGEOUT, UINT64_MAX, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_PARK);
    struct memd_stats st = kit_stats(rig->memd);
    EQUALS(st.parked_pages, CHUNK_AT / 2);
    EQUALS(st.packed_pages, CHUNK_AT / 2);
    EQUALS(st.swapped_pages, NPAGES - CHUNK_AT);
}

/* ---- threads that touch a page */

struct toucher {
    pthread_t thread;
    const char *hva;
    uint64_t value;
    atomic_bool done;
};

static void *touch(void *arg)
{
    struct toucher *t = arg;

    t->value = guest_read(t->hva);
    atomic_store(&t->done, true);
    return NULL;
}

static void touch_begin(struct toucher *t, const char *hva)
{
    t->hva = hva;
    atomic_store(&t->done, false);
    CHECK(!pthread_create(&t->thread, NULL, touch, t), "pthread_create: %s", strerror(errno));
}

/* It ends within WAIT_MS. */
static uint64_t touch_end(struct toucher *t)
{
    for (uint64_t limit = kit_ms() + WAIT_MS; !atomic_load(&t->done); usleep(1000))
        CHECK(kit_ms() < limit, "whoever touches the page at %p hangs", (const void *)t->hva);
    pthread_join(t->thread, NULL);
    return t->value;
}

/* Whoever waits for a device that is held, and must not, waits for ever. */
static void on_alarm(int signo)
{
    static const char said[] = "somebody waits for the device who must not\n";
    ssize_t ignored = write(STDERR_FILENO, said, sizeof said - 1);

    (void)signo;
    (void)ignored;
    _exit(1);
}

static void hold(const char *knob)
{
    signal(SIGALRM, on_alarm);
    alarm(100);
    device_set(knob, 1);
}

static void let_go(const char *knob)
{
    device_set(knob, 0);
    alarm(0);
}

/* ---- slow */

/* Those who wait for the device wait; pages elsewhere, and the VMM's own calls, do not. */
static void only_who_reads_waits(void **state)
{
    struct rig rig = device_rig();
    struct toucher t[24]; /* more than reads can be under way */
    const unsigned n = sizeof t / sizeof *t;

    (void)state;
    on_every_rung(&rig);
    hold("hold-reads");
    for (unsigned i = 0; i < n; i++)
        touch_begin(&t[i], rig_page(&rig, CHUNK_AT + i * 7));
    device_holds(1);
    check_range(&rig, 0, CHUNK_AT, 1);
    OK(memd_discard(rig.memd, rig.region, (NPAGES - 1) * PAGE, PAGE));
    for (unsigned i = 0; i < n; i++)
        CHECK(!atomic_load(&t[i].done), "reader %u has not waited for the device", i);
    let_go("hold-reads");
    for (unsigned i = 0; i < n; i++)
        EQUALS(touch_end(&t[i]), word_of(CHUNK_AT + i * 7, 0, 0));
    fill(rig_page(&rig, NPAGES - 1), NPAGES - 1, 0);
    check_range(&rig, CHUNK_AT, NPAGES, 0);
    rig_close(&rig);
}

/* More who wait than the fault server can remember. They are read side by side. */
static void a_crowd_waits(void **state)
{
    static struct toucher t[CROWD];
    struct rig rig = device_rig();
    const unsigned ms = 50;

    (void)state;
    on_every_rung(&rig);
    device_set("read-ms", ms);
    hold("hold-reads");
    for (unsigned i = 0; i < CROWD; i++)
        touch_begin(&t[i], rig_page(&rig, CHUNK_AT + i * 4));
    device_holds(1);
    check_range(&rig, 0, 64, 1);
    let_go("hold-reads");
    uint64_t begun = kit_ms();
    for (unsigned i = 0; i < CROWD; i++)
        EQUALS(touch_end(&t[i]), word_of(CHUNK_AT + i * 4, 0, 0));
    uint64_t took = kit_ms() - begun;
    printf("%u readers in %llu ms, %u of it the device's\n", CROWD, (unsigned long long)took,
           CROWD / 16 * ms);
    CHECK(took < CROWD * ms, "%llu ms: one after the other", (unsigned long long)took);
    device_set("read-ms", 0);
    rig_close(&rig);
}

/* PAGEIN reads page after page; what the VMM wants of the engine meanwhile does not wait for all of them. */
static void calls_come_between(void **state)
{
    const unsigned pages = 40;
    struct rig rig = device_rig();
    unsigned between = 0;

    (void)state;
    all_out(&rig);
    uint64_t before = kit_stats(rig.memd).page_ins;
    device_set("read-ms", 60);
    uint64_t id = script_page(rig.vm, WIRE_REC_PAGEIN, pages, 0, 0);
    while (kit_stats(rig.memd).page_ins == before)
        usleep(1000);
    for (unsigned i = 0; i < 10; i++) {
        OK(memd_discard(rig.memd, rig.region, (NPAGES - 1 - i) * PAGE, PAGE));
        between += kit_stats(rig.memd).page_ins < before + pages;
        usleep(30000);
    }
    CHECK(between >= 2, "%u of 10 discards did not wait for all pages to come home", between);
    EQUALS(script_paged(rig.vm, id).pages, pages);
    device_good();
    check_range(&rig, 0, NPAGES - 10, 0);
    rig_close(&rig);
}

/* Writes that take long keep nobody; pages that are wanted meanwhile come home, and stay right. */
static void slow_writes(void **state)
{
    struct rig rig = device_rig();

    (void)state;
    hold("hold-writes");
    uint64_t id = script_page(rig.vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, ALL);
    for (uint64_t limit = kit_ms() + WAIT_MS; kit_stats(rig.memd).packed_pages < NPAGES / 2; usleep(1000))
        CHECK(kit_ms() < limit, "nothing is packed");
    device_holds(1);
    check_range(&rig, 0, NPAGES / 2, 0);
    fill_range(&rig, 0, NPAGES / 4, 3);
    let_go("hold-writes");
    EQUALS(script_paged(rig.vm, id).error, 0);
    check_range(&rig, 0, NPAGES / 4, 3);
    check_range(&rig, NPAGES / 4, NPAGES, 0);
    rig_close(&rig);
}

/* ---- reads under way when the memory is taken from them */

struct over {
    char *hva;
    uint64_t bytes;
};

static int map_over(void *ctx)
{
    const struct over *o = ctx;

    return mmap(o->hva, o->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                   MAP_FAILED
               ? -errno
               : 0;
}

/* Whatever comes late must not come here. */
static void stays_ours(const struct rig *rig, uint32_t page, uint32_t n)
{
    fill_range(rig, page, page + n, 9);
    usleep(2 * SLOW_MS * 1000);
    check_range(rig, page, page + n, 9);
}

/* Two pages in the file, the others home, and not because they were read from there. */
static void two_in_file(struct rig *rig, uint32_t page)
{
    all_out(rig);
    OK(memd_discard(rig->memd, rig->region, 0, page * PAGE));
    OK(memd_discard(rig->memd, rig->region, (page + 2) * PAGE, (NPAGES - page - 2) * PAGE));
    fill_range(rig, 0, page, 0);
    fill_range(rig, page + 2, NPAGES, 0);
    EQUALS(kit_stats(rig->memd).swapped_pages, 2);
    device_set("read-ms", SLOW_MS);
}

static void cut_while_read(void **state)
{
    struct rig rig = device_rig();
    struct toucher t;

    (void)state;
    two_in_file(&rig, 600);
    touch_begin(&t, rig_page(&rig, 600));
    usleep(20000);
    OK(memd_region_cut(rig.memd, rig.region, 590 * PAGE, 20 * PAGE, MEMD_INELIGIBLE_OTHER, WAIT_MS));
    EQUALS(touch_end(&t), word_of(600, 0, 0));
    check_range(&rig, 590, 610, 0);
    stays_ours(&rig, 590, 20);
    OK(memd_region_refresh(rig.memd, rig.region, 590 * PAGE, 20 * PAGE));
    device_set("read-ms", 0);
    fill_range(&rig, 590, 610, 0);
    all_out(&rig);
    check_range(&rig, 0, NPAGES, 0);
    rig_close(&rig);
}

static void unmapped_while_read(void **state)
{
    struct rig rig = device_rig();
    struct over o = {.bytes = 20 * PAGE};
    struct toucher t;

    (void)state;
    two_in_file(&rig, 600);
    o.hva = rig_page(&rig, 590);
    touch_begin(&t, rig_page(&rig, 601));
    usleep(20000);
    OK(memd_unmap(rig.memd, o.hva, o.bytes, map_over, &o));
    stays_ours(&rig, 590, 20);
    uint64_t got = touch_end(&t);
    CHECK(got == 0 || got == word_of(601, 9, 0), "whoever waited got %#llx", (unsigned long long)got);
    EQUALS(kit_stats(rig.memd).swapped_pages, 0);
    device_set("read-ms", 0);
    OK(memd_region_refresh(rig.memd, rig.region, 590 * PAGE, 20 * PAGE));
    fill_range(&rig, 590, 610, 0);
    all_out(&rig);
    check_range(&rig, 0, NPAGES, 0);
    rig_close(&rig);
}

static void discarded_while_read(void **state)
{
    struct rig rig = device_rig();
    struct toucher t;

    (void)state;
    two_in_file(&rig, 600);
    touch_begin(&t, rig_page(&rig, 600));
    usleep(20000);
    OK(memd_discard(rig.memd, rig.region, 600 * PAGE, 2 * PAGE));
    EQUALS(touch_end(&t), 0);
    CHECK(guest_differs(rig_page(&rig, 601), 0) < 0, "a discarded page is not zero");
    stays_ours(&rig, 600, 2);
    rig_close(&rig);
}

/* What is read ahead, and is another's, or nobody's, by the time the device answers. */
static void group_changes_while_read(void **state)
{
    struct rig rig = device_rig();
    struct over o = {.bytes = 4 * PAGE};
    struct toucher t[3];

    (void)state;
    all_out(&rig);
    hold("hold-reads");
    for (uint32_t i = 0; i < 3; i++) /* the first one's read is for all of them, and more */
        touch_begin(&t[i], rig_page(&rig, 600 + i));
    device_holds(1);
    OK(memd_discard(rig.memd, rig.region, 601 * PAGE, PAGE));
    EQUALS(touch_end(&t[1]), 0);
    OK(memd_discard(rig.memd, rig.region, 610 * PAGE, 2 * PAGE));
    fill(rig_page(&rig, 611), 611, 5);
    o.hva = rig_page(&rig, 620);
    OK(memd_unmap(rig.memd, o.hva, o.bytes, map_over, &o));
    fill_range(&rig, 620, 624, 6);
    let_go("hold-reads");
    EQUALS(touch_end(&t[0]), word_of(600, 0, 0));
    EQUALS(touch_end(&t[2]), word_of(602, 0, 0));
    CHECK(kit_stats(rig.memd).prefetched_pages > 20, "nothing was read ahead");
    CHECK(guest_differs(rig_page(&rig, 601), 0) < 0 && guest_differs(rig_page(&rig, 610), 0) < 0,
          "a discarded page is not zero");
    check(rig_page(&rig, 611), 611, 5);
    check_range(&rig, 620, 624, 6);
    check_range(&rig, 612, 620, 0);
    check_range(&rig, 602, 610, 0);
    check_range(&rig, 624, NPAGES, 0);
    check_range(&rig, 0, 600, 0);
    rig_close(&rig);
}

/* The engine and its buffers are gone before the device has answered. */
static void closed_while_read(void **state)
{
    const unsigned n = 64;
    struct rig rig = device_rig();
    struct toucher t;
    uint64_t *late[64];

    (void)state;
    two_in_file(&rig, 600);
    touch_begin(&t, rig_page(&rig, 600));
    usleep(20000);
    device_set("read-ms", 0); /* what is under way stays slow; the engine reads both pages home at once */
    OK(memd_close(rig.memd, WAIT_MS));
    for (unsigned i = 0; i < n; i++) { /* perhaps where the buffers were */
        late[i] = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(late[i] != MAP_FAILED, "mmap");
        memset(late[i], 0x5a, 64 * PAGE);
    }
    EQUALS(touch_end(&t), word_of(600, 0, 0));
    check_range(&rig, 0, NPAGES, 0);
    stays_ours(&rig, 590, 20);
    for (unsigned i = 0; i < n; i++) {
        for (unsigned w = 0; w < 64 * PAGE / 8; w++)
            CHECK(late[i][w] == 0x5a5a5a5a5a5a5a5aull, "a late read has gone to the program's memory");
        munmap(late[i], 64 * PAGE);
    }
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

/* ---- full, failing */

static void full_device(void **state)
{
    struct rig rig = device_rig();

    (void)state;
    device_set("room", 128 << 10);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL).error, ENOSPC);
    struct memd_stats st = kit_stats(rig.memd);
    CHECK(st.swapped_pages && st.packed_pages && st.swap_errors, "%llu swapped, %llu packed, %llu errors",
          (unsigned long long)st.swapped_pages, (unsigned long long)st.packed_pages,
          (unsigned long long)st.swap_errors);
    EQUALS(st.swapped_pages + st.packed_pages + st.parked_pages, NPAGES);
    check_range(&rig, 0, NPAGES, 0);
    device_set("room", 0);
    for (uint64_t limit = kit_ms() + WAIT_MS; order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL).error;
         usleep(100000))
        CHECK(kit_ms() < limit, "room that has come is not used");
    EQUALS(kit_stats(rig.memd).swapped_pages, NPAGES);
    check_range(&rig, 0, NPAGES, 0);
    EQUALS(kit_stats(rig.memd).lost_pages, 0);
    rig_close(&rig);
}

static void write_fails(void **state)
{
    struct rig rig = device_rig();

    (void)state;
    device_set("write-error", EIO);
    CHECK(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL).error, "no error");
    EQUALS(kit_stats(rig.memd).swapped_pages, 0);
    check_range(&rig, 0, NPAGES, 0);
    EQUALS(kit_stats(rig.memd).lost_pages, 0);
    rig_close(&rig);
}

static void read_fails(void **state)
{
    struct rig rig = device_rig();

    (void)state;
    on_every_rung(&rig);
    device_set("read-error", EIO);
    CHECK(guest_poisoned(rig_page(&rig, 700)), "a page that cannot be read is not poisoned");
    check_range(&rig, 0, CHUNK_AT, 1);
    device_set("read-error", 0);
    for (uint64_t limit = kit_ms() + WAIT_MS; !rig_lost(NULL); usleep(1000))
        CHECK(kit_ms() < limit, "the VMM is not told");
    check_range(&rig, CHUNK_AT, 700, 0);
    check_range(&rig, 701, NPAGES, 0);
    EQUALS(rig_lost(NULL), 1);
    EQUALS(kit_stats(rig.memd).lost_pages, 1);
    CHECK(guest_poisoned(rig_page(&rig, 700)), "a lost page is there again");
    OK(memd_discard(rig.memd, rig.region, 700 * PAGE, PAGE));
    CHECK(guest_differs(rig_page(&rig, 700), 0) < 0, "a lost page that was discarded is not zero");
    rig_close(&rig);
}

/* A read that fails for want of memory, or was interrupted, says nothing about the page. */
static void read_fails_for_now(void **state)
{
    static const int errors[] = {ENOMEM, EINTR, ENOBUFS};
    struct rig rig = device_rig();
    struct toucher t;

    (void)state;
    for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
        all_out(&rig);
        device_set("read-error", (unsigned long)errors[i]);
        touch_begin(&t, rig_page(&rig, 700 + i));
        usleep(50000);
        uint64_t id = script_page(rig.vm, WIRE_REC_PAGEIN, UINT64_MAX, 0, 0);
        usleep(50000);
        device_set("read-error", 0);
        EQUALS(touch_end(&t), word_of(700 + i, 0, 0));
        int error = script_paged(rig.vm, id).error;
        CHECK(!error || error == ENOMEM, "PAGEIN: %s", kit_error(error));
        check_range(&rig, 0, NPAGES, 0);
    }
    EQUALS(kit_stats(rig.memd).lost_pages, 0);
    rig_close(&rig);
}

/* ---- lying */

/* What it says it has written is not there: it gives back what was there before, or nothing. */
static void writes_dropped(void **state)
{
    struct rig rig = device_rig();
    unsigned bad = 0;

    (void)state;
    all_out(&rig);
    fill_range(&rig, 0, NPAGES, 1);
    device_set("drop-writes", 1);
    all_out(&rig);
    for (uint32_t i = 0; i < NPAGES; i++)
        if (guest_poisoned(rig_page(&rig, i)))
            bad++;
        else
            check(rig_page(&rig, i), i, 1);
    EQUALS(bad, NPAGES);
    for (uint64_t limit = kit_ms() + WAIT_MS; rig_lost(NULL) < bad; usleep(1000))
        CHECK(kit_ms() < limit, "the VMM was told of %u of %u lost pages", rig_lost(NULL), bad);
    device_set("drop-writes", 0);
    OK(memd_discard(rig.memd, rig.region, 0, NPAGES * PAGE));
    fill_range(&rig, 0, NPAGES, 2);
    all_out(&rig);
    check_range(&rig, 0, NPAGES, 2);
    rig_close(&rig);
}

/* ---- markers */

/* Whoever looks at /proc/self/pagemap with PM_SCAN_WP_MATCHING may leave markers where pages are absent. They
 * must not keep a page from coming home, nor a lost one from being poisoned, nor a fresh one from being. */
static void put_markers(const struct rig *rig)
{
    struct page_region vec[8];
    struct pm_scan_arg arg = {.size = sizeof arg,
                              .flags = PM_SCAN_WP_MATCHING,
                              .start = (uintptr_t)rig->ram,
                              .end = (uintptr_t)rig->ram + NPAGES * PAGE,
                              .vec = (uintptr_t)vec,
                              .vec_len = 8,
                              .category_mask = PAGE_IS_WRITTEN,
                              .return_mask = PAGE_IS_WRITTEN};
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    CHECK(fd >= 0, "pagemap");
    while (arg.start < arg.end) {
        CHECK(ioctl(fd, PAGEMAP_SCAN, &arg) >= 0, "PAGEMAP_SCAN: %s", strerror(errno));
        arg.start = arg.walk_end;
    }
    close(fd);
}

static void markers(void **state)
{
    struct rig rig = device_rig();
    struct toucher t;

    (void)state;
    on_every_rung(&rig);
    OK(memd_discard(rig.memd, rig.region, 600 * PAGE, 4 * PAGE)); /* absent, beside what is out */
    put_markers(&rig);
    static const uint32_t pages[] = {10, 300, 800};
    for (unsigned i = 0; i < 3; i++) {
        touch_begin(&t, rig_page(&rig, pages[i]));
        EQUALS(touch_end(&t), word_of(pages[i], pages[i] < CHUNK_AT, 0));
    }
    touch_begin(&t, rig_page(&rig, 600));
    EQUALS(touch_end(&t), 0);
    put_markers(&rig);
    device_set("read-error", EIO);
    /* too far from those that were touched to have been read with them */
    CHECK(guest_poisoned(rig_page(&rig, 1400)), "a page that cannot be read is not poisoned");
    device_set("read-error", 0);
    check_range(&rig, 0, CHUNK_AT, 1);
    check_range(&rig, 604, 1400, 0);
    check_range(&rig, 1401, NPAGES, 0);
    rig_close(&rig);
}

/* ---- gone */

/* The last of all: nothing comes back from there. What is elsewhere does, and the VMM can leave memd. */
static void device_gone(void **state)
{
    struct rig rig = device_rig();

    (void)state;
    on_every_rung(&rig);
    device_close();
    check_range(&rig, 0, CHUNK_AT, 1);
    for (uint32_t i = CHUNK_AT; i < NPAGES; i += 100)
        CHECK(guest_poisoned(rig_page(&rig, i)), "page %u came back from nowhere", i);
    OK(memd_pin(rig.memd, rig.region, 0, PAGE));
    OK(memd_unpin(rig.memd, rig.region, 0, PAGE));
    fill_range(&rig, 0, CHUNK_AT, 2);
    CHECK(order(&rig, WIRE_REC_PAGEOUT, UINT64_MAX, ALL).error, "no error");
    check_range(&rig, 0, CHUNK_AT, 2);
    OK(memd_close(rig.memd, WAIT_MS));
    check_range(&rig, 0, CHUNK_AT, 2);
    for (uint32_t i = CHUNK_AT; i < NPAGES; i += 100)
        CHECK(guest_poisoned(rig_page(&rig, i)), "page %u came back from nowhere", i);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_who_reads_waits),
        cmocka_unit_test(a_crowd_waits),
        cmocka_unit_test(calls_come_between),
        cmocka_unit_test(slow_writes),
        cmocka_unit_test(cut_while_read),
        cmocka_unit_test(unmapped_while_read),
        cmocka_unit_test(discarded_while_read),
        cmocka_unit_test(group_changes_while_read),
        cmocka_unit_test(closed_while_read),
        cmocka_unit_test(full_device),
        cmocka_unit_test(write_fails),
        cmocka_unit_test(read_fails),
        cmocka_unit_test(read_fails_for_now),
        cmocka_unit_test(writes_dropped),
        cmocka_unit_test(markers),
        cmocka_unit_test(device_gone),
    };

    kit_begin();
    device_open();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
