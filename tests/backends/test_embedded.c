/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The embedded backend, with an engine and a daemon's loop of the test's own: balloons that come and go, what
 * is asked of an engine and what it answers, engines that hang, flood, and are gone. */
#include "balloon-driver/backends/balloons.h"
#include "balloon-driver/backends/embedded.h"
#include "memd/common/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB        (UINT64_C(1) << 20)
#define RAM        (1024 * MIB)
#define PATIENCE_S 30

/* One VM: its engine as the daemon's loop sees it, played by a thread. */
struct engine {
    struct embedded *port;
    pthread_mutex_t lock; /* guards `is` and the port's use */
    struct wire_rec_balloon is;
    _Atomic bool hung;         /* takes what it is asked, and says nothing */
    _Atomic bool flood;        /* says something all the time */
    _Atomic int refuse;        /* errno of targets */
    _Atomic uint64_t step;     /* the guest's, per look; 0: it stays where it is */
    _Atomic unsigned asks;     /* seen */
    _Atomic bool answer_stats; /* the guest sends statistics when asked */
    _Atomic bool stop;
    pthread_t thread;
};

static struct balloons *balloons;
static struct balloon_error error;
static int asks_fd;

static uint64_t towards(uint64_t from, uint64_t to, uint64_t step)
{
    return from < to ? (to - from < step ? to : from + step) : (from - to < step ? to : from - step);
}

static void serve(struct engine *e)
{
    struct wire_msg_balloon_ask ask;
    uint64_t before;
    bool say = e->flood;

    pthread_mutex_lock(&e->lock);
    while (embedded_ask(e->port, &ask)) {
        e->asks++;
        if (e->hung)
            continue;
        e->is.answered = ask.id;
        e->is.error = ask.flags & WIRE_BALLOON_SET ? e->refuse : 0;
        if (ask.flags & WIRE_BALLOON_SET && !e->refuse)
            e->is.target_bytes = ask.bytes;
        if (ask.flags & WIRE_BALLOON_STATS_WANTED && e->answer_stats)
            e->is.stats_serial++;
        say = true;
    }
    before = e->is.actual_bytes;
    e->is.actual_bytes = towards(before, e->is.target_bytes, e->step);
    if ((say || before != e->is.actual_bytes) && !e->hung)
        embedded_say(e->port, &e->is);
    pthread_mutex_unlock(&e->lock);
}

static void *engine_run(void *arg)
{
    struct engine *e = arg;

    while (!e->stop) {
        serve(e);
        if (!e->flood)
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    return NULL;
}

static int engine_start(struct engine *e, const char *vm)
{
    struct balloons_spec spec = {.min_bytes = 0};

    memset(e, 0, sizeof *e);
    snprintf(spec.vm, sizeof spec.vm, "%s", vm);
    pthread_mutex_init(&e->lock, NULL);
    e->is = (struct wire_rec_balloon){.flags = WIRE_BALLOON_ATTACHED | WIRE_BALLOON_DRIVER |
                                               WIRE_BALLOON_STATS | WIRE_BALLOON_DEFLATE_ON_OOM,
                                      .ram_bytes = RAM};
    memset(e->is.stats, 0xff, sizeof e->is.stats);
    e->step = 171 * MIB;
    int balloon = balloons_embed(balloons, &spec, asks_fd, &e->port);
    if (balloon >= 0) {
        embedded_say(e->port, &e->is);
        assert_int_equal(pthread_create(&e->thread, NULL, engine_run, e), 0);
    }
    return balloon;
}

static void engine_stop(struct engine *e)
{
    e->stop = true;
    pthread_join(e->thread, NULL);
}

/* Its VM is gone. */
static void engine_end(struct engine *e, int balloon)
{
    engine_stop(e);
    balloons_leave(balloons, balloon);
}

static int setup(void **state)
{
    static const struct balloons_spec specs[] = {
        {.vm = "configured", .address = "qmp:/nowhere/memd-test.qmp"}};
    const struct balloons_options options = {.specs = specs,
                                             .nspecs = 1,
                                             .proc_root = "/nowhere",
                                             .call_ms = 2000,
                                             .refresh_ms = 100,
                                             .retry_ms = 10,
                                             .retry_ms_max = 40};
    (void)state;
    asks_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return balloons_open(&options, &balloons);
}

static int teardown(void **state)
{
    (void)state;
    balloons_close(balloons);
    close(asks_fd);
    return 0;
}

static struct balloons_view view_of(int balloon)
{
    struct balloons_view view;

    balloons_view(balloons, balloon, &view);
    return view;
}

#define AWAIT(balloon, condition)                                                                            \
    do {                                                                                                     \
        struct balloons_view v = view_of(balloon);                                                           \
        for (uint64_t end = clock_now_ns() + PATIENCE_S * CLOCK_S; !(condition); v = view_of(balloon)) {     \
            if (clock_now_ns() > end)                                                                        \
                fail_msg("waited for %s; it is %s: %s", #condition, balloons_state_name(v.state), v.reason); \
            usleep(2000);                                                                                    \
        }                                                                                                    \
    } while (0)

static void gets_ready_and_follows_targets(void **state)
{
    struct engine e;
    int balloon = engine_start(&e, "vm");

    (void)state;
    assert_true(balloon >= 0);
    assert_int_equal(balloons_count(balloons), 2);
    assert_int_equal(balloons_find(balloons, "vm"), balloon);
    AWAIT(balloon, v.state == BALLOONS_READY);
    struct balloons_view is = view_of(balloon);
    assert_string_equal(is.address, "embedded");
    assert_string_equal(is.backend, "embedded");
    assert_int_equal(is.facts.ram_bytes, RAM);
    assert_int_equal(is.facts.actual_bytes, RAM);
    assert_int_equal(is.facts.target_bytes, RAM);
    assert_int_equal(is.floor_bytes, 232 * MIB);
    assert_int_equal(is.facts.can, BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS |
                                       BALLOON_CAN_EVENTS | BALLOON_CAN_DRIVER | BALLOON_CAN_DEFLATE_ON_OOM);
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), 0);
    assert_int_equal(view_of(balloon).facts.target_bytes, 512 * MIB);
    AWAIT(balloon, v.facts.actual_bytes == 512 * MIB);
    assert_true(view_of(balloon).facts.events > 0);
    assert_int_equal(balloons_set(balloons, balloon, 231 * MIB, &error), -ERANGE);
    assert_int_equal(balloons_set(balloons, balloon, RAM + 1, &error), -ERANGE);
    assert_int_equal(balloons_set(balloons, balloon, RAM, &error), 0);
    AWAIT(balloon, v.facts.actual_bytes == RAM);
    balloons_order(balloons, balloon, 700 * MIB);
    AWAIT(balloon, v.facts.actual_bytes == 700 * MIB && v.order_serial == 1 && !v.order_error);
    engine_end(&e, balloon);
}

static void hears_statistics_and_drivers(void **state)
{
    struct engine e;
    int balloon = engine_start(&e, "vm");

    (void)state;
    AWAIT(balloon, v.state == BALLOONS_READY);
    assert_int_equal(view_of(balloon).stats_age_ms, BALLOONS_NEVER);
    pthread_mutex_lock(&e.lock);
    e.is.stats[MEMD_BALLOON_AVAILABLE_BYTES] = 300 * MIB;
    e.answer_stats = true; /* it is asked now and then */
    pthread_mutex_unlock(&e.lock);
    AWAIT(balloon, v.stats_age_ms != BALLOONS_NEVER &&
                       v.facts.stats[MEMD_BALLOON_AVAILABLE_BYTES] == 300 * MIB &&
                       v.facts.stats[MEMD_BALLOON_FREE_BYTES] == MEMD_BALLOON_NO_STAT);
    pthread_mutex_lock(&e.lock);
    e.is.flags = WIRE_BALLOON_ATTACHED;
    e.is.stats_serial = 0;
    embedded_say(e.port, &e.is);
    pthread_mutex_unlock(&e.lock);
    AWAIT(balloon, v.state == BALLOONS_NO_DRIVER && v.stats_age_ms == BALLOONS_NEVER);
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), -ENXIO);
    engine_end(&e, balloon);
}

static void refusals_are_shown(void **state)
{
    struct engine e;
    int balloon = engine_start(&e, "vm");

    (void)state;
    AWAIT(balloon, v.state == BALLOONS_READY);
    e.refuse = EBUSY;
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), -ERANGE);
    assert_string_equal(error.reason, "the VMM refuses: Device or resource busy");
    assert_int_equal(view_of(balloon).facts.target_bytes, RAM);
    e.refuse = 0;
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), 0);
    engine_end(&e, balloon);
}

/* An engine that does not answer costs its own balloon only, and is back when it answers again. */
static void a_hung_engine_is_given_up(void **state)
{
    struct engine hung, other;
    int balloon = engine_start(&hung, "hung"), second = engine_start(&other, "other");

    (void)state;
    AWAIT(balloon, v.state == BALLOONS_READY);
    AWAIT(second, v.state == BALLOONS_READY);
    hung.hung = true;
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), -ETIMEDOUT);
    AWAIT(balloon, v.state == BALLOONS_FAILED && strstr(v.reason, "does not answer"));
    assert_int_equal(balloons_set(balloons, second, 512 * MIB, &error), 0);
    hung.hung = false;
    AWAIT(balloon, v.state == BALLOONS_READY);
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), 0);
    engine_end(&hung, balloon);
    engine_end(&other, second);
}

static void a_session_that_ends_is_waited_for(void **state)
{
    struct engine e;
    int balloon = engine_start(&e, "vm");

    (void)state;
    AWAIT(balloon, v.state == BALLOONS_READY);
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), 0);
    AWAIT(balloon, v.facts.actual_bytes == 512 * MIB);
    engine_stop(&e);
    embedded_lost(e.port);
    AWAIT(balloon, v.state == BALLOONS_GONE);
    assert_int_equal(balloons_set(balloons, balloon, RAM, &error), -ENOTCONN);
    assert_int_equal(balloons_find(balloons, "vm"), balloon);
    e.is.answered = 0;
    embedded_say(e.port, &e.is);
    e.stop = false;
    assert_int_equal(pthread_create(&e.thread, NULL, engine_run, &e), 0);
    AWAIT(balloon, v.state == BALLOONS_READY && v.facts.actual_bytes == 512 * MIB);
    engine_end(&e, balloon);
}

static void *set_slowly(void *arg)
{
    struct balloon_error own;

    return (void *)(intptr_t)balloons_set(balloons, *(int *)arg, 512 * MIB, &own);
}

/* Whoever waits for a balloon that goes is told so at once, and what is asked of it later is not another's.
 */
static void numbers_do_not_come_again(void **state)
{
    struct engine e, next;
    int balloon = engine_start(&e, "vm");
    pthread_t user;
    void *result;

    (void)state;
    AWAIT(balloon, v.state == BALLOONS_READY);
    e.hung = true;
    unsigned asks = e.asks;
    assert_int_equal(pthread_create(&user, NULL, set_slowly, &balloon), 0);
    while (e.asks == asks)
        usleep(1000);
    engine_end(&e, balloon);
    assert_int_equal(pthread_join(user, &result), 0);
    assert_true((intptr_t)result == -ESHUTDOWN || (intptr_t)result == -ENOENT);
    assert_int_equal(balloons_find(balloons, "vm"), -ENOENT);
    assert_int_equal(balloons_count(balloons), 1);

    int second = engine_start(&next, "vm");
    assert_int_equal(balloons_slot(second), balloons_slot(balloon));
    assert_int_not_equal(second, balloon);
    AWAIT(second, v.state == BALLOONS_READY);
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), -ENOENT);
    assert_int_equal(balloons_limit(balloons, balloon, &(uint64_t){300 * MIB}, NULL, &error), -ENOENT);
    balloons_order(balloons, balloon, 512 * MIB);
    balloons_watch(balloons, balloon, true);
    struct balloons_view v;
    assert_int_equal(balloons_view(balloons, balloon, &v), -ENOENT);
    v = view_of(second);
    assert_int_equal(v.facts.target_bytes, RAM);
    assert_int_equal(v.min_bytes, 0);
    assert_false(v.is_auto);
    engine_end(&next, second);
}

static void the_configuration_comes_first(void **state)
{
    struct engine e;

    (void)state;
    assert_int_equal(engine_start(&e, "configured"), -EEXIST);
    pthread_mutex_destroy(&e.lock);
}

/* What is freed can be counted: descriptors. */
static unsigned count_fds(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void many_come_and_go(void **state)
{
    unsigned before = count_fds();

    (void)state;
    for (int i = 0; i < 200; i++) {
        struct engine e;
        char name[16];
        snprintf(name, sizeof name, "vm-%d", i);
        int balloon = engine_start(&e, name);
        assert_true(balloon >= 0);
        assert_true(balloons_slot(balloon) < 2);
        if (i % 2)
            AWAIT(balloon, v.state == BALLOONS_READY);
        engine_end(&e, balloon);
        balloons_reap(balloons);
    }
    uint64_t end = clock_now_ns() + PATIENCE_S * CLOCK_S;
    while (count_fds() > before && clock_now_ns() < end) {
        balloons_reap(balloons);
        usleep(1000);
    }
    assert_int_equal(count_fds(), before);
}

/* However much an engine says, its balloon's thread looks at most a hundred times a second. */
static void a_flood_is_not_followed(void **state)
{
    struct engine e;
    int balloon = engine_start(&e, "vm");

    (void)state;
    AWAIT(balloon, v.state == BALLOONS_READY);
    pthread_mutex_lock(&e.lock);
    e.step = 0;
    pthread_mutex_unlock(&e.lock);
    uint64_t begun = clock_now_ns();
    for (uint64_t i = 1; clock_now_ns() - begun < CLOCK_S / 2; i++) {
        pthread_mutex_lock(&e.lock);
        e.is.actual_bytes = i % 1024 * MIB / 4;
        embedded_say(e.port, &e.is);
        pthread_mutex_unlock(&e.lock);
    }
    uint64_t passed_ms = (clock_now_ns() - begun) / CLOCK_MS;
    struct balloons_view v = view_of(balloon);
    assert_int_equal(v.state, BALLOONS_READY);
    assert_true(v.facts.events <= passed_ms / EMBEDDED_NEWS_MS + 2);
    assert_int_equal(balloons_set(balloons, balloon, 512 * MIB, &error), 0);
    engine_end(&e, balloon);
}

static void insane_records_are_known(void **state)
{
    const struct wire_rec_balloon good = {.flags = WIRE_BALLOON_ATTACHED, .ram_bytes = RAM};
    struct wire_rec_balloon bad;

    (void)state;
    assert_true(embedded_is_sane(&good));
    assert_true(embedded_is_sane(&(struct wire_rec_balloon){0}));
#define BAD(field, value)                     \
    do {                                      \
        bad = good;                           \
        bad.field = (value);                  \
        assert_false(embedded_is_sane(&bad)); \
    } while (0)
    BAD(ram_bytes, 0);
    BAD(ram_bytes, RAM + 1);
    BAD(ram_bytes, BALLOON_RAM_MAX + 4096);
    BAD(target_bytes, RAM + 4096);
    BAD(actual_bytes, UINT64_MAX);
    BAD(error, -1);
#undef BAD
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(gets_ready_and_follows_targets),
        CASE(hears_statistics_and_drivers),
        CASE(refusals_are_shown),
        CASE(a_hung_engine_is_given_up),
        CASE(a_session_that_ends_is_waited_for),
        CASE(numbers_do_not_come_again),
        CASE(the_configuration_comes_first),
        CASE(many_come_and_go),
        CASE(a_flood_is_not_followed),
        cmocka_unit_test(insane_records_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
