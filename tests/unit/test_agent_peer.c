/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The daemon's side of memd-agent's protocol: agents that are honest, mute, restarted, lying and flooding. */
#include "memd/daemon/agent_peer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SESSION 0x5e55ull
#define MIB     (1ull << 20)
#define CAP     (1024 * MIB)

static struct agent_peer peer;
static uint64_t now_ns;
static uint32_t seq;

static int fresh(void **state)
{
    (void)state;
    now_ns = 1000 * CLOCK_S;
    seq = 70;
    memset(&peer, 0, sizeof peer);
    agent_peer_connected(&peer, SESSION, now_ns);
    return 0;
}

/* ---- the agent, played */

static void sends(const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    uint8_t *at;

    while (n) {
        size_t room = agent_peer_room(&peer, now_ns, &at);
        if (!room) {
            now_ns += CLOCK_S / 10;
            agent_peer_tick(&peer, CAP, now_ns);
            continue;
        }
        room = room < n ? room : n;
        memcpy(at, from, room);
        agent_peer_received(&peer, room, CAP, now_ns);
        from += room;
        n -= room;
    }
}

static void sends_frame(union agent_frame *frame, enum agent_type type)
{
    size_t n = agent_seal(frame, type, 1, seq++, SESSION);

    sends(frame, n);
}

static void greets(uint64_t instance, uint64_t boot, uint32_t features)
{
    union agent_frame frame = {.here = {.version_min = 1,
                                        .version_max = 1,
                                        .features = features,
                                        .instance = instance,
                                        .boot = boot,
                                        .release = "9.9"}};

    sends_frame(&frame, AGENT_HERE);
}

static void reports(enum agent_value value, uint64_t number)
{
    union agent_frame frame = {.report = {.present = 1ull << AGENT_MEM_TOTAL | 1ull << value}};

    frame.report.value[AGENT_MEM_TOTAL] = 512 * MIB;
    frame.report.value[value] = number;
    sends_frame(&frame, AGENT_REPORT);
}

/* The next frame of the daemon's; type 0: none. */
static union agent_frame daemon_says(void)
{
    union agent_frame frame = {0};
    size_t n, used;
    const uint8_t *from = agent_peer_pending(&peer, now_ns, &n);

    if (!from)
        return frame;
    assert_int_equal(agent_decode(from, n, AGENT_TO_GUEST, &frame, &used), 1);
    assert_int_equal(frame.h.session, SESSION);
    agent_peer_sent(&peer, n);
    return frame;
}

static enum core_agent_state state_now(void)
{
    return agent_peer_state(&peer, now_ns);
}

/* ---- greetings */

static void a_greeting_is_repeated_until_it_is_answered(void **state)
{
    (void)state;
    assert_int_equal(state_now(), CORE_AGENT_SILENT);
    assert_int_equal(daemon_says().h.type, AGENT_HELLO);
    assert_int_equal(daemon_says().h.type, 0);
    now_ns += AGENT_PEER_HELLO_NS;
    assert_int_equal(daemon_says().h.type, AGENT_HELLO);
    greets(1, 2, 0);
    assert_int_equal(state_now(), CORE_AGENT_LIVE);
    now_ns += AGENT_PEER_HELLO_NS;
    assert_int_equal(daemon_says().h.type, 0);
    now_ns += 2 * AGENT_PEER_HEARTBEAT_MS * CLOCK_MS; /* silent: it may be another one */
    assert_int_equal(daemon_says().h.type, AGENT_HELLO);
}

static void who_is_not_heard_is_stale_and_may_come_back(void **state)
{
    (void)state;
    greets(1, 2, 0);
    reports(AGENT_MEM_FREE, 100 * MIB);
    now_ns += AGENT_PEER_STALE_NS + 1;
    assert_int_equal(state_now(), CORE_AGENT_STALE);
    reports(AGENT_MEM_FREE, 90 * MIB);
    assert_int_equal(state_now(), CORE_AGENT_LIVE);
    agent_peer_disconnected(&peer);
    assert_int_equal(state_now(), CORE_AGENT_ABSENT);
    assert_int_equal(peer.value[AGENT_MEM_FREE], 90 * MIB); /* known, with its age */
}

static void other_versions_are_refused(void **state)
{
    union agent_frame frame = {.here = {.version_min = 7, .version_max = 9}};
    (void)state;

    sends_frame(&frame, AGENT_HERE);
    assert_int_equal(state_now(), CORE_AGENT_REFUSED);
    reports(AGENT_MEM_FREE, MIB);
    assert_int_equal(peer.reported_ns, 0);
}

static void frames_of_another_session_are_dropped(void **state)
{
    union agent_frame frame = {.report = {.present = 1}};
    (void)state;

    greets(1, 2, 0);
    size_t n = agent_seal(&frame, AGENT_REPORT, 1, seq++, SESSION + 1);
    sends(&frame, n);
    assert_int_equal(peer.reported_ns, 0);
    assert_int_equal(peer.bad, 1);
}

static void nothing_counts_before_the_greeting(void **state)
{
    (void)state;
    reports(AGENT_MEM_FREE, MIB);
    assert_int_equal(peer.reported_ns, 0);
    assert_int_equal(state_now(), CORE_AGENT_SILENT);
}

/* ---- numbers of frames */

static void gaps_are_counted_and_repeats_dropped(void **state)
{
    (void)state;
    greets(1, 2, 0);
    reports(AGENT_MEM_FREE, 1 * MIB);
    seq += 3;
    reports(AGENT_MEM_FREE, 2 * MIB);
    assert_int_equal(peer.lost, 3);
    seq -= 1;
    reports(AGENT_MEM_FREE, 3 * MIB); /* a number that was there */
    assert_int_equal(peer.value[AGENT_MEM_FREE], 2 * MIB);
    assert_int_equal(peer.bad, 1);
    seq = UINT32_MAX - 1000000;
    reports(AGENT_MEM_FREE, 4 * MIB); /* far behind, modulo 2^32 */
    assert_int_equal(peer.value[AGENT_MEM_FREE], 2 * MIB);
}

static void a_restarted_agent_may_number_anew(void **state)
{
    (void)state;
    greets(1, 2, 0);
    reports(AGENT_MEM_FREE, 1 * MIB);
    seq = 0;
    greets(5, 2, 0);
    reports(AGENT_MEM_FREE, 2 * MIB);
    assert_int_equal(peer.value[AGENT_MEM_FREE], 2 * MIB);
    assert_int_equal(peer.bad, 0);
    agent_peer_disconnected(&peer);
    agent_peer_connected(&peer, SESSION, now_ns);
    seq = 3;
    greets(5, 2, 0);
    assert_int_equal(state_now(), CORE_AGENT_LIVE);
    assert_int_equal(peer.bad, 0);
}

/* ---- lies */

static void sizes_are_held_against_the_guests(void **state)
{
    union agent_frame frame;
    (void)state;

    greets(1, 2, 0);
    memset(&frame, 0xff, sizeof frame); /* everything is there, and enormous */
    sends_frame(&frame, AGENT_REPORT);
    assert_int_equal(peer.present, (1ull << AGENT_VALUES) - 1);
    assert_int_equal(peer.value[AGENT_MEM_TOTAL], CAP);
    assert_int_equal(peer.value[AGENT_MEM_FREE], CAP);
    assert_int_equal(peer.value[AGENT_MEM_AVAILABLE], CAP);
    assert_int_equal(peer.value[AGENT_CACHED], CAP);
    for (unsigned i = 0; i < AGENT_VALUES; i++)
        assert_true(peer.value[i] <= 1ull << 53);         /* JSON readers keep it */
    assert_int_equal(peer.value[AGENT_STALL_SOME_US], 0); /* the first is the base */
    assert_true(peer.clamped >= 6);

    reports(AGENT_MEM_FREE, CAP); /* of 512 MiB */
    assert_int_equal(peer.value[AGENT_MEM_FREE], 512 * MIB);
}

static void counts_are_held_against_the_clock(void **state)
{
    uint64_t begun_ns = now_ns;
    (void)state;

    greets(1, 2, 0);
    reports(AGENT_STALL_SOME_US, 5000000);
    now_ns += 10 * CLOCK_S;
    reports(AGENT_STALL_SOME_US, 6000000);
    assert_int_equal(peer.value[AGENT_STALL_SOME_US], 1000000);
    assert_true(peer.stall_some_percent > 9.9 && peer.stall_some_percent < 10.1);
    for (unsigned i = 1; i <= 50; i++) { /* more time than there was */
        now_ns += CLOCK_S;
        reports(AGENT_STALL_SOME_US, 6000000 + i * 3600000000ull);
        assert_true(peer.value[AGENT_STALL_SOME_US] <= (now_ns - begun_ns) / 1000 + 30000000);
        assert_true(peer.stall_some_percent <= 100);
    }
    assert_true(peer.clamped > 0);
}

static void a_count_that_falls_counts_nothing_and_a_boot_begins_anew(void **state)
{
    (void)state;
    greets(1, 2, 0);
    reports(AGENT_SWAP_IN, 100 * MIB);
    now_ns += CLOCK_S;
    reports(AGENT_SWAP_IN, 110 * MIB);
    assert_int_equal(peer.value[AGENT_SWAP_IN], 10 * MIB);
    reports(AGENT_SWAP_IN, 5 * MIB);
    assert_int_equal(peer.value[AGENT_SWAP_IN], 10 * MIB);
    assert_int_equal(peer.clamped, 1);
    greets(9, 77, 0); /* rebooted */
    reports(AGENT_SWAP_IN, 1 * MIB);
    reports(AGENT_SWAP_IN, 4 * MIB);
    assert_int_equal(peer.value[AGENT_SWAP_IN], 13 * MIB);
    assert_int_equal(peer.clamped, 1);
}

static void names_of_cgroups_are_made_printable(void **state)
{
    union agent_frame frame = {.consumers = {.count = 2}};
    (void)state;

    greets(1, 2, 0);
    strcpy(frame.consumers.top[0].name, "a\033[31mb c\xff");
    frame.consumers.top[0].bytes = UINT64_MAX;
    sends_frame(&frame, AGENT_CONSUMERS);
    assert_int_equal(peer.nconsumers, 2);
    assert_string_equal(peer.consumers[0].name, "a?[31mb?c?");
    assert_int_equal(peer.consumers[0].bytes, CAP);
    assert_string_equal(peer.consumers[1].name, "");
}

/* ---- floods */

static void a_flood_of_frames_is_read_slowly(void **state)
{
    uint64_t begun_ns = now_ns;
    (void)state;

    for (unsigned i = 0; i < 1000; i++)
        greets(1, 2, 0);
    assert_true(now_ns - begun_ns >=
                (1000 - AGENT_PEER_FRAMES_BURST - 40) / AGENT_PEER_FRAMES_PER_S * CLOCK_S);
    assert_true(peer.throttled > 0);
    assert_int_equal(state_now(), CORE_AGENT_LIVE);
}

static void a_flood_of_noise_is_read_slowly(void **state)
{
    uint8_t noise[8192];
    uint64_t begun_ns = now_ns;
    (void)state;

    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)(i * 2654435761u >> 11);
    for (unsigned i = 0; i < 16; i++)
        sends(noise, sizeof noise);
    assert_true(now_ns - begun_ns >=
                (16 * sizeof noise - AGENT_PEER_BYTES_BURST) / AGENT_PEER_BYTES_PER_S * CLOCK_S - CLOCK_S);
    greets(1, 2, 0); /* behind it all */
    assert_int_equal(state_now(), CORE_AGENT_LIVE);
}

/* ---- reclaim */

static void says_reclaimed(uint64_t id, uint64_t bytes, uint32_t error, uint32_t flags)
{
    union agent_frame frame = {.reclaimed = {.id = id, .bytes = bytes, .error = error, .flags = flags}};

    sends_frame(&frame, AGENT_RECLAIMED);
}

static void a_reclaim_is_asked_for_and_answered(void **state)
{
    uint64_t bytes;
    int error;
    (void)state;

    assert_int_equal(agent_peer_reclaim(&peer, 3, 64 * MIB, 1000, now_ns), -ENOTCONN);
    greets(1, 2, 0);
    assert_int_equal(agent_peer_reclaim(&peer, 3, 64 * MIB, 1000, now_ns), -ENOTSUP);
    greets(1, 2, AGENT_CAN_RECLAIM);
    daemon_says();
    assert_int_equal(agent_peer_reclaim(&peer, 3, 64 * MIB, 1000, now_ns), 0);
    assert_int_equal(agent_peer_reclaim(&peer, 4, 64 * MIB, 1000, now_ns), -EBUSY);
    union agent_frame asked = daemon_says();
    assert_int_equal(asked.h.type, AGENT_RECLAIM);
    assert_int_equal(asked.reclaim.id, 3);
    assert_int_equal(asked.reclaim.bytes, 64 * MIB);
    assert_int_equal(asked.reclaim.timeout_ms, 1000);
    assert_int_equal(daemon_says().h.type, 0);
    says_reclaimed(3, 16 * MIB, AGENT_OK, AGENT_RECLAIM_MORE);
    assert_false(agent_peer_reclaim_over(&peer, &bytes, &error));
    assert_int_equal(peer.reclaim.got_bytes, 16 * MIB);
    says_reclaimed(2, 64 * MIB, AGENT_OK, 0); /* another's */
    assert_false(agent_peer_reclaim_over(&peer, &bytes, &error));
    says_reclaimed(3, UINT64_MAX, AGENT_ERROR_DRY, 0); /* more than was asked for */
    assert_true(agent_peer_reclaim_over(&peer, &bytes, &error));
    assert_int_equal(bytes, 64 * MIB);
    assert_int_equal(error, 0);
    assert_false(agent_peer_reclaim_over(&peer, &bytes, &error));
    assert_int_equal(agent_peer_reclaim(&peer, 5, 64 * MIB, 1000, now_ns), 0);
}

static void a_reclaim_nobody_answers_ends(void **state)
{
    uint64_t bytes;
    int error;
    (void)state;

    greets(1, 2, AGENT_CAN_RECLAIM);
    assert_int_equal(agent_peer_reclaim(&peer, 3, 64 * MIB, 1000, now_ns), 0);
    now_ns += CLOCK_S;
    agent_peer_tick(&peer, CAP, now_ns);
    assert_false(agent_peer_reclaim_over(&peer, &bytes, &error));
    now_ns += AGENT_PEER_RECLAIM_GRACE_NS + 1;
    agent_peer_tick(&peer, CAP, now_ns);
    assert_true(agent_peer_reclaim_over(&peer, &bytes, &error));
    assert_int_equal(error, ETIMEDOUT);
    says_reclaimed(3, 64 * MIB, AGENT_OK, 0); /* too late */
    assert_false(agent_peer_reclaim_over(&peer, &bytes, &error));

    assert_int_equal(agent_peer_reclaim(&peer, 4, 64 * MIB, 1000, now_ns), 0);
    agent_peer_disconnected(&peer);
    assert_true(agent_peer_reclaim_over(&peer, &bytes, &error));
    assert_int_equal(error, ECONNRESET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_greeting_is_repeated_until_it_is_answered, fresh),
        cmocka_unit_test_setup(who_is_not_heard_is_stale_and_may_come_back, fresh),
        cmocka_unit_test_setup(other_versions_are_refused, fresh),
        cmocka_unit_test_setup(frames_of_another_session_are_dropped, fresh),
        cmocka_unit_test_setup(nothing_counts_before_the_greeting, fresh),
        cmocka_unit_test_setup(gaps_are_counted_and_repeats_dropped, fresh),
        cmocka_unit_test_setup(a_restarted_agent_may_number_anew, fresh),
        cmocka_unit_test_setup(sizes_are_held_against_the_guests, fresh),
        cmocka_unit_test_setup(counts_are_held_against_the_clock, fresh),
        cmocka_unit_test_setup(a_count_that_falls_counts_nothing_and_a_boot_begins_anew, fresh),
        cmocka_unit_test_setup(names_of_cgroups_are_made_printable, fresh),
        cmocka_unit_test_setup(a_flood_of_frames_is_read_slowly, fresh),
        cmocka_unit_test_setup(a_flood_of_noise_is_read_slowly, fresh),
        cmocka_unit_test_setup(a_reclaim_is_asked_for_and_answered, fresh),
        cmocka_unit_test_setup(a_reclaim_nobody_answers_ends, fresh),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
