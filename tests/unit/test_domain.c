/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Domains: who may join, when frames are free, and what a daemon makes of what an earlier one left. The VMs
 * here have no engine: what they hold is what the test says. */
#include "memd/daemon/domain.h"

#include "memd/common/clock.h"
#include "memd/common/log.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

static char dir[64];
static struct core *core;

static int no_visit(void *ctx, const struct registry_entry *entry)
{
    (void)entry;
    ++*(unsigned *)ctx;
    return 0;
}

static void make_core(void)
{
    core = calloc(1, sizeof *core);
    core_config_default(&core->config);
    CDS_INIT_LIST_HEAD(&core->domains);
    CDS_INIT_LIST_HEAD(&core->vms);
    CDS_INIT_LIST_HEAD(&core->sessions);
    CDS_INIT_LIST_HEAD(&core->agents.list);
    core->store_fd = open(dir, O_RDONLY | O_DIRECTORY);
    assert_true(core->store_fd >= 0);
    assert_int_equal(loop_open(&core->loop), 0);
    core->nnodes = 1;
    core->store_file_bytes = 64 << 20;
    core->quota.frames_max = UINT32_MAX;
    core->merge_on = true;
    snprintf(core->store_path, sizeof core->store_path, "%s", dir);
    core->config.ndomains = 1;
    core->config.domains[0] = (struct core_domain_config){.name = "web", .nuids = 1, .uids = {4711}};
}

/* As a daemon ends: with SIGKILL nothing is removed. */
static void end_core(bool killed)
{
    struct domain *domain, *next;
    struct vm *vm, *next_vm;

    heirs_close(core);
    cds_list_for_each_entry_safe (vm, next_vm, &core->vms, link) {
        if (!killed) {
            vm_gone(vm);
            continue;
        }
        vm->domain->kept = true;
        vm_forget(vm);
    }
    cds_list_for_each_entry_safe (domain, next, &core->domains, link)
        domain_close(domain);
    pages_close(&core->pages);
    close(core->store_fd);
    loop_close(&core->loop);
    free(core);
}

static int start(void **state)
{
    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    strcpy(dir, "/dev/shm/memd-domain.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    make_core();
    return 0;
}

static int end(void **state)
{
    (void)state;
    end_core(false);
    return rmdir(dir);
}

/* ---------------------------------------------------------------- VMs of the test */

static pid_t spawn(void)
{
    pid_t pid = fork();

    if (!pid) {
        pause();
        _exit(0);
    }
    return pid;
}

static void reap(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static struct registry_entry entry_of(pid_t pid, const char *name)
{
    struct registry_entry entry = {.pid = pid, .uid = 4711, .merge_on = true};

    assert_int_equal(proc_start_time("/proc", pid, &entry.start), 0);
    snprintf(entry.name, sizeof entry.name, "%s", name);
    return entry;
}

static struct vm *join(const struct registry_entry *entry, const char *want)
{
    struct domain *domain;
    struct vm *vm;

    assert_int_equal(domain_join(core, want, entry, &domain), 0);
    int pidfd = proc_open_pidfd("/proc", entry->pid, entry->start);
    assert_true(pidfd >= 0);
    assert_int_equal(vm_new(core, domain, entry, pidfd, &vm), 0);
    return vm;
}

/* A frame with bytes of `value`, in the index. */
static uint32_t make_frame(struct domain *domain, int value)
{
    static struct store_lease lease;
    struct store *store = &domain->stores[0];
    uint8_t page[WIRE_PAGE_BYTES];

    if (store->used == 0)
        lease = (struct store_lease){0};
    uint32_t index = store_take(store, &lease);
    assert_int_not_equal(index, 0);
    memset(page, value, sizeof page);
    assert_int_equal(store_write(store, index, 1, page), 0);
    store->frames[index].state = FRAME_LIVE;
    assert_ptr_equal(index_add(&domain->indexes[0], XXH3_64bits(page, sizeof page), &store->frames[index]),
                     &store->frames[index]);
    return store_frame_number(store, index);
}

static struct frame *find_frame(struct domain *domain, int value)
{
    uint8_t page[WIRE_PAGE_BYTES];

    memset(page, value, sizeof page);
    return index_find(&domain->indexes[0], XXH3_64bits(page, sizeof page));
}

static enum frame_state state_of(struct domain *domain, uint32_t number)
{
    return domain_frame(domain, number)->state;
}

/* Long after everything is due. */
static void tend(struct domain *domain)
{
    domain_tend_fence(domain, clock_now_ns() + 10 * CLOCK_S);
}

/* Until a search for heirs has ended. */
static void search(void)
{
    uint64_t before = core->heirs.number;

    core->heirs.next_ns = 0;
    do {
        heirs_tick(core, clock_now_ns());
        usleep(1000);
    } while (core->heirs.number == before || core->heirs.running);
}

/* ---------------------------------------------------------------- joining */

static void who_may_join(void **state)
{
    struct registry_entry a = entry_of(getpid(), "a"), other = a;
    struct domain *own, *web, *again;
    (void)state;

    assert_int_equal(domain_join(core, "db", &a, &own), -ENOENT);
    other.uid = 4712;
    assert_int_equal(domain_join(core, "web", &other, &web), -EACCES);
    assert_true(cds_list_empty(&core->domains));

    assert_int_equal(domain_join(core, "", &a, &own), 0);
    assert_string_equal(own->name, "vm:a");
    assert_false(own->configured);
    assert_int_equal(domain_join(core, "vm:a", &a, &again), 0);
    assert_ptr_equal(again, own);
    assert_int_equal(domain_join(core, "vm:b", &a, &again), -ENOENT);
    other.start++; /* another process of that name */
    assert_int_equal(domain_join(core, "", &other, &again), 0);
    assert_ptr_not_equal(again, own);

    assert_int_equal(domain_join(core, "web", &a, &web), 0);
    assert_true(web->configured);
    other.uid = 0;
    assert_int_equal(domain_join(core, "web", &other, &again), 0);
    assert_ptr_equal(again, web);
}

static void the_longest_names_fit(void **state)
{
    struct registry_entry a = entry_of(getpid(), "");
    struct domain *domain;
    (void)state;

    memset(a.name, 'x', WIRE_NAME_BYTES - 1);
    a.start = UINT64_MAX;
    assert_int_equal(domain_join(core, "", &a, &domain), 0);
    assert_int_equal(strlen(domain->name), 3 + WIRE_NAME_BYTES - 1);
    assert_non_null(strstr(domain->dir, ".18446744073709551615"));
}

static void the_last_one_takes_the_files_along(void **state)
{
    struct registry_entry a = entry_of(getpid(), "a"), b = entry_of(getpid(), "b");
    (void)state;

    struct vm *first = join(&a, "web"), *second = join(&b, "web");
    struct domain *domain = first->domain;
    assert_ptr_equal(second->domain, domain);
    make_frame(domain, 1);
    vm_gone(first);
    assert_int_equal(domain->nvms, 1);
    assert_int_equal(faccessat(core->store_fd, "dom:web/node0.frames", F_OK, 0), 0);
    vm_gone(second);
    assert_true(cds_list_empty(&core->domains));
    assert_int_equal(faccessat(core->store_fd, "dom:web", F_OK, 0), -1);
    assert_int_equal(core->quota.frames, 0);
}

/* ---------------------------------------------------------------- frames */

static void a_frame_is_free_when_all_have_answered(void **state)
{
    struct registry_entry a = entry_of(getpid(), "a"), b = entry_of(getpid(), "b");
    (void)state;

    struct vm *x = join(&a, "web"), *y = join(&b, "web");
    struct domain *domain = x->domain;
    uint32_t frame = make_frame(domain, 1), second = make_frame(domain, 2);
    domain_ref(domain, frame, 2);
    domain_ref(domain, frame, 1);
    assert_int_equal(second, frame + 1);
    assert_int_equal(domain->frames_shared, 2);
    assert_int_equal(domain->refs, 3);

    domain_unref(domain, frame, 2);
    assert_int_equal(state_of(domain, frame), FRAME_LIVE);
    assert_int_equal(state_of(domain, second), FRAME_LIMBO);
    assert_null(find_frame(domain, 2));
    assert_non_null(find_frame(domain, 1));

    domain_tend_fence(domain, clock_now_ns()); /* retired just now: others may follow */
    assert_int_equal(domain->fence, 0);
    tend(domain);
    assert_int_equal(domain->fence, 1);
    domain_unref(domain, frame, 1); /* too late for this fence */
    x->fence = 1;
    tend(domain);
    assert_int_equal(state_of(domain, second), FRAME_LIMBO);
    y->fence = 1;
    tend(domain);
    assert_int_equal(state_of(domain, second), FRAME_FREE);
    assert_int_equal(state_of(domain, frame), FRAME_LIMBO);
    assert_int_equal(domain->fence, 2);
    x->fence = 2;
    vm_gone(y); /* the dead need not answer */
    assert_int_equal(state_of(domain, frame), FRAME_FREE);
    assert_int_equal(store_block_bytes(&domain->stores[0]), 0);
}

static void numbers_that_are_no_frames(void **state)
{
    struct registry_entry a = entry_of(getpid(), "a");
    struct domain *domain = join(&a, "web")->domain;
    (void)state;

    assert_null(domain_frame(domain, 0));
    assert_null(domain_frame(domain, domain->stores[0].nframes));
    assert_null(domain_frame(domain, 1u << WIRE_FRAME_NODE_SHIFT | 1));
    assert_null(domain_frame(domain, UINT32_MAX));
    assert_non_null(domain_frame(domain, 1));
}

/* ---------------------------------------------------------------- heirs */

/* A child that maps the domain's store; the test's own process counts as a VM. */
static pid_t spawn_heir(struct domain *domain)
{
    char byte;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (!pid) {
        void *map = mmap(NULL, WIRE_PAGE_BYTES, PROT_READ, MAP_PRIVATE, domain->stores[0].fd, 0);
        ssize_t n = write(fds[1], "x", 1);
        pause();
        _exit(map == MAP_FAILED || n != 1);
    }
    assert_int_equal(read(fds[0], &byte, 1), 1);
    close(fds[0]);
    close(fds[1]);
    return pid;
}

static void retire_one(struct vm *vm, uint32_t frame)
{
    domain_ref(vm->domain, frame, 1);
    domain_unref(vm->domain, frame, 1);
    tend(vm->domain);
    vm->fence = vm->domain->fence;
    tend(vm->domain);
}

static void an_heir_keeps_frames(void **state)
{
    pid_t pid = spawn();
    struct registry_entry a = entry_of(getpid(), "a"), b = entry_of(pid, "b");
    (void)state;

    struct vm *x = join(&a, "web"), *y = join(&b, "web");
    struct domain *domain = x->domain;
    uint32_t first = make_frame(domain, 1), second = make_frame(domain, 2), third = make_frame(domain, 3);
    pid_t heir = spawn_heir(domain);
    y->forks = 0; /* its session has ended */
    vm_gone(y);
    retire_one(x, first);
    assert_int_equal(state_of(domain, first), FRAME_LIMBO);
    search();
    tend(domain);
    assert_int_equal(state_of(domain, first), FRAME_LIMBO);
    assert_true(core->heirs.next_ns > clock_now_ns());
    reap(heir);
    search();
    tend(domain);
    assert_int_equal(state_of(domain, first), FRAME_FREE);
    retire_one(x, second); /* that was the last doubt */
    assert_int_equal(state_of(domain, second), FRAME_FREE);

    x->forks = 2; /* and a living one says that it has forked */
    retire_one(x, third);
    assert_int_equal(state_of(domain, third), FRAME_LIMBO);
    heirs_tick(core, core->heirs.next_ns + CLOCK_S);
    x->forks = 3; /* again, after the search has begun */
    while (core->heirs.running)
        heirs_tick(core, clock_now_ns());
    tend(domain);
    assert_int_equal(state_of(domain, third), FRAME_LIMBO);
    search();
    tend(domain);
    assert_int_equal(state_of(domain, third), FRAME_FREE);
    reap(pid);
}

/* It has an engine of its own, which does not speak for what it has inherited. */
static void an_heir_may_be_a_vm(void **state)
{
    struct registry_entry a = entry_of(getpid(), "a");
    (void)state;

    struct vm *x = join(&a, "web");
    struct domain *domain = x->domain;
    pid_t heir = spawn_heir(domain);
    struct registry_entry b = entry_of(heir, "b");
    struct vm *y = join(&b, "web");
    uint32_t frame = make_frame(domain, 1);
    y->forks = WIRE_FORKS_HEIR;
    y->fence = UINT64_MAX;
    retire_one(x, frame);
    search();
    tend(domain);
    assert_int_equal(state_of(domain, frame), FRAME_LIMBO);
    reap(heir);
    vm_gone(y);
    search();
    tend(domain);
    assert_int_equal(state_of(domain, frame), FRAME_FREE);
}

/* ---------------------------------------------------------------- after a restart */

static void restart(void)
{
    end_core(true);
    make_core();
    assert_int_equal(domain_reopen_all(core), 0);
}

static void engines_of_an_earlier_daemon_are_awaited(void **state)
{
    pid_t pid = spawn();
    struct registry_entry a = entry_of(getpid(), "a"), b = entry_of(pid, "b");
    (void)state;

    struct domain *domain = join(&a, "web")->domain;
    join(&b, "web");
    uint32_t used = make_frame(domain, 1), unused = make_frame(domain, 2);
    restart();
    assert_int_equal(core->nawaited, 2);
    domain = cds_list_first_entry(&core->domains, struct domain, link);
    assert_string_equal(domain->name, "web");
    assert_int_equal(state_of(domain, used), FRAME_UNHASHED);
    assert_false(domain_is_ready(domain));
    while (domain_rehash(domain, 1))
        ;
    assert_ptr_equal(find_frame(domain, 1), domain_frame(domain, used));

    /* one is back; while the other may hold anything, nothing is retired */
    struct vm *vm = join(&a, "web");
    assert_ptr_equal(vm->domain, domain);
    domain_ref(domain, used, 1);
    domain_forget_awaited(domain_find_awaited(core, &a));
    assert_null(domain_find_awaited(core, &a));
    domain_ref(domain, unused, 1);
    domain_unref(domain, unused, 1);
    tend(domain);
    assert_int_equal(state_of(domain, unused), FRAME_LIVE);

    reap(pid);
    while (core->nawaited)
        assert_int_equal(loop_turn(&core->loop, 1000), 0);
    assert_int_equal(state_of(domain, unused), FRAME_LIMBO);
    assert_int_equal(state_of(domain, used), FRAME_LIVE);
    tend(domain);
    vm->fence = domain->fence;
    tend(domain);
    assert_int_equal(state_of(domain, unused), FRAME_LIMBO); /* who knows what an earlier VM has forked */
    search();
    tend(domain);
    assert_int_equal(state_of(domain, unused), FRAME_FREE);
    assert_int_equal(store_block_bytes(&domain->stores[0]), WIRE_PAGE_BYTES);
    domain_unref(domain, used, 1);
    vm_gone(vm);
}

static void what_nobody_can_use_is_removed(void **state)
{
    pid_t pid = spawn();
    struct registry_entry a = entry_of(pid, "a");
    (void)state;

    make_frame(join(&a, "")->domain, 1);
    end_core(true);
    reap(pid);
    make_core();
    assert_int_equal(mkdirat(core->store_fd, "not-ours", 0700), 0);
    assert_int_equal(domain_reopen_all(core), 0);
    assert_true(cds_list_empty(&core->domains));
    assert_int_equal(core->nawaited, 0);
    assert_int_equal(unlinkat(core->store_fd, "not-ours", AT_REMOVEDIR), 0);
}

static void a_private_domain_is_found_by_its_process(void **state)
{
    struct registry_entry a = entry_of(getpid(), "a.1.2"), b = a;
    struct domain *domain;
    unsigned n = 0;
    (void)state;

    join(&a, "");
    restart();
    domain = cds_list_first_entry(&core->domains, struct domain, link);
    assert_string_equal(domain->name, "vm:a.1.2");
    assert_ptr_equal(domain_find_awaited_name(core, "a.1.2")->domain, domain);
    b.start++;
    assert_null(domain_find_awaited(core, &b));
    assert_int_equal(registry_each(domain->dir_fd, no_visit, &n), 0);
    assert_int_equal(n, 1);
    struct vm *vm = join(&a, "");
    assert_ptr_equal(vm->domain, domain);
    domain_forget_awaited(domain_find_awaited(core, &a));
    vm_gone(vm);
    assert_true(cds_list_empty(&core->domains));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_may_join),
        TEST(the_longest_names_fit),
        TEST(the_last_one_takes_the_files_along),
        TEST(a_frame_is_free_when_all_have_answered),
        TEST(numbers_that_are_no_frames),
        TEST(an_heir_keeps_frames),
        TEST(an_heir_may_be_a_vm),
        TEST(engines_of_an_earlier_daemon_are_awaited),
        TEST(what_nobody_can_use_is_removed),
        TEST(a_private_domain_is_found_by_its_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
