/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that takes no part (I7): left alone, and counted by reason. Each case is a region of three chunks of
 * which the middle one is special; everything in it is proposed for merging, and asked for with EXPORT.
 * Memory that becomes special later (pinned, locked) is left alone from then on.
 *
 * memd-test: alone
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>
#include <liburing.h>

#define NPAGES    1536u
#define MIDDLE    512u
#define PINNED    64u
#define HUGE_PATH "/proc/sys/vm/nr_hugepages"

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static struct wire_rec_budget budget_of(uint32_t scan_pages_per_s)
{
    struct wire_rec_budget b = script_budget_full();

    b.scan_pages_per_s = scan_pages_per_s;
    return b;
}

/* ---- one special chunk */

struct special {
    enum memd_ineligible why;
    void (*make)(char *middle);
    bool readable, writable;
};

static struct rig special_open(const struct special *sp, const struct script_options *options)
{
    char *ram = guest_map(NPAGES * PAGE, false);

    if (sp->make)
        sp->make(ram + MIDDLE * PAGE);
    for (uint32_t i = 0; i < NPAGES; i++)
        if (sp->writable || i < MIDDLE || i >= 2 * MIDDLE)
            guest_fill(ram + i * PAGE, unique(i));
    return rig_open_at(options, ram, NPAGES);
}

static void check_ineligible(struct rig *rig, enum memd_ineligible why, uint64_t bytes)
{
    struct memd_stats st = kit_stats(rig->memd);

    for (unsigned i = 0; i < MEMD_INELIGIBLE_COUNT; i++)
        CHECK(st.ineligible_bytes[i] == (i == why ? bytes : 0), "ineligible for reason %u: %llu bytes", i,
              (unsigned long long)st.ineligible_bytes[i]);
}

static bool export_answered(struct script_vm *vm, void *arg)
{
    (void)arg;
    return !vm->exports_asked;
}

static void special_run(const struct special *sp)
{
    struct wire_rec_budget budget = budget_of(0);
    struct script_options options = {.budget = &budget};
    struct rig rig = special_open(sp, &options);
    char *middle = rig_page(&rig, MIDDLE);
    static uint8_t garbage[512][PAGE];

    check_ineligible(&rig, sp->why, CHUNK);
    EQUALS(rig_merge(&rig, 0, 512), 512);
    EQUALS(rig_merge(&rig, 2 * MIDDLE, 512), 512);
    uint32_t frame = script_frames(rig.script, sp->readable ? middle : (char *)garbage, 512);
    uint64_t before = sp->readable ? kit_pagemap(middle) & PAGEMAP_PFN : 0;
    struct rig_answer a = rig_propose(&rig, MIDDLE, frame, 512);
    EQUALS(a.merged, 0);
    EQUALS(a.why, WIRE_WHY_OFF);
    CHECK(script_export(rig.vm, rig.region, MIDDLE + 5, 3, 0), "the session is over");
    CHECK(script_wait(rig.vm, export_answered, NULL, SCRIPT_WAIT_MS), "EXPORT has no answer");
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->not_exported, 1);
    EQUALS(rig.vm->exported, 0);
    pthread_mutex_unlock(&rig.script->lock);
    for (uint32_t i = 0; i < NPAGES; i++)
        if (sp->writable || i < MIDDLE || i >= 2 * MIDDLE)
            CHECK(guest_differs(rig_page(&rig, i), unique(i)) < 0, "page %u differs", i);
    if (before)
        EQUALS(kit_pagemap(middle) & PAGEMAP_PFN, before);
    /* and with scanning on: the chunk is neither hashed nor dropped nor broken in any way */
    budget = budget_of(UINT32_MAX);
    script_budget(rig.vm, &budget);
    script_wait_rounds(rig.vm, 4);
    check_ineligible(&rig, sp->why, CHUNK);
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->hashes, 0); /* everything else is merged, this is not looked at */
    pthread_mutex_unlock(&rig.script->lock);
    if (before)
        EQUALS(kit_pagemap(middle) & PAGEMAP_PFN, before);
    for (uint32_t i = MIDDLE; sp->writable && i < 2 * MIDDLE; i++)
        CHECK(guest_differs(rig_page(&rig, i), unique(i)) < 0, "page %u differs", i);
    char *ram = rig.ram;
    rig.npages = 0; /* what was a hole may be somebody's by now */
    rig_close(&rig);
    guest_unmap(ram, CHUNK);
    guest_unmap(ram + 2 * CHUNK, CHUNK);
}

static void make_shared(char *middle)
{
    CHECK(mmap(middle, CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
              MAP_FAILED,
          "mmap: %s", strerror(errno));
}

static void make_file(char *middle)
{
    int fd = memfd_create("private", MFD_CLOEXEC);

    CHECK(fd >= 0 && !ftruncate(fd, CHUNK), "memfd: %s", strerror(errno));
    CHECK(mmap(middle, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED,
          "mmap: %s", strerror(errno));
    close(fd);
}

static void make_locked(char *middle)
{
    CHECK(!syscall(SYS_mlock, middle, CHUNK), "mlock: %s", strerror(errno));
}

static void make_none(char *middle)
{
    CHECK(!mprotect(middle, CHUNK, PROT_NONE), "mprotect: %s", strerror(errno));
}

static void make_readonly(char *middle)
{
    CHECK(!mprotect(middle, CHUNK, PROT_READ), "mprotect: %s", strerror(errno));
    CHECK(guest_read(middle) == 0, "fresh memory is not zero");
}

static void make_hole(char *middle)
{
    CHECK(!munmap(middle, CHUNK), "munmap: %s", strerror(errno));
}

/* Stays open until the process ends. */
static void make_uffd(char *middle)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.range = {(uintptr_t)middle, CHUNK}, .mode = UFFDIO_REGISTER_MODE_WP};

    CHECK(fd >= 0 && !ioctl(fd, UFFDIO_API, &api), "userfaultfd: %s", strerror(errno));
    for (uint32_t i = 0; i < 512; i++)
        guest_fill(middle + i * PAGE, unique(MIDDLE + i));
    CHECK(!ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER: %s", strerror(errno));
}

static void shared(void **state)
{
    (void)state;
    special_run(&(struct special){MEMD_INELIGIBLE_SHARED, make_shared, true, true});
}

static void file_backed(void **state)
{
    (void)state;
    special_run(&(struct special){MEMD_INELIGIBLE_SHARED, make_file, true, true});
}

static void locked(void **state)
{
    (void)state;
    special_run(&(struct special){MEMD_INELIGIBLE_LOCKED, make_locked, true, true});
}

static void other_uffd(void **state)
{
    (void)state;
    special_run(&(struct special){MEMD_INELIGIBLE_UFFD, make_uffd, true, true});
}

static void no_access(void **state)
{
    (void)state;
    special_run(&(struct special){MEMD_INELIGIBLE_OTHER, make_none, false, false});
}

static void read_only(void **state)
{
    (void)state;
    special_run(&(struct special){MEMD_INELIGIBLE_OTHER, make_readonly, true, false});
}

static void unmapped(void **state)
{
    (void)state;
    special_run(&(struct special){MEMD_INELIGIBLE_OTHER, make_hole, false, false});
}

/* ---- hugetlb: a page is reserved and given back */

static long read_reserve(void)
{
    FILE *f = fopen(HUGE_PATH, "re");
    long n = -1;

    if (!f || fscanf(f, "%ld", &n) != 1)
        n = -1;
    if (f)
        fclose(f);
    return n;
}

static void write_reserve(long n)
{
    FILE *f = fopen(HUGE_PATH, "we");

    if (f) {
        fprintf(f, "%ld\n", n);
        fclose(f);
    }
}

static void make_hugetlb(char *middle)
{
    CHECK(mmap(middle, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED,
               -1, 0) != MAP_FAILED,
          "hugetlb: %s", strerror(errno));
}

static int hugetlb_child(void *arg)
{
    (void)arg;
    special_run(&(struct special){MEMD_INELIGIBLE_HUGETLB, make_hugetlb, true, true});
    return 0;
}

static void hugetlb(void **state)
{
    long before = read_reserve();

    (void)state;
    if (before < 0) {
        print_message("skipped: no " HUGE_PATH "\n");
        skip();
    }
    write_reserve(before + 1);
    if (read_reserve() < before + 1) {
        write_reserve(before);
        print_message("skipped: no hugetlb page can be reserved\n");
        skip();
    }
    /* in a child: a failure there must not leave the reserve changed */
    pid_t pid = kit_fork(hugetlb_child, NULL);
    int status = kit_wait(pid);
    write_reserve(before);
    EQUALS(status, 0);
}

/* ---- all of it is special: refused */

static void nothing_left(void **state)
{
    struct memd *m = kit_engine("vm", NULL);
    char *ram = guest_map(CHUNK, false);
    struct memd_region_desc d = {.size = sizeof d, .hva = ram, .bytes = CHUNK, .node = -1};
    uint32_t region;

    (void)state;
    make_shared(ram);
    EQUALS(memd_region_add(m, &d, &region), -ENOTSUP);
    OK(memd_close(m, KIT_CLOSE_MS));
    guest_unmap(ram, CHUNK);
}

/* ---- locked later */

static void locked_later(void **state)
{
    struct wire_rec_budget budget = budget_of(0);
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);

    (void)state;
    make_locked(rig_page(&rig, MIDDLE));
    EQUALS(rig_merge(&rig, 0, 512), 512);
    EQUALS(rig_merge(&rig, MIDDLE, 512), 0);
    EQUALS(kit_smaps(rig_page(&rig, MIDDLE), CHUNK).locked_bytes, CHUNK);
    EQUALS(rig_merge(&rig, 2 * MIDDLE, 512), 512);
    rig_check(&rig, unique);
    EQUALS(kit_smaps(rig_page(&rig, MIDDLE), CHUNK).locked_bytes, CHUNK);
    CHECK(!syscall(SYS_munlock, rig_page(&rig, MIDDLE), CHUNK), "munlock");
    rig_close(&rig);
}

/* With mlockall(MCL_FUTURE) a mapping of frames would be copied at once: no merge rather than a sham. */
static int lock_future(void *arg)
{
    struct wire_rec_budget budget = budget_of(0);
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);

    (void)arg;
    EQUALS(rig_merge(&rig, 0, 512), 512);
    CHECK(!syscall(SYS_mlockall, MCL_FUTURE), "mlockall: %s", strerror(errno));
    uint32_t merged = rig_merge(&rig, MIDDLE, 512);
    struct kit_smaps s = kit_smaps(rig_page(&rig, MIDDLE), CHUNK);
    CHECK(!merged || s.anon_bytes == 0, "%u pages merged, and %llu bytes private all the same", merged,
          (unsigned long long)s.anon_bytes);
    rig_check(&rig, unique);
    syscall(SYS_munlockall);
    rig_close(&rig);
    return 0;
}

static int lock_before(void *arg)
{
    (void)arg;
    CHECK(!syscall(SYS_mlockall, MCL_CURRENT | MCL_FUTURE), "mlockall: %s", strerror(errno));
    struct memd *m = kit_engine("vm", NULL);
    char *ram = guest_map(CHUNK, false);
    struct memd_region_desc d = {.size = sizeof d, .hva = ram, .bytes = CHUNK, .node = -1};
    uint32_t region;
    EQUALS(memd_region_add(m, &d, &region), -ENOTSUP);
    OK(memd_close(m, KIT_CLOSE_MS));
    return 0;
}

static void mlockall_future(void **state)
{
    (void)state;
    if (getenv("MEMD_SAN") && *getenv("MEMD_SAN")) {
        print_message("skipped: terabytes of the sanitizer's shadow memory would be locked\n");
        skip();
    }
    kit_reap(kit_fork(lock_future, NULL));
    kit_reap(kit_fork(lock_before, NULL));
}

/* ---- pinned */

/* Pages that begin to be refused are counted, those that come free are taken again. */
static void pinned(void **state)
{
    struct wire_rec_budget budget = budget_of(UINT32_MAX);
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);
    char *buffer = rig_page(&rig, MIDDLE + 100);
    struct iovec iov = {buffer, PINNED * PAGE};
    uint64_t pfn[PINNED], limit;
    struct io_uring ring;

    (void)state;
    if (io_uring_queue_init(2, &ring, 0)) {
        print_message("skipped: no io_uring\n");
        skip();
    }
    /* content zero for half of them: pinned zero pages must not be dropped */
    memset(buffer, 0, PINNED / 2 * PAGE);
    OK(io_uring_register_buffers(&ring, &iov, 1));
    for (uint32_t i = 0; i < PINNED; i++)
        pfn[i] = kit_pagemap(buffer + i * PAGE) & PAGEMAP_PFN;
    EQUALS(rig_merge(&rig, 0, 512), 512);
    uint32_t merged = rig_merge(&rig, MIDDLE, 512);
    CHECK(merged >= 100 && merged <= 512 - PINNED, "%u of 512 pages merged, %u are pinned", merged, PINNED);
    script_wait_rounds(rig.vm, 4);
    for (uint32_t i = 0; i < PINNED; i++)
        EQUALS(kit_pagemap(buffer + i * PAGE) & PAGEMAP_PFN, pfn[i]);
    for (limit = kit_ms() + SCRIPT_WAIT_MS;
         kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_PINNED] < PINNED * PAGE && kit_ms() < limit;)
        merged += rig_merge(&rig, MIDDLE, 512);
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_PINNED], PINNED * PAGE);
    OK(io_uring_unregister_buffers(&ring));
    /* zero pages are found by the engine; proposed before that, they would be merged like any other */
    for (limit = kit_ms() + SCRIPT_WAIT_MS; kit_stats(rig.memd).zero_pages < PINNED / 2 && kit_ms() < limit;)
        usleep(10000);
    for (limit = kit_ms() + SCRIPT_WAIT_MS; merged < 512 - PINNED / 2 && kit_ms() < limit; usleep(100000))
        merged += rig_merge(&rig, MIDDLE, 512);
    EQUALS(merged, 512 - PINNED / 2); /* the zero pages are dropped */
    EQUALS(kit_stats(rig.memd).zero_pages, PINNED / 2);
    EQUALS(kit_stats(rig.memd).ineligible_bytes[MEMD_INELIGIBLE_PINNED], 0);
    io_uring_queue_exit(&ring);
    rig_close(&rig);
}

/* memd_pin(): whole chunks, resident, private, until as many memd_unpin(). */
static void pinned_by_api(void **state)
{
    struct wire_rec_budget budget = budget_of(0);
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);

    (void)state;
    EQUALS(rig_merge(&rig, MIDDLE, 512), 512);
    OK(memd_pin(rig.memd, rig.region, (MIDDLE + 17) * PAGE, PAGE));
    OK(memd_pin(rig.memd, rig.region, (MIDDLE + 300) * PAGE, 2 * PAGE));
    struct kit_smaps s = kit_smaps(rig.ram, NPAGES * PAGE);
    EQUALS(s.file_vmas, 0);
    EQUALS(s.anon_bytes, NPAGES * PAGE);
    check_ineligible(&rig, MEMD_INELIGIBLE_PINNED, CHUNK);
    uint64_t pfn = kit_pagemap(rig_page(&rig, MIDDLE)) & PAGEMAP_PFN;
    EQUALS(rig_merge(&rig, MIDDLE, 512), 0);
    EQUALS(rig_merge(&rig, 0, 512), 512);
    EQUALS(memd_discard(rig.memd, rig.region, MIDDLE * PAGE, PAGE), -EBUSY);
    OK(memd_unpin(rig.memd, rig.region, (MIDDLE + 17) * PAGE, PAGE));
    EQUALS(rig_merge(&rig, MIDDLE, 512), 0);
    EQUALS(kit_pagemap(rig_page(&rig, MIDDLE)) & PAGEMAP_PFN, pfn);
    OK(memd_unpin(rig.memd, rig.region, (MIDDLE + 300) * PAGE, 2 * PAGE));
    EQUALS(memd_unpin(rig.memd, rig.region, (MIDDLE + 300) * PAGE, 2 * PAGE), -EINVAL);
    check_ineligible(&rig, MEMD_INELIGIBLE_COUNT, 0);
    EQUALS(rig_merge(&rig, MIDDLE, 512), 512);
    rig_check(&rig, unique);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hugetlb),         cmocka_unit_test(shared),     cmocka_unit_test(file_backed),
        cmocka_unit_test(locked),          cmocka_unit_test(other_uffd), cmocka_unit_test(no_access),
        cmocka_unit_test(read_only),       cmocka_unit_test(unmapped),   cmocka_unit_test(nothing_left),
        cmocka_unit_test(locked_later),    cmocka_unit_test(pinned),     cmocka_unit_test(pinned_by_api),
        cmocka_unit_test(mlockall_future),
    };

    kit_begin();
    return cmocka_run_group_tests_name("eligible", tests, NULL, NULL);
}
