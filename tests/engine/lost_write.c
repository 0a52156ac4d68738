/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lost-write torture. memd-test: timeout=180
 *
 * Writers count in pages of a region while these are merged, healed, unmerged, pinned and discarded as fast
 * as the engine can; readers check every byte. A writer owns one word of each page (two writers share a page,
 * as two vCPUs do) and remembers outside the region what it must hold; a word that is not what was written
 * last is a lost write, a word of the background that differs is a wrong merge.
 *
 * Pages of the first part get frames of their own content; pages of the second part hold few different
 * contents, are merged with one another, and are written and put back; the third part is discarded by its
 * writers. Frames are overwritten with garbage as soon as the protocol allows it (script_recycle()).
 */
#include "kit.h"
#include "script.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MERGES_FULL  1000000u
#define CHUNKS_OWN   3u
#define CHUNKS_EQUAL 2u
#define CHUNKS_GONE  1u
#define CHUNKS       (CHUNKS_OWN + CHUNKS_EQUAL + CHUNKS_GONE)
#define NPAGES       (CHUNKS * 512u)
#define FIRST_EQUAL  (CHUNKS_OWN * 512u)
#define FIRST_GONE   ((CHUNKS_OWN + CHUNKS_EQUAL) * 512u)
#define CONTENTS     64u /* of the equal part */
#define WRITERS      2u
#define SLOT_OF(w)   (64u + (w)*8u) /* byte offset of a writer's word */
#define LONE_SLOT    2048u
#define WINDOW       16u /* pages a writer keeps at */
#define BURST        8192u

struct torture {
    struct script *script;
    struct script_vm *vm;
    struct memd *memd;
    uint32_t region;
    char *ram;
    atomic_bool stop;
    _Atomic uint64_t writes, checks, discards, proposed;
    uint64_t shadow[WRITERS][NPAGES];
};

struct writer {
    struct torture *t;
    unsigned nr;
    uint64_t random;
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

static uint64_t content_of(uint32_t page)
{
    return page < FIRST_EQUAL ? 1000 + page : page < FIRST_GONE ? 1 + page % CONTENTS : 0;
}

static uint64_t background(uint32_t page, unsigned word)
{
    static _Thread_local uint64_t copy[PAGE / 8], of = UINT64_MAX;

    if (of != content_of(page)) {
        of = content_of(page);
        guest_fill(copy, of);
    }
    return copy[word];
}

/* ---- writers */

static void count_up(struct writer *w, uint32_t page)
{
    char *word = w->t->ram + page * PAGE + SLOT_OF(w->nr);
    uint64_t *shadow = &w->t->shadow[w->nr][page], is = guest_read(word);

    CHECK(is == *shadow, "page %u: writer %u wrote %llu, finds %llu: a lost write", page, w->nr,
          (unsigned long long)*shadow, (unsigned long long)is);
    guest_write(word, ++*shadow);
}

/* Writes something else and puts it back: the page becomes equal to its frame again. */
static void disturb(struct writer *w, uint32_t page)
{
    char *word = w->t->ram + page * PAGE + SLOT_OF(w->nr);
    uint64_t should = background(page, SLOT_OF(w->nr) / 8), is = guest_read(word);

    CHECK(is == should, "page %u: writer %u put back %#llx, finds %#llx", page, w->nr,
          (unsigned long long)should, (unsigned long long)is);
    guest_write(word, ~should);
    CHECK(guest_read(word) == ~should, "page %u: a write is lost at once", page);
    guest_write(word, should);
}

/* Pages of the last part belong to one writer each. */
static void live_and_discard(struct writer *w, uint32_t page)
{
    struct torture *t = w->t;
    char *hva = t->ram + page * PAGE;
    uint64_t *shadow = &t->shadow[w->nr][page], is = guest_read(hva + LONE_SLOT);

    CHECK(is == *shadow, "page %u: %llu, not %llu, after %s", page, (unsigned long long)is,
          (unsigned long long)*shadow, *shadow ? "a write" : "a discard");
    if (next_random(&w->random) % 4) {
        guest_write(hva + LONE_SLOT, ++*shadow);
        return;
    }
    const struct memd_range twice[] = {{page * PAGE, PAGE}, {page * PAGE, PAGE}};
    int err = page & 1 ? memd_discard(t->memd, t->region, page * PAGE, PAGE)
                       : memd_discard_ranges(t->memd, t->region, twice, 2);
    if (err == -EBUSY) /* pinned by take_back(): nothing was discarded */
        return;
    OK(err);
    *shadow = 0;
    for (unsigned i = 0; i < PAGE / 8; i++)
        CHECK(!guest_read(hva + i * 8), "page %u: byte %u is not 0 after a discard", page, i * 8);
    atomic_fetch_add_explicit(&t->discards, 1, memory_order_relaxed);
}

/* Writers keep at a few pages for a while, so that these are being written at whatever instant the engine
 * does something to them; and then rest, so that most pages can be merged. */
static void *writer_main(void *arg)
{
    struct writer *w = arg;
    uint64_t writes = 0;

    while (!atomic_load_explicit(&w->t->stop, memory_order_relaxed)) {
        uint32_t window = (uint32_t)(next_random(&w->random) % NPAGES) & ~(WINDOW - 1);
        for (unsigned i = 0; i < BURST; i++, writes++) {
            uint32_t page = window + (uint32_t)(next_random(&w->random) % WINDOW);
            if (page < FIRST_EQUAL)
                count_up(w, page);
            else if (page < FIRST_GONE)
                disturb(w, page);
            else if (i % 64 == 0)
                live_and_discard(w, page - page % WRITERS + w->nr);
        }
        usleep(200);
    }
    atomic_fetch_add(&w->t->writes, writes);
    return NULL;
}

static void check_page(const struct torture *t, uint32_t page)
{
    uint64_t copy[PAGE / 8];

    guest_read_bytes(copy, t->ram + page * PAGE, PAGE);
    for (unsigned i = 0; i < PAGE / 8; i++) {
        bool slot = i >= SLOT_OF(0) / 8 && i < SLOT_OF(WRITERS) / 8;
        if (page >= FIRST_GONE ? i == LONE_SLOT / 8 : slot)
            continue;
        CHECK(copy[i] == background(page, i), "page %u: byte %u is %#llx, not %#llx", page, i * 8,
              (unsigned long long)copy[i], (unsigned long long)background(page, i));
    }
}

static void *reader_main(void *arg)
{
    struct torture *t = arg;

    while (!atomic_load_explicit(&t->stop, memory_order_relaxed)) {
        for (uint32_t page = 0; page < NPAGES; page++)
            check_page(t, page);
        atomic_fetch_add_explicit(&t->checks, NPAGES, memory_order_relaxed);
        usleep(5000);
    }
    return NULL;
}

/* ---- merging and its opposites */

static void propose_own(struct torture *t, uint32_t chunk)
{
    uint32_t page = chunk * 512, frame = script_frames(t->script, t->ram + page * PAGE, 512);

    if (!frame) /* all blocks are still referred to: unmerging frees them */
        return;
    script_merge(t->vm, t->region, page, frame, 512);
    script_retire(t->script, frame);
    atomic_fetch_add_explicit(&t->proposed, 512, memory_order_relaxed);
}

/* Runs of CONTENTS pages with the same CONTENTS frames. */
static void propose_equal(struct torture *t, uint32_t frame)
{
    for (uint32_t page = FIRST_EQUAL; page < FIRST_GONE; page += CONTENTS)
        script_merge(t->vm, t->region, page, frame, CONTENTS);
    atomic_fetch_add_explicit(&t->proposed, FIRST_GONE - FIRST_EQUAL, memory_order_relaxed);
}

/* Everything written is brought back chunk by chunk, which is cheap; now and then it is left to the proposals
 * of the next turn, which heal page by page what has been written. */
static void take_back(struct torture *t, uint64_t turn)
{
    if (turn % 16 == 15)
        return;
    if (turn % 2) {
        for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
            OK(memd_pin(t->memd, t->region, chunk * CHUNK, CHUNK));
            OK(memd_unpin(t->memd, t->region, chunk * CHUNK, CHUNK));
        }
        return;
    }
    /* a page may be pinned for an instant by whoever looks at it: EBUSY is an answer */
    int err = script_unmerge(t->vm);
    CHECK(err == 0 || err == EBUSY, "UNMERGE: %s", kit_error(err));
    script_merging(t->vm, false);
    script_merging(t->vm, true);
}

static uint64_t merge_all_day(struct torture *t, uint64_t goal)
{
    uint64_t contents[CONTENTS][PAGE / 8], turn = 0, limit = kit_ms() + 170000 * (goal / 100000 + 1);

    for (unsigned i = 0; i < CONTENTS; i++)
        guest_fill(contents[i], content_of(FIRST_EQUAL + i));
    uint32_t equal = script_frames(t->script, contents, CONTENTS);
    while (kit_stats(t->memd).merges < goal) {
        for (uint32_t c = 0; c < CHUNKS_OWN; c++)
            propose_own(t, c);
        propose_equal(t, equal);
        propose_own(t, FIRST_GONE / 512);
        CHECK(script_fence(t->vm), "the session ended");
        take_back(t, turn++);
        script_recycle(t->script);
        CHECK(kit_ms() < limit, "%llu merges in too long a time",
              (unsigned long long)kit_stats(t->memd).merges);
    }
    return turn;
}

static void check_all(struct torture *t)
{
    for (uint32_t page = 0; page < NPAGES; page++) {
        check_page(t, page);
        for (unsigned w = 0; page < FIRST_EQUAL && w < WRITERS; w++)
            CHECK(guest_read(t->ram + page * PAGE + SLOT_OF(w)) == t->shadow[w][page],
                  "page %u: writer %u's last write is lost", page, w);
    }
}

int main(void)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget, .store_blocks = 64};
    struct writer writer[WRITERS];
    pthread_t thread[WRITERS + 1];
    struct torture *t = calloc(1, sizeof *t);

    kit_begin();
    CHECK(t, "no memory");
    t->script = script_open(&options);
    t->ram = guest_map(NPAGES * PAGE, false);
    for (uint32_t page = 0; page < FIRST_GONE; page++) {
        guest_fill(t->ram + page * PAGE, content_of(page));
        for (unsigned w = 0; page < FIRST_EQUAL && w < WRITERS; w++)
            guest_write(t->ram + page * PAGE + SLOT_OF(w), 0);
    }
    t->memd = kit_engine("torture", t->script->run_dir);
    t->region = kit_region(t->memd, t->ram, NPAGES * PAGE);
    t->vm = script_wait_vm(t->script, "torture");
    script_wait_region(t->vm, t->region);
    for (unsigned w = 0; w < WRITERS; w++) {
        writer[w] = (struct writer){t, w, w + 1};
        CHECK(!pthread_create(&thread[w], NULL, writer_main, &writer[w]), "pthread_create");
    }
    CHECK(!pthread_create(&thread[WRITERS], NULL, reader_main, t), "pthread_create");

    uint64_t start = kit_ms(), turns = merge_all_day(t, kit_scaled(MERGES_FULL, 5000));
    atomic_store(&t->stop, true);
    for (unsigned w = 0; w <= WRITERS; w++)
        pthread_join(thread[w], NULL);
    check_all(t);
    struct memd_stats st = kit_stats(t->memd);
    OK(memd_close(t->memd, 10000));
    check_all(t);
    CHECK(kit_smaps(t->ram, NPAGES * PAGE).file_vmas == 0, "store mappings are left after close");
    printf("%llu ms, %llu turns: %llu merges of %llu proposed, %llu cow breaks, %llu heals, %llu differed, "
           "%llu zero drops, %llu faults; %llu writes, %llu discards, %llu pages checked\n",
           (unsigned long long)(kit_ms() - start), (unsigned long long)turns, (unsigned long long)st.merges,
           (unsigned long long)t->proposed, (unsigned long long)st.cow_breaks, (unsigned long long)st.heals,
           (unsigned long long)st.rejected, (unsigned long long)st.zero_drops, (unsigned long long)st.faults,
           (unsigned long long)t->writes, (unsigned long long)t->discards, (unsigned long long)t->checks);
    CHECK(st.cow_breaks > 0 && st.heals > 0 && t->discards > 0 && st.rejected > 0,
          "this run has not tried everything");
    script_close(t->script);
    guest_unmap(t->ram, NPAGES * PAGE);
    free(t);
    return 0;
}
