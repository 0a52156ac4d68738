/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What holds for a balloon whatever is said of it: a guest that lies, a VMM that takes its time or does not
 * take a target at all, clocks far apart. Sequences are random, and the same every time.
 */
#include "memd/daemon/balloon_policy.h"

#include "memd/common/less.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define MIB       (1ull << 20)
#define MS        1000000ull
#define SEQUENCES 4000u
#define LOOKS     60u

static uint64_t random_state;
static unsigned sequence, at;

static uint64_t draw(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

static bool one_in(unsigned n)
{
    return !draw(n);
}

#define HOLDS(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fail_msg("sequence %u, look %u: not %s; rule %s, set %" PRIu64 ", target %" PRIu64               \
                     ", actual %" PRIu64 ", state %d",                                                       \
                     sequence, at, #condition, balloon_rule_name(v->rule), v->set_bytes, seen->target_bytes, \
                     seen->actual_bytes, (int)state);                                                        \
    } while (0)

static uint64_t most_of(const struct balloon_seen *seen)
{
    return seen->max_bytes && seen->max_bytes < seen->ram_bytes ? seen->max_bytes : seen->ram_bytes;
}

static void check_memory(const struct balloon_memory *memory, const struct balloon_seen *seen,
                         const struct balloon_verdict *v, enum budget_state state)
{
    HOLDS(isfinite(memory->vain_per_s) && memory->vain_per_s >= 0);
    HOLDS(isfinite(memory->believed) && memory->believed >= 0);
    HOLDS(memory->returned == 0 || (memory->returned >= BALLOON_RETURNED_MIN && memory->returned <= 1));
    HOLDS(memory->backoff_ns <= BALLOON_BACKOFF_MAX && memory->some_backoff_ns <= BALLOON_BACKOFF_MAX);
    HOLDS(less(memory->some_until_ns, seen->now_ns) <= BALLOON_BACKOFF_MAX);
    HOLDS(less(memory->hold_until_ns, seen->now_ns) <= BALLOON_BACKOFF_MAX);
    HOLDS(memory->given_bytes <= seen->ram_bytes);
}

static void check_given(const struct balloon_seen *seen, const struct balloon_verdict *v,
                        enum budget_state state)
{
    uint64_t all = most_of(seen), aims = seen->target_bytes ? seen->target_bytes : seen->actual_bytes;
    uint64_t has = aims > seen->actual_bytes ? aims : seen->actual_bytes;

    switch (v->rule) {
    case BALLOON_RULE_NEED:
    case BALLOON_RULE_ROOM:
        HOLDS(v->set_bytes == all);
        break;
    case BALLOON_RULE_STALE:
        HOLDS(!v->set_bytes || v->set_bytes == all);
        break;
    case BALLOON_RULE_REREADS:
        HOLDS(state == BUDGET_LOW ? !v->set_bytes : v->set_bytes > aims);
        break;
    case BALLOON_RULE_GROWS:
        HOLDS(state == BUDGET_HIGH && v->set_bytes > aims);
        break;
    case BALLOON_RULE_STALLED:
        HOLDS(v->set_bytes == seen->actual_bytes);
        return;
    default:
        HOLDS(!v->set_bytes);
    }
    HOLDS(v->set_bytes <= all);
    HOLDS(!v->set_bytes || v->set_bytes >= (has < all ? has : all)); /* given, not taken */
}

static void check_offer(const struct balloon_seen *seen, const struct balloon_verdict *v,
                        enum budget_state state)
{
    uint64_t bytes = draw(2 * seen->ram_bytes);

    HOLDS(!v->offer_bytes || v->rule == BALLOON_RULE_SPARE);
    HOLDS(!v->offer_bytes || (!v->set_bytes && !seen->excluded));
    HOLDS(v->offer_bytes <= v->spare_bytes / 2);
    HOLDS(v->spare_bytes <= less(seen->actual_bytes, seen->min_bytes));
    HOLDS(!seen->heard_ns || v->spare_bytes <= seen->available_bytes);
    HOLDS(state >= BUDGET_HARD || v->offer_bytes <= seen->actual_bytes / 8);
    HOLDS(v->pending_bytes <= less(seen->actual_bytes, seen->target_bytes));
    HOLDS(balloon_policy_yield(v, bytes) <= bytes);
    HOLDS(balloon_policy_asks(v, bytes) >= bytes - bytes / 1024);
}

/* Numbers that are right, at an end, or neither. */
static uint64_t any_bytes(uint64_t ram)
{
    const uint64_t ends[] = {0, 1, MIB, ram / 16, ram, 2 * ram, UINT64_MAX / 2, UINT64_MAX - 1};

    return one_in(4) ? ends[draw(sizeof ends / sizeof ends[0])] : draw(ram + 1);
}

static void passes(struct balloon_seen *seen)
{
    static const uint64_t ns[] = {MS,
                                  15 * MS,
                                  25 * MS,
                                  100 * MS,
                                  100 * MS,
                                  250 * MS,
                                  600 * MS,
                                  2500 * MS,
                                  16000 * MS,
                                  130000 * MS,
                                  3600000 * MS,
                                  86400000 * MS,
                                  30 * (86400000 * MS)};

    seen->now_ns += ns[draw(one_in(8) ? sizeof ns / sizeof ns[0] : 6)];
}

static void says(struct balloon_seen *seen)
{
    if (one_in(30))
        seen->speaks_up = !seen->speaks_up;
    if (one_in(3))
        return;
    seen->heard_ns = one_in(50) ? 0 : seen->now_ns - (one_in(10) ? draw(100 * MS) : 0);
    if (one_in(2))
        seen->available_bytes = one_in(3) ? any_bytes(seen->ram_bytes) : draw(seen->actual_bytes + 1);
    if (one_in(2))
        seen->reread_bytes += one_in(20) ? any_bytes(seen->ram_bytes) : draw(64 * MIB);
    seen->stall_percent = one_in(8) ? (double)draw(101) : 0;
    seen->oom_kills += one_in(30);
    seen->alloc_stalls += one_in(10);
}

static void moves(struct balloon_seen *seen, bool takes, uint64_t set_bytes)
{
    uint64_t target = seen->target_bytes ? seen->target_bytes : seen->actual_bytes;

    if (set_bytes && takes)
        seen->target_bytes = target = set_bytes;
    if (one_in(20))
        seen->actual_bytes = MIB * draw(seen->ram_bytes / MIB + 1);
    else if (!one_in(4))
        seen->actual_bytes = one_in(3) ? (seen->actual_bytes + target) / 2 : target;
}

static void run_one(void)
{
    uint64_t ram = (64 + draw(1u << (6 + draw(14)))) * MIB;
    struct balloon_memory memory = {0};
    struct balloon_seen s = {.now_ns = 1 + draw(1ull << 50), .ram_bytes = ram, .actual_bytes = ram};
    const struct balloon_seen *seen = &s;
    bool takes = !one_in(4);

    s.min_bytes = one_in(3) ? 0 : draw(ram);
    s.max_bytes = one_in(3) ? s.min_bytes + draw(ram) : 0;
    s.speaks_up = !one_in(4);
    for (at = 0; at < LOOKS; at++) {
        enum budget_state state = (enum budget_state)draw(BUDGET_LOW + 1);
        struct balloon_verdict verdict, *v = &verdict;
        s.excluded = one_in(20) ? (enum balloon_excluded)draw(BALLOON_EXCLUDED_COUNT) : BALLOON_INCLUDED;
        s.activity = (enum balloon_activity)draw(3);
        s.has_room = one_in(6);
        s.resident_bytes = one_in(5) ? 0 : draw(ram + 1);
        passes(&s);
        says(&s);
        balloon_policy_look(&memory, &s, state, v);
        check_memory(&memory, seen, v, state);
        if (v->rule != BALLOON_RULE_EXCLUDED)
            check_given(seen, v, state);
        check_offer(seen, v, state);
        uint64_t set = v->set_bytes;
        if (v->offer_bytes && one_in(2)) {
            set = balloon_policy_step(&memory, &s, 1 + draw(v->offer_bytes));
            HOLDS(set >= s.min_bytes && set <= s.actual_bytes);
        }
        moves(&s, takes, set);
    }
}

static void test_any(void **state)
{
    (void)state;
    for (sequence = 0; sequence < SEQUENCES; sequence++) {
        random_state = 0x9e3779b97f4a7c15ull * (sequence + 1);
        run_one();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_any)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
