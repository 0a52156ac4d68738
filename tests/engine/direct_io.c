/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads by a device. memd-test: timeout=180
 *
 * O_DIRECT reads are in flight into pages of a region all the time, while these are merged, healed, merged
 * again, unmerged and taken back by close; a part of the region is registered as io_uring buffers again and
 * again, and read into by way of that registration. After each read, and once more before the next one into
 * the same page, the page must hold what the file holds there: a page that was copied while the device still
 * wrote to the original shows old bytes, a lost read.
 */
#include "kit.h"
#include "script.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <liburing.h>

#define READS_FULL   300000u
#define NPAGES       1536u
#define FIXED_FIRST  1024u /* pages from here on are registered buffers at times */
#define FIXED_PAGES  64u   /* of one registration */
#define FILE_BLOCKS  256u
#define CONTENTS     61u /* different blocks; every 8th of them is zero */
#define DEPTH        32u
#define READ_PAGES   8u
#define FIXED_ROUNDS 32u

struct devices {
    struct script *script;
    struct script_vm *vm;
    struct memd *memd;
    uint32_t region;
    char *ram;
    int file;
    atomic_bool stop;
    _Atomic uint64_t reads, fixed_reads, registrations;
    uint64_t what[NPAGES];
};

/* A read under way. */
struct flight {
    uint32_t page, npages, block;
};

static uint64_t content_of(uint32_t block)
{
    uint32_t c = block % CONTENTS;

    return c % 8 ? c : 0;
}

static int make_file(void)
{
    char path[128];
    uint64_t page[PAGE / 8];

    snprintf(path, sizeof path, "%s/blocks.XXXXXX", kit_tmp());
    int fd = mkstemp(path);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    for (uint32_t b = 0; b < FILE_BLOCKS; b++) {
        guest_fill(page, content_of(b));
        CHECK(write(fd, page, PAGE) == (ssize_t)PAGE, "write: %s", strerror(errno));
    }
    CHECK(!fsync(fd), "fsync: %s", strerror(errno));
    close(fd);
    fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    int err = errno;
    unlink(path);
    if (fd < 0 && err == EINVAL)
        kit_skip("the file system of the test directory does not do O_DIRECT");
    CHECK(fd >= 0, "O_DIRECT: %s", strerror(err));
    return fd;
}

/* ---- reads */

static void check_pages(struct devices *d, const struct flight *f, const char *when)
{
    for (uint32_t i = 0; i < f->npages; i++) {
        uint32_t page = f->page + i;
        long at = guest_differs(d->ram + page * PAGE, d->what[page]);
        CHECK(at < 0, "page %u: byte %ld is not what the device read (%s)", page, at, when);
    }
}

static void set_what(struct devices *d, const struct flight *f)
{
    for (uint32_t i = 0; i < f->npages; i++)
        d->what[f->page + i] = content_of(f->block + i);
}

static struct io_uring_sqe *next_sqe(struct io_uring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

    CHECK(sqe, "the submission queue is full");
    return sqe;
}

/* Submits one read for each slot, all at once, into different pages of [first, end). */
static void submit(struct devices *d, struct io_uring *ring, struct flight flight[DEPTH], uint32_t first,
                   uint32_t end, bool fixed, unsigned *seed)
{
    uint32_t room = (end - first) / DEPTH;

    for (unsigned i = 0; i < DEPTH; i++) {
        uint32_t most = room < READ_PAGES ? room : READ_PAGES;
        struct flight *f = &flight[i];
        *f = (struct flight){.npages = 1 + (uint32_t)rand_r(seed) % most};
        f->page = first + i * room + (uint32_t)rand_r(seed) % (room - f->npages + 1);
        f->block = (uint32_t)rand_r(seed) % (FILE_BLOCKS - f->npages);
        check_pages(d, f, "before the next read");
        struct io_uring_sqe *sqe = next_sqe(ring);
        char *to = d->ram + f->page * PAGE;
        if (fixed)
            io_uring_prep_read_fixed(sqe, d->file, to, f->npages * (unsigned)PAGE, f->block * PAGE, 0);
        else
            io_uring_prep_read(sqe, d->file, to, f->npages * (unsigned)PAGE, f->block * PAGE);
        io_uring_sqe_set_data(sqe, f);
    }
    CHECK(io_uring_submit(ring) == DEPTH, "io_uring_submit");
}

/* Takes the reads as they end. */
static void complete(struct devices *d, struct io_uring *ring)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        struct io_uring_cqe *cqe;
        int err;
        while ((err = io_uring_wait_cqe(ring, &cqe)) == -EINTR)
            ;
        OK(err);
        struct flight *f = io_uring_cqe_get_data(cqe);
        EQUALS(cqe->res, f->npages * PAGE);
        io_uring_cqe_seen(ring, cqe);
        set_what(d, f);
        check_pages(d, f, "right after the read");
    }
}

static void *plain_main(void *arg)
{
    struct devices *d = arg;
    struct flight flight[DEPTH];
    struct io_uring ring;
    unsigned seed = 1;

    OK(io_uring_queue_init(DEPTH, &ring, 0));
    while (!atomic_load(&d->stop)) {
        submit(d, &ring, flight, 0, FIXED_FIRST, false, &seed);
        complete(d, &ring);
        atomic_fetch_add(&d->reads, DEPTH);
    }
    io_uring_queue_exit(&ring);
    return NULL;
}

/* Registers pages that have been merged, reads into them, lets go of them again. */
static void *fixed_main(void *arg)
{
    struct devices *d = arg;
    struct flight flight[DEPTH];
    struct io_uring ring;
    unsigned seed = 2;

    OK(io_uring_queue_init(DEPTH, &ring, 0));
    while (!atomic_load(&d->stop)) {
        uint32_t first = FIXED_FIRST + (uint32_t)rand_r(&seed) % (NPAGES - FIXED_FIRST - FIXED_PAGES);
        struct iovec iov = {d->ram + first * PAGE, FIXED_PAGES * PAGE};
        OK(io_uring_register_buffers(&ring, &iov, 1));
        for (unsigned i = 0; i < FIXED_ROUNDS && !atomic_load(&d->stop); i++) {
            submit(d, &ring, flight, first, first + FIXED_PAGES, true, &seed);
            complete(d, &ring);
            atomic_fetch_add(&d->fixed_reads, DEPTH);
        }
        OK(io_uring_unregister_buffers(&ring));
        atomic_fetch_add(&d->registrations, 1);
        usleep(20000); /* for the engine to merge them */
    }
    io_uring_queue_exit(&ring);
    return NULL;
}

/* ---- what the engine is made to do meanwhile */

static void engine_open(struct devices *d)
{
    d->memd = kit_engine("devices", d->script->run_dir);
    d->region = kit_region(d->memd, d->ram, NPAGES * PAGE);
    d->vm = script_wait_vm(d->script, "devices");
    script_wait_region(d->vm, d->region);
}

/* Busy pages are a reason to say so, and to be asked again. */
static unsigned engine_close(struct devices *d)
{
    unsigned tries = 1;
    int err;

    while ((err = memd_close(d->memd, 200)) == -EBUSY) {
        CHECK(tries < 200, "memd_close: EBUSY for ever");
        tries++;
    }
    OK(err);
    CHECK(!kit_smaps(d->ram, NPAGES * PAGE).file_vmas, "store mappings are left after close");
    return tries;
}

static void propose(struct devices *d)
{
    for (uint32_t page = 0; page < NPAGES; page += 512) {
        uint32_t frame = script_frames(d->script, d->ram + page * PAGE, 512);
        if (!frame)
            continue;
        script_merge(d->vm, d->region, page, frame, 512);
        script_retire(d->script, frame);
    }
    CHECK(script_fence(d->vm), "the session ended");
}

static void take_back(struct devices *d, uint64_t turn)
{
    int err = 0;

    if (turn % 4 == 1) {
        err = script_unmerge(d->vm);
        script_merging(d->vm, false);
        script_merging(d->vm, true);
    } else if (turn % 4 == 3) {
        uint64_t offset = turn / 4 % 3 * CHUNK;
        err = -memd_pin(d->memd, d->region, offset, CHUNK);
        if (!err)
            OK(memd_unpin(d->memd, d->region, offset, CHUNK));
    } /* else: proposals heal what has been written */
    CHECK(err == 0 || err == EBUSY, "taking pages back: %s", kit_error(err));
}

struct totals {
    uint64_t merges, heals, cow_breaks, closes, close_tries;
};

static void add_totals(struct devices *d, struct totals *t)
{
    struct memd_stats st = kit_stats(d->memd);

    t->merges += st.merges;
    t->heals += st.heals;
    t->cow_breaks += st.cow_breaks;
}

static struct totals torture(struct devices *d, uint64_t goal)
{
    uint64_t turn = 0, limit = kit_ms() + 160000 * (goal / 30000 + 1);
    struct totals t = {0};

    engine_open(d);
    while (atomic_load(&d->reads) + atomic_load(&d->fixed_reads) < goal || t.closes < 3) {
        propose(d);
        take_back(d, turn++);
        script_recycle(d->script);
        if (turn % 40 == 0) { /* close with reads in flight, and begin anew */
            add_totals(d, &t);
            t.close_tries += engine_close(d);
            t.closes++;
            engine_open(d);
        }
        CHECK(kit_ms() < limit, "%llu reads in too long a time", (unsigned long long)d->reads);
    }
    add_totals(d, &t);
    atomic_store(&d->stop, true);
    t.close_tries += engine_close(d);
    t.closes++;
    return t;
}

int main(void)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget, .store_blocks = 64};
    struct devices *d = calloc(1, sizeof *d);
    pthread_t plain, fixed;
    struct io_uring probe;

    kit_begin();
    CHECK(d, "no memory");
    if (io_uring_queue_init(2, &probe, 0))
        kit_skip("no io_uring");
    io_uring_queue_exit(&probe);
    d->file = make_file();
    d->script = script_open(&options);
    d->ram = guest_map(NPAGES * PAGE, false);
    for (uint32_t i = 0; i < NPAGES; i++) {
        d->what[i] = content_of(i);
        guest_fill(d->ram + i * PAGE, d->what[i]);
    }
    CHECK(!pthread_create(&plain, NULL, plain_main, d), "pthread_create");
    CHECK(!pthread_create(&fixed, NULL, fixed_main, d), "pthread_create");

    uint64_t start = kit_ms();
    struct totals t = torture(d, kit_scaled(READS_FULL, 6000));
    pthread_join(plain, NULL);
    pthread_join(fixed, NULL);
    check_pages(d, &(struct flight){.page = 0, .npages = NPAGES}, "at the end");
    printf(
        "%llu ms: %llu reads, %llu into %llu registered buffers; %llu merges, %llu cow breaks, %llu heals, "
        "%llu closes (%llu tries)\n",
        (unsigned long long)(kit_ms() - start), (unsigned long long)d->reads,
        (unsigned long long)d->fixed_reads, (unsigned long long)d->registrations,
        (unsigned long long)t.merges, (unsigned long long)t.cow_breaks, (unsigned long long)t.heals,
        (unsigned long long)t.closes, (unsigned long long)t.close_tries);
    CHECK(t.merges && t.heals && t.cow_breaks && d->fixed_reads, "this run has not tried everything");
    script_close(d->script);
    guest_unmap(d->ram, NPAGES * PAGE);
    close(d->file);
    free(d);
    return 0;
}
