/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the balloon of a VM may be asked for, and when it gives back: verdicts for literal guests. */
#include "memd/daemon/balloon_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define MIB (1ull << 20)
#define S   1000000000ull

/* A guest of 1 GiB with an agent, heard just now, at rest. Its reserve is 128 MiB. */
static struct balloon_seen guest(uint64_t now_ns)
{
    return (struct balloon_seen){.now_ns = now_ns,
                                 .ram_bytes = 1024 * MIB,
                                 .actual_bytes = 1024 * MIB,
                                 .min_bytes = 232 * MIB,
                                 .resident_bytes = 900 * MIB,
                                 .heard_ns = now_ns,
                                 .speaks_up = true,
                                 .available_bytes = 528 * MIB};
}

/* One look at a guest nothing is remembered of, in MiB. */
static void test_verdicts(void **state)
{
    static const struct {
        const char *what;
        enum balloon_excluded excluded;
        uint64_t actual, target, min, available, heard_s;
        double stall;
        bool room;
        enum budget_state urgency;
        enum balloon_rule rule;
        uint64_t set, offer;
    } cases[] = {
        {"half of what it can spare, an eighth at most", 0, 1024, 0, 232, 528, 100, 0, false, BUDGET_SOFT,
         BALLOON_RULE_SPARE, 0, 128},
        {"half of what it can spare", 0, 1024, 0, 232, 328, 100, 0, false, BUDGET_HARD, BALLOON_RULE_SPARE, 0,
         100},
        {"in low no more than half", 0, 1024, 0, 232, 528, 100, 0, false, BUDGET_LOW, BALLOON_RULE_SPARE, 0,
         200},
        {"never below its floor", 0, 1024, 0, 964, 528, 100, 0, false, BUDGET_LOW, BALLOON_RULE_SPARE, 0, 30},
        {"at its floor", 0, 232, 0, 232, 200, 100, 0, false, BUDGET_LOW, BALLOON_RULE_SMALL, 0, 0},
        {"dead band", 0, 1024, 0, 232, 152, 100, 0, false, BUDGET_HARD, BALLOON_RULE_SMALL, 0, 0},
        {"its reserve", 0, 1024, 0, 232, 128, 100, 0, false, BUDGET_LOW, BALLOON_RULE_SMALL, 0, 0},
        {"half of its reserve left, nothing to give back", 0, 1024, 0, 232, 60, 100, 0, false, BUDGET_LOW,
         BALLOON_RULE_SMALL, 0, 0},
        {"half of its reserve left", 0, 512, 512, 232, 31, 100, 0, false, BUDGET_LOW, BALLOON_RULE_NEED, 1024,
         0},
        {"it waits for memory", 0, 512, 512, 232, 300, 100, 11, false, BUDGET_HARD, BALLOON_RULE_NEED, 1024,
         0},
        {"needs it on its way down", 0, 800, 512, 232, 20, 100, 0, false, BUDGET_LOW, BALLOON_RULE_NEED, 1024,
         0},
        {"has been given all already", 0, 512, 1024, 232, 20, 100, 0, false, BUDGET_LOW, BALLOON_RULE_SMALL,
         0, 0},
        {"not heard any more", 0, 512, 512, 232, 300, 84, 0, false, BUDGET_LOW, BALLOON_RULE_STALE, 1024, 0},
        {"not heard for a while", 0, 1024, 0, 232, 528, 86, 0, false, BUDGET_LOW, BALLOON_RULE_SPARE, 0, 200},
        {"said before it moved", 0, 512, 512, 232, 600, 100, 0, false, BUDGET_LOW, BALLOON_RULE_WAITS, 0, 0},
        {"room for all", 0, 512, 512, 232, 300, 100, 0, true, BUDGET_HIGH, BALLOON_RULE_ROOM, 1024, 0},
        {"room, but its domain has none", 0, 512, 512, 232, 300, 100, 0, true, BUDGET_SOFT,
         BALLOON_RULE_SPARE, 0, 64},
        {"on its way", 0, 800, 700, 232, 500, 100, 0, false, BUDGET_HARD, BALLOON_RULE_MOVING, 0, 0},
        {"nobody says in time that it needs memory", BALLOON_RISKY, 1024, 0, 232, 528, 100, 0, false,
         BUDGET_LOW, BALLOON_RULE_EXCLUDED, 0, 0},
        {"risky, and it needs some", BALLOON_RISKY, 512, 512, 232, 20, 100, 0, false, BUDGET_LOW,
         BALLOON_RULE_NEED, 1024, 0},
        {"risky, and there is room", BALLOON_RISKY, 512, 512, 232, 300, 100, 0, true, BUDGET_HIGH,
         BALLOON_RULE_ROOM, 1024, 0},
        {"migrates", BALLOON_MIGRATING, 512, 512, 232, 20, 100, 0, false, BUDGET_LOW, BALLOON_RULE_EXCLUDED,
         0, 0},
        {"locked", BALLOON_LOCKED, 1024, 0, 232, 528, 100, 0, false, BUDGET_LOW, BALLOON_RULE_EXCLUDED, 0, 0},
        {"a lie: more than it has", 0, 1024, 0, 232, 99999, 100, 0, false, BUDGET_LOW, BALLOON_RULE_WAITS, 0,
         0},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_memory memory = {0};
        struct balloon_verdict v;
        struct balloon_seen seen = guest(100 * S);
        seen.excluded = cases[i].excluded;
        seen.actual_bytes = cases[i].actual * MIB;
        seen.target_bytes = cases[i].target * MIB;
        seen.min_bytes = cases[i].min * MIB;
        seen.available_bytes = cases[i].available * MIB;
        seen.heard_ns = cases[i].heard_s * S;
        seen.stall_percent = cases[i].stall;
        seen.has_room = cases[i].room;
        balloon_policy_look(&memory, &seen, cases[i].urgency, &v);
        if (v.rule != cases[i].rule || v.set_bytes != cases[i].set * MIB ||
            v.offer_bytes != cases[i].offer * MIB)
            fail_msg("%s: %s, set %llu, offer %llu", cases[i].what, balloon_rule_name(v.rule),
                     (unsigned long long)(v.set_bytes / MIB), (unsigned long long)(v.offer_bytes / MIB));
    }
}

static enum balloon_rule look(struct balloon_memory *memory, const struct balloon_seen *seen,
                              struct balloon_verdict *ret_verdict)
{
    balloon_policy_look(memory, seen, BUDGET_HARD, ret_verdict);
    return ret_verdict->rule;
}

/* A step, its end, and the next one only when the guest has said how it feels since. */
static void test_steps(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_SPARE);
    seen.target_bytes = balloon_policy_step(&memory, &seen, 100 * MIB);
    assert_int_equal(seen.target_bytes, 924 * MIB);
    seen.now_ns += S;
    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_MOVING);
    assert_int_equal(v.pending_bytes, 100 * MIB);
    seen.now_ns += S;
    seen.actual_bytes = 924 * MIB;
    seen.resident_bytes = 850 * MIB; /* half of it had never been touched */
    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_WAITS);
    assert_true(v.returned > 0.49 && v.returned < 0.51);
    seen.now_ns = seen.heard_ns = seen.now_ns + S;
    seen.available_bytes = 428 * MIB;
    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_SPARE);
    assert_true(v.returned > 0.49 && v.returned < 0.51);
}

/* Frozen where it is, and left alone for longer each time. */
static void test_stalled(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    uint64_t hold = 0;
    (void)state;

    for (unsigned turn = 0; turn < 4; turn++) {
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_SPARE);
        seen.target_bytes = balloon_policy_step(&memory, &seen, 64 * MIB);
        seen.now_ns = seen.heard_ns = seen.now_ns + 2 * S;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_MOVING);
        seen.now_ns = seen.heard_ns = seen.now_ns + 2 * S;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_STALLED);
        assert_int_equal(v.set_bytes, seen.actual_bytes);
        seen.target_bytes = v.set_bytes;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_BACKOFF);
        assert_true(hold ? v.hold_ns == 2 * hold : v.hold_ns == BALLOON_BACKOFF_NS);
        hold = v.hold_ns;
        seen.now_ns = seen.heard_ns = seen.now_ns + hold;
    }
}

/* A need soon after a step is its doing: once, however often it is looked at; and falls are believed at once.
 */
static void test_need(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    look(&memory, &seen, &v);
    seen.target_bytes = seen.actual_bytes = balloon_policy_step(&memory, &seen, 128 * MIB);
    seen.now_ns = seen.heard_ns = seen.now_ns + S;
    seen.available_bytes = 20 * MIB;
    assert_true(balloon_policy_is_needed(&memory, &seen));
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_NEED);
    assert_int_equal(memory.backoff_ns, BALLOON_BACKOFF_NS);
    seen.target_bytes = seen.actual_bytes = 1024 * MIB;
    seen.available_bytes = 600 * MIB;
    seen.now_ns = seen.heard_ns = seen.now_ns + S / 10;
    look(&memory, &seen, &v);
    assert_true(v.spare_bytes == 0);
    seen.now_ns = seen.heard_ns = seen.now_ns + 60 * S;
    look(&memory, &seen, &v);
    assert_true(v.spare_bytes > 350 * MIB);
}

/* What will be too little when memory can be there is too little now; how fast it falls is told by two
 * reports while the balloon stands still. */
static void test_falls(void **state)
{
    static const struct {
        const char *what;
        uint64_t before, now, ms, actual_before, target, at_rest_ms;
        bool needed;
    } cases[] = {
        {"falls fast", 120, 70, 100, 512, 512, 1000, true},
        {"falls fast, and it is seen soon", 120, 100, 25, 512, 512, 1000, true},
        {"as fast, but there is enough", 300, 250, 100, 512, 512, 1000, false},
        {"as much, but slowly", 120, 70, 1000, 512, 512, 1000, false},
        {"rises", 70, 120, 100, 512, 512, 1000, false},
        {"two reports at once", 120, 70, 10, 512, 512, 1000, false},
        {"the balloon has moved", 120, 70, 100, 562, 512, 1000, false},
        {"it moves", 120, 70, 100, 512, 500, 1000, false},
        {"it has just come to rest", 120, 70, 100, 512, 512, 100, false},
        {"nobody has set it", 120, 70, 100, 512, 0, 1000, true},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_memory memory = {0};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        seen.target_bytes = cases[i].target * MIB;
        seen.actual_bytes = (cases[i].actual_before + 8) * MIB;
        seen.available_bytes = cases[i].before * MIB;
        look(&memory, &seen, &v);
        seen.now_ns = seen.heard_ns = seen.now_ns + S;
        seen.actual_bytes = cases[i].actual_before * MIB;
        look(&memory, &seen, &v);
        seen.now_ns = seen.heard_ns = seen.now_ns + cases[i].at_rest_ms * S / 1000;
        look(&memory, &seen, &v);
        seen.actual_bytes = 512 * MIB;
        seen.available_bytes = cases[i].now * MIB;
        seen.now_ns = seen.heard_ns = seen.now_ns + cases[i].ms * S / 1000;
        if (balloon_policy_is_needed(&memory, &seen) != cases[i].needed)
            fail_msg("%s: %sneeded", cases[i].what, cases[i].needed ? "not " : "");
        if ((look(&memory, &seen, &v) == BALLOON_RULE_NEED) != cases[i].needed)
            fail_msg("%s: %s", cases[i].what, balloon_rule_name(v.rule));
    }
}

/* A guest's kernel waits for memory while it fills its balloon; what counts is whether it still does after
 * that. */
static void test_waits_of_the_balloon(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    look(&memory, &seen, &v);
    seen.target_bytes = balloon_policy_step(&memory, &seen, 100 * MIB);
    seen.now_ns = seen.heard_ns = seen.now_ns + S / 10;
    seen.actual_bytes = 980 * MIB;
    seen.stall_percent = 60;
    assert_false(balloon_policy_is_needed(&memory, &seen));
    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_MOVING);
    seen.now_ns = seen.heard_ns = seen.now_ns + S / 10;
    seen.actual_bytes = seen.target_bytes;
    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_WAITS);
    for (unsigned i = 0; i < 3; i++) { /* nor is more taken, until it can have said that it still waits */
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_WAITS);
        seen.now_ns = seen.heard_ns = seen.now_ns + S / 10;
    }
    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_NEED);
}

/* Who is asked from time to time is asked after each step; who speaks up says by silence that nothing is
 * wrong. */
static void test_silence(void **state)
{
    (void)state;

    for (unsigned speaks_up = 0; speaks_up < 2; speaks_up++) {
        struct balloon_memory memory = {0};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        seen.speaks_up = speaks_up;
        look(&memory, &seen, &v);
        seen.target_bytes = seen.actual_bytes = balloon_policy_step(&memory, &seen, 100 * MIB);
        seen.available_bytes = 430 * MIB;
        seen.now_ns += S;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_WAITS);
        seen.now_ns += BALLOON_REST_HARD_NS - 1;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_WAITS);
        seen.now_ns += 1;
        balloon_policy_look(&memory, &seen, BUDGET_SOFT, &v); /* in soft there is more time */
        assert_int_equal(v.rule, BALLOON_RULE_WAITS);
        assert_int_equal(look(&memory, &seen, &v), speaks_up ? BALLOON_RULE_SPARE : BALLOON_RULE_WAITS);
        seen.now_ns = seen.heard_ns = seen.now_ns + S;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_SPARE);
    }
}

/* Its agent has gone, or a daemon has just begun: what it has lost it gets back, if the agent does not come.
 */
static void test_alone(void **state)
{
    static const enum balloon_excluded why[] = {BALLOON_RISKY, BALLOON_MUTE};
    (void)state;

    for (unsigned i = 0; i < 2; i++) {
        struct balloon_memory memory = {0};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        seen.target_bytes = seen.actual_bytes = 512 * MIB;
        seen.available_bytes = 300 * MIB;
        seen.excluded = why[i];
        for (unsigned turn = 0; turn < 2; turn++) {
            seen.heard_ns = why[i] == BALLOON_RISKY ? seen.now_ns : 0;
            assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_EXCLUDED);
            assert_true(v.set_bytes == 0 && v.offer_bytes == 0);
            seen.now_ns += BALLOON_STALE_NS + (turn ? 1 : 0);
            seen.excluded = turn ? why[i] : BALLOON_INCLUDED; /* it was back in between */
            seen.heard_ns = turn && why[i] == BALLOON_MUTE ? 0 : seen.now_ns;
            if (!turn)
                assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_SPARE);
            seen.excluded = why[i];
        }
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_STALE);
        assert_true(v.set_bytes == 1024 * MIB && v.offer_bytes == 0);
        seen.target_bytes = seen.actual_bytes = 1024 * MIB;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_EXCLUDED);
    }
}

/* What a guest reads again, in KiB since its last report, MS ago. */
static void test_rereads(void **state)
{
    static const struct {
        const char *what;
        uint64_t ram, actual, target, kib, ms;
        enum balloon_excluded excluded;
        enum budget_state state;
        enum balloon_rule rule;
        uint64_t set; /* MiB */
    } cases[] = {
        {"as much as in two seconds", 1024, 512, 512, 5120, 100, 0, BUDGET_HARD, BALLOON_RULE_REREADS, 612},
        {"a little: as much as a step", 1024, 512, 512, 600, 100, 0, BUDGET_SOFT, BALLOON_RULE_REREADS, 576},
        {"next to nothing", 1024, 512, 512, 500, 100, 0, BUDGET_SOFT, BALLOON_RULE_SPARE, 0},
        {"slowly", 1024, 512, 512, 2000, 1000, 0, BUDGET_SOFT, BALLOON_RULE_SPARE, 0},
        {"not so slowly", 1024, 512, 512, 2100, 1000, 0, BUDGET_SOFT, BALLOON_RULE_REREADS, 576},
        {"a large guest, slowly", 65536, 32768, 32768, 8000, 1000, 0, BUDGET_SOFT, BALLOON_RULE_SPARE, 0},
        {"a large guest", 65536, 32768, 32768, 8200, 1000, 0, BUDGET_SOFT, BALLOON_RULE_REREADS, 36864},
        {"two reports at once", 1024, 512, 512, 20480, 10, 0, BUDGET_SOFT, BALLOON_RULE_SPARE, 0},
        {"no new report", 1024, 512, 512, 20480, 0, 0, BUDGET_SOFT, BALLOON_RULE_SPARE, 0},
        {"more than there is of it", 1024, 1000, 1000, 20480, 100, 0, BUDGET_SOFT, BALLOON_RULE_REREADS,
         1024},
        {"on its way down", 1024, 600, 512, 5120, 100, 0, BUDGET_HARD, BALLOON_RULE_REREADS, 612},
        {"on its way up", 1024, 512, 600, 5120, 100, 0, BUDGET_HARD, BALLOON_RULE_REREADS, 700},
        {"has all", 1024, 1024, 1024, 20480, 100, 0, BUDGET_HARD, BALLOON_RULE_SPARE, 0},
        {"has been given all", 1024, 512, 1024, 20480, 100, 0, BUDGET_HARD, BALLOON_RULE_SPARE, 0},
        {"in low there is nothing to give", 1024, 512, 512, 20480, 100, 0, BUDGET_LOW, BALLOON_RULE_REREADS,
         0},
        {"nobody is heard in time", 1024, 512, 512, 5120, 100, BALLOON_RISKY, BUDGET_HARD,
         BALLOON_RULE_REREADS, 612},
        {"migrates", 1024, 512, 512, 20480, 100, BALLOON_MIGRATING, BUDGET_HARD, BALLOON_RULE_EXCLUDED, 0},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_memory memory = {0};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        seen.ram_bytes = cases[i].ram * MIB;
        seen.actual_bytes = cases[i].actual * MIB;
        seen.target_bytes = cases[i].target * MIB;
        seen.available_bytes = seen.actual_bytes / 2;
        seen.reread_bytes = 5000 * MIB; /* since it has booted: that says nothing */
        seen.excluded = cases[i].excluded;
        look(&memory, &seen, &v);
        assert_true(v.rule != BALLOON_RULE_REREADS);
        seen.now_ns = seen.heard_ns = seen.now_ns + cases[i].ms * S / 1000;
        seen.reread_bytes += cases[i].kib << 10;
        bool rereads = balloon_policy_rereads(&memory, &seen);
        balloon_policy_look(&memory, &seen, cases[i].state, &v);
        if (v.rule != cases[i].rule || v.set_bytes != cases[i].set * MIB)
            fail_msg("%s: %s, set to %llu MiB", cases[i].what, balloon_rule_name(v.rule),
                     (unsigned long long)(v.set_bytes / MIB));
        assert_true(rereads || v.rule != BALLOON_RULE_REREADS);
        if (v.rule == BALLOON_RULE_REREADS) { /* once for a report; and then it spares nothing */
            seen.target_bytes = seen.actual_bytes = v.set_bytes ? v.set_bytes : seen.actual_bytes;
            enum balloon_rule then = look(&memory, &seen, &v);
            assert_int_equal(then, seen.excluded ? BALLOON_RULE_EXCLUDED : BALLOON_RULE_BACKOFF);
        }
    }
}

/* One report after the other, so much of MiB read again in a fifth of a second. */
static enum balloon_rule report(struct balloon_memory *memory, struct balloon_seen *seen, uint64_t mib,
                                struct balloon_verdict *ret_verdict)
{
    seen->now_ns = seen->heard_ns = seen->now_ns + S / 5;
    seen->reread_bytes += mib * MIB;
    return look(memory, seen, ret_verdict);
}

/* Who speaks for it has changed: its counts begin elsewhere. */
static void test_other_counts(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    seen.actual_bytes = seen.target_bytes = 512 * MIB;
    seen.reread_bytes = 100 * MIB;
    for (unsigned turn = 0; turn < 6; turn++) {
        look(&memory, &seen, &v);
        assert_int_equal(v.set_bytes, 0);
        seen.now_ns = seen.heard_ns = seen.now_ns + S;
        seen.speaks_up = !seen.speaks_up;
        seen.reread_bytes = seen.speaks_up ? 100 * MIB : 0;
        seen.oom_kills = seen.alloc_stalls = seen.speaks_up ? 0 : 5;
        assert_false(balloon_policy_rereads(&memory, &seen) || balloon_policy_is_needed(&memory, &seen));
    }
}

/* Twice as much each time. */
static void test_rereads_go_on(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    seen.actual_bytes = seen.target_bytes = 256 * MIB;
    look(&memory, &seen, &v);
    for (uint64_t want = 32; want <= 128; want *= 2) {
        assert_int_equal(report(&memory, &seen, 2, &v), BALLOON_RULE_REREADS);
        assert_int_equal(v.set_bytes, seen.target_bytes + want * MIB);
        seen.actual_bytes = seen.target_bytes = v.set_bytes;
    }
    seen.now_ns = seen.heard_ns = seen.now_ns + 2 * S;
    look(&memory, &seen, &v);
    assert_int_equal(report(&memory, &seen, 8, &v), BALLOON_RULE_REREADS);
    assert_int_equal(v.set_bytes, seen.target_bytes + 80 * MIB);
}

/* Left alone for longer each time that a step was why; no longer, once it hardly runs. */
static void test_rereads_back_off(void **state)
{
    static const enum balloon_activity activity[] = {BALLOON_BUSY, BALLOON_ACTIVITY_UNKNOWN};
    (void)state;

    for (unsigned i = 0; i < 2; i++) {
        struct balloon_memory memory = {0};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        uint64_t hold = BALLOON_BACKOFF_NS;
        seen.activity = activity[i];
        look(&memory, &seen, &v);
        for (unsigned turn = 0; turn < 6; turn++) {
            seen.actual_bytes = seen.target_bytes = balloon_policy_step(&memory, &seen, 100 * MIB);
            assert_int_equal(report(&memory, &seen, 20, &v), BALLOON_RULE_REREADS);
            seen.actual_bytes = seen.target_bytes = v.set_bytes;
            assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_BACKOFF);
            assert_int_equal(v.hold_ns, hold);
            seen.now_ns = seen.heard_ns = seen.now_ns + hold;
            look(&memory, &seen, &v);
            hold = i == 0 && 2 * hold <= BALLOON_BACKOFF_MAX ? 2 * hold : i == 0 ? BALLOON_BACKOFF_MAX : hold;
        }
        assert_int_equal(memory.backoff_ns, 0); /* its reserve stays what it is */
        seen.actual_bytes = seen.target_bytes = 800 * MIB;
        assert_int_equal(report(&memory, &seen, 20, &v), BALLOON_RULE_REREADS);
        seen.actual_bytes = seen.target_bytes = v.set_bytes;
        assert_int_equal(report(&memory, &seen, 0, &v), BALLOON_RULE_BACKOFF);
        seen.activity = BALLOON_IDLE;
        assert_int_equal(report(&memory, &seen, 0, &v), BALLOON_RULE_SPARE);
        seen.activity = activity[i];
        seen.actual_bytes = seen.target_bytes = 800 * MIB;
        assert_int_equal(report(&memory, &seen, 20, &v), BALLOON_RULE_REREADS);
        seen.actual_bytes = seen.target_bytes = v.set_bytes;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_BACKOFF);
        assert_int_equal(v.hold_ns, BALLOON_BACKOFF_NS); /* forgotten */
        memory.some_backoff_ns = BALLOON_BACKOFF_MAX;
        seen.now_ns = seen.heard_ns = seen.now_ns + BALLOON_BACKOFF_NS + BALLOON_FORGIVE_NS + S;
        look(&memory, &seen, &v);
        assert_int_equal(memory.some_backoff_ns, 0); /* and so it is after a while */
    }
}

/* It begins to use more, and there is memory for that. */
static void test_grows(void **state)
{
    static const struct {
        const char *what;
        uint64_t before, now; /* MiB available, in a tenth of a second; its reserve is 64 */
        enum budget_state state;
        bool gets;
    } cases[] = {
        {"quickly, and little is left", 180, 150, BUDGET_HIGH, true},
        {"as quickly, and memory is short", 180, 150, BUDGET_SOFT, false},
        {"quickly, and enough is left", 250, 220, BUDGET_HIGH, false},
        {"slowly, and little is left", 123, 120, BUDGET_HIGH, false},
        {"little is left, and it rests", 120, 120, BUDGET_HIGH, false},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_memory memory = {0};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        seen.actual_bytes = seen.target_bytes = 512 * MIB;
        seen.available_bytes = cases[i].before * MIB;
        look(&memory, &seen, &v);
        seen.now_ns = seen.heard_ns = seen.now_ns + S;
        look(&memory, &seen, &v);
        seen.now_ns = seen.heard_ns = seen.now_ns + S / 10;
        seen.available_bytes = cases[i].now * MIB;
        bool grows = balloon_policy_grows(&memory, &seen);
        balloon_policy_look(&memory, &seen, cases[i].state, &v);
        if ((v.rule == BALLOON_RULE_GROWS) != cases[i].gets || (cases[i].gets && !grows))
            fail_msg("%s: %s", cases[i].what, balloon_rule_name(v.rule));
        assert_int_equal(v.set_bytes, cases[i].gets ? 576 * MIB : 0);
    }
}

/* What the host gets, of so much of 512 MiB. */
static void test_yield(void **state)
{
    static const struct {
        double returned;
        uint64_t resident, asked, gets; /* MiB; resident 0: not known */
    } cases[] = {
        {0, 400, 100, 100},    {0.25, 400, 100, 25}, {0.25, 400, 200, 88}, {0.25, 512, 100, 100},
        {0.25, 600, 100, 100}, {0.25, 0, 200, 50},   {1, 100, 100, 100},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_memory memory = {.returned = cases[i].returned};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        seen.actual_bytes = seen.target_bytes = 512 * MIB;
        seen.resident_bytes = cases[i].resident * MIB;
        look(&memory, &seen, &v);
        assert_int_equal(balloon_policy_yield(&v, cases[i].asked * MIB), cases[i].gets * MIB);
        assert_int_equal(balloon_policy_asks(&v, cases[i].gets * MIB), cases[i].asked * MIB);
        assert_int_equal(balloon_policy_yield(&v, 0), 0);
        assert_true(balloon_policy_asks(&v, UINT64_MAX / 2) >= UINT64_MAX / 2);
    }
}

/* What a guest reads again though it has all its memory does not keep it from being asked; twice as much
 * does. */
static void test_rereads_in_vain(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    look(&memory, &seen, &v);
    for (unsigned i = 0; i < 15; i++) {
        report(&memory, &seen, 10, &v);
        assert_int_equal(v.set_bytes, 0);
    }
    assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_SPARE);
    seen.actual_bytes = seen.target_bytes = balloon_policy_step(&memory, &seen, 100 * MIB);
    for (unsigned i = 0; i < 15; i++)
        assert_true(report(&memory, &seen, 18, &v) != BALLOON_RULE_REREADS);
    assert_int_equal(report(&memory, &seen, 22, &v), BALLOON_RULE_REREADS);
    /* and what is long ago counts less and less */
    seen.actual_bytes = seen.target_bytes = 800 * MIB;
    seen.now_ns = seen.heard_ns = seen.now_ns + BALLOON_FORGIVE_NS + S;
    look(&memory, &seen, &v);
    assert_int_equal(report(&memory, &seen, 12, &v), BALLOON_RULE_REREADS);
}

static void test_rungs(void **state)
{
    struct budget_scope scope = {.budget_bytes = 1000, .used_bytes = 500, .thresholds = {90, 96, 100, 2}};
    (void)state;

    assert_true(balloon_policy_is_first(1, 1));
    assert_true(balloon_policy_is_first(0.5, 1));
    assert_false(balloon_policy_is_first(0.1, 1));  /* it returned next to nothing */
    assert_true(balloon_policy_is_first(0.1, 0.2)); /* but pages did not, either */
    assert_true(balloon_policy_has_room(&scope, 380));
    assert_false(balloon_policy_has_room(&scope, 390));
}

/* What is available may be cache in use, and without an agent nobody says that tasks wait for it. */
static void test_unheard(void **state)
{
    static const struct {
        bool speaks_up;
        uint64_t available, reserve, spare;
        enum balloon_rule rule;
    } cases[] = {
        {true, 500, 100, 400, BALLOON_RULE_SPARE}, {false, 500, 200, 300, BALLOON_RULE_SPARE},
        {true, 220, 100, 120, BALLOON_RULE_SPARE}, {false, 220, 200, 20, BALLOON_RULE_SMALL},
        {true, 99, 100, 0, BALLOON_RULE_SMALL},    {false, 99, 200, 0, BALLOON_RULE_NEED},
        {true, 49, 100, 0, BALLOON_RULE_NEED},     {false, 49, 200, 0, BALLOON_RULE_NEED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct balloon_memory memory = {0};
        struct balloon_seen seen = guest(100 * S);
        struct balloon_verdict v;
        seen.speaks_up = cases[i].speaks_up;
        seen.actual_bytes = seen.target_bytes = 800 * MIB;
        seen.available_bytes = cases[i].available * MIB;
        balloon_policy_look(&memory, &seen, BUDGET_HARD, &v);
        assert_int_equal(v.rule, cases[i].rule);
        assert_int_equal(v.reserve_bytes, cases[i].reserve * MIB);
        assert_int_equal(v.spare_bytes, cases[i].spare * MIB);
    }
}

/* One whose disk it waits for hardly runs, but its work is not over. */
static void test_rereads_idle(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    seen.activity = BALLOON_IDLE;
    look(&memory, &seen, &v);
    for (unsigned turn = 0; turn < 2; turn++) {
        seen.actual_bytes = seen.target_bytes = balloon_policy_step(&memory, &seen, 100 * MIB);
        assert_int_equal(report(&memory, &seen, 20, &v), BALLOON_RULE_REREADS);
        seen.actual_bytes = seen.target_bytes = v.set_bytes;
        assert_int_equal(report(&memory, &seen, 0, &v), BALLOON_RULE_BACKOFF);
        seen.now_ns = seen.heard_ns = seen.now_ns + BALLOON_BACKOFF_NS;
        assert_int_equal(look(&memory, &seen, &v), BALLOON_RULE_SPARE);
    }
    seen.actual_bytes = seen.target_bytes = balloon_policy_step(&memory, &seen, 100 * MIB);
    assert_int_equal(report(&memory, &seen, 20, &v), BALLOON_RULE_REREADS);
    seen.actual_bytes = seen.target_bytes = v.set_bytes;
    seen.activity = BALLOON_BUSY;
    assert_int_equal(report(&memory, &seen, 0, &v), BALLOON_RULE_BACKOFF);
    seen.activity = BALLOON_IDLE; /* after it has run: that is an end */
    assert_int_equal(report(&memory, &seen, 0, &v), BALLOON_RULE_SPARE);
}

/* A VMM that takes no target: what is given does not grow beyond what there is. One that is on its way to
 * less is stopped. In low what is on its way is still on its way. */
static void test_rereads_not_taken(void **state)
{
    struct balloon_memory memory = {0};
    struct balloon_seen seen = guest(100 * S);
    struct balloon_verdict v;
    (void)state;

    seen.actual_bytes = seen.target_bytes = 700 * MIB;
    look(&memory, &seen, &v);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(report(&memory, &seen, 3, &v), BALLOON_RULE_REREADS);
        assert_in_range(v.set_bytes, 787 * MIB, 1024 * MIB);
    }
    seen.reread_bytes = UINT64_MAX;
    assert_int_equal(report(&memory, &seen, 0, &v), BALLOON_RULE_REREADS);
    assert_int_equal(v.set_bytes, 1024 * MIB);

    memory = (struct balloon_memory){0};
    seen = guest(100 * S);
    look(&memory, &seen, &v);
    seen.target_bytes = balloon_policy_step(&memory, &seen, 512 * MIB);
    seen.actual_bytes = 900 * MIB;
    seen.now_ns = seen.heard_ns = seen.now_ns + S;
    seen.reread_bytes += 20 * MIB;
    struct balloon_memory low = memory;
    balloon_policy_look(&memory, &seen, BUDGET_HARD, &v);
    assert_int_equal(v.rule, BALLOON_RULE_REREADS);
    assert_int_equal(v.set_bytes, 900 * MIB); /* no less than it has */
    balloon_policy_look(&low, &seen, BUDGET_LOW, &v);
    assert_int_equal(v.rule, BALLOON_RULE_REREADS);
    assert_int_equal(v.set_bytes, 0);
    assert_int_equal(v.pending_bytes, 388 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_verdicts),
                                       cmocka_unit_test(test_unheard),
                                       cmocka_unit_test(test_steps),
                                       cmocka_unit_test(test_stalled),
                                       cmocka_unit_test(test_need),
                                       cmocka_unit_test(test_falls),
                                       cmocka_unit_test(test_waits_of_the_balloon),
                                       cmocka_unit_test(test_silence),
                                       cmocka_unit_test(test_alone),
                                       cmocka_unit_test(test_rereads),
                                       cmocka_unit_test(test_rereads_go_on),
                                       cmocka_unit_test(test_other_counts),
                                       cmocka_unit_test(test_rereads_in_vain),
                                       cmocka_unit_test(test_rereads_back_off),
                                       cmocka_unit_test(test_rereads_idle),
                                       cmocka_unit_test(test_rereads_not_taken),
                                       cmocka_unit_test(test_grows),
                                       cmocka_unit_test(test_yield),
                                       cmocka_unit_test(test_rungs)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
