/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop: callbacks come for what is ready, and never for what was removed. */
#include "memd/daemon/loop.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define SOURCES 8

struct counted {
    struct loop_source source;
    unsigned calls;
};

static struct loop loop;
static struct counted counted[SOURCES];

static void count(struct loop_source *source, uint32_t events)
{
    assert_true(events & EPOLLIN);
    ((struct counted *)source)->calls++;
}

/* Removes all others, as a callback does that ends several sessions. */
static void count_and_remove_others(struct loop_source *source, uint32_t events)
{
    count(source, events);
    for (int i = 0; i < SOURCES; i++)
        if (&counted[i].source != source)
            loop_del(&loop, &counted[i].source);
}

static int start(void **state)
{
    (void)state;
    if (loop_open(&loop))
        return -1;
    for (int i = 0; i < SOURCES; i++) {
        counted[i] = (struct counted){{eventfd(0, EFD_NONBLOCK), count}, 0};
        if (counted[i].source.fd < 0 || loop_add(&loop, &counted[i].source, EPOLLIN))
            return -1;
    }
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (int i = 0; i < SOURCES; i++)
        close(counted[i].source.fd);
    loop_close(&loop);
    return 0;
}

static void signal_source(int i)
{
    uint64_t one = 1;
    assert_int_equal(write(counted[i].source.fd, &one, sizeof one), sizeof one);
}

static void what_is_ready_is_called(void **state)
{
    (void)state;
    assert_int_equal(loop_turn(&loop, 0), 0);
    signal_source(2);
    signal_source(5);
    assert_int_equal(loop_turn(&loop, -1), 0);
    for (int i = 0; i < SOURCES; i++)
        assert_int_equal(counted[i].calls, i == 2 || i == 5);
    assert_int_equal(loop_turn(&loop, 0), 0); /* nobody has read: it is still ready */
    assert_int_equal(counted[2].calls, 2);
}

static void what_was_removed_in_the_same_turn_is_not(void **state)
{
    unsigned calls = 0;
    (void)state;

    for (int i = 0; i < SOURCES; i++) {
        counted[i].source.ready = count_and_remove_others;
        signal_source(i);
    }
    assert_int_equal(loop_turn(&loop, -1), 0);
    for (int i = 0; i < SOURCES; i++)
        calls += counted[i].calls;
    assert_int_equal(calls, 1);
}

static void a_bad_descriptor_is_refused(void **state)
{
    struct loop_source bad = {.fd = -1};
    (void)state;

    assert_int_equal(loop_add(&loop, &bad, EPOLLIN), -EBADF);
    assert_int_equal(loop_add(&loop, &counted[0].source, EPOLLIN), -EEXIST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_ready_is_called, start, end),
        cmocka_unit_test_setup_teardown(what_was_removed_in_the_same_turn_is_not, start, end),
        cmocka_unit_test_setup_teardown(a_bad_descriptor_is_refused, start, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
