/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The swap file: what is in it, that nothing comes back from it but what was written, and that nothing is
 * lost when it is full, fails, or is tampered with. memd-test: timeout=180
 *
 * The program has its own pwrite() and pread() and io_uring_queue_init(), which the engine's calls come to:
 * with io_uring refused, the errors of a failing device can be had at will.
 */
#include "rig.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>
#include <liburing.h>

#define NPAGES    1024u
#define RAW_EVERY 8u /* one page in so many is incompressible */
#define ALL       (WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP)
#define MARK      "a plaintext nobody must find"
#define WAIT_MS   30000u

/* ---- a device that fails */

static _Atomic int write_error, read_error, no_uring;

ssize_t pwrite(int fd, const void *buf, size_t bytes, off_t offset)
{
    int err = atomic_load(&write_error);

    if (err) {
        errno = err;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, buf, bytes, offset);
}

ssize_t pread(int fd, void *buf, size_t bytes, off_t offset)
{
    struct stat st;
    int err = atomic_load(&read_error);

    if (err && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size) { /* not /proc/self/pagemap */
        errno = err;
        return -1;
    }
    return syscall(SYS_pread64, fd, buf, bytes, offset);
}

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    struct io_uring_params p = {.flags = flags};

    return atomic_load(&no_uring) ? -EPERM : io_uring_queue_init_params(entries, ring, &p);
}

/* ---- one VM with a swap file */

static char swap_path[160];

static void fill(char *hva, uint32_t page)
{
    uint64_t words[PAGE / 8];

    if (page % RAW_EVERY == 3) {
        guest_fill(hva, 1 + page);
        return;
    }
    for (unsigned i = 0; i < PAGE / 8; i++)
        words[i] = (page + 1) * 0x9e3779b97f4a7c15ull ^ i / 4;
    memcpy(words, MARK, sizeof MARK);
    for (unsigned i = 0; i < PAGE / 8; i++)
        guest_write(hva + i * 8, words[i]);
}

static void check(const char *hva, uint32_t page)
{
    uint64_t is[PAGE / 8];
    char should[PAGE];

    fill(should, page);
    guest_read_bytes(is, hva, PAGE);
    CHECK(!memcmp(is, should, PAGE), "page %u is not what was written", page);
}

static void check_all(const struct rig *rig)
{
    for (uint32_t i = 0; i < NPAGES; i++)
        check(rig_page(rig, i), i);
}

static struct rig swap_rig(uint64_t max)
{
    static struct script_options options;

    snprintf(swap_path, sizeof swap_path, "%s/vm.swap", kit_tmp());
    unlink(swap_path);
    options = (struct script_options){.swap = swap_path, .swap_max = max};
    char *ram = guest_map(NPAGES * PAGE, false);
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(ram + i * PAGE, i);
    return rig_open_losing(&options, ram, NPAGES);
}

static struct wire_rec_paged order(struct rig *rig, uint16_t type, uint32_t flags)
{
    return script_paged(rig->vm, script_page(rig->vm, type, UINT64_MAX, 0, flags));
}

static void all_out(struct rig *rig)
{
    struct wire_rec_paged done = order(rig, WIRE_REC_PAGEOUT, ALL);

    EQUALS(done.error, 0);
    EQUALS(done.pages, NPAGES);
    EQUALS(kit_stats(rig->memd).swapped_pages, NPAGES);
}

static void close_rig(struct rig *rig)
{
    rig_close(rig);
    unlink(swap_path);
}

/* ---- tests */

static void there_and_back(void **state)
{
    struct rig rig = swap_rig(0);

    (void)state;
    all_out(&rig);
    struct memd_stats st = kit_stats(rig.memd);
    EQUALS(st.pool_bytes + st.packed_pages + st.parked_pages, 0);
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).rss_bytes, 0);
    EQUALS(script_count_state(rig.vm, 0, WIRE_PAGE_SWAPPED), NPAGES);
    for (uint32_t i = 0; i < NPAGES; i += 2)
        check(rig_page(&rig, i), i);
    EQUALS(kit_stats(rig.memd).swapped_faults, NPAGES / 2);
    EQUALS(order(&rig, WIRE_REC_PAGEIN, 0).pages, NPAGES / 2);
    check_all(&rig);
    EQUALS(kit_stats(rig.memd).swapped_pages, 0);
    all_out(&rig);
    close_rig(&rig); /* brings everything home */
}

/* Pages that cannot be packed count for the order they leave with. */
static void no_more_than_asked(void **state)
{
    const uint64_t asked[] = {1, 100, NPAGES / 2};
    struct rig rig = swap_rig(0);
    uint64_t out = 0;

    (void)state;
    for (uint32_t i = 0; i < NPAGES; i++)
        if (i % 3)
            guest_fill(rig_page(&rig, i), 1 + i);
    for (unsigned i = 0; i < sizeof asked / sizeof *asked; i++) {
        uint64_t id = script_page(rig.vm, WIRE_REC_PAGEOUT, asked[i], 0, ALL);
        struct wire_rec_paged done = script_paged(rig.vm, id);
        struct memd_stats st = kit_stats(rig.memd);
        EQUALS(done.error, 0);
        EQUALS(done.pages, asked[i]);
        out += asked[i];
        EQUALS(st.swapped_pages, out);
        EQUALS(st.parked_pages + st.packed_pages, 0);
    }
    for (uint32_t i = 0; i < NPAGES; i++)
        if (i % 3)
            CHECK(guest_differs(rig_page(&rig, i), 1 + i) < 0, "page %u is not what was written", i);
        else
            check(rig_page(&rig, i), i);
    close_rig(&rig);
}

static atomic_bool no_more;

static void *touch_all(void *arg)
{
    const struct rig *rig = arg;

    while (!atomic_load(&no_more))
        for (uint32_t i = 0; i < NPAGES; i++)
            guest_read(rig_page(rig, i));
    return NULL;
}

/* Where everything is touched all the while, an order ends with what it has found. */
static void nothing_is_cold(void **state)
{
    struct rig rig = swap_rig(0);
    pthread_t thread;

    (void)state;
    atomic_store(&no_more, false);
    CHECK(!pthread_create(&thread, NULL, touch_all, &rig), "pthread_create");
    struct wire_rec_paged done =
        script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEOUT, 100, 100, WIRE_PAGEOUT_ALL));
    EQUALS(done.error, 0);
    CHECK(done.pages <= 100, "%llu pages have left, not 100", (unsigned long long)done.pages);
    atomic_store(&no_more, true);
    pthread_join(thread, NULL);
    check_all(&rig);
    close_rig(&rig);
}

static void no_plaintext(void **state)
{
    struct rig rig = swap_rig(0);
    struct stat st;

    (void)state;
    all_out(&rig);
    int fd = open(swap_path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && !fstat(fd, &st) && st.st_size > 0, "%s", swap_path);
    char *bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(bytes != MAP_FAILED, "mmap");
    CHECK(!memmem(bytes, (size_t)st.st_size, MARK, 16), "the plaintext is in the file");
    char raw[PAGE];
    fill(raw, 3);
    CHECK(!memmem(bytes, (size_t)st.st_size, raw, 16), "an incompressible page is in the file as it is");
    munmap(bytes, (size_t)st.st_size);
    close(fd);
    check_all(&rig);
    close_rig(&rig);
}

static void unchanged_is_not_written(void **state)
{
    struct rig rig = swap_rig(0);

    (void)state;
    all_out(&rig);
    uint64_t once = kit_stats(rig.memd).swap_written_bytes;
    for (unsigned round = 0; round < 10; round++) {
        if (round % 2)
            check_all(&rig);
        else
            order(&rig, WIRE_REC_PAGEIN, 0);
        for (uint32_t i = 0; i < NPAGES; i += 16) /* what is rewritten as it was has not changed */
            fill(rig_page(&rig, i), i);
        all_out(&rig);
    }
    EQUALS(kit_stats(rig.memd).swap_written_bytes, once);
    check_all(&rig);
    guest_write(rig_page(&rig, 5), 12345);
    order(&rig, WIRE_REC_PAGEOUT, ALL);
    CHECK(kit_stats(rig.memd).swap_written_bytes > once, "a changed page was not written");
    EQUALS(guest_read(rig_page(&rig, 5)), 12345);
    fill(rig_page(&rig, 5), 5);
    close_rig(&rig);
}

static void space_comes_back(void **state)
{
    struct rig rig = swap_rig(0);
    uint64_t limit = kit_ms() + WAIT_MS;
    struct stat st;

    (void)state;
    all_out(&rig);
    uint64_t bytes = kit_stats(rig.memd).swap_bytes;
    CHECK(bytes && bytes < NPAGES * PAGE, "%llu bytes in the file", (unsigned long long)bytes);
    OK(memd_discard(rig.memd, rig.region, 0, NPAGES * PAGE));
    do {
        CHECK(kit_ms() < limit, "%llu KiB stay in the file", (unsigned long long)st.st_blocks / 2);
        usleep(20000);
        OK(stat(swap_path, &st));
    } while (st.st_blocks);
    EQUALS(kit_stats(rig.memd).swap_bytes, 0);
    for (uint32_t i = 0; i < NPAGES; i++) {
        CHECK(guest_differs(rig_page(&rig, i), 0) < 0, "page %u is not zero", i);
        fill(rig_page(&rig, i), i);
    }
    all_out(&rig);
    CHECK(kit_stats(rig.memd).swap_bytes <= bytes + 65536, "the file has grown");
    check_all(&rig);
    close_rig(&rig);
}

static unsigned lost_now(struct rig *rig)
{
    unsigned bad = 0, before = rig_lost(NULL);

    for (uint32_t i = 0; i < NPAGES; i++) {
        if (!guest_poisoned(rig_page(rig, i))) {
            check(rig_page(rig, i), i);
            continue;
        }
        for (uint64_t limit = kit_ms() + WAIT_MS; rig_lost(NULL) == before + bad; usleep(100))
            CHECK(kit_ms() < limit, "the VMM is not told of a lost page");
        bad++;
        OK(memd_discard(rig->memd, rig->region, i * PAGE, PAGE));
        CHECK(guest_differs(rig_page(rig, i), 0) < 0, "a lost page that was discarded is not zero");
        fill(rig_page(rig, i), i);
    }
    return bad;
}

/* A byte here and there; every byte of a cluster: tests/unit/test_swapfile.c. */
static void flipped(void **state)
{
    struct rig rig = swap_rig(0);
    unsigned detected = 0, tries = (unsigned)kit_scaled(100, 8);
    struct stat st;
    char byte;

    (void)state;
    int fd = open(swap_path, O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; i < tries; i++) {
        all_out(&rig);
        CHECK(fd >= 0 && !fstat(fd, &st), "%s", swap_path);
        off_t at = 65536 + (off_t)i * 7919 % (st.st_size - 65536);
        CHECK(syscall(SYS_pread64, fd, &byte, 1, at) == 1, "pread");
        byte ^= 1 << i % 8;
        CHECK(syscall(SYS_pwrite64, fd, &byte, 1, at) == 1, "pwrite");
        unsigned bad = lost_now(&rig);
        CHECK(bad <= 1, "one byte has cost %u pages", bad);
        detected += bad;
    }
    close(fd);
    CHECK(detected >= tries / 2, "%u of %u flips hit a record", detected, tries);
    EQUALS(kit_stats(rig.memd).lost_pages, detected);
    check_all(&rig);
    close_rig(&rig);
}

static void damaged(void **state)
{
    struct rig rig = swap_rig(0);
    struct stat st;

    (void)state;
    all_out(&rig);
    /* an earlier state of the file, put back */
    int fd = open(swap_path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && !fstat(fd, &st), "%s", swap_path);
    char *old = malloc((size_t)st.st_size);
    CHECK(old && syscall(SYS_pread64, fd, old, st.st_size, 0) == st.st_size, "pread");
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(rig_page(&rig, i), i + NPAGES * 8);
    all_out(&rig);
    CHECK(syscall(SYS_pwrite64, fd, old, st.st_size, 0) == st.st_size, "pwrite");
    unsigned bad = 0;
    for (uint32_t i = 0; i < NPAGES; i++)
        if (guest_poisoned(rig_page(&rig, i)))
            bad++;
        else
            check(rig_page(&rig, i), i + NPAGES * 8);
    CHECK(bad > NPAGES / 2, "%u stale records were detected", bad);
    for (uint64_t limit = kit_ms() + WAIT_MS; rig_lost(NULL) < bad; usleep(1000))
        CHECK(kit_ms() < limit, "the VMM was told of %u of %u lost pages", rig_lost(NULL), bad);
    EQUALS(kit_stats(rig.memd).lost_pages, bad);
    /* cut off */
    OK(memd_discard(rig.memd, rig.region, 0, NPAGES * PAGE));
    for (uint32_t i = 0; i < NPAGES; i++)
        fill(rig_page(&rig, i), i);
    all_out(&rig);
    CHECK(!ftruncate(fd, 0), "ftruncate");
    for (uint32_t i = 0; i < NPAGES; i++)
        CHECK(guest_poisoned(rig_page(&rig, i)), "page %u came back from an empty file", i);
    close(fd);
    free(old);
    close_rig(&rig);
}

static void full(void **state)
{
    struct rig rig = swap_rig(1 << 20);

    (void)state;
    struct wire_rec_paged done = order(&rig, WIRE_REC_PAGEOUT, ALL);
    EQUALS(done.error, ENOSPC);
    struct memd_stats st = kit_stats(rig.memd);
    CHECK(st.swapped_pages && st.packed_pages && st.swap_bytes <= 1 << 20, "%llu swapped, %llu packed",
          (unsigned long long)st.swapped_pages, (unsigned long long)st.packed_pages);
    check_all(&rig);
    EQUALS(kit_stats(rig.memd).lost_pages, 0);
    close_rig(&rig);
}

static void device_fails(int error)
{
    atomic_store(&no_uring, 1);
    struct rig rig = swap_rig(0);

    atomic_store(&write_error, error);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, ALL).error, ENOSPC);
    EQUALS(kit_stats(rig.memd).swapped_pages, 0);
    CHECK(kit_stats(rig.memd).swap_errors, "no error is counted");
    check_all(&rig);
    atomic_store(&write_error, 0);
    for (uint64_t limit = kit_ms() + WAIT_MS; order(&rig, WIRE_REC_PAGEOUT, ALL).error; usleep(100000))
        CHECK(kit_ms() < limit, "it is not tried again");
    atomic_store(&read_error, error);
    CHECK(guest_poisoned(rig_page(&rig, 7)), "a page that cannot be read is not poisoned");
    atomic_store(&read_error, 0);
    EQUALS(kit_stats(rig.memd).swapped_pages, NPAGES - 1);
    OK(memd_discard(rig.memd, rig.region, 7 * PAGE, PAGE));
    fill(rig_page(&rig, 7), 7);
    check_all(&rig);
    close_rig(&rig);
    atomic_store(&no_uring, 0);
}

#define HALF (NPAGES / 2)

/* The first half of the memory is written, and nothing else is there; returns what it takes. */
static uint64_t half_out(struct rig *rig)
{
    OK(memd_discard(rig->memd, rig->region, HALF * PAGE, HALF * PAGE));
    EQUALS(order(rig, WIRE_REC_PAGEOUT, ALL).error, 0);
    EQUALS(kit_stats(rig->memd).swapped_pages, HALF);
    return kit_stats(rig->memd).swap_bytes;
}

/* What has come home to stay is not what others find the file full of. */
static void room_of_those_at_home(void **state)
{
    struct rig rig = swap_rig(0);
    uint64_t bytes = half_out(&rig), most = bytes + 2 * 65536;

    (void)state;
    CHECK(bytes > 4 * 65536, "%llu bytes are not much", (unsigned long long)bytes);
    close_rig(&rig);
    rig = swap_rig(most);
    half_out(&rig);
    OK(memd_pin(rig.memd, rig.region, 0, HALF * PAGE));
    EQUALS(kit_stats(rig.memd).swapped_pages, 0);
    for (uint32_t i = HALF; i < NPAGES; i++)
        fill(rig_page(&rig, i), i);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, ALL).error, 0);
    EQUALS(kit_stats(rig.memd).swapped_pages, HALF);
    CHECK(kit_stats(rig.memd).swap_bytes <= most, "the file is too large");
    check_all(&rig);
    OK(memd_unpin(rig.memd, rig.region, 0, HALF * PAGE));
    /* all that is out is needed: that is full */
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, ALL).error, ENOSPC);
    check_all(&rig);
    EQUALS(kit_stats(rig.memd).lost_pages, 0);
    close_rig(&rig);
}

static void write_errors(void **state)
{
    (void)state;
    device_fails(EIO);
    device_fails(ENOSPC);
}

/* What an order may write is a bound, whatever there is to write; what does not fit stays in RAM, and the
 * next order goes on from there. Unchanged pages need nothing written. */
static void writes_are_limited(void **state)
{
    const uint64_t limits[] = {0, 65535, 3 * 65536 + 100, 65536};
    uint64_t written = 0, swapped = 0;
    struct rig rig = swap_rig(0);

    (void)state;
    for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct wire_rec_paged done = script_paged(rig.vm, script_pageout_limited(rig.vm, ALL, limits[i]));
        struct memd_stats st = kit_stats(rig.memd);
        EQUALS(done.error, EDQUOT);
        CHECK(st.swap_written_bytes - written <= limits[i], "%llu bytes written where %llu were allowed",
              (unsigned long long)(st.swap_written_bytes - written), (unsigned long long)limits[i]);
        CHECK(limits[i] < 65536 || st.swapped_pages > swapped, "nothing was written of what was allowed");
        EQUALS(st.swapped_pages + st.packed_pages + st.parked_pages, NPAGES);
        EQUALS(st.swap_errors, 0);
        written = st.swap_written_bytes;
        swapped = st.swapped_pages;
    }
    for (uint32_t i = 0; i < NPAGES; i += 3)
        check(rig_page(&rig, i), i);
    EQUALS(order(&rig, WIRE_REC_PAGEOUT, ALL).error, 0); /* not bound by what another might write */
    EQUALS(kit_stats(rig.memd).swapped_pages, NPAGES);
    EQUALS(order(&rig, WIRE_REC_PAGEIN, 0).error, 0);
    struct wire_rec_paged done = script_paged(rig.vm, script_pageout_limited(rig.vm, ALL, 0));
    EQUALS(done.error, 0);
    EQUALS(kit_stats(rig.memd).swapped_pages, NPAGES);
    check_all(&rig);
    close_rig(&rig);
}

static void come_back(struct rig *rig)
{
    uint64_t sessions = rig->vm->sessions_seen;

    script_vanish(rig->script);
    for (uint32_t i = 0; i < NPAGES / 2; i++)
        check(rig_page(rig, i), i);
    script_appear(rig->script);
    script_wait_back(rig->vm, sessions);
    CHECK(!rig->vm->wants_swap, "the engine wants a second swap file");
}

/* A daemon that comes back finds an engine with a swap file, used already or not, and gives it no other. */
static void daemon_comes_back(void **state)
{
    struct rig rig = swap_rig(0);

    (void)state;
    come_back(&rig);
    all_out(&rig);
    come_back(&rig);
    check_all(&rig);
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(no_more_than_asked),
        cmocka_unit_test(nothing_is_cold),
        cmocka_unit_test(no_plaintext),
        cmocka_unit_test(unchanged_is_not_written),
        cmocka_unit_test(space_comes_back),
        cmocka_unit_test(flipped),
        cmocka_unit_test(damaged),
        cmocka_unit_test(full),
        cmocka_unit_test(room_of_those_at_home),
        cmocka_unit_test(write_errors),
        cmocka_unit_test(writes_are_limited),
        cmocka_unit_test(daemon_comes_back),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
