/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memd-agent's pure parts: what it reads out of /proc, and what it says to a host that greets, asks, floods,
 * goes away or does not read. */
#include "guest-agent/parse.h"
#include "guest-agent/talk.h"
#include "guest-agent/user.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SESSION 0xabcdefull
#define MIB     (1ull << 20)

static struct talk talk;
static uint64_t now_ms;

static int fresh(void **state)
{
    (void)state;
    now_ms = 1000;
    talk_open(&talk, 11, 22, AGENT_CAN_RECLAIM, TALK_INTERVAL_MS, now_ms);
    return 0;
}

/* ---- what the host does */

static void host_sends(const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    uint8_t *at;

    while (n) {
        size_t room = talk_room(&talk, now_ms, &at);
        if (!room) {
            now_ms += 100;
            continue;
        }
        room = room < n ? room : n;
        memcpy(at, from, room);
        talk_received(&talk, room, now_ms);
        from += room;
        n -= room;
    }
}

static void host_greets(uint64_t session)
{
    union agent_frame frame = {.hello = {.version_min = 1, .version_max = 1}};

    host_sends(&frame, agent_seal(&frame, AGENT_HELLO, 1, 0, session));
}

static void host_asks(uint64_t session, uint64_t id, uint64_t bytes, uint32_t timeout_ms)
{
    union agent_frame frame = {.reclaim = {.id = id, .bytes = bytes, .timeout_ms = timeout_ms}};

    host_sends(&frame, agent_seal(&frame, AGENT_RECLAIM, 1, 1, session));
}

/* The next frame the agent sends; type 0: none. */
static union agent_frame agent_says(void)
{
    union agent_frame frame = {0};
    size_t n, used;
    const uint8_t *from = talk_pending(&talk, now_ms, &n);

    if (!from)
        return frame;
    assert_int_equal(agent_decode(from, n, AGENT_TO_HOST, &frame, &used), 1);
    assert_int_equal(used, n);
    assert_int_equal(frame.h.session, talk.session);
    talk_written(&talk, n);
    return frame;
}

static void agent_looks(uint64_t available, uint64_t stall_us)
{
    sample_set(&talk.sample, AGENT_MEM_TOTAL, 1024 * MIB);
    sample_set(&talk.sample, AGENT_MEM_AVAILABLE, available);
    sample_set(&talk.sample, AGENT_STALL_SOME_US, stall_us);
    if (talk_is_news(&talk, now_ms))
        talk_tell(&talk);
}

/* ---- tests */

static void nobody_is_spoken_to_before_he_greets(void **state)
{
    (void)state;
    assert_false(talk_is_on(&talk));
    agent_looks(100 * MIB, 0);
    assert_int_equal(agent_says().h.type, 0);
    host_asks(SESSION, 1, MIB, 1000);
    assert_int_equal(talk_reclaim_step(&talk, now_ms), 0);
    assert_int_equal(agent_says().h.type, 0);
    host_greets(0); /* no session */
    assert_int_equal(agent_says().h.type, 0);
}

static void a_greeting_is_answered(void **state)
{
    (void)state;
    host_greets(SESSION);
    union agent_frame here = agent_says();
    assert_int_equal(here.h.type, AGENT_HERE);
    assert_int_equal(here.h.seq, 0);
    assert_int_equal(here.here.instance, 11);
    assert_int_equal(here.here.boot, 22);
    assert_int_equal(here.here.features, AGENT_CAN_RECLAIM);
    assert_int_equal(agent_says().h.type, 0);
    assert_true(talk_is_on(&talk));
    host_greets(SESSION); /* the same again: an answer, the numbers go on */
    assert_int_equal(agent_says().h.seq, 1);
}

static void without_a_common_version_only_the_greeting_is_answered(void **state)
{
    union agent_frame frame = {.hello = {.version_min = 200, .version_max = 201}};
    (void)state;

    host_sends(&frame, agent_seal(&frame, AGENT_HELLO, 1, 0, SESSION));
    assert_int_equal(agent_says().h.type, AGENT_HERE);
    assert_false(talk_is_on(&talk));
    agent_looks(100 * MIB, 0);
    assert_int_equal(agent_says().h.type, 0);
}

static void news_are_told_and_the_rest_is_a_heartbeat(void **state)
{
    (void)state;
    host_greets(SESSION);
    agent_says();
    agent_looks(500 * MIB, 0);
    assert_int_equal(agent_says().h.type, AGENT_REPORT);
    now_ms += 1000;
    agent_looks(499 * MIB, 0); /* next to nothing */
    assert_int_equal(agent_says().h.type, 0);
    agent_looks(480 * MIB, 0);
    union agent_frame report = agent_says();
    assert_int_equal(report.h.type, AGENT_REPORT);
    assert_int_equal(report.report.value[AGENT_MEM_AVAILABLE], 480 * MIB);
    now_ms += 1000;
    agent_looks(480 * MIB, 9000); /* 0.9% of a second */
    assert_int_equal(agent_says().h.type, 0);
    agent_looks(480 * MIB, 11000);
    assert_int_equal(agent_says().h.type, AGENT_REPORT);
    for (unsigned s = 1; s < TALK_HEARTBEAT_MS / 1000; s++) {
        now_ms += 1000;
        agent_looks(480 * MIB, 11000);
        assert_int_equal(agent_says().h.type, 0);
    }
    now_ms += 1000;
    agent_looks(480 * MIB, 11000);
    assert_int_equal(agent_says().h.type, AGENT_REPORT);
}

static void what_is_read_again_is_news(void **state)
{
    (void)state;
    host_greets(SESSION);
    agent_says();
    sample_set(&talk.sample, AGENT_REFAULT_FILE, 100 * MIB);
    sample_set(&talk.sample, AGENT_REFAULT_ANON, 100 * MIB);
    agent_looks(500 * MIB, 0);
    assert_int_equal(agent_says().h.type, AGENT_REPORT);
    now_ms += 100;
    sample_set(&talk.sample, AGENT_REFAULT_FILE, 100 * MIB + MIB / 2);
    agent_looks(500 * MIB, 0);
    assert_int_equal(agent_says().h.type, 0);
    sample_set(&talk.sample, AGENT_REFAULT_ANON, 100 * MIB + MIB / 2);
    agent_looks(500 * MIB, 0);
    union agent_frame report = agent_says();
    assert_int_equal(report.h.type, AGENT_REPORT);
    assert_int_equal(report.report.value[AGENT_REFAULT_FILE], 100 * MIB + MIB / 2);
}

/* A host that does not read gets the latest state when it does. */
static void what_is_not_read_does_not_pile_up(void **state)
{
    size_t n;
    (void)state;

    host_greets(SESSION);
    agent_says();
    agent_looks(500 * MIB, 0);
    assert_non_null(talk_pending(&talk, now_ms, &n));
    talk_written(&talk, 10); /* of a frame, then nothing more */
    for (unsigned i = 0; i < 100; i++) {
        now_ms += 1000;
        agent_looks((500 - 4 * i) * MIB, i * 1000000);
        const uint8_t *at = talk_pending(&talk, now_ms, &n);
        assert_int_equal(n, sizeof(struct agent_report) - 10);
        assert_ptr_equal(at, (uint8_t *)&talk.out + 10);
    }
    talk_written(&talk, n);
    union agent_frame report = agent_says();
    assert_int_equal(report.h.seq, 2);
    assert_int_equal(report.report.value[AGENT_MEM_AVAILABLE], (500 - 4 * 99) * MIB);
    assert_int_equal(agent_says().h.type, 0);
}

static void another_host_begins_anew(void **state)
{
    (void)state;
    host_greets(SESSION);
    agent_says();
    host_asks(SESSION, 5, 64 * MIB, 10000);
    assert_int_equal(talk_reclaim_step(&talk, now_ms), TALK_RECLAIM_STEP);
    host_greets(SESSION + 1); /* the one that asked has died */
    assert_int_equal(talk_reclaim_step(&talk, now_ms), 0);
    union agent_frame here = agent_says();
    assert_int_equal(here.h.type, AGENT_HERE);
    assert_int_equal(here.h.session, SESSION + 1);
    host_asks(SESSION, 6, 64 * MIB, 10000); /* left over from the one before */
    assert_int_equal(talk_reclaim_step(&talk, now_ms), 0);
    talk_reset(&talk);
    assert_false(talk_is_on(&talk));
    assert_int_equal(agent_says().h.type, 0);
}

static void a_flood_is_read_slowly(void **state)
{
    uint8_t noise[4096];
    uint64_t before_ms = now_ms, bytes = 1 << 20;
    (void)state;

    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)(i * 2654435761u >> 13);
    for (uint64_t sent = 0; sent < bytes; sent += sizeof noise)
        host_sends(noise, sizeof noise);
    assert_true(now_ms - before_ms >= (bytes - TALK_BYTES_BURST) * 1000 / TALK_BYTES_PER_S - 200);
    host_greets(SESSION); /* is found behind all that */
    assert_int_equal(agent_says().h.type, AGENT_HERE);
}

/* ---- reclaim */

static void a_reclaim_goes_in_steps_to_its_end(void **state)
{
    uint64_t sum = 0, step;
    union agent_frame said;
    unsigned progress = 0;
    (void)state;

    host_greets(SESSION);
    agent_says();
    host_asks(SESSION, 9, 100 * MIB, 60000);
    while ((step = talk_reclaim_step(&talk, now_ms))) {
        assert_true(step <= TALK_RECLAIM_STEP);
        sum += step;
        now_ms += 200;
        talk_reclaim_stepped(&talk, AGENT_OK, now_ms);
        said = agent_says();
        if (said.h.type) {
            assert_int_equal(said.reclaimed.flags, AGENT_RECLAIM_MORE);
            assert_int_equal(said.reclaimed.bytes, sum);
            progress++;
        }
    }
    assert_int_equal(sum, 100 * MIB);
    assert_true(progress > 0 && progress <= 4);
    said = agent_says();
    assert_int_equal(said.h.type, AGENT_RECLAIMED);
    assert_int_equal(said.reclaimed.id, 9);
    assert_int_equal(said.reclaimed.bytes, 100 * MIB);
    assert_int_equal(said.reclaimed.error, AGENT_OK);
    assert_int_equal(said.reclaimed.flags, 0);
    assert_int_equal(agent_says().h.type, 0);
}

static void a_dry_kernel_is_asked_for_less_then_left_alone(void **state)
{
    unsigned steps = 0;
    (void)state;

    host_greets(SESSION);
    agent_says();
    host_asks(SESSION, 9, 100 * MIB, 60000);
    while (talk_reclaim_step(&talk, now_ms)) {
        assert_true(++steps < 10);
        talk_reclaim_stepped(&talk, AGENT_ERROR_DRY, now_ms);
    }
    union agent_frame said = agent_says();
    assert_int_equal(said.reclaimed.error, AGENT_ERROR_DRY);
    assert_int_equal(said.reclaimed.bytes, 0);
}

static void a_reclaim_ends_with_its_time(void **state)
{
    (void)state;
    host_greets(SESSION);
    agent_says();
    host_asks(SESSION, 9, UINT64_MAX, 1000);
    assert_int_equal(talk_reclaim_step(&talk, now_ms), TALK_RECLAIM_STEP);
    talk_reclaim_stepped(&talk, AGENT_OK, now_ms);
    now_ms += 1000;
    assert_int_equal(talk_reclaim_step(&talk, now_ms), 0);
    union agent_frame said = agent_says();
    assert_int_equal(said.reclaimed.error, AGENT_ERROR_TIMEOUT);
    assert_int_equal(said.reclaimed.bytes, TALK_RECLAIM_STEP);
}

static void a_second_reclaim_is_refused_and_the_same_is_none(void **state)
{
    (void)state;
    host_greets(SESSION);
    agent_says();
    host_asks(SESSION, 9, 64 * MIB, 10000);
    host_asks(SESSION, 9, 64 * MIB, 10000);
    assert_int_equal(agent_says().h.type, 0);
    host_asks(SESSION, 10, 64 * MIB, 10000);
    union agent_frame said = agent_says();
    assert_int_equal(said.reclaimed.id, 10);
    assert_int_equal(said.reclaimed.error, AGENT_ERROR_BUSY);
    assert_int_equal(talk.reclaim.id, 9);
}

static void an_agent_that_may_not_says_so(void **state)
{
    (void)state;
    talk.features = 0;
    host_greets(SESSION);
    agent_says();
    host_asks(SESSION, 9, MIB, 10000);
    assert_int_equal(talk_reclaim_step(&talk, now_ms), 0);
    assert_int_equal(agent_says().reclaimed.error, AGENT_ERROR_UNSUPPORTED);
}

/* ---- what the kernel says */

static void meminfo_vmstat_and_pressure_are_read(void **state)
{
    static const char meminfo[] = "MemTotal:        1000 kB\nMemFree:          500 kB\n"
                                  "MemAvailable:     700 kB\nSwapCached:         1 kB\nCached: 30 kB\n"
                                  "SwapTotal:          0 kB\nSwapFree:           0 kB\n"
                                  "Committed_AS:    9000 kB\nHugePages_Total:    0\n";
    static const char vmstat[] = "nr_free_pages 9\nworkingset_refault_anon 2\nworkingset_refault_file 3\n"
                                 "pswpin 4\npswpout 5\nallocstall_dma 1\nallocstall_normal 10\n"
                                 "allocstall_movable 100\noom_kill 6\noom_kill_more 7\n";
    static const char pressure[] = "some avg10=0.00 avg60=0.00 avg300=0.00 total=12345\n"
                                   "full avg10=0.00 avg60=0.00 avg300=0.00 total=678\n";
    static const uint64_t want[AGENT_VALUES] = {
        [AGENT_MEM_TOTAL] = 1024000, [AGENT_MEM_FREE] = 512000,   [AGENT_MEM_AVAILABLE] = 716800,
        [AGENT_CACHED] = 30720,      [AGENT_COMMITTED] = 9216000, [AGENT_STALL_SOME_US] = 12345,
        [AGENT_STALL_FULL_US] = 678, [AGENT_REFAULT_ANON] = 8192, [AGENT_REFAULT_FILE] = 12288,
        [AGENT_SWAP_IN] = 16384,     [AGENT_SWAP_OUT] = 20480,    [AGENT_ALLOC_STALLS] = 111,
        [AGENT_OOM_KILLS] = 6,
    };
    struct sample sample = {0};
    (void)state;

    for (int i = 0; i < 2; i++) { /* the second time adds nothing up */
        parse_meminfo(meminfo, sizeof meminfo - 1, &sample);
        parse_vmstat(vmstat, sizeof vmstat - 1, 4096, &sample);
        parse_pressure(pressure, sizeof pressure - 1, &sample);
        assert_int_equal(sample.present, (1ull << AGENT_UPTIME_MS) - 1);
        assert_memory_equal(sample.value, want, sizeof want);
    }
}

static void text_that_makes_no_sense_leaves_values_unknown(void **state)
{
    static const char *const texts[] = {
        "",
        "\n\n\n",
        "MemTotal:",
        "MemTotal:\n",
        "MemTotal: kB\n",
        "MemTotal: 99999999999999999999999 kB\n",
        "MemTotal: 18446744073709551615 kB\n", /* more bytes than fit */
        "MemTotal: 123 kB",                    /* cut off: perhaps 1234 */
        "XMemTotal: 1 kB\nMemTotalX: 1 kB\n",
        "some avg10=1 total=\nfull total=x\nsome\n",
        "pswpin\noom_kill \nallocstall_ x\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct sample sample = {0};
        parse_meminfo(texts[i], strlen(texts[i]), &sample);
        parse_vmstat(texts[i], strlen(texts[i]), 4096, &sample);
        parse_pressure(texts[i], strlen(texts[i]), &sample);
        assert_int_equal(sample.present, 0);
    }
}

static void users_are_found_by_number_and_name(void **state)
{
    static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\nnobodyelse:x:7:7::/:/bin/sh\n"
                                 "nobody:x:65534:65533:nobody:/:/bin/false\nbroken:x:1\nlast:x:5:6:";
    char path[] = "/tmp/memd-passwd.XXXXXX";
    struct user user = {0};
    (void)state;

    int fd = mkstemp(path);
    assert_int_equal(write(fd, passwd, sizeof passwd - 1), sizeof passwd - 1);
    close(fd);
    assert_int_equal(user_find(path, "nobody", &user), 0);
    assert_int_equal(user.uid, 65534);
    assert_int_equal(user.gid, 65533);
    assert_int_equal(user_find(path, "last", &user), 0);
    assert_int_equal(user.gid, 6);
    assert_int_equal(user_find(path, "1234", &user), 0);
    assert_int_equal(user.gid, 1234);
    assert_int_equal(user_find(path, "broken", &user), -ENOENT);
    assert_int_equal(user_find(path, "nob", &user), -ENOENT);
    assert_int_equal(user_find(path, "4294967295", &user), -ENOENT);
    unlink(path);
    assert_int_equal(user_find(path, "nobody", &user), -ENOENT);
}

/* How soon it looks again, in MiB: what its balloon has it had before. */
static void it_looks_sooner_where_memory_is_tight(void **state)
{
    static const struct {
        const char *what;
        unsigned before, total, available;
        bool due;
        unsigned ms, reread_kib;
    } cases[] = {
        {"at rest", 1000, 1000, 600, false, TALK_INTERVAL_MS, 0},
        {"reads hardly anything again", 1000, 1000, 600, false, TALK_INTERVAL_MS, 1023},
        {"reads again what was reclaimed", 1000, 1000, 600, false, TALK_TIGHT_MS, 1024},
        {"half of it available", 4000, 4000, 1999, false, TALK_WARY_MS, 0},
        {"a quarter", 4000, 4000, 999, false, TALK_TIGHT_MS, 0},
        {"half of little", 1000, 1000, 499, false, 124, 0},
        {"a quarter of little", 1000, 1000, 249, false, 62, 0},
        {"what a balloon has left of little", 384, 208, 133, false, 33, 0},
        {"next to nothing", 384, 208, 20, false, TALK_SOON_MS, 0},
        {"nothing", 384, 208, 0, false, TALK_SOON_MS, 0},
        {"news", 1000, 1000, 600, true, TALK_TIGHT_MS, 0},
        {"most of what its balloon leaves it", 4000, 2400, 1999, false, TALK_WARY_MS, 0},
        {"half of all, though in a balloon", 1000, 600, 500, false, TALK_INTERVAL_MS, 0},
        {"it has been given more", 2000, 4000, 1999, false, TALK_WARY_MS, 0},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fresh(NULL);
        host_greets(SESSION);
        talk.sample.value[AGENT_MEM_TOTAL] = talk.sample.value[AGENT_MEM_AVAILABLE] = cases[i].before * MIB;
        talk_look_in_ms(&talk);
        talk.sample.value[AGENT_MEM_TOTAL] = cases[i].total * MIB;
        talk.sample.value[AGENT_MEM_AVAILABLE] = cases[i].available * MIB;
        talk.sample.value[AGENT_REFAULT_FILE] = cases[i].reread_kib * 1024ull;
        talk.report_due = cases[i].due;
        unsigned ms = talk_look_in_ms(&talk);
        if (ms != cases[i].ms)
            fail_msg("%s: in %u ms", cases[i].what, ms);
    }
}

/* There is news with every look, and looks are 25 ms apart for a minute: a host end reads 20 frames a second.
 */
static void news_without_end_are_told_as_fast_as_they_are_read(void **state)
{
    uint64_t begun_ms = now_ms, told = 0;
    (void)state;

    host_greets(SESSION);
    assert_int_equal(agent_says().h.type, AGENT_HERE);
    for (unsigned i = 0; now_ms - begun_ms < 60000; i++, now_ms += TALK_SOON_MS) {
        agent_looks((i % 2 ? 20 : 90) * MIB, 0);
        union agent_frame frame = agent_says();
        if (frame.h.type != AGENT_REPORT)
            continue;
        told++;
        assert_int_equal(frame.report.value[AGENT_MEM_AVAILABLE], (i % 2 ? 20 : 90) * MIB); /* the latest */
        assert_true(told <= 30 + (now_ms - begun_ms) / TALK_REPORT_MS + 2);
    }
    assert_in_range(told, 60 * 15, 60 * 18);
    now_ms += 5000;
    for (unsigned i = 0; i < 30; i++) { /* after a rest, at once again */
        now_ms += TALK_SOON_MS;
        agent_looks((i % 2 ? 20 : 90) * MIB, 0);
        assert_int_equal(agent_says().h.type, AGENT_REPORT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nobody_is_spoken_to_before_he_greets, fresh),
        cmocka_unit_test_setup(a_greeting_is_answered, fresh),
        cmocka_unit_test_setup(without_a_common_version_only_the_greeting_is_answered, fresh),
        cmocka_unit_test_setup(news_are_told_and_the_rest_is_a_heartbeat, fresh),
        cmocka_unit_test_setup(what_is_read_again_is_news, fresh),
        cmocka_unit_test_setup(what_is_not_read_does_not_pile_up, fresh),
        cmocka_unit_test_setup(news_without_end_are_told_as_fast_as_they_are_read, fresh),
        cmocka_unit_test_setup(another_host_begins_anew, fresh),
        cmocka_unit_test_setup(a_flood_is_read_slowly, fresh),
        cmocka_unit_test_setup(a_reclaim_goes_in_steps_to_its_end, fresh),
        cmocka_unit_test_setup(a_dry_kernel_is_asked_for_less_then_left_alone, fresh),
        cmocka_unit_test_setup(a_reclaim_ends_with_its_time, fresh),
        cmocka_unit_test_setup(a_second_reclaim_is_refused_and_the_same_is_none, fresh),
        cmocka_unit_test_setup(an_agent_that_may_not_says_so, fresh),
        cmocka_unit_test(it_looks_sooner_where_memory_is_tight),
        cmocka_unit_test(meminfo_vmstat_and_pressure_are_read),
        cmocka_unit_test(text_that_makes_no_sense_leaves_values_unknown),
        cmocka_unit_test(users_are_found_by_number_and_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
