/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much may be written to swap files: the buckets, what orders are promised, lies, and the next daemon. */
#include "memd/common/clock.h"
#include "memd/daemon/paging.h"
#include "memd/daemon/writes.h"
#include "tests/unit/world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB    (1ull << 20)
#define DAY_NS (86400 * CLOCK_S)

static struct world *world;
static struct core *core;
static struct vm *a, *b;

static int start(void **state)
{
    (void)state;
    world = world_open(1, true);
    core = world->core;
    a = world_vm(world, world->domain[0], 512, 0)->vm;
    b = world_vm(world, world_domain(world), 512, 0)->vm;
    strcpy(a->engine.name, "a");
    strcpy(b->engine.name, "b");
    snprintf(core->config.state_dir, sizeof core->config.state_dir, "%s", world->dir);
    return 0;
}

static char *file(void)
{
    static char path[400];
    char command[400];

    snprintf(command, sizeof command, "ls %s/writes.*", world->dir);
    FILE *p = popen(command, "re");
    assert_non_null(p);
    assert_non_null(fgets(path, sizeof path, p));
    pclose(p);
    path[strcspn(path, "\n")] = 0;
    return path;
}

static int end(void **state)
{
    (void)state;
    core->writes.changed = true;
    writes_close(core);
    unlink(file());
    world_close(world);
    return 0;
}

static void limits(uint64_t all, uint64_t of_a)
{
    core->config.swap_writes_bytes = all;
    a->reclaim.terms.writes_bytes = of_a;
    writes_tick(core, core->writes.tended_ns);
}

/* Its engine has written so much more, and says so. */
static void wrote(struct vm *vm, uint64_t bytes)
{
    vm->stats.swap_written_bytes += bytes;
}

static void a_bucket_fills_in_a_day(void **state)
{
    struct writes_bucket k = {0};
    (void)state;

    writes_bucket_tend(&k, 0, DAY_NS);
    assert_int_equal(writes_left(&k), 0);
    writes_bucket_tend(&k, 100 * MIB, 0); /* a limit begins with a day's worth */
    assert_int_equal(writes_left(&k), 100 * MIB);
    writes_bucket_tend(&k, 100 * MIB, DAY_NS); /* and never holds more */
    assert_int_equal(writes_left(&k), 100 * MIB);
    k.left_bytes = -50.0 * MIB;
    assert_int_equal(writes_left(&k), 0);
    for (unsigned i = 0; i < 96; i++) /* a quarter of an hour each */
        writes_bucket_tend(&k, 100 * MIB, DAY_NS / 96);
    assert_in_range(writes_left(&k), 50 * MIB - 1, 50 * MIB + 1);
    writes_bucket_tend(&k, 300 * MIB, 0); /* raised: at once */
    assert_in_range(writes_left(&k), 250 * MIB - 1, 250 * MIB + 1);
    writes_bucket_tend(&k, 10 * MIB, 0);
    assert_int_equal(writes_left(&k), 10 * MIB);
    writes_bucket_tend(&k, 0, DAY_NS);
    assert_int_equal(writes_left(&k), 0);
}

static void without_limits_nothing_is_bound(void **state)
{
    (void)state;
    limits(0, 0);
    assert_true(writes_allowed(a));
    assert_true(writes_promise(a, 5) == UINT64_MAX);
    wrote(a, 1ull << 40);
    writes_settle(a);
    assert_true(writes_allowed(a));
    assert_false(core->writes.changed); /* and nothing is kept */
}

static void promises_add_up(void **state)
{
    (void)state;
    limits(100 * MIB, 70 * MIB);
    assert_int_equal(writes_promise(a, 1000 * MIB), 70 * MIB);
    assert_int_equal(writes_promise(b, 1000 * MIB), 30 * MIB);
    assert_int_equal(writes_promise(b, 10 * MIB), 10 * MIB); /* an order in place of the last */
    assert_int_equal(core->writes.promised_bytes, 80 * MIB);
    wrote(a, 20 * MIB);
    writes_tick(core, core->writes.tended_ns);
    assert_int_equal(core->writes.promised_bytes, 60 * MIB);
    assert_int_equal(writes_left(&core->writes.bucket), 80 * MIB);
    writes_settle(a); /* what it has not used is there for others again */
    assert_int_equal(core->writes.promised_bytes, 10 * MIB);
    assert_int_equal(writes_promise(b, 1000 * MIB), 80 * MIB);
    assert_false(writes_allowed(a)); /* all of it is promised */
    assert_int_equal(writes_promise(a, 1000 * MIB), 0);
    wrote(b, 80 * MIB);
    writes_settle(b);
    assert_int_equal(core->writes.promised_bytes, 0);
    assert_int_equal(writes_promise(b, 1000 * MIB), 0);
    assert_int_equal(core->warning[0], 0);
    writes_tick(core, core->writes.tended_ns);
    assert_non_null(strstr(core->warning, "swap-writes"));
}

/* It cannot use up what others may write, nor get back what it wrote. */
static void an_engine_lies(void **state)
{
    (void)state;
    limits(100 * MIB, 50 * MIB);
    wrote(a, 1ull << 50); /* without an order */
    writes_tick(core, core->writes.tended_ns);
    assert_int_equal(writes_left(&core->writes.bucket), 100 * MIB);
    assert_int_equal(writes_promise(a, 10 * MIB), 10 * MIB);
    wrote(a, 1ull << 50);
    writes_settle(a);
    assert_int_equal(writes_left(&core->writes.bucket),
                     89 * MIB); /* and what it may still have been writing */
    assert_int_equal(writes_left(&a->writes.bucket), 39 * MIB);
    a->stats.swap_written_bytes = 0;
    writes_tick(core, core->writes.tended_ns);
    assert_int_equal(writes_left(&a->writes.bucket), 39 * MIB);
    assert_int_equal(writes_left(&core->writes.bucket), 89 * MIB);
}

static void a_limit_counts_at_once(void **state)
{
    (void)state;
    limits(0, 0);
    a->reclaim.terms.writes_bytes = 3 * MIB;
    assert_int_equal(writes_promise(a, 1000 * MIB), 3 * MIB);
}

static void orders_carry_it(void **state)
{
    struct core_paging what = {.bytes = UINT64_MAX, .all = true, .swap = true};
    struct core_job job;
    uint64_t id;
    (void)state;

    limits(0, 2 * MIB);
    assert_int_equal(paging_start(core, "a", true, &what, &id), 0);
    assert_true(a->session->page.flags & WIRE_PAGEOUT_LIMIT);
    assert_int_equal(a->session->page.swap_bytes, 2 * MIB);
    paging_send(a->session);
    struct wire_rec_paged answer = {.id = 1, .pages = 3, .error = EDQUOT};
    assert_int_equal(paging_answered(a->session, &answer), 0);
    assert_int_equal(core->writes.promised_bytes, 0);
    assert_int_equal(jobs_poll(core, id, &job), 0);
    assert_int_equal(job.state, CORE_JOB_FAILED);
    assert_int_equal(job.error, EDQUOT);
    assert_non_null(strstr(job.reason, "swap-writes"));
    assert_int_equal(paging_start(core, "b", true, &what, &id), 0);
    assert_false(b->session->page.flags & WIRE_PAGEOUT_LIMIT);
    assert_int_equal(jobs_cancel(core, id), 0);
    paging_send(b->session);
}

/* As if another daemon had begun: with a VM that is back, or none. */
static void begin_anew(struct awaited *awaited)
{
    core->writes.changed = true;
    writes_close(core);
    core->writes = (struct writes){0};
    a->writes = b->writes = (struct writes_vm){0};
    if (awaited)
        cds_list_add_tail(&awaited->link, &world->domain[0]->awaited);
    writes_open(core);
    writes_vm_joined(a);
    writes_vm_joined(b);
    if (awaited)
        cds_list_del(&awaited->link);
}

static void the_next_daemon_goes_on(void **state)
{
    struct awaited awaited = {.domain = world->domain[0], .entry = {.pid = 7, .start = 8, .name = "a"}};
    (void)state;

    a->engine.pid = 7;
    a->engine.start = 8;
    b->engine.pid = 9;
    a->stats.swap_written_bytes = 7 * MIB; /* of the time before there was a limit */
    limits(100 * MIB, 50 * MIB);
    assert_int_equal(writes_promise(a, 30 * MIB), 30 * MIB);
    assert_int_equal(writes_promise(b, 20 * MIB), 20 * MIB);
    wrote(a, 10 * MIB);
    writes_tick(core, core->writes.tended_ns);
    wrote(a, 5 * MIB); /* while there is no daemon */
    begin_anew(&awaited);
    /* b is gone: what it was promised may have been written. A second or so may have passed. */
    assert_in_range(writes_left(&core->writes.bucket), 70 * MIB, 70 * MIB + MIB / 100);
    writes_tick(core, core->writes.tended_ns);
    assert_in_range(writes_left(&core->writes.bucket), 65 * MIB, 65 * MIB + MIB / 100);
    assert_in_range(writes_left(&a->writes.bucket), 35 * MIB, 35 * MIB + MIB / 100);
    assert_int_equal(writes_left(&b->writes.bucket), 0);

    writes_settle(a);
    begin_anew(NULL); /* again, with nobody left */
    assert_in_range(writes_left(&core->writes.bucket), 65 * MIB, 65 * MIB + MIB / 50);
}

static void a_file_that_says_nothing(void **state)
{
    (void)state;
    limits(100 * MIB, 0);
    begin_anew(NULL);
    assert_in_range(writes_left(&core->writes.bucket), 100 * MIB - 1, 100 * MIB);
    FILE *out = fopen(file(), "we");
    assert_non_null(out);
    fputs("host yesterday\nvm 1\n\n", out);
    fclose(out);
    core->writes = (struct writes){0};
    writes_open(core);
    assert_int_equal(writes_left(&core->writes.bucket), 0);
    assert_int_equal(unlink(file()), 0);
    core->writes = (struct writes){0};
    writes_open(core);
    assert_int_equal(writes_left(&core->writes.bucket), 100 * MIB);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_bucket_fills_in_a_day), TEST(without_limits_nothing_is_bound), TEST(promises_add_up),
        TEST(an_engine_lies),          TEST(a_limit_counts_at_once),          TEST(orders_carry_it),
        TEST(the_next_daemon_goes_on), TEST(a_file_that_says_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
