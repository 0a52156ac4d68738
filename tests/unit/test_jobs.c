/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs: how many are remembered, and what becomes of each kind; the engines are played by world.c. */
#include "memd/daemon/jobs.h"

#include "memd/common/clock.h"
#include "tests/unit/world.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct world *world;
static struct core *core;

static int start(void **state)
{
    (void)state;
    world = world_open(1, false);
    core = world->core;
    jobs_open(&core->jobs);
    return 0;
}

static int end(void **state)
{
    (void)state;
    jobs_close(&core->jobs);
    world_close(world);
    return 0;
}

static struct core_job poll_job(uint64_t id)
{
    struct core_job job;

    assert_int_equal(jobs_poll(core, id, &job), 0);
    return job;
}

static struct world_vm *make_vm(const char *name)
{
    struct world_vm *w = world_vm(world, world->domain[0], 512, 0);

    snprintf(w->vm->engine.name, sizeof w->vm->engine.name, "%s", name);
    return w;
}

/* A pass that began after now has ended, and found nothing. */
static void settle(struct vm *vm)
{
    vm->settled = true;
    vm->settled_from_ns = clock_now_ns();
}

static void the_latest_are_remembered(void **state)
{
    uint64_t first, id = 0;
    struct core_job job;
    (void)state;

    assert_int_equal(jobs_poll(core, 0, &job), -ENOENT);
    assert_int_equal(jobs_poll(core, 1, &job), -ENOENT);
    assert_int_equal(jobs_start_settle(core, &first), 0);
    jobs_tick(core);
    assert_int_equal(poll_job(first).state, CORE_JOB_DONE); /* no VMs: nothing to wait for */
    for (int i = 1; i < CORE_JOBS_MAX; i++)
        assert_int_equal(jobs_start_settle(core, &id), 0);
    assert_int_equal(poll_job(first).id, first);
    jobs_tick(core);
    assert_int_equal(jobs_start_settle(core, &id), 0);
    assert_int_equal(jobs_poll(core, first, &job), -ENOENT);
    assert_int_equal(jobs_cancel(core, first), -ENOENT);
}

/* A job that nobody ends must not keep others from starting. */
static void those_that_run_are_not_forgotten(void **state)
{
    uint64_t id[CORE_JOBS_MAX], more;
    (void)state;

    make_vm("a");
    for (int i = 0; i < CORE_JOBS_MAX; i++)
        assert_int_equal(jobs_start_settle(core, &id[i]), 0);
    assert_int_equal(jobs_start_settle(core, &more), -EBUSY);
    assert_int_equal(core->jobs.settling, CORE_JOBS_MAX);
    assert_int_equal(jobs_cancel(core, id[40]), 0);
    assert_int_equal(jobs_cancel(core, id[40]), 0);
    assert_int_equal(poll_job(id[40]).error, ECANCELED);
    assert_int_equal(jobs_start_settle(core, &more), 0);
    assert_int_equal(poll_job(more).state, CORE_JOB_RUNNING);
    assert_int_equal(poll_job(id[0]).state, CORE_JOB_RUNNING);
    assert_int_equal(jobs_start_settle(core, &id[40]), -EBUSY);
}

static void settled_is_what_began_after_the_question(void **state)
{
    struct world_vm *a = make_vm("a"), *b = make_vm("b");
    uint64_t first, second;
    (void)state;

    settle(a->vm);
    settle(b->vm);
    assert_int_equal(jobs_start_settle(core, &first), 0);
    assert_false(a->vm->settled);
    assert_true(a->session->round_due);
    settle(a->vm);
    uint64_t pass_ns = b->vm->pass.started_ns;
    assert_int_equal(jobs_start_settle(core, &second), 0);
    assert_int_equal(b->vm->pass.started_ns, pass_ns); /* the first one's pass goes on */
    jobs_tick(core);
    assert_true(poll_job(first).progress == 0.5);
    b->vm->settled = true;
    b->vm->settled_from_ns = pass_ns;
    jobs_tick(core);
    assert_int_equal(poll_job(first).state, CORE_JOB_DONE);
    assert_int_equal(poll_job(second).state, CORE_JOB_RUNNING);
    settle(a->vm);
    settle(b->vm);
    core->nawaited = 1; /* an engine of an earlier daemon */
    jobs_tick(core);
    assert_int_equal(poll_job(second).state, CORE_JOB_RUNNING);
    core->nawaited = 0;
    jobs_tick(core);
    assert_int_equal(poll_job(second).state, CORE_JOB_DONE);
    assert_int_equal(core->jobs.settling, 0);
}

/* Zero, duplicate and single pages; two domains share nothing. */
static void an_estimate_counts_contents(void **state)
{
    struct world_vm *a = make_vm("a"), *b = make_vm("b");
    uint64_t id, none;
    (void)state;

    a->vm->merge_on = b->vm->merge_on = false;
    for (uint32_t i = 0; i < 100; i++) {
        world_write(a, i, 1 + i);      /* 1..100 */
        world_write(b, i, 51 + i / 2); /* 51..100, twice each */
    }
    assert_int_equal(jobs_start_estimate(core, 1, (const char *[]){"c"}, &none), -ENOENT);
    assert_int_equal(jobs_start_estimate(core, 2, (const char *[]){"a", "b"}, &id), 0);
    assert_int_equal(jobs_start_estimate(core, 1, (const char *[]){"a"}, &none), -EBUSY);
    world_hash(a, 0, 100);
    world_hash(b, 0, 100);
    jobs_tick(core);
    assert_int_equal(poll_job(id).state, CORE_JOB_RUNNING);
    a->vm->stats.would_save_pages = 30;
    a->vm->stats.prev_started_ns = b->vm->stats.prev_started_ns = clock_now_ns();
    jobs_tick(core);
    struct core_job job = poll_job(id);
    assert_int_equal(job.state, CORE_JOB_DONE);
    assert_int_equal(job.guest_bytes, 1024 * WIRE_PAGE_BYTES);
    assert_int_equal(job.zero_bytes, 30 * WIRE_PAGE_BYTES);
    assert_int_equal(job.duplicate_bytes, 150 * WIRE_PAGE_BYTES); /* 50 of a, 100 of b */
    assert_int_equal(job.frame_bytes, 50 * WIRE_PAGE_BYTES);
    assert_int_equal(a->vm->estimate_job, 0);
    assert_int_equal(a->merges + b->merges, 0);
}

static void give_memory(uint64_t available_kib)
{
    char path[400];

    snprintf(core->config.proc_root, sizeof core->config.proc_root, "%.100s/proc", world->dir);
    mkdir(core->config.proc_root, 0700);
    snprintf(path, sizeof path, "%s/meminfo", core->config.proc_root);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "MemTotal: 8388608 kB\nMemAvailable: %lu kB\n", (unsigned long)available_kib);
    fclose(f);
}

static void take_memory_back(void)
{
    char path[400];

    snprintf(path, sizeof path, "%s/meminfo", core->config.proc_root);
    unlink(path);
    rmdir(core->config.proc_root);
}

static void an_unmerge_that_does_not_fit_is_not_begun(void **state)
{
    struct world_vm *a = make_vm("a");
    uint64_t id;
    (void)state;

    a->vm->held_pages = 1000;
    give_memory(3999);
    assert_int_equal(jobs_start_unmerge(core, NULL, &id), 0);
    struct core_job job = poll_job(id);
    assert_int_equal(job.state, CORE_JOB_FAILED);
    assert_int_equal(job.error, ENOMEM);
    assert_true(a->vm->merge_on);
    assert_int_equal(a->session->unmerge_id, 0);
    a->vm->held_pages = 0;
    take_memory_back();
}

/* Each VM answers for itself; one that dies has nothing merged any more. */
static void an_unmerge_ends_with_the_last_vm(void **state)
{
    struct world_vm *a = make_vm("a"), *b = make_vm("b"), *c = make_vm("c");
    uint64_t id, other;
    (void)state;

    give_memory(1 << 20);
    assert_int_equal(jobs_start_unmerge(core, "d", &id), -ENOENT);
    assert_int_equal(jobs_start_unmerge(core, NULL, &id), 0);
    assert_true(a->session->unmerge_due && b->session->unmerge_due);
    assert_false(a->vm->merge_on);
    assert_int_equal(jobs_start_unmerge(core, "a", &other), 0);
    assert_int_equal(poll_job(other).error, EBUSY);
    jobs_unmerged(a->vm, 0);
    jobs_vm_gone(b->vm);
    assert_int_equal(poll_job(id).state, CORE_JOB_RUNNING);
    jobs_unmerged(c->vm, 0);
    assert_int_equal(poll_job(id).state, CORE_JOB_DONE);

    a->session->unmerge_id = b->session->unmerge_id = c->session->unmerge_id = 0;
    assert_int_equal(jobs_start_unmerge(core, NULL, &id), 0);
    jobs_unmerged(a->vm, EBUSY);
    assert_int_equal(poll_job(id).state, CORE_JOB_FAILED);
    assert_int_equal(poll_job(id).error, EBUSY);
    assert_non_null(strstr(poll_job(id).reason, "VM a: "));
    jobs_unmerged(b->vm, 0); /* too late to change anything */
    assert_int_equal(poll_job(id).state, CORE_JOB_FAILED);

    c->session->unmerge_id = 0;
    assert_int_equal(jobs_start_unmerge(core, "c", &id), 0);
    jobs_session_lost(c->vm);
    assert_int_equal(poll_job(id).error, ECONNRESET);
    take_memory_back();
}

struct waiter {
    uint64_t id;
    _Atomic bool waits;
    unsigned ended, now;
    uint64_t waited_ns;
};

static void *wait_long(void *arg)
{
    struct waiter *w = arg;
    uint64_t begun_ns = clock_now_ns();

    atomic_store(&w->waits, true);
    jobs_wait(&core->jobs, w->ended, 600000);
    w->now = jobs_ended(&core->jobs);
    w->waited_ns = clock_now_ns() - begun_ns;
    return NULL;
}

/* However it ends; and who asks when it has, does not wait. */
static void who_waits_hears_of_an_end(void **state)
{
    struct waiter w = {0};
    pthread_t thread;
    (void)state;

    make_vm("a");
    w.ended = jobs_ended(&core->jobs);
    assert_int_equal(jobs_start_settle(core, &w.id), 0);
    uint64_t begun_ns = clock_now_ns();
    jobs_wait(&core->jobs, w.ended, 2);
    assert_true(clock_now_ns() - begun_ns >= 2 * CLOCK_MS);
    assert_int_equal(pthread_create(&thread, NULL, wait_long, &w), 0);
    while (!atomic_load(&w.waits))
        sched_yield();
    assert_int_equal(jobs_cancel(core, w.id), 0);
    pthread_join(thread, NULL);
    assert_int_equal(w.now, w.ended + 1);
    assert_true(w.waited_ns < 500000 * CLOCK_MS);
    jobs_wait(&core->jobs, w.ended, 600000); /* does not wait */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_latest_are_remembered),
        TEST(those_that_run_are_not_forgotten),
        TEST(settled_is_what_began_after_the_question),
        TEST(an_estimate_counts_contents),
        TEST(an_unmerge_that_does_not_fit_is_not_begun),
        TEST(an_unmerge_ends_with_the_last_vm),
        TEST(who_waits_hears_of_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
