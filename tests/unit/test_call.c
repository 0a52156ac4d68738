/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of other threads to the loop: answered, refused, or given up, and freed once in any case. */
#include "memd/daemon/call.h"

#include "memd/daemon/core.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>

#include <cmocka.h>

#define THREADS 8
#define ROUNDS  2000

static struct loop loop;
static struct calls calls;
static atomic_uint drops;

static int start(void **state)
{
    (void)state;
    atomic_store(&drops, 0);
    return loop_open(&loop) || calls_open(&calls, &loop);
}

static int end(void **state)
{
    (void)state;
    calls_refuse(&calls);
    calls_close(&calls, &loop);
    loop_close(&loop);
    return 0;
}

/* The core is not looked at: its address tells that it was handed on. */
#define CORE ((struct core *)&calls)

struct sum {
    uint64_t a, b, sum;
};

static int add(struct core *core, void *arg)
{
    struct sum *sum = arg;

    assert_ptr_equal(core, CORE);
    sum->sum = sum->a + sum->b;
    return sum->a % 3 ? 0 : -EDOM;
}

static void drop(void *arg)
{
    (void)arg;
    atomic_fetch_add(&drops, 1);
}

static atomic_uint asking;

static void *ask(void *arg)
{
    for (uint64_t i = 0; i < ROUNDS; i++) {
        struct sum sum = {.a = i, .b = (uintptr_t)arg};
        int err = calls_ask(&calls, add, &sum, sizeof sum, drop);
        assert_int_equal(err, i % 3 ? 0 : -EDOM);
        assert_int_equal(sum.sum, i + (uintptr_t)arg);
    }
    atomic_fetch_sub(&asking, 1);
    return NULL;
}

static void every_thread_gets_its_own_answer(void **state)
{
    pthread_t thread[THREADS];
    (void)state;

    atomic_store(&asking, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, ask, (void *)(i << 32)), 0);
    while (atomic_load(&asking)) {
        assert_int_equal(loop_turn(&loop, 10), 0);
        calls_run(&calls, CORE);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(atomic_load(&drops), 0);
}

static void *ask_once(void *arg)
{
    struct sum sum = {.a = 1, .b = 2};

    *(_Atomic int *)arg = calls_ask(&calls, add, &sum, sizeof sum, drop);
    return NULL;
}

/* Whether `n` calls wait. */
static void wait_for_calls(unsigned n)
{
    unsigned queued;

    do {
        pthread_mutex_lock(&calls.lock);
        queued = calls.nqueued;
        pthread_mutex_unlock(&calls.lock);
    } while (queued < n);
}

static void a_loop_that_has_ended_refuses(void **state)
{
    _Atomic int result = 1;
    struct sum sum = {0};
    pthread_t thread;
    (void)state;

    assert_int_equal(pthread_create(&thread, NULL, ask_once, (void *)&result), 0);
    wait_for_calls(1);
    calls_refuse(&calls);
    pthread_join(thread, NULL);
    assert_int_equal(result, -ESHUTDOWN);
    assert_int_equal(calls_ask(&calls, add, &sum, sizeof sum, drop), -ESHUTDOWN);
    calls_run(&calls, CORE);
    assert_int_equal(atomic_load(&drops), 0);
}

static void a_full_queue_refuses(void **state)
{
    pthread_t thread[CALLS_MAX];
    _Atomic int result[CALLS_MAX];
    struct sum sum = {0};
    (void)state;

    for (int i = 0; i < CALLS_MAX; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, ask_once, (void *)&result[i]), 0);
    wait_for_calls(CALLS_MAX);
    assert_int_equal(calls_ask(&calls, add, &sum, sizeof sum, drop), -EBUSY);
    calls_run(&calls, CORE);
    for (int i = 0; i < CALLS_MAX; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(result[i], 0);
    }
}

/* The loop is busy for longer than anyone waits: what it then puts into the answer is dropped, once. */
static void an_answer_nobody_waits_for_is_dropped(void **state)
{
    struct sum sum = {.a = 1};
    (void)state;

    assert_int_equal(calls_ask(&calls, add, &sum, sizeof sum, drop), -ETIMEDOUT);
    calls_run(&calls, CORE);
    assert_int_equal(atomic_load(&drops), 1);
    assert_int_equal(sum.sum, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_thread_gets_its_own_answer),
        TEST(a_loop_that_has_ended_refuses),
        TEST(a_full_queue_refuses),
        TEST(an_answer_nobody_waits_for_is_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
