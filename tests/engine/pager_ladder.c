/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pager's ladder under torture. memd-test: timeout=240
 *
 * Writers count in pages, readers compare every byte, and a device reads into pages and writes from them
 * (O_DIRECT), while pages are parked, packed, brought home, discarded, merged, unmerged and pinned as fast as
 * the engine can. Every writer remembers outside the region what its word of each page must hold; a page that
 * came home old, or as somebody else's, or not at all, shows.
 *
 * The region begins in the middle of a chunk. Its parts, by what their pages hold:
 *   plain   compressible content, counted in
 *   raw     incompressible content, counted in: they are refused and go home
 *   equal   few contents, merged with frames; their writers put back what they change
 *   gone    written and discarded, mostly zero
 *   device  written by O_DIRECT reads, read by O_DIRECT writes
 */
#include "kit.h"
#include "script.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OUTS_FULL    1000000u
#define SKEW         37u /* pages from a chunk's begin to the region's */
#define WRITERS      2u
#define WINDOW       16u
#define BURST        2048u
#define CONTENTS     32u /* of the equal part */
#define FILE_BLOCKS  64u
#define SLOT_OF(w)   (128u + (w)*8u) /* byte offset of a writer's word */
#define EACH_TURN_MS 30000u
#define TURNS_MIN    64u /* each of them four times */

enum part { PLAIN, RAW, EQUAL, GONE, DEVICE, PARTS };
static const uint32_t part_pages[PARTS] = {1200, 200, 512, 400, 300};
#define NPAGES (1200u + 200u + 512u + 400u + 300u)

struct ladder {
    struct script *script;
    struct script_vm *vm;
    struct memd *memd;
    uint32_t region;
    char *ram;
    int file, sink; /* O_DIRECT; -1: the file system cannot */
    atomic_bool stop;
    _Atomic uint64_t writes, checks, discards, io;
    uint64_t shadow[WRITERS][NPAGES];
    uint64_t block[NPAGES]; /* that the device read last, plus one */
};

struct writer {
    struct ladder *l;
    unsigned nr;
    uint64_t random;
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

static uint32_t part_first(enum part part)
{
    uint32_t first = 0;

    for (unsigned i = 0; i < part; i++)
        first += part_pages[i];
    return first;
}

static enum part part_of(uint32_t page)
{
    unsigned part = 0;

    while (page >= part_first(part) + part_pages[part])
        part++;
    return part;
}

static uint64_t word_of(uint64_t what, unsigned i)
{
    return what * 0x9e3779b97f4a7c15ull ^ i / 16;
}

/* What lies in a page besides what is counted in it. */
static uint64_t background(uint32_t page, unsigned i)
{
    static _Thread_local uint64_t copy[PAGE / 8], of = UINT64_MAX;

    switch (part_of(page)) {
    case PLAIN:
        return word_of(page + 1, i);
    case EQUAL:
        return word_of(100000 + page % CONTENTS, i);
    case RAW:
        if (of != page)
            guest_fill(copy, of = page);
        return copy[i];
    default:
        return 0;
    }
}

static char *page_at(const struct ladder *l, uint32_t page)
{
    return l->ram + page * PAGE;
}

/* ---- writers */

static void count_up(struct writer *w, uint32_t page)
{
    char *word = page_at(w->l, page) + SLOT_OF(w->nr);
    uint64_t *shadow = &w->l->shadow[w->nr][page], is = guest_read(word);

    CHECK(is == *shadow, "page %u: writer %u wrote %llu, finds %llu: a lost write", page, w->nr,
          (unsigned long long)*shadow, (unsigned long long)is);
    guest_write(word, ++*shadow);
}

static void disturb(struct writer *w, uint32_t page)
{
    char *word = page_at(w->l, page) + SLOT_OF(w->nr);
    uint64_t should = background(page, SLOT_OF(w->nr) / 8), is = guest_read(word);

    CHECK(is == should, "page %u: writer %u put back %#llx, finds %#llx", page, w->nr,
          (unsigned long long)should, (unsigned long long)is);
    guest_write(word, ~should);
    CHECK(guest_read(word) == ~should, "page %u: a write is lost at once", page);
    guest_write(word, should);
}

/* These pages belong to one writer each. */
static void live_and_discard(struct writer *w, uint32_t page)
{
    struct ladder *l = w->l;
    uint64_t *shadow = &l->shadow[w->nr][page], is = guest_read(page_at(l, page) + SLOT_OF(0));

    CHECK(is == *shadow, "page %u: %llu, not %llu, after %s", page, (unsigned long long)is,
          (unsigned long long)*shadow, *shadow ? "a write" : "a discard");
    if (next_random(&w->random) % 4) {
        guest_write(page_at(l, page) + SLOT_OF(0), ++*shadow);
        return;
    }
    int err = memd_discard(l->memd, l->region, page * PAGE, PAGE);
    if (err == -EBUSY)
        return;
    OK(err);
    *shadow = 0;
    CHECK(guest_differs(page_at(l, page), 0) < 0, "page %u is not zero after a discard", page);
    atomic_fetch_add_explicit(&l->discards, 1, memory_order_relaxed);
}

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    uint64_t writes = 0;

    while (!atomic_load_explicit(&w->l->stop, memory_order_relaxed)) {
        uint32_t first = (uint32_t)(next_random(&w->random) % (part_first(DEVICE) - WINDOW));
        for (unsigned i = 0; i < BURST; i++, writes++) {
            uint32_t page = first + (uint32_t)(next_random(&w->random) % WINDOW);
            enum part part = part_of(page);
            if (part == PLAIN || part == RAW)
                count_up(w, page);
            else if (part == EQUAL)
                disturb(w, page);
            else if (i % 16 == 0 && page % WRITERS == w->nr)
                live_and_discard(w, page);
        }
        usleep(100);
    }
    atomic_fetch_add(&w->l->writes, writes);
    return NULL;
}

static void check_page(const struct ladder *l, uint32_t page)
{
    uint64_t copy[PAGE / 8];

    guest_read_bytes(copy, page_at(l, page), PAGE);
    for (unsigned i = 0; i < PAGE / 8; i++)
        CHECK((i >= SLOT_OF(0) / 8 && i < SLOT_OF(WRITERS) / 8) || copy[i] == background(page, i),
              "page %u: byte %u is %#llx, not %#llx", page, i * 8, (unsigned long long)copy[i],
              (unsigned long long)background(page, i));
}

static void *reader_main(void *arg)
{
    struct ladder *l = arg;
    uint64_t random = 99, checks = 0;

    while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
        uint32_t page = (uint32_t)(next_random(&random) % part_first(DEVICE));
        for (uint32_t end = page + 8; page < end && page < part_first(DEVICE); page++, checks++)
            check_page(l, page);
        usleep(300);
    }
    atomic_fetch_add(&l->checks, checks);
    return NULL;
}

/* ---- the device */

static int open_direct(const char *name)
{
    char path[160];

    snprintf(path, sizeof path, "%s/%s", kit_tmp(), name);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    uint64_t page[PAGE / 8];
    for (uint32_t b = 0; b < FILE_BLOCKS; b++) {
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

static void check_block(const struct ladder *l, uint32_t page, const uint64_t *bytes, const char *what)
{
    for (unsigned i = 0; i < PAGE / 8; i++) {
        uint64_t should = l->block[page] ? word_of(500000 + l->block[page] - 1, i) : 0;
        CHECK(bytes[i] == should, "page %u: %s: byte %u is %#llx, not %#llx", page, what, i * 8,
              (unsigned long long)bytes[i], (unsigned long long)should);
    }
}

static void *device_main(void *arg)
{
    struct ladder *l = arg;
    uint64_t random = 7, *buf = aligned_alloc(PAGE, PAGE);

    while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
        uint32_t page = part_first(DEVICE) + (uint32_t)(next_random(&random) % part_pages[DEVICE]);
        uint32_t block = (uint32_t)(next_random(&random) % FILE_BLOCKS);
        char *hva = page_at(l, page);
        CHECK(pwrite(l->sink, hva, PAGE, 0) == (ssize_t)PAGE, "O_DIRECT write from an out page: %s",
              strerror(errno));
        CHECK(pread(l->sink, buf, PAGE, 0) == (ssize_t)PAGE, "pread: %s", strerror(errno));
        check_block(l, page, buf, "written by the device");
        CHECK(pread(l->file, hva, PAGE, block * PAGE) == (ssize_t)PAGE, "O_DIRECT read into an out page: %s",
              strerror(errno));
        l->block[page] = block + 1;
        guest_read_bytes(buf, hva, PAGE);
        check_block(l, page, buf, "read by the device");
        atomic_fetch_add_explicit(&l->io, 2, memory_order_relaxed);
        usleep(200);
    }
    free(buf);
    return NULL;
}

/* ---- up and down */

static void propose(struct ladder *l, uint32_t frame)
{
    uint32_t first = part_first(EQUAL);

    for (uint32_t page = first; page + CONTENTS <= first + part_pages[EQUAL]; page += CONTENTS) {
        uint32_t at = page + (CONTENTS - page % CONTENTS) % CONTENTS;
        /* a proposal stays within one chunk */
        if ((at + SKEW) / 512 == (at + SKEW + CONTENTS - 1) / 512 &&
            at + CONTENTS <= first + part_pages[EQUAL])
            script_merge(l->vm, l->region, at, frame, CONTENTS);
    }
}

static void pin_all(struct ladder *l)
{
    OK(memd_pin(l->memd, l->region, 0, NPAGES * PAGE));
    struct memd_stats st = kit_stats(l->memd);
    CHECK(!st.parked_pages && !st.packed_pages && !st.swapped_pages && !st.remote_pages,
          "%llu pages are out of a pinned region",
          (unsigned long long)(st.parked_pages + st.packed_pages + st.swapped_pages));
    OK(memd_unpin(l->memd, l->region, 0, NPAGES * PAGE));
}

static void pageout(struct ladder *l, uint64_t pages, uint32_t park_ms, uint32_t flags)
{
    struct wire_rec_paged done =
        script_paged(l->vm, script_page(l->vm, WIRE_REC_PAGEOUT, pages, park_ms, flags));

    EQUALS(done.error, 0);
}

static void pagein(struct ladder *l)
{
    struct wire_rec_paged done = script_paged(l->vm, script_page(l->vm, WIRE_REC_PAGEIN, UINT64_MAX, 0, 0));

    EQUALS(done.error, 0);
}

static void one_turn(struct ladder *l, uint64_t turn, uint32_t equal, uint64_t *random)
{
    switch (turn % 16) {
    case 1:
        pageout(l, UINT64_MAX, 0, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_PARK);
        break;
    case 3:
        pagein(l);
        break;
    case 5:
        pageout(l, 1 + next_random(random) % 700, 1, WIRE_PAGEOUT_ALL);
        break;
    case 7:
        propose(l, equal);
        CHECK(script_fence(l->vm), "the session ended");
        break;
    case 8: /* now and then REMOTE, and home again */
        pageout(l, UINT64_MAX, (uint32_t)(turn % 3),
                WIRE_PAGEOUT_ALL | (turn % 128 == 72 ? WIRE_PAGEOUT_MERGED : 0));
        break;
    case 9: /* without waiting: the next order ends it */
        CHECK(script_page(l->vm, WIRE_REC_PAGEOUT, UINT64_MAX, 0, WIRE_PAGEOUT_ALL), "the session ended");
        pagein(l);
        break;
    case 11:
        pageout(l, UINT64_MAX, 2, 0);
        if (turn % 32 == 11) /* REMOTE, and on to the swap file */
            pageout(l, UINT64_MAX, 0, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_MERGED);
        break;
    case 13: {
        int err = script_unmerge(l->vm);
        CHECK(err == 0 || err == EBUSY, "UNMERGE: %s", kit_error(err));
        script_merging(l->vm, false);
        script_merging(l->vm, true);
        break;
    }
    case 15:
        if (turn % 64 == 63)
            pin_all(l);
        break;
    case 6:
    case 12:
        pageout(l, UINT64_MAX, 0, WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP | WIRE_PAGEOUT_MERGED);
        break;
    case 14:
        pageout(l, 1 + next_random(random) % 1500, 1,
                WIRE_PAGEOUT_ALL | WIRE_PAGEOUT_SWAP | WIRE_PAGEOUT_MERGED);
        break;
    default:
        pageout(l, UINT64_MAX, (uint32_t)(turn % 3), WIRE_PAGEOUT_ALL);
    }
}

static uint64_t page_all_day(struct ladder *l, uint64_t goal)
{
    uint64_t contents[CONTENTS][PAGE / 8], random = 5, turn = 0, last = 0, since = kit_ms();

    for (unsigned c = 0; c < CONTENTS; c++)
        for (unsigned i = 0; i < PAGE / 8; i++)
            contents[c][i] = word_of(100000 + c, i);
    uint32_t equal = script_frames(l->script, contents, CONTENTS);
    for (uint64_t outs = 0; outs < goal || turn < TURNS_MIN; turn++) {
        one_turn(l, turn, equal, &random);
        outs = kit_stats(l->memd).page_outs;
        if (outs != last)
            last = outs, since = kit_ms();
        CHECK(kit_ms() < since + EACH_TURN_MS, "nothing goes out any more: %llu page-outs",
              (unsigned long long)outs);
    }
    return turn;
}

static void check_all(struct ladder *l)
{
    for (uint32_t page = 0; page < part_first(DEVICE); page++) {
        enum part part = part_of(page);
        check_page(l, page);
        for (unsigned w = 0; (part == PLAIN || part == RAW) && w < WRITERS; w++)
            CHECK(guest_read(page_at(l, page) + SLOT_OF(w)) == l->shadow[w][page],
                  "page %u: writer %u's last write is lost", page, w);
    }
    for (uint32_t page = part_first(DEVICE); page < NPAGES; page++) {
        uint64_t copy[PAGE / 8];
        guest_read_bytes(copy, page_at(l, page), PAGE);
        check_block(l, page, copy, "at the end");
    }
}

static void fill(struct ladder *l)
{
    for (uint32_t page = 0; page < part_first(GONE); page++) {
        for (unsigned i = 0; i < PAGE / 8; i++)
            guest_write(page_at(l, page) + i * 8, background(page, i));
        for (unsigned w = 0; part_of(page) != EQUAL && w < WRITERS; w++)
            guest_write(page_at(l, page) + SLOT_OF(w), 0);
    }
}

/* Everything out, nobody touching it: what the kernel says then. */
static void check_saved(struct ladder *l)
{
    pagein(l);
    uint64_t before = kit_smaps(l->ram, NPAGES * PAGE).rss_bytes;
    pageout(l, UINT64_MAX, 0, WIRE_PAGEOUT_ALL);
    uint64_t after = kit_smaps(l->ram, NPAGES * PAGE).rss_bytes;
    struct memd_stats st = kit_stats(l->memd);

    uint64_t out = st.packed_pages + st.swapped_pages; /* what has not changed is in the file at once */

    CHECK(out > part_pages[PLAIN] / 2, "%llu pages are out", (unsigned long long)out);
    CHECK(before > after && before - after >= out / 2 * PAGE,
          "%llu KiB resident before, %llu after, with %llu pages out", (unsigned long long)before >> 10,
          (unsigned long long)after >> 10, (unsigned long long)out);
    CHECK(st.pool_bytes < st.packed_pages * PAGE / 2 + (4u << 20), "the pool takes %llu KiB for %llu pages",
          (unsigned long long)st.pool_bytes >> 10, (unsigned long long)st.packed_pages);
}

int main(void)
{
    struct wire_rec_budget budget = script_budget_full();
    char swap[160];
    struct script_options options = {.budget = &budget, .swap = swap};
    struct writer writer[WRITERS];
    pthread_t thread[WRITERS + 2];
    unsigned nthreads = 0;
    struct ladder *l = calloc(1, sizeof *l);

    kit_begin();
    CHECK(l, "no memory");
    snprintf(swap, sizeof swap, "%s/ladder.swap", kit_tmp());
    unlink(swap);
    l->script = script_open(&options);
    char *map = guest_map((SKEW + NPAGES) * PAGE, false);
    l->ram = map + SKEW * PAGE;
    l->file = open_direct("blocks");
    l->sink = open_direct("sink");
    fill(l);
    l->memd = kit_engine("ladder", l->script->run_dir);
    l->region = kit_region(l->memd, l->ram, NPAGES * PAGE);
    l->vm = script_wait_vm(l->script, "ladder");
    script_wait_region(l->vm, l->region);
    for (unsigned w = 0; w < WRITERS; w++) {
        writer[w] = (struct writer){l, w, w + 1};
        CHECK(!pthread_create(&thread[nthreads++], NULL, writer_main, &writer[w]), "pthread_create");
    }
    CHECK(!pthread_create(&thread[nthreads++], NULL, reader_main, l), "pthread_create");
    if (l->file >= 0 && l->sink >= 0)
        CHECK(!pthread_create(&thread[nthreads++], NULL, device_main, l), "pthread_create");

    uint64_t start = kit_ms(), turns = page_all_day(l, kit_scaled(OUTS_FULL, 10000));
    atomic_store(&l->stop, true);
    for (unsigned i = 0; i < nthreads; i++)
        pthread_join(thread[i], NULL);
    check_all(l);
    check_saved(l);
    struct memd_stats st = kit_stats(l->memd);
    OK(memd_close(l->memd, 10000));
    check_all(l);
    printf("%llu ms, %llu turns: %llu page-outs, %llu page-ins, %llu faults on parked, %llu on packed and "
           "%llu on "
           "swapped pages (%llu reads, %llu pages read ahead, %llu used), %llu MiB written; "
           "%llu merges, %llu merged pages out, %llu heals; %llu writes, %llu discards, %llu pages checked, "
           "%llu device transfers\n",
           (unsigned long long)(kit_ms() - start), (unsigned long long)turns,
           (unsigned long long)st.page_outs, (unsigned long long)st.page_ins,
           (unsigned long long)st.parked_faults, (unsigned long long)st.packed_faults,
           (unsigned long long)st.swapped_faults, (unsigned long long)st.swap_reads,
           (unsigned long long)st.prefetched_pages, (unsigned long long)st.prefetch_used,
           (unsigned long long)st.swap_written_bytes >> 20, (unsigned long long)st.merges,
           (unsigned long long)st.merged_outs, (unsigned long long)st.heals, (unsigned long long)l->writes,
           (unsigned long long)l->discards, (unsigned long long)l->checks, (unsigned long long)l->io);
    CHECK(!st.lost_pages && !st.swap_errors, "%llu pages are lost, %llu writes failed",
          (unsigned long long)st.lost_pages, (unsigned long long)st.swap_errors);
    CHECK(st.parked_faults && st.packed_faults && st.swapped_faults && st.prefetch_used && st.merges &&
              st.merged_outs && l->discards && l->checks,
          "this run has not tried everything");
    script_close(l->script);
    guest_unmap(map, (SKEW + NPAGES) * PAGE);
    free(l);
    return 0;
}
