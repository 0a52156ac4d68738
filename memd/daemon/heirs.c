/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see heirs.h. The search has memory of its own and shares nothing with the core but
 * `state`: whoever of the two is the last to let go of it frees it. */
#include "memd/daemon/heirs.h"

#include "memd/common/clock.h"
#include "memd/daemon/mappers.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SEARCH_REST_NS     (200 * CLOCK_MS) /* between two searches */
#define AGAIN_NS           CLOCK_S          /* after one that found an heir, or failed */
#define REST_SHARE         9u               /* and this many times the CPU time the last one took */
#define SEARCH_SLOW_NS     (10 * CLOCK_S)
#define SEARCH_DOMAINS_MAX 64u /* in one search; the others wait for the next */

enum search_state { SEARCH_RUNNING, SEARCH_DONE, SEARCH_ABANDONED };

struct heirs_search {
    _Atomic int state;
    atomic_bool stop;
    int err;
    uint64_t cpu_ns;
    char proc_root[256];
    pid_t *skip;
    struct mappers_search mappers;
    uint32_t uids[SEARCH_DOMAINS_MAX][CORE_UIDS_MAX];
    struct mappers_file file[SEARCH_DOMAINS_MAX * WIRE_NODES_MAX];
};

/* ---------------------------------------------------------------- whether there can be any */

/* 0: it has not said. */
static uint64_t forks_of(const struct vm *vm)
{
    return vm->session && vm->session->shm ? atomic_load(&vm->session->shm->stats.forks) : vm->forks;
}

static bool may_have_heirs(const struct vm *vm)
{
    uint64_t forks = forks_of(vm);
    return !forks || forks != vm->forks_cleared;
}

void heirs_suspect(struct domain *domain)
{
    domain->heirs.doubts++;
}

void heirs_vm_leaves(struct vm *vm)
{
    if (may_have_heirs(vm))
        heirs_suspect(vm->domain);
}

/* An engine that closes its session takes its word back before, a process that is killed can't fork any more,
 * but one whose session we end may fork unheard. */
void heirs_session_ends(struct vm *vm)
{
    if (vm->session->shm)
        vm->forks = vm->session->hung_up ? forks_of(vm) : 0;
}

bool heirs_are_none(struct domain *domain)
{
    bool doubt = domain->heirs.doubts != domain->heirs.cleared;
    struct vm *vm;

    cds_list_for_each_entry (vm, &domain->vms, domain_link)
        doubt |= may_have_heirs(vm);
    domain->heirs.wanted = doubt;
    return !doubt;
}

/* ---------------------------------------------------------------- the search */

static void free_search(struct heirs_search *search)
{
    free(search->skip);
    free(search);
}

static void *search_main(void *arg)
{
    struct heirs_search *search = arg;

    search->err = mappers_find(&search->mappers);
    search->cpu_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    if (atomic_exchange(&search->state, SEARCH_DONE) == SEARCH_ABANDONED)
        free_search(search);
    return NULL;
}

/* Signals are main()'s. */
static int start_thread(struct heirs_search *search)
{
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;

    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&thread, &attr, search_main, search);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return -err;
}

static int compare_pids(const void *a, const void *b)
{
    pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;
    return x < y ? -1 : x > y;
}

/* VMs speak for themselves, and their maps are long. One that is an heir, too, or may be, is looked at. */
static int list_vms(struct core *core, struct heirs_search *search)
{
    size_t n = 0;
    struct vm *vm;

    search->skip = calloc(core->nvms + 1, sizeof *search->skip);
    if (!search->skip)
        return -ENOMEM;
    cds_list_for_each_entry (vm, &core->vms, link) {
        uint64_t forks = forks_of(vm);
        if (n < core->nvms && !proc_has_ended(vm->pidfd.fd) && forks && forks != WIRE_FORKS_HEIR)
            search->skip[n++] = vm->engine.pid;
    }
    qsort(search->skip, n, sizeof *search->skip, compare_pids);
    search->mappers.skip = search->skip;
    search->mappers.nskip = n;
    return 0;
}

static const struct core_domain_config *find_config(const struct core *core, const struct domain *domain)
{
    for (size_t i = 0; domain->configured && i < core->config.ndomains; i++)
        if (!strcmp(core->config.domains[i].name, domain->name))
            return &core->config.domains[i];
    return NULL;
}

/* What the result will be good for is noted before anybody is looked at. */
static int add_domain(struct domain *domain, struct heirs_search *search, uint32_t *uids)
{
    const struct core_domain_config *config = find_config(domain->core, domain);
    struct heirs *heirs = &domain->heirs;
    struct stat st;
    struct vm *vm;

    heirs->search = domain->core->heirs.number;
    heirs->asked = heirs->doubts;
    heirs->file = (unsigned)search->mappers.nfiles;
    if (config)
        memcpy(uids, config->uids, config->nuids * sizeof *uids);
    for (unsigned i = 0; i < domain->nstores; i++) {
        if (fstat(domain->stores[i].fd, &st))
            return -errno;
        search->file[search->mappers.nfiles++] = (struct mappers_file){
            .dev = st.st_dev, .ino = st.st_ino, .uids = uids, .nuids = config ? config->nuids : 0};
    }
    cds_list_for_each_entry (vm, &domain->vms, domain_link)
        vm->forks_asked = forks_of(vm);
    return 0;
}

static int start(struct core *core, uint64_t now_ns)
{
    struct heirs_search *search = calloc(1, sizeof *search);
    struct domain *domain;
    unsigned n = 0;

    if (!search)
        return -ENOMEM;
    core->heirs.number++;
    memcpy(search->proc_root, core->config.proc_root, sizeof search->proc_root);
    search->mappers =
        (struct mappers_search){.proc_root = search->proc_root, .file = search->file, .stop = &search->stop};
    int err = list_vms(core, search);
    cds_list_for_each_entry (domain, &core->domains, link)
        if (!err && domain->heirs.wanted && n < SEARCH_DOMAINS_MAX) {
            err = add_domain(domain, search, search->uids[n]);
            n++;
        }
    if (!err)
        err = start_thread(search);
    if (err) {
        free_search(search);
        return err;
    }
    core->heirs.running = search;
    core->heirs.started_ns = now_ns;
    return 0;
}

/* ---------------------------------------------------------------- the result */

static void clear(struct domain *domain)
{
    struct vm *vm;

    domain->heirs.cleared = domain->heirs.asked;
    domain->heirs.told = 0;
    cds_list_for_each_entry (vm, &domain->vms, domain_link)
        if (vm->forks_asked && vm->forks_asked != WIRE_FORKS_HEIR)
            vm->forks_cleared = vm->forks_asked;
}

static pid_t heir_of(const struct domain *domain, const struct heirs_search *search)
{
    for (unsigned i = 0; i < domain->nstores; i++)
        if (search->file[domain->heirs.file + i].pid)
            return search->file[domain->heirs.file + i].pid;
    return 0;
}

/* True if there was nothing in the way of any domain. */
static bool take_result(struct core *core, const struct heirs_search *search)
{
    struct domain *domain;
    bool all = true;

    cds_list_for_each_entry (domain, &core->domains, link) {
        if (domain->heirs.search != core->heirs.number)
            continue;
        pid_t pid = heir_of(domain, search);
        domain->heirs.search = 0;
        domain->heirs.wanted = false;
        if (!pid) {
            clear(domain);
            continue;
        }
        all = false;
        if (domain->heirs.told != pid)
            log_warn("domain %s: frames are kept for pid %d, which has inherited the memory of a VM",
                     domain->name, (int)pid);
        domain->heirs.told = pid;
    }
    return all;
}

static void finish(struct core *core, uint64_t now_ns)
{
    struct heirs_searches *heirs = &core->heirs;
    uint64_t rest_ns = AGAIN_NS, share_ns = heirs->running->cpu_ns * REST_SHARE;

    if (heirs->running->err)
        core_warn(core, "cannot look for children of VMs in %s: %s; no frame is freed meanwhile",
                  core->config.proc_root, strerror(-heirs->running->err));
    else if (take_result(core, heirs->running))
        rest_ns = SEARCH_REST_NS;
    free_search(heirs->running);
    heirs->running = NULL;
    heirs->next_ns = now_ns + (rest_ns > share_ns ? rest_ns : share_ns);
}

void heirs_tick(struct core *core, uint64_t now_ns)
{
    struct heirs_searches *heirs = &core->heirs;
    struct domain *domain;
    bool wanted = false;

    if (heirs->running && atomic_load(&heirs->running->state) == SEARCH_DONE)
        finish(core, now_ns);
    if (heirs->running) {
        if (now_ns - heirs->started_ns > SEARCH_SLOW_NS)
            core_warn(core, "looking for children of VMs takes long: no frame is freed meanwhile");
        return;
    }
    if (now_ns < heirs->next_ns)
        return;
    cds_list_for_each_entry (domain, &core->domains, link)
        wanted |= domain->heirs.wanted;
    int err = wanted ? start(core, now_ns) : 0;
    if (err) {
        heirs->next_ns = now_ns + AGAIN_NS;
        core_warn(core, "cannot look for children of VMs: %s; no frame is freed meanwhile", strerror(-err));
    }
}

void heirs_close(struct core *core)
{
    struct heirs_search *search = core->heirs.running;

    core->heirs.running = NULL;
    if (!search)
        return;
    atomic_store(&search->stop, true);
    if (atomic_exchange(&search->state, SEARCH_ABANDONED) == SEARCH_DONE)
        free_search(search);
}
