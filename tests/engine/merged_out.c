/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merged pages that go to the swap file, by way of REMOTE or not. memd-test: timeout=400
 *
 * Frames that nobody refers to are overwritten at once: a page that left its frame too early, or came back
 * to it, shows. In the storm writers, readers and a device are at pages that are merged and taken out all the
 * while, in runs of all lengths, and the daemon comes and goes.
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
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES 1024u
#define ALL    (WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP | WIRE_PAGEOUT_MERGED)
#define COLD   WIRE_PAGEOUT_SWAP

static char swap_path[160];

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static struct script_options with_swap(const struct wire_rec_budget *budget)
{
    snprintf(swap_path, sizeof swap_path, "%s/merged.swap", kit_tmp());
    unlink(swap_path);
    return (struct script_options){.budget = budget, .swap = swap_path};
}

/* Nothing is scanned: what happens is what the test orders. */
static struct rig quiet_rig(void)
{
    static struct wire_rec_budget budget;

    budget = script_budget_full();
    budget.scan_pages_per_s = 0;
    struct script_options options = with_swap(&budget);
    return rig_open(&options, NPAGES, unique);
}

static void merge(struct rig *rig, uint32_t page, uint32_t npages)
{
    uint32_t frame = script_frames(rig->script, rig_page(rig, page), npages);

    EQUALS(rig_propose(rig, page, frame, npages).merged, npages);
    script_retire(rig->script, frame);
}

static void order(struct rig *rig, uint16_t type, uint32_t flags)
{
    EQUALS(script_paged(rig->vm, script_page(rig->vm, type, UINT64_MAX, 0, flags)).error, 0);
}

static uint32_t count(struct rig *rig, enum wire_page_state state)
{
    return script_count_state(rig->vm, rig->region, state);
}

static uint64_t vmas(const struct rig *rig)
{
    return kit_smaps(rig->ram, rig->npages * PAGE).vmas;
}

/* ---- one after the other */

static void out_and_back(void **state)
{
    struct rig rig = quiet_rig();
    uint64_t written = 0;

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        merge(&rig, 0, NPAGES / 2);
        uint32_t frame = script_frames(rig.script, rig_page(&rig, NPAGES / 2), NPAGES / 2);
        for (uint32_t i = 0; i < NPAGES / 2; i += 8) /* a mapping for every second four pages */
            EQUALS(rig_propose(&rig, NPAGES / 2 + i, frame + i, 4).merged, 4);
        script_retire(rig.script, frame);
        uint32_t merged = count(&rig, WIRE_PAGE_SHARED);
        EQUALS(merged, NPAGES / 4 * 3);
        uint64_t before = vmas(&rig);
        order(&rig, WIRE_REC_PAGEOUT, ALL);
        CHECK(vmas(&rig) <= before, "%llu mappings, now %llu", (unsigned long long)before,
              (unsigned long long)vmas(&rig));
        struct memd_stats st = kit_stats(rig.memd);
        EQUALS(count(&rig, WIRE_PAGE_SWAPPED), NPAGES);
        EQUALS(st.merged_outs, (round + 1) * (uint64_t)merged);
        EQUALS(st.pool_bytes + st.merged_pages + st.parked_pages + st.packed_pages, 0);
        EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).rss_bytes, 0);
        EQUALS(script_count(rig.script).shared, 0);
        CHECK(!round || st.swap_written_bytes == written, "unchanged pages were written again");
        written = st.swap_written_bytes;
        script_recycle(rig.script);
        if (round == 1)
            order(&rig, WIRE_REC_PAGEIN, 0);
        rig_check(&rig, unique);
        EQUALS(count(&rig, WIRE_PAGE_PRIVATE), NPAGES);
    }
    rig_close(&rig);
}

/* Of small mappings no more leave than were asked for, whatever of them cannot be packed. */
static void no_more_than_asked(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    for (uint32_t half = 0; half < NPAGES; half += NPAGES / 2) {
        uint32_t frame = script_frames(rig.script, rig_page(&rig, half), NPAGES / 2);
        for (uint32_t i = 0; i < NPAGES / 2; i += 8) /* never one mapping of more than four pages */
            EQUALS(rig_propose(&rig, half + i, frame + i, 4).merged, 4);
        script_retire(rig.script, frame);
    }
    EQUALS(count(&rig, WIRE_PAGE_SHARED), NPAGES / 2);
    EQUALS(script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEOUT, NPAGES / 2, 0, ALL)).error, 0);
    EQUALS(count(&rig, WIRE_PAGE_SHARED), NPAGES / 2); /* what is private goes first */
    for (unsigned turn = 1; turn <= 3; turn++) {
        struct wire_rec_paged done = script_paged(rig.vm, script_page(rig.vm, WIRE_REC_PAGEOUT, 100, 0, ALL));
        EQUALS(done.error, 0);
        EQUALS(done.pages, 100);
        EQUALS(count(&rig, WIRE_PAGE_SWAPPED), NPAGES / 2 + turn * 100);
        EQUALS(kit_stats(rig.memd).merged_outs, turn * 100);
    }
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* A copy in RAM would cost more than the frame. */
static void not_into_the_pool(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    merge(&rig, 0, NPAGES / 2);
    order(&rig, WIRE_REC_PAGEOUT, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP); /* nor, touched or not, at once */
    EQUALS(count(&rig, WIRE_PAGE_SHARED), NPAGES / 2);
    EQUALS(script_paged(rig.vm, script_pageout_limited(rig.vm, ALL, 0)).error, EDQUOT);
    EQUALS(count(&rig, WIRE_PAGE_SHARED), NPAGES / 2);
    OK(memd_pin(rig.memd, rig.region, 0, PAGE)); /* its chunk comes home, and stays */
    order(&rig, WIRE_REC_PAGEOUT, ALL);
    EQUALS(count(&rig, WIRE_PAGE_SWAPPED), NPAGES - 512);
    OK(memd_unpin(rig.memd, rig.region, 0, PAGE));
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* Written pages stay where they are, and what is beside them leaves only if that costs no mapping. */
static void written_in_between(void **state)
{
    struct rig rig = quiet_rig();

    (void)state;
    merge(&rig, 100, 100);
    merge(&rig, 600, 100);
    for (uint32_t page = 640; page < 660; page += 5)
        guest_write(rig_page(&rig, page), ~unique(page));
    uint64_t before = vmas(&rig);
    order(&rig, WIRE_REC_PAGEOUT, ALL);
    CHECK(vmas(&rig) <= before + 2, "%llu mappings, now %llu", (unsigned long long)before,
          (unsigned long long)vmas(&rig)); /* but for MISSING on in two chunks */
    EQUALS(script_entry(rig.vm, rig.region, 100) & WIRE_PAGE_STATE_MASK, WIRE_PAGE_SWAPPED);
    EQUALS(script_entry(rig.vm, rig.region, 199) & WIRE_PAGE_STATE_MASK, WIRE_PAGE_SWAPPED);
    EQUALS(kit_stats(rig.memd).merged_outs, 100); /* nobody has looked yet: the other is left alone */
    script_recycle(rig.script);
    for (uint32_t page = 640; page < 660; page += 5) {
        EQUALS(guest_read(rig_page(&rig, page)), ~unique(page));
        guest_fill(rig_page(&rig, page), unique(page));
    }
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* What is touched now and then stays, with what the kernel maps around it; what is beside it goes, in a
 * mapping of its own or at the end of this one. */
static void touched_stays(void **state)
{
    uint64_t limit = kit_ms() + 60000;
    struct rig rig = quiet_rig();

    (void)state;
    merge(&rig, 0, 200);
    merge(&rig, 300, 200);
    for (uint32_t page = 0; page < 200; page++) /* all of both has been touched once */
        guest_read(rig_page(&rig, page)), guest_read(rig_page(&rig, 300 + page));
    do {
        CHECK(kit_ms() < limit, "cold pages do not leave");
        order(&rig, WIRE_REC_PAGEOUT, COLD);
        EQUALS(guest_differs(rig_page(&rig, 100), unique(100)), -1);
        CHECK(count(&rig, WIRE_PAGE_SHARED) >= 16, "what is touched has left");
        usleep(100000);
    } while (count(&rig, WIRE_PAGE_SHARED) == 400);
    EQUALS(count(&rig, WIRE_PAGE_SHARED), 112); /* and what is before it, where no neighbour takes it */
    for (uint32_t page = 300; page < 500; page++)
        EQUALS(script_entry(rig.vm, rig.region, page) & WIRE_PAGE_STATE_MASK, WIRE_PAGE_SWAPPED);
    for (uint32_t page = 96; page < 112; page++)
        EQUALS(script_entry(rig.vm, rig.region, page) & WIRE_PAGE_STATE_MASK, WIRE_PAGE_SHARED);
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- all at once */

#define STORM_PAGES 8192u
#define DEVICE      7680u /* from here on the device reads and writes; below, */
#define HOT         7168u /* writers are busy; below, they come by now and then */
#define WRITERS     2u
#define READERS     2u
#define BLOCKS      64u
#define OUTS_FULL   1000000u /* less by the square of the scale */
#define TURNS_LEAST 8u       /* so that everything happens */
#define SLOT_OF(w)  (128u + (w)*8u)

struct storm {
    struct rig rig;
    atomic_bool stop;
    int file, sink;
    pthread_rwlock_t dma; /* the frames of this store are used again in place, memd's are not */
    _Atomic uint64_t writes, checks, io;
    uint64_t shadow[WRITERS][STORM_PAGES], block[STORM_PAGES];
};

struct actor {
    struct storm *s;
    unsigned nr;
    uint64_t random;
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

static uint64_t word_of(uint64_t what, unsigned i)
{
    return (what + 1) * 0x9e3779b97f4a7c15ull ^ i / 16;
}

static void *write_on(void *arg)
{
    struct actor *a = arg;
    struct storm *s = a->s;
    uint64_t writes = 0;

    while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        bool busy = next_random(&a->random) % 64;
        uint32_t page = busy ? HOT + (uint32_t)(next_random(&a->random) % (DEVICE - HOT))
                             : (uint32_t)(next_random(&a->random) % HOT);
        char *word = rig_page(&s->rig, page) + SLOT_OF(a->nr);
        uint64_t is = guest_read(word), *shadow = &s->shadow[a->nr][page];
        CHECK(is == *shadow, "page %u: writer %u wrote %llu, finds %llu", page, a->nr,
              (unsigned long long)*shadow, (unsigned long long)is);
        guest_write(word, ++*shadow);
        writes++;
        usleep(50);
    }
    atomic_fetch_add(&s->writes, writes);
    return NULL;
}

static void check_page(const struct storm *s, uint32_t page)
{
    uint64_t copy[PAGE / 8];

    guest_read_bytes(copy, rig_page(&s->rig, page), PAGE);
    for (unsigned i = 0; i < PAGE / 8; i++)
        CHECK((i >= SLOT_OF(0) / 8 && i < SLOT_OF(WRITERS) / 8) || copy[i] == word_of(page, i),
              "page %u: byte %u is %#llx, not %#llx", page, i * 8, (unsigned long long)copy[i],
              (unsigned long long)word_of(page, i));
}

static void *read_on(void *arg)
{
    struct actor *a = arg;
    uint64_t checks = 0;

    for (; !atomic_load_explicit(&a->s->stop, memory_order_relaxed); checks += 8) {
        uint32_t page = (uint32_t)(next_random(&a->random) % (DEVICE - 8));
        for (unsigned i = 0; i < 8; i++)
            check_page(a->s, page + i);
        usleep(300);
    }
    atomic_fetch_add(&a->s->checks, checks);
    return NULL;
}

static void check_block(const struct storm *s, uint32_t page, const uint64_t *bytes, const char *what)
{
    for (unsigned i = 0; i < PAGE / 8; i++)
        CHECK(bytes[i] == word_of(500000 + s->block[page], i), "page %u: %s: byte %u is %#llx", page, what,
              i * 8, (unsigned long long)bytes[i]);
}

static void *transfer_on(void *arg)
{
    struct actor *a = arg;
    struct storm *s = a->s;
    uint64_t *buf = aligned_alloc(PAGE, PAGE), io = 0;

    for (; !atomic_load_explicit(&s->stop, memory_order_relaxed); io++) {
        uint32_t page = DEVICE + (uint32_t)(next_random(&a->random) % (STORM_PAGES - DEVICE));
        uint64_t block = next_random(&a->random) % BLOCKS;
        char *hva = rig_page(&s->rig, page);
        pthread_rwlock_rdlock(&s->dma);
        CHECK(pwrite(s->sink, hva, PAGE, 0) == (ssize_t)PAGE, "O_DIRECT write: %s", strerror(errno));
        pthread_rwlock_unlock(&s->dma);
        CHECK(pread(s->sink, buf, PAGE, 0) == (ssize_t)PAGE, "pread: %s", strerror(errno));
        check_block(s, page, buf, "written by the device");
        if (next_random(&a->random) % 8 == 0) {
            CHECK(pread(s->file, hva, PAGE, (off_t)(block * PAGE)) == (ssize_t)PAGE, "O_DIRECT read: %s",
                  strerror(errno));
            s->block[page] = block;
        }
        guest_read_bytes(buf, hva, PAGE);
        check_block(s, page, buf, "read by the device");
        usleep(200);
    }
    atomic_fetch_add(&s->io, io);
    free(buf);
    return NULL;
}

static int open_direct(const char *name)
{
    uint64_t page[PAGE / 8];
    char path[160];

    snprintf(path, sizeof path, "%s/%s", kit_tmp(), name);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    for (uint32_t b = 0; b < BLOCKS; b++) {
        for (unsigned i = 0; i < PAGE / 8; i++)
            page[i] = word_of(500000 + b, i);
        CHECK(write(fd, page, PAGE) == (ssize_t)PAGE, "write: %s", strerror(errno));
    }
    CHECK(!fsync(fd), "fsync");
    close(fd);
    fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    unlink(path);
    return fd;
}

static void fill(struct storm *s)
{
    for (uint32_t page = 0; page < STORM_PAGES; page++) {
        for (unsigned i = 0; i < PAGE / 8; i++)
            guest_write(rig_page(&s->rig, page) + i * 8, word_of(page < DEVICE ? page : 500000, i));
        for (unsigned w = 0; page < DEVICE && w < WRITERS; w++)
            guest_write(rig_page(&s->rig, page) + SLOT_OF(w), 0);
    }
}

/* Every chunk in runs of random lengths, with gaps between them. */
static void merge_all(struct storm *s, char *copy, uint64_t *random)
{
    uint32_t frames[STORM_PAGES / 512];
    struct rig *rig = &s->rig;

    for (uint32_t chunk = 0; chunk < STORM_PAGES; chunk += 512) {
        guest_read_bytes(copy, rig_page(rig, chunk), 512 * PAGE);
        uint32_t frame = script_frames(rig->script, copy, 512), longest = 1u << next_random(random) % 10;
        frames[chunk / 512] = frame;
        for (uint32_t i = 0, n; frame && i < 512; i += n + next_random(random) % 3) {
            n = 1 + (uint32_t)(next_random(random) % longest);
            n = n < 512 - i ? n : 512 - i;
            script_merge(rig->vm, rig->region, chunk + i, frame + i, n);
        }
    }
    CHECK(script_fence(rig->vm), "the session ended");
    for (uint32_t i = 0; i < STORM_PAGES / 512; i++)
        if (frames[i])
            script_retire(rig->script, frames[i]);
}

static void recycle(struct storm *s)
{
    pthread_rwlock_wrlock(&s->dma);
    script_recycle(s->rig.script);
    pthread_rwlock_unlock(&s->dma);
}

static void daemon_goes(struct storm *s)
{
    uint64_t before = s->rig.vm->sessions_seen;

    script_vanish(s->rig.script);
    for (uint32_t page = 0; page < DEVICE; page += 7)
        check_page(s, page);
    script_appear(s->rig.script);
    script_wait_back(s->rig.vm, before);
}

static void one_turn(struct storm *s, uint64_t turn, char *copy, uint64_t *random)
{
    struct rig *rig = &s->rig;

    merge_all(s, copy, random);
    if (turn % 4 == 3) { /* an order that is ended by the next one */
        CHECK(script_page(rig->vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, ALL), "the session ended");
        usleep((useconds_t)(next_random(random) % 30000));
    }
    if (turn % 4 != 2) { /* without their mappings first */
        order(rig, WIRE_REC_PAGEOUT, ALL & ~WIRE_PAGEOUT_SWAP);
        recycle(s);
    }
    if (turn % 4 != 1)
        order(rig, WIRE_REC_PAGEOUT, turn % 8 == 6 ? COLD : ALL);
    recycle(s);
    if (turn % 8 == 5)
        daemon_goes(s);
    if (turn % 3 == 0)
        order(rig, WIRE_REC_PAGEIN, 0);
    if (turn % 8 == 7) {
        int err = script_unmerge(rig->vm);
        CHECK(err == 0 || err == EBUSY, "UNMERGE: %s", kit_error(err));
        script_merging(rig->vm, false);
        script_merging(rig->vm, true);
    }
}

static uint64_t turn_about(struct storm *s, uint64_t goal)
{
    uint64_t random = 5, turn = 0, outs = 0;
    char *copy = malloc(512 * PAGE);

    CHECK(copy, "no memory");
    for (uint64_t last = 0, since = kit_ms(); outs < goal || turn < TURNS_LEAST; turn++) {
        one_turn(s, turn, copy, &random);
        outs = kit_stats(s->rig.memd).merged_outs;
        if (outs != last)
            last = outs, since = kit_ms();
        CHECK(kit_ms() < since + 60000, "merged pages do not leave any more");
    }
    free(copy);
    return turn;
}

static void storm(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = with_swap(&budget);
    void *(*const acts[])(void *) = {write_on, write_on, read_on, read_on, transfer_on};
    struct storm *s = calloc(1, sizeof *s);
    struct actor actor[sizeof acts / sizeof *acts];
    pthread_t thread[sizeof acts / sizeof *acts];

    (void)state;
    CHECK(s && !pthread_rwlock_init(&s->dma, NULL), "no memory");
    s->file = open_direct("blocks");
    s->sink = open_direct("sink");
    if (s->file < 0 || s->sink < 0)
        kit_skip("needs a file system with O_DIRECT for the test's files");
    s->rig.ram = guest_map(STORM_PAGES * PAGE, false);
    fill(s);
    s->rig = rig_open_at(&options, s->rig.ram, STORM_PAGES);
    for (unsigned i = 0; i < sizeof acts / sizeof *acts; i++) {
        actor[i] = (struct actor){s, i < WRITERS ? i : 0, i + 1};
        CHECK(!pthread_create(&thread[i], NULL, acts[i], &actor[i]), "pthread_create");
    }
    uint64_t turns = turn_about(s, kit_scaled(kit_scaled(OUTS_FULL, 1), 5000));
    atomic_store(&s->stop, true);
    for (unsigned i = 0; i < sizeof acts / sizeof *acts; i++)
        pthread_join(thread[i], NULL);
    recycle(s);
    for (uint32_t page = 0; page < DEVICE; page++) {
        check_page(s, page);
        for (unsigned w = 0; w < WRITERS; w++)
            EQUALS(guest_read(rig_page(&s->rig, page) + SLOT_OF(w)), s->shadow[w][page]);
    }
    struct memd_stats st = kit_stats(s->rig.memd);
    printf("%llu turns: %llu merged pages out of %llu; %llu writes, %llu pages checked, %llu transfers; %llu "
           "faults on swapped pages, %llu written since merged\n",
           (unsigned long long)turns, (unsigned long long)st.merged_outs, (unsigned long long)st.merges,
           (unsigned long long)s->writes, (unsigned long long)s->checks, (unsigned long long)s->io,
           (unsigned long long)st.swapped_faults, (unsigned long long)st.cow_breaks);
    CHECK(!st.lost_pages && !st.swap_errors, "%llu pages are lost", (unsigned long long)st.lost_pages);
    CHECK(s->writes && s->checks && s->io && st.swapped_faults && st.cow_breaks && st.remote_faults &&
              st.remote_outs > st.remote_faults,
          "this run has not tried everything");
    rig_close(&s->rig);
    close(s->file);
    close(s->sink);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(out_and_back),      cmocka_unit_test(no_more_than_asked),
        cmocka_unit_test(not_into_the_pool), cmocka_unit_test(written_in_between),
        cmocka_unit_test(touched_stays),     cmocka_unit_test(storm),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
