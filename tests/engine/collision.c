/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Proposals that are wrong: frames that differ from the page in one byte (a hash collision, or a lie), pages
 * that change between hash and merge, between proposal and merge, and while they are found to be zero. None
 * may ever be merged wrongly, and nothing but the wrong pages may be refused.
 */
#include "rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define NPAGES 512u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static struct wire_rec_budget quiet_budget(void)
{
    struct wire_rec_budget b = script_budget_full();

    b.scan_pages_per_s = 0; /* nothing happens but what is proposed */
    return b;
}

static void wrong_byte(void **state)
{
    static const unsigned offsets[] = {0, 1, 7, 63, 64, 2047, 2048, 4032, 4088, 4095};
    struct wire_rec_budget budget = quiet_budget();
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);
    static uint8_t pages[NPAGES][PAGE];
    uint64_t wrong[NPAGES / 64] = {0};
    uint32_t nwrong = 0;

    (void)state;
    for (uint32_t i = 0; i < NPAGES; i++) {
        guest_read_bytes(pages[i], rig_page(&rig, i), PAGE);
        /* single ones, pairs, and long stretches */
        if (i % 16 == 3 || i % 64 == 9 || i % 64 == 10 || (i >= 200 && i < 260) || i == 0 || i == 511) {
            pages[i][offsets[i % 10]] ^= (uint8_t)(1u << (i % 8));
            wrong[i / 64] |= 1ull << (i % 64);
            nwrong++;
        }
    }
    uint32_t frame = script_frames(rig.script, pages, NPAGES);
    struct rig_answer a = rig_propose(&rig, 0, frame, NPAGES);
    EQUALS(a.merged, NPAGES - nwrong);
    EQUALS(a.why, WIRE_WHY_DIFFERS);
    for (unsigned i = 0; i < NPAGES / 64; i++)
        EQUALS(a.bits[i], ~wrong[i]);
    rig_check(&rig, unique);
    EQUALS(kit_stats(rig.memd).rejected, nwrong);
    EQUALS(kit_stats(rig.memd).merged_pages, NPAGES - nwrong);
    for (uint32_t i = 0; i < NPAGES; i++) {
        bool is_wrong = wrong[i / 64] >> (i % 64) & 1;
        uint64_t e = script_entry(rig.vm, rig.region, i);
        EQUALS(e & WIRE_PAGE_STATE_MASK, is_wrong ? WIRE_PAGE_PRIVATE : WIRE_PAGE_SHARED);
        EQUALS(e >> WIRE_PAGE_FRAME_SHIFT, is_wrong ? 0 : frame + i);
        EQUALS(script_refs(rig.script, frame + i), !is_wrong);
    }
    rig_close(&rig);
}

/* The same bytes with two pages exchanged: a right frame in the wrong place. */
static void wrong_order(void **state)
{
    struct wire_rec_budget budget = quiet_budget();
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);
    uint32_t frame = script_frames(rig.script, rig.ram, NPAGES);

    (void)state;
    EQUALS(rig_propose(&rig, 0, frame + 1, 100).merged, 0);
    EQUALS(rig_propose(&rig, 1, frame, 100).merged, 0);
    EQUALS(kit_stats(rig.memd).rejected, 200);
    rig_check(&rig, unique);
    EQUALS(rig_propose(&rig, 0, frame, NPAGES).merged, NPAGES);
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- a page that changes between hash and merge */

struct heard {
    bool page[NPAGES];
};

static void hear_hashes(struct script_vm *vm, const struct wire_rec *rec, void *ctx)
{
    const struct wire_rec_hashes *h = (const void *)rec;
    struct heard *heard = ctx;

    (void)vm;
    for (uint32_t i = 0; rec->type == WIRE_REC_HASHES && i < h->count; i++)
        heard->page[h->page + i] = true;
}

static bool all_heard(struct script_vm *vm, void *arg)
{
    const struct heard *heard = arg;

    (void)vm;
    for (uint32_t i = 0; i < NPAGES; i++)
        if (!heard->page[i])
            return false;
    return true;
}

static void changed_since_hash(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = NULL};
    struct rig rig = rig_open(&options, NPAGES, unique);
    struct heard heard = {0};
    uint32_t changed = 0;

    (void)state;
    pthread_mutex_lock(&rig.script->lock);
    rig.script->tap = hear_hashes;
    rig.script->tap_ctx = &heard;
    pthread_mutex_unlock(&rig.script->lock);
    script_budget(rig.vm, &budget);
    CHECK(script_wait(rig.vm, all_heard, &heard, SCRIPT_WAIT_MS), "not all pages were hashed");
    uint32_t frame = script_frames(rig.script, rig.ram, NPAGES);
    for (uint32_t i = 0; i < NPAGES; i += 3, changed++)
        guest_write(rig_page(&rig, i) + 4088, 42);
    struct rig_answer a = rig_propose(&rig, 0, frame, NPAGES);
    EQUALS(a.merged, NPAGES - changed);
    for (uint32_t i = 0; i < NPAGES; i++)
        EQUALS(a.bits[i / 64] >> (i % 64) & 1, i % 3 != 0);
    for (uint32_t i = 0; i < NPAGES; i++) {
        if (i % 3 == 0) {
            EQUALS(guest_read(rig_page(&rig, i) + 4088), 42);
            guest_fill(rig_page(&rig, i), unique(i));
        }
    }
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- a page that changes while it is merged */

struct flipper {
    struct rig *rig;
    atomic_bool stop;
    uint64_t flips;
};

/* Pages go through values of which one makes them equal to their frame; each value is looked for again. */
static void *flip(void *arg)
{
    struct flipper *f = arg;
    uint64_t value = 0;

    while (!atomic_load_explicit(&f->stop, memory_order_relaxed)) {
        uint64_t before = value, next = (value + 1) % 4;
        for (uint32_t i = 0; i < 16; i++) {
            char *word = rig_page(f->rig, i) + 8 * (i * 31 % 512);
            uint64_t is = guest_read(word);
            CHECK(is == before, "page %u: wrote %llu, finds %llu", i, (unsigned long long)before,
                  (unsigned long long)is);
            guest_write(word, next);
        }
        value = next;
        f->flips++;
    }
    return NULL;
}

static uint64_t zero_word_at(uint32_t page)
{
    (void)page;
    return 0;
}

static void changed_meanwhile(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);
    struct flipper f = {.rig = &rig};
    pthread_t thread;
    uint64_t merged = 0, goal = kit_scaled(20000, 500), limit = kit_ms() + 60000;
    static uint8_t frames[16][PAGE];

    (void)state;
    for (uint32_t i = 0; i < 16; i++)
        guest_write(rig_page(&rig, i) + 8 * (i * 31 % 512), 0);
    guest_read_bytes(frames, rig.ram, sizeof frames);
    uint32_t frame = script_frames(rig.script, frames, 16);
    CHECK(!pthread_create(&thread, NULL, flip, &f), "pthread_create");
    while (merged < goal) {
        merged += rig_propose(&rig, 0, frame, 16).merged;
        CHECK(kit_ms() < limit, "%llu merges in 60 s", (unsigned long long)merged);
    }
    atomic_store(&f.stop, true);
    pthread_join(thread, NULL);
    struct memd_stats st = kit_stats(rig.memd);
    printf("%llu flips, %llu merged, %llu refused\n", (unsigned long long)f.flips, (unsigned long long)merged,
           (unsigned long long)st.rejected);
    CHECK(merged && st.rejected, "the race was not run");
    rig_close(&rig);
}

/* Zero, not zero, zero: while the engine drops what it finds to be zero. */
static void zero_meanwhile(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, zero_word_at);
    struct flipper f = {.rig = &rig};
    pthread_t thread;
    uint64_t goal = kit_scaled(200, 20), limit = kit_ms() + 60000;

    (void)state;
    budget.quiet_ms = 10;
    CHECK(!pthread_create(&thread, NULL, flip, &f), "pthread_create");
    for (uint64_t drops = 0; drops < goal;) {
        script_round(rig.vm);
        for (uint32_t i = 16; i < NPAGES; i += 3) /* every drop leaves neighbours with content */
            guest_write(rig_page(&rig, i), drops % 2 ? 0 : i);
        script_wait_rounds(rig.vm, 1);
        drops = kit_stats(rig.memd).zero_drops;
        CHECK(kit_ms() < limit, "%llu zero pages dropped in 60 s", (unsigned long long)drops);
    }
    atomic_store(&f.stop, true);
    pthread_join(thread, NULL);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_byte),         cmocka_unit_test(wrong_order),
        cmocka_unit_test(changed_since_hash), cmocka_unit_test(changed_meanwhile),
        cmocka_unit_test(zero_meanwhile),
    };

    kit_begin();
    return cmocka_run_group_tests_name("collision", tests, NULL, NULL);
}
