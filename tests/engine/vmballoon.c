/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VM's balloon in the engine: what the daemon is told and asked for, callbacks, a daemon that knows
 * nothing of balloons, pauses, daemons that come and go.
 */
#include "rig.h"

#include "memd/balloon.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES 1024u
#define MIB    (1ull << 20)
#define RAM    (64 * MIB)

static struct {
    struct memd *memd;
    _Atomic uint64_t target;
    _Atomic unsigned sets, stats;
    _Atomic int refuse;
    _Atomic bool block, blocked; /* a callback that does not return */
} vmm;

static int on_target(void *ctx, uint64_t bytes)
{
    struct memd_balloon_info info = {.size = sizeof info, .target_bytes = bytes, .running = 1};

    (void)ctx;
    vmm.target = bytes;
    vmm.sets++;
    while (vmm.block) {
        vmm.blocked = true;
        usleep(1000);
    }
    vmm.blocked = false;
    if (vmm.refuse)
        return -vmm.refuse;
    OK(memd_balloon_update(vmm.memd, &info, NULL)); /* it may */
    return 0;
}

static int on_stats(void *ctx)
{
    (void)ctx;
    vmm.stats++;
    return 0;
}

static const struct memd_balloon_ops ops = {
    .size = sizeof ops, .ram_bytes = RAM, .set_target = on_target, .ask_stats = on_stats};

static struct rig open_rig(bool balloons)
{
    static struct wire_rec_budget still;
    struct script_options options = {.budget = &still, .balloons = balloons};

    memset(&vmm, 0, sizeof vmm);
    still = script_budget_full();
    still.scan_pages_per_s = 0;
    struct rig rig = rig_open(&options, NPAGES, NULL);
    vmm.memd = rig.memd;
    return rig;
}

static bool has_said(struct script_vm *vm, void *arg)
{
    return vm->balloons > *(uint64_t *)arg;
}

static bool has_answered(struct script_vm *vm, void *arg)
{
    return vm->balloon.answered == *(uint64_t *)arg;
}

static uint64_t how_many(struct script_vm *vm)
{
    pthread_mutex_lock(&vm->script->lock);
    uint64_t n = vm->balloons;
    pthread_mutex_unlock(&vm->script->lock);
    return n;
}

static uint64_t sessions_of(struct script_vm *vm)
{
    pthread_mutex_lock(&vm->script->lock);
    uint64_t n = vm->sessions_seen;
    pthread_mutex_unlock(&vm->script->lock);
    return n;
}

/* The next one after `n`. */
static struct wire_rec_balloon said(struct script_vm *vm, uint64_t n)
{
    CHECK(script_wait(vm, has_said, &n, SCRIPT_WAIT_MS), "nothing was said of the balloon");
    pthread_mutex_lock(&vm->script->lock);
    struct wire_rec_balloon rec = vm->balloon;
    pthread_mutex_unlock(&vm->script->lock);
    return rec;
}

static struct wire_rec_balloon ask(struct script_vm *vm, uint64_t id, uint32_t flags, uint64_t bytes)
{
    CHECK(script_balloon_ask(vm, id, flags, bytes), "the session is over");
    CHECK(script_wait(vm, has_answered, &id, SCRIPT_WAIT_MS), "no answer");
    return said(vm, 0);
}

static bool is_actual(struct script_vm *vm, void *arg)
{
    return vm->balloon.actual_bytes == *(uint64_t *)arg;
}

static void errors(void **state)
{
    struct memd_balloon_info info = {.size = sizeof info};
    struct rig rig = open_rig(true);
    struct memd_balloon_ops bad;

    (void)state;
    EQUALS(memd_balloon_attach(NULL, &ops), -EINVAL);
    EQUALS(memd_balloon_attach(rig.memd, NULL), -EINVAL);
#define BAD(field, value)                                     \
    do {                                                      \
        bad = ops;                                            \
        bad.field = (value);                                  \
        EQUALS(memd_balloon_attach(rig.memd, &bad), -EINVAL); \
    } while (0)
    BAD(size, sizeof bad - 1);
    BAD(ram_bytes, 0);
    BAD(ram_bytes, RAM + 1);
    BAD(ram_bytes, (1ull << 50) + PAGE);
    BAD(set_target, NULL);
#undef BAD
    EQUALS(memd_balloon_update(rig.memd, &info, NULL), -ENOENT);
    EQUALS(memd_balloon_detach(rig.memd), -ENOENT);
    OK(memd_balloon_attach(rig.memd, &ops));
    EQUALS(memd_balloon_attach(rig.memd, &ops), -EEXIST);
    EQUALS(memd_balloon_update(rig.memd, NULL, NULL), -EINVAL);
    info.size--;
    EQUALS(memd_balloon_update(rig.memd, &info, NULL), -EINVAL);
    OK(memd_balloon_detach(rig.memd));
    EQUALS(memd_balloon_detach(rig.memd), -ENOENT);
    rig_close(&rig);
}

static void is_told_and_asked(void **state)
{
    struct memd_balloon_info info = {
        .size = sizeof info, .running = 1, .features = MEMD_BALLOON_STATS_VQ | MEMD_BALLOON_PAGE_REPORTING};
    uint64_t stats[MEMD_BALLOON_TAGS] = {[MEMD_BALLOON_FREE_BYTES] = 7 * MIB}, actual = 3 * MIB;
    struct rig rig = open_rig(true);

    (void)state;
    OK(memd_balloon_attach(rig.memd, &ops));
    struct wire_rec_balloon is = said(rig.vm, 0);
    EQUALS(is.flags, WIRE_BALLOON_ATTACHED);
    EQUALS(is.ram_bytes, RAM);
    EQUALS(is.stats_serial, 0);

    is = ask(rig.vm, 1, WIRE_BALLOON_SET | WIRE_BALLOON_STATS_WANTED, 8 * MIB + 5);
    EQUALS(is.error, 0);
    EQUALS(is.target_bytes, 8 * MIB);
    EQUALS(vmm.target, 8 * MIB);
    EQUALS(vmm.stats, 1);
    EQUALS(is.flags, WIRE_BALLOON_ATTACHED | WIRE_BALLOON_DRIVER);
    is = ask(rig.vm, 2, 0, 0); /* only how it is */
    EQUALS(vmm.sets, 1);

    vmm.refuse = ENOMEM;
    is = ask(rig.vm, 3, WIRE_BALLOON_SET, 16 * MIB);
    EQUALS(is.error, ENOMEM);
    EQUALS(is.target_bytes, 8 * MIB);
    is = ask(rig.vm, 4, WIRE_BALLOON_SET, RAM + PAGE); /* not passed on */
    EQUALS(is.error, ERANGE);
    EQUALS(vmm.sets, 2);

    info.target_bytes = 8 * MIB;
    info.actual_bytes = actual;
    OK(memd_balloon_update(rig.memd, &info, stats));
    CHECK(script_wait(rig.vm, is_actual, &actual, SCRIPT_WAIT_MS), "what has changed is not told");
    is = said(rig.vm, 0);
    EQUALS(is.flags,
           WIRE_BALLOON_ATTACHED | WIRE_BALLOON_DRIVER | WIRE_BALLOON_STATS | WIRE_BALLOON_REPORTING);
    EQUALS(is.stats_serial, 1);
    EQUALS(is.stats[MEMD_BALLOON_FREE_BYTES], 7 * MIB);
    info.actual_bytes = actual = UINT64_MAX;
    OK(memd_balloon_update(rig.memd, &info, NULL));
    actual = RAM;
    CHECK(script_wait(rig.vm, is_actual, &actual, SCRIPT_WAIT_MS), "more than RAM is not RAM");

    uint64_t before = how_many(rig.vm);
    OK(memd_balloon_detach(rig.memd));
    EQUALS(said(rig.vm, before).flags, 0);
    is = ask(rig.vm, 5, WIRE_BALLOON_SET, 0);
    EQUALS(is.error, ENODEV);
    EQUALS(vmm.sets, 2);
    rig_close(&rig);
}

/* Guests move their balloons as fast as they like: the ring is not filled with that. */
static void is_told_seldom(void **state)
{
    struct memd_balloon_info info = {.size = sizeof info, .running = 1};
    struct rig rig = open_rig(true);

    (void)state;
    OK(memd_balloon_attach(rig.memd, &ops));
    said(rig.vm, 0);
    uint64_t begun = kit_ms(), before = how_many(rig.vm);
    for (uint64_t i = 1; kit_ms() - begun < 500; i++) {
        info.actual_bytes = i % 1000 * PAGE;
        OK(memd_balloon_update(rig.memd, &info, NULL));
    }
    uint64_t passed = kit_ms() - begun;
    uint64_t told = how_many(rig.vm) - before;
    CHECK(told >= 1 && told <= passed / 10 + 2, "%llu records in %llu ms", (unsigned long long)told,
          (unsigned long long)passed);
    info.actual_bytes = 5 * MIB;
    OK(memd_balloon_update(rig.memd, &info, NULL));
    CHECK(script_wait(rig.vm, is_actual, &info.actual_bytes, SCRIPT_WAIT_MS), "the last one is not told");
    rig_close(&rig);
}

/* One that does not take BALLOON records gets none (a violation), and goes on with everything else. */
static void an_old_daemon_is_told_nothing(void **state)
{
    struct memd_balloon_info info = {.size = sizeof info, .running = 1, .actual_bytes = MIB};
    struct rig rig = open_rig(false);

    (void)state;
    CHECK(rig.vm->speaks_balloon, "HELLO does not say that balloons are known");
    OK(memd_balloon_attach(rig.memd, &ops));
    OK(memd_balloon_update(rig.memd, &info, NULL));
    CHECK(script_fence(rig.vm) && script_fence(rig.vm), "the session is over");
    OK(memd_balloon_detach(rig.memd));
    CHECK(script_fence(rig.vm), "the session is over");
    rig_close(&rig);
}

static void is_asked_while_paused(void **state)
{
    struct rig rig = open_rig(true);

    (void)state;
    OK(memd_balloon_attach(rig.memd, &ops));
    OK(memd_pause(rig.memd));
    EQUALS(ask(rig.vm, 1, WIRE_BALLOON_SET, MIB).target_bytes, MIB);
    OK(memd_resume(rig.memd));
    rig_close(&rig);
}

/* A new daemon is told how it is; what its predecessor asked for is its no more. */
static void a_new_daemon_is_told(void **state)
{
    struct rig rig = open_rig(true);

    (void)state;
    OK(memd_balloon_attach(rig.memd, &ops));
    EQUALS(ask(rig.vm, 9, WIRE_BALLOON_SET, MIB).target_bytes, MIB);
    uint64_t sessions = sessions_of(rig.vm), before = how_many(rig.vm);
    script_vanish(rig.script);
    script_appear(rig.script);
    script_wait_back(rig.vm, sessions);
    struct wire_rec_balloon is = said(rig.vm, before);
    EQUALS(is.flags, WIRE_BALLOON_ATTACHED | WIRE_BALLOON_DRIVER);
    EQUALS(is.target_bytes, MIB);
    EQUALS(is.answered, 0);
    /* and that there is none any more, which it may not have heard */
    sessions = sessions_of(rig.vm);
    script_vanish(rig.script);
    OK(memd_balloon_detach(rig.memd));
    before = how_many(rig.vm);
    script_appear(rig.script);
    script_wait_back(rig.vm, sessions);
    EQUALS(said(rig.vm, before).flags, 0);
    rig_close(&rig);
}

static void *detach(void *arg)
{
    OK(memd_balloon_detach(arg));
    return NULL;
}

/* A callback that does not return holds up nothing but detach(), which waits for it. */
static void a_callback_that_hangs(void **state)
{
    struct rig rig = open_rig(true);
    pthread_t thread;

    (void)state;
    OK(memd_balloon_attach(rig.memd, &ops));
    said(rig.vm, 0);
    vmm.block = true;
    CHECK(script_balloon_ask(rig.vm, 1, WIRE_BALLOON_SET, MIB), "the session is over");
    while (!vmm.blocked)
        usleep(1000);
    OK(memd_discard(rig.memd, rig.region, 0, PAGE));
    EQUALS(guest_read(rig.ram), 0);
    OK(memd_pin(rig.memd, rig.region, 0, PAGE));
    OK(memd_unpin(rig.memd, rig.region, 0, PAGE));
    vmm.refuse = EAGAIN; /* it is not attached any more when it gets on */
    CHECK(!pthread_create(&thread, NULL, detach, rig.memd), "pthread_create");
    usleep(20000);
    CHECK(vmm.blocked, "the callback is gone");
    vmm.block = false;
    pthread_join(thread, NULL);
    CHECK(!vmm.blocked, "detach() did not wait");
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),
        cmocka_unit_test(is_told_and_asked),
        cmocka_unit_test(is_told_seldom),
        cmocka_unit_test(an_old_daemon_is_told_nothing),
        cmocka_unit_test(is_asked_while_paused),
        cmocka_unit_test(a_new_daemon_is_told),
        cmocka_unit_test(a_callback_that_hangs),
    };

    kit_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
