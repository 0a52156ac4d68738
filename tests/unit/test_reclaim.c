/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What fits together of budgets and terms, and that the daemon's own orders give way to a user's. */
#include "memd/common/clock.h"
#include "memd/daemon/paging.h"
#include "memd/daemon/terms.h"
#include "memd/daemon/terms_file.h"
#include "tests/unit/world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MIB (1ull << 20)

static struct world *world;
static struct core *core;
static struct vm *a, *b;
static char reason[CORE_REASON_BYTES];

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
    strcpy(core->config.domains[0].name, world->domain[0]->name);
    world->domain[0]->configured = true;
    core->config.ndomains = 1;
    return 0;
}

static int end(void **state)
{
    (void)state;
    core->reclaim.file_read = true; /* so that it is ours to remove */
    terms_file_close(core);
    world_close(world);
    return 0;
}

static int set(const char *vm, unsigned which, uint64_t reservation, uint64_t limit)
{
    struct budget_terms terms = {.reservation_bytes = reservation, .limit_bytes = limit};

    reason[0] = '\0';
    return terms_set_vm(core, vm, which, &terms, &terms, reason);
}

static void the_first_rule_that_matches_counts(void **state)
{
    static const struct {
        const char *name;
        uint32_t shares;
    } cases[] = {{"web-1", 1}, {"web-", 1}, {"db", 2}, {"dc", 3}, {"we", 3}, {"", 3}};
    struct budget_terms terms;
    (void)state;

    core->config.nvm_rules = 3;
    core->config.vm_rules[0] = (struct core_vm_rule){"web-*", {.shares = 1}};
    core->config.vm_rules[1] = (struct core_vm_rule){"d[ab]", {.shares = 2}};
    core->config.vm_rules[2] = (struct core_vm_rule){"*", {.shares = 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        terms_of_rules(&core->config, cases[i].name, &terms);
        assert_int_equal(terms.shares, cases[i].shares);
    }
    core->config.nvm_rules = 0;
    terms_of_rules(&core->config, "web-1", &terms);
    assert_int_equal(terms.shares, 0);
}

static void reservations_and_budgets_fit(void **state)
{
    const char *domain = world->domain[0]->name;
    (void)state;

    assert_int_equal(set("a", CORE_TERM_RESERVATION, 60 * MIB, 0), 0);
    assert_int_equal(set("b", CORE_TERM_RESERVATION, 40 * MIB, 0), 0);
    assert_int_equal(terms_set_budget(core, NULL, 99 * MIB, reason), -ERANGE);
    assert_string_equal(reason, "99 MiB are less than the 100 MiB that are reserved");
    assert_int_equal(core->config.budget_bytes, 0);
    assert_int_equal(terms_set_budget(core, NULL, 100 * MIB, reason), 0);
    assert_int_equal(set("b", CORE_TERM_RESERVATION, 41 * MIB, 0), -ERANGE);
    assert_non_null(strstr(reason, "others have reserved 60 of 100 MiB"));
    assert_int_equal(b->reclaim.terms.reservation_bytes, 40 * MIB);
    assert_int_equal(set("b", CORE_TERM_RESERVATION, 39 * MIB, 0), 0); /* less is always fine */

    assert_int_equal(terms_set_budget(core, "nowhere", 1, reason), -ENOENT);
    assert_int_equal(terms_set_budget(core, domain, 59 * MIB, reason), -ERANGE);
    assert_int_equal(terms_set_budget(core, domain, 60 * MIB, reason), 0);
    assert_int_equal(set("a", CORE_TERM_RESERVATION, 61 * MIB, 0), -ERANGE);
    assert_non_null(strstr(reason, domain));
    assert_int_equal(terms_set_budget(core, domain, 0, reason), 0);
    assert_int_equal(set("a", CORE_TERM_RESERVATION, 61 * MIB, 0), 0);
    assert_int_equal(terms_set_budget(core, NULL, 0, reason), 0);
}

static void a_limit_is_not_below_the_reservation(void **state)
{
    (void)state;
    assert_int_equal(set("c", CORE_TERM_LIMIT, 0, MIB), -ENOENT);
    assert_int_equal(set("a", CORE_TERM_RESERVATION | CORE_TERM_LIMIT, 10 * MIB, 9 * MIB), -ERANGE);
    assert_int_equal(a->reclaim.terms.reservation_bytes, 0);
    assert_int_equal(set("a", CORE_TERM_RESERVATION | CORE_TERM_LIMIT, 10 * MIB, 10 * MIB), 0);
    assert_int_equal(set("a", CORE_TERM_RESERVATION, 11 * MIB, 0), -ERANGE);
    assert_int_equal(set("a", CORE_TERM_LIMIT, 0, 0), 0);           /* no limit */
    assert_int_equal(a->reclaim.terms.reservation_bytes, 10 * MIB); /* what is not named stays */
}

/* As if another daemon had begun, with the configuration as it was. */
static void begin_anew(struct awaited *awaited)
{
    struct budget_terms none = {0};

    core->config.budget_bytes = core->config.domains[0].budget_bytes = 0;
    core->config.domains[0].budget_set = core->reclaim.budget_set = core->reclaim.dry_run_set = false;
    core->config.dry_run = !core->config.dry_run; /* what the file says counts */
    a->reclaim.terms = b->reclaim.terms = none;
    a->reclaim.terms_set = b->reclaim.terms_set = false;
    if (awaited)
        cds_list_add_tail(&awaited->link, &world->domain[0]->awaited);
    core->nawaited = awaited ? 1 : 0;
    terms_file_read(core);
    if (awaited)
        cds_list_del(&awaited->link);
}

static void what_users_set_is_kept(void **state)
{
    struct awaited awaited = {.domain = world->domain[0], .entry = {.pid = 7, .start = 8, .name = "a"}};
    struct budget_terms terms = {.shares = BUDGET_SHARES_LOW, .swap_never = true};
    (void)state;

    a->engine.pid = 7;
    a->engine.start = 8;
    b->engine.pid = 9;
    assert_int_equal(terms_set_budget(core, NULL, 100 * MIB, reason), 0);
    assert_int_equal(terms_set_budget(core, world->domain[0]->name, 90 * MIB, reason), 0);
    assert_int_equal(set("a", CORE_TERM_RESERVATION | CORE_TERM_LIMIT, 10 * MIB, 20 * MIB), 0);
    assert_int_equal(terms_set_vm(core, "a", CORE_TERM_SHARES | CORE_TERM_SWAP, &terms, &terms, reason), 0);
    assert_int_equal(set("b", CORE_TERM_LIMIT, 0, 30 * MIB), 0);

    for (int daemons = 0; daemons < 2; daemons++) { /* the second finds what the first has not given out */
        begin_anew(&awaited);
        assert_int_equal(core->config.budget_bytes, 100 * MIB);
        assert_int_equal(core->config.domains[0].budget_bytes, 90 * MIB);
        assert_int_equal(core->reclaim.nrecalled, 1); /* b has ended */
        terms_file_write(core);
        core->reclaim.nrecalled = 0;
    }
    begin_anew(&awaited);
    terms_file_give(b);
    assert_int_equal(b->reclaim.terms.limit_bytes, 0);
    terms_file_give(a);
    assert_int_equal(core->reclaim.nrecalled, 0);
    assert_int_equal(a->reclaim.terms.reservation_bytes, 10 * MIB);
    assert_int_equal(a->reclaim.terms.limit_bytes, 20 * MIB);
    assert_int_equal(a->reclaim.terms.shares, BUDGET_SHARES_LOW);
    assert_true(a->reclaim.terms.swap_never);
    assert_int_equal(terms_set_budget(core, NULL, 0, reason), 0); /* none is a setting, too */
    terms_set_dry_run(core, true);
    begin_anew(&awaited);
    assert_true(core->config.dry_run && core->reclaim.dry_run_set);
    terms_set_dry_run(core, false);
    core->reclaim.nrecalled = 0;
    begin_anew(&awaited);
    assert_true(!core->config.dry_run && core->reclaim.dry_run_set);
    assert_true(core->reclaim.budget_set);
    assert_int_equal(core->config.budget_bytes, 0);
    assert_int_equal(core->reclaim.nrecalled, 1);

    core->reclaim.nrecalled = 0;
    begin_anew(NULL); /* nobody is left */
    assert_false(core->reclaim.budget_set);
    begin_anew(&awaited);
    assert_int_equal(core->config.domains[0].budget_bytes, 0);
    assert_int_equal(core->reclaim.nrecalled, 0);
}

/* What a look finds when `wanted` bytes are used too much. The daemon is this process, and has no little. */
static void look_again(uint64_t wanted)
{
    static uint64_t now_ns = 1000 * CLOCK_S;

    core->config.budget_bytes = 0;
    for (int i = 0; i < 2; i++) { /* the first one measures */
        a->paging = b->paging = (struct paging){0};
        reclaim_tick(core, now_ns += 100 * CLOCK_S);
        core->config.budget_bytes = (core->reclaim.used_bytes - wanted) / 98 * 100;
    }
    assert_int_equal(core->reclaim.host.state, BUDGET_LOW);
}

static void assert_both_give(void)
{
    assert_true(a->reclaim.target_bytes < a->reclaim.usage.resident_bytes);
    assert_in_range(a->reclaim.target_bytes, b->reclaim.target_bytes - 8192, b->reclaim.target_bytes + 8192);
}

/* The working set the engines estimate decides who gives: of two alike, the one that uses less. */
static void the_idle_give_first(void **state)
{
    const uint64_t pages = 512;
    (void)state;

    core->nvms = 2;
    a->engine.pid = b->engine.pid = -1; /* no process: usage goes by what the engines say */
    core->config.free_soft_percent = core->config.free_hard_percent = core->config.free_low_percent = 0;
    look_again(MIB); /* of four; nothing is known of either */
    assert_both_give();

    a->stats.sample_periods = b->stats.sample_periods = 1;
    a->stats.working_set_pages = pages;
    b->stats.working_set_pages = 16;
    b->stats.unsampled_pages = 16;
    assert_int_equal(vm_working_set_pages(b), 32);
    look_again(MIB);
    assert_true(b->reclaim.target_bytes < b->reclaim.usage.resident_bytes - MIB * 9 / 10);
    assert_int_equal(a->reclaim.target_bytes, a->reclaim.usage.resident_bytes);

    b->stats.unsampled_pages = pages; /* huge, pinned: taken for used */
    assert_int_equal(vm_working_set_pages(b), pages);
    look_again(MIB);
    assert_both_give();
}

static int answer(const struct vm *vm, uint64_t id, uint64_t pages, int error)
{
    return paging_answered(vm->session, &(struct wire_rec_paged){.id = id, .pages = pages, .error = error});
}

static const struct budget_order cold = {
    .pages = 100, .state = BUDGET_SOFT, .depth = BUDGET_SOFT, .park_ms = 1000};

static void an_order_that_finds_too_little_is_remembered(void **state)
{
    (void)state;
    paging_order_own(a, &cold);
    paging_send(a->session);
    assert_int_equal(a->session->page.pages, 100);
    assert_int_equal(a->session->page.flags, 0);
    assert_int_equal(answer(a, 1, 50, 0), 0);
    assert_int_equal(a->paging.own.pages, 0);
    assert_int_equal(a->reclaim.policy.dry, BUDGET_HIGH);
    paging_order_own(a, &cold);
    paging_send(a->session);
    assert_int_equal(answer(a, 2, 0, ECANCELED), 0); /* was not given the time */
    assert_int_equal(a->reclaim.policy.dry, BUDGET_HIGH);
    paging_order_own(a, &cold);
    paging_send(a->session);
    assert_int_equal(answer(a, 3, 49, 0), 0);
    assert_int_equal(a->reclaim.policy.dry, BUDGET_SOFT);
    assert_int_equal(answer(a, 4, 1, 0), -EPROTO); /* nothing was asked */
    assert_int_equal(a->reclaim.policy.no_swap_ns, 0);
    paging_order_own(a, &cold);
    paging_send(a->session);
    assert_int_equal(answer(a, 4, 100, ENOSPC), 0);
    assert_true(a->reclaim.policy.no_swap_ns);
}

/* A user's job takes the place of an order sent, or not sent yet; whose answer it is goes by the number. */
static void a_users_job_goes_first(void **state)
{
    const struct core_paging what = {.bytes = 40 * WIRE_PAGE_BYTES, .swap = true};
    struct core_job job;
    uint64_t id;
    (void)state;

    for (int sent = 0; sent < 2; sent++) {
        uint64_t before = a->session->page_sent;
        paging_order_own(a, &cold);
        if (sent)
            paging_send(a->session);
        assert_int_equal(paging_start(core, "a", true, &what, &id), 0);
        assert_int_equal(a->paging.own.pages, 0);
        assert_int_equal(a->session->page.pages, 40);
        assert_true(a->session->page.flags & WIRE_PAGEOUT_SWAP);
        paging_send(a->session);
        if (sent)
            assert_int_equal(answer(a, ++before, 3, ECANCELED), 0);
        assert_int_equal(jobs_poll(core, id, &job), 0);
        assert_int_equal(job.state, CORE_JOB_RUNNING);
        assert_int_equal(answer(a, ++before, 40, 0), 0);
        assert_int_equal(jobs_poll(core, id, &job), 0);
        assert_int_equal(job.state, CORE_JOB_DONE);
        assert_int_equal(job.paged_bytes, 40 * WIRE_PAGE_BYTES);
    }
    a->reclaim.terms.swap_never = true; /* not even by hand */
    assert_int_equal(paging_start(core, "a", true, &what, &id), 0);
    assert_false(a->session->page.flags & WIRE_PAGEOUT_SWAP);
    assert_int_equal(jobs_cancel(core, id), 0);
    paging_order_own(a, &cold);
    paging_session_lost(a);
    assert_int_equal(a->paging.own.pages, 0);
}

/* In a dry run it is decided and told as ever, and no engine hears of it. */
static void a_dry_run_orders_nothing(void **state)
{
    struct core_why *why;
    (void)state;

    core->nvms = 2;
    a->engine.pid = b->engine.pid = -1;
    core->config.free_soft_percent = core->config.free_hard_percent = core->config.free_low_percent = 0;
    look_again(MIB);
    assert_true(a->paging.own.pages && a->session->page_due);
    assert_int_equal(reclaim_explain(core, "a", &why), 0);
    assert_int_equal(why->entry[0].why.reason, BUDGET_ORDERED);
    assert_false(why->entry[0].dry_run || why->dry_run);
    unsigned n = why->n;
    free(why);

    paging_send(a->session);
    terms_set_dry_run(core, true);
    assert_int_equal(a->paging.own.pages, 0);
    assert_int_equal(a->session->page.pages, 0); /* ends the one that was sent */
    uint64_t sent = a->session->page_sent;
    paging_send(a->session);
    assert_int_equal(a->session->page_sent, sent + 1);
    look_again(MIB);
    assert_both_give(); /* would */
    assert_int_equal(a->paging.own.pages, 0);
    assert_false(a->session->page_due);
    assert_int_equal(reclaim_explain(core, "a", &why), 0);
    assert_int_equal(why->n, n + 1);
    assert_int_equal(why->entry[0].why.reason, BUDGET_ORDERED);
    assert_true(why->entry[0].dry_run && why->dry_run);
    free(why);
    assert_int_equal(reclaim_explain(core, "c", &why), -ENOENT);

    core->reclaim.shown.state = BUDGET_LOW;
    assert_false(reclaim_refuses(core, world->domain[0], reason, sizeof reason));
    terms_set_dry_run(core, false);
    assert_true(reclaim_refuses(core, world->domain[0], reason, sizeof reason));
    look_again(MIB);
    assert_true(a->paging.own.pages);
}

/* What the daemon sees of a VM that may not be asked. */
static void who_cannot_give_is_excluded(void **state)
{
    static const struct {
        uint64_t state;
        bool job, session;
        enum budget_excluded excluded;
    } cases[] = {
        {WIRE_VM_RUNNING, false, true, BUDGET_INCLUDED}, {WIRE_VM_PAUSED, false, true, BUDGET_PAUSED},
        {WIRE_VM_CLOSING, false, true, BUDGET_CLOSING},  {WIRE_VM_RUNNING, true, true, BUDGET_JOB},
        {WIRE_VM_RUNNING, false, false, BUDGET_LOST},
    };
    struct session *session = a->session;
    (void)state;

    core->nvms = 2;
    a->engine.pid = b->engine.pid = -1;
    core->config.free_soft_percent = core->config.free_hard_percent = core->config.free_low_percent = 0;
    look_again(MIB); /* now there is a budget */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct core_why *why;
        a->stats.state = cases[i].state;
        a->session = cases[i].session ? session : NULL;
        a->paging = (struct paging){.job = cases[i].job ? 77 : 0};
        core->reclaim.looked_ns = 0;
        reclaim_tick(core, 1000000 * CLOCK_S + i * CLOCK_S);
        bool ordered = a->paging.own.pages;
        a->session = session;
        assert_int_equal(reclaim_explain(core, "a", &why), 0);
        assert_int_equal(why->entry[0].vm.excluded, cases[i].excluded);
        assert_int_equal(why->entry[0].why.reason, cases[i].excluded ? BUDGET_EXCLUDED : BUDGET_ORDERED);
        assert_int_equal(ordered, !cases[i].excluded);
        free(why);
    }
    a->paging = (struct paging){0};
    a->stats.state = WIRE_VM_RUNNING;
    a->stats.ineligible_bytes[0] = a->stats.ineligible_bytes[1] = 256 * WIRE_PAGE_BYTES; /* all of it */
    look_again(MIB);
    assert_int_equal(a->paging.own.pages, 0);
    assert_int_equal(a->reclaim.usage.reclaimable_bytes, 0);
    assert_int_equal(why_entry_at(&a->reclaim.why, 0)->why.reason, BUDGET_INELIGIBLE);
    assert_true(b->paging.own.pages);
}

static void low_lets_nobody_in(void **state)
{
    char why[120] = "";
    (void)state;

    assert_false(reclaim_refuses(core, world->domain[0], why, sizeof why));
    core->reclaim.shown.state = BUDGET_HARD;
    assert_false(reclaim_refuses(core, world->domain[0], why, sizeof why));
    world->domain[0]->shown.state = BUDGET_LOW;
    world->domain[0]->memory = (struct budget_scope){.used_bytes = 9 * MIB, .budget_bytes = 8 * MIB};
    assert_true(reclaim_refuses(core, world->domain[0], why, sizeof why));
    assert_string_equal(why, "memory is low: 9 of 8 MiB of the budget of domain domain-0 are in use");
    assert_false(reclaim_refuses(core, world->domain[1], why, sizeof why));
    core->reclaim.shown.state = BUDGET_LOW;
    assert_true(reclaim_refuses(core, world->domain[1], why, sizeof why));
}

/* Guests may ask for as many looks as they like: memd does other things, too. */
static void looks_that_are_asked_for_leave_time(void **state)
{
    uint64_t begun_ns = clock_now_ns(), now_ns, took_ns = 0, last_ns = 0;
    unsigned asked = 0, looks = 0;
    (void)state;

    while ((now_ns = clock_now_ns()) - begun_ns < 100 * CLOCK_MS) {
        asked++;
        reclaim_look_now(core, now_ns);
        if (core->reclaim.looked_ns != now_ns)
            continue;
        looks++;
        took_ns += last_ns;
        assert_true(5 * took_ns <= now_ns - begun_ns); /* a tenth, but for how both are measured */
        last_ns = clock_now_ns() - now_ns;
    }
    assert_true(looks > 0 && looks < asked);
    core->reclaim.rest_until_ns = UINT64_MAX;
    reclaim_look_now(core, now_ns);
    assert_int_equal(core->reclaim.looked_ns, 0);
    reclaim_tick(core, now_ns); /* what was put off comes with the next tick */
    assert_int_equal(core->reclaim.looked_ns, now_ns);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_first_rule_that_matches_counts),
        TEST(reservations_and_budgets_fit),
        TEST(a_limit_is_not_below_the_reservation),
        TEST(what_users_set_is_kept),
        TEST(the_idle_give_first),
        TEST(an_order_that_finds_too_little_is_remembered),
        TEST(a_users_job_goes_first),
        TEST(a_dry_run_orders_nothing),
        TEST(who_cannot_give_is_excluded),
        TEST(low_lets_nobody_in),
        TEST(looks_that_are_asked_for_leave_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
