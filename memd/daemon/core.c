/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core: life of the daemon's brain: opening, the loop, what is done from time to time, closing.
 *
 * A turn of the loop: events (sockets, kicks, deaths of processes), calls of other threads, a turn for each
 * session with work left, publishing what was written to rings, freeing sessions that ended. Every
 * CORE_TICK_MS, and every CORE_FAST_TICK_MS while a session waits for ring room, sessions are looked at anyhow.
 */
#include "memd/daemon/core.h"

#include "memd/common/clock.h"
#include "memd/daemon/advisor.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/matcher.h"
#include "memd/daemon/place.h"
#include "memd/daemon/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define UFFD_DEVICE        "/dev/userfaultfd"
#define WARNING_SHOWN_NS   (60 * CLOCK_S)
#define SLOW_TICK_NS       CLOCK_S
#define TRIM_NS            (2 * CLOCK_S)
#define IDLE_NS            CLOCK_S /* a session's rings are trimmed after */
#define SETTLED_SHARE      200u    /* one part in so many of guest pages may be newly found */
#define REHASH_FRAMES      1024u   /* in a turn */
#define SWEEP_ENTRIES      1024u   /* candidates looked at in a tick */
#define MAP_COUNT_FALLBACK 65530u

void core_config_default(struct core_config *ret_config)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    *ret_config = (struct core_config){
        .run_dir = WIRE_RUN_DIR,
        .state_dir = "/var/lib/memd",
        .merge = true,
        .cpu_cap = cpus > 2 ? (double)cpus / 2 : 1.0,
        .quiet_ms = 100,
        .round_ms_max = 10000,
        .huge_share_percent = 50,
        .heal_pages_per_s = 1000,
        .vmas_percent = 50,
        .proc_root = "/proc",
        .sys_root = "/sys",
    };
}

void core_warn(struct core *core, const char *format, ...)
{
    char text[CORE_REASON_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (strcmp(text, core->warning))
        log_warn("%s", text);
    snprintf(core->warning, sizeof core->warning, "%s", text);
    core->warned_ns = clock_now_ns();
}

/* ---------------------------------------------------------------- advice */

static bool is_live(const struct vm *vm)
{
    return vm->session && vm->session->state == SESSION_LIVE;
}

static bool is_digesting(const struct vm *vm)
{
    return is_live(vm) && ((vm->merge_on && !vm->settled) || vm->estimate_job);
}

void core_advise(struct vm *vm)
{
    struct core *core = vm->core;
    struct advisor_host host = {.cpu_cap = core->config.cpu_cap,
                                .quiet_ms = core->config.quiet_ms,
                                .round_ms_max = core->config.round_ms_max,
                                .heal_pages_per_s = core->config.heal_pages_per_s,
                                .vmas_percent = core->config.vmas_percent,
                                .max_map_count = core->max_map_count,
                                .vms = core->nvms};
    struct vm *other;

    cds_list_for_each_entry (other, &core->vms, link)
        host.digesting += is_digesting(other);
    struct advisor_vm in = {.merge_on = vm->merge_on,
                            .estimating = vm->estimate_job && !vm->merge_on,
                            .digesting = is_digesting(vm),
                            .cost_ns = vm->advice.cost_ns};
    struct advisor_plan plan = advisor_plan(&host, &in);
    vm->advice.sent = (struct wire_rec_budget){
        .r = {.type = WIRE_REC_BUDGET, .bytes = sizeof(struct wire_rec_budget)},
        .flags = (vm->merge_on ? WIRE_BUDGET_MERGE : 0) | (in.estimating ? WIRE_BUDGET_ESTIMATE : 0),
        .scan_pages_per_s = plan.scan_pages_per_s,
        .quiet_ms = plan.quiet_ms,
        .round_ms_max = plan.round_ms_max,
        .vmas_max = plan.vmas_max,
        .heal_pages_per_s = plan.heal_pages_per_s};
}

/* A budget is sent again when it has changed by more than a fifth. */
static bool has_changed(const struct wire_rec_budget *a, const struct wire_rec_budget *b)
{
    double was = a->scan_pages_per_s, is = b->scan_pages_per_s;

    return a->flags != b->flags || a->quiet_ms != b->quiet_ms || is > was * 1.2 || is < was * 0.8;
}

static void tend_advice(struct vm *vm)
{
    struct vm_advice *a = &vm->advice;
    struct wire_rec_budget before = a->sent;
    uint64_t hashed = vm->stats.hashed_pages, cpu_ns = vm->stats.cpu_ns;

    if (hashed >= a->hashed_pages && cpu_ns >= a->cpu_ns)
        a->cost_ns = advisor_cost(a->cost_ns, cpu_ns - a->cpu_ns, hashed - a->hashed_pages);
    a->hashed_pages = hashed;
    a->cpu_ns = cpu_ns;
    core_advise(vm);
    if (has_changed(&before, &a->sent)) {
        vm->session->budget_due = true;
        channel_wake(vm->session);
    }
    a->sent = before.r.type && !vm->session->budget_due ? before : a->sent;
}

/* ---------------------------------------------------------------- settled */

static uint64_t found_ever(const struct vm *vm)
{
    return vm->merged_ever + vm->stats.zero_drops;
}

/* A pass ends when everything that was quiet at its start has been hashed, and nothing of it is under way. */
static void tend_pass(struct vm *vm, uint64_t now_ns)
{
    const struct session *session = vm->session;

    if (!vm->merge_on || vm->stats.prev_started_ns < vm->pass.started_ns || vm->stats.backlog_pages ||
        session->unanswered || session->proposals.n || session->exports.n || session->exports.busy ||
        vm->domain->rehash_store < vm->domain->nstores)
        return;
    uint64_t found = found_ever(vm) - vm->pass.found_before;
    bool settled = found * SETTLED_SHARE < vm_guest_pages(vm);
    if (settled != vm->settled)
        log_debug("VM %s: %s, %llu pages found in the last pass", vm->engine.name,
                  settled ? "settled" : "not settled", (unsigned long long)found);
    vm->settled = settled;
    vm->pass = (struct vm_pass){.started_ns = now_ns, .found_before = found_ever(vm)};
    if (!settled) {
        vm->session->round_due = true;
        channel_wake(vm->session);
    }
}

/* ---------------------------------------------------------------- ticks */

static void tick_vms(struct core *core, uint64_t now_ns)
{
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link) {
        if (!is_live(vm))
            continue;
        vm_read_stats(vm);
        tend_pass(vm, now_ns);
        tend_advice(vm);
        if (now_ns - vm->session->last_ns > IDLE_NS)
            channel_trim(vm->session);
    }
}

static void slow_tick(struct core *core, uint64_t now_ns)
{
    core->slow_tick_ns = now_ns;
    core->max_map_count = proc_max_map_count(core->config.proc_root, MAP_COUNT_FALLBACK);
    if (core->warning[0] && now_ns - core->warned_ns > WARNING_SHOWN_NS)
        core->warning[0] = '\0';
}

static void trim(struct core *core, uint64_t now_ns)
{
    struct domain *domain;

    core->trimmed_ns = now_ns;
    cds_list_for_each_entry (domain, &core->domains, link)
        for (unsigned i = 0; i < domain->nindexes; i++) {
            candidates_sweep(&domain->indexes[i].candidates, SWEEP_ENTRIES, matcher_check, domain);
            candidates_trim(&domain->indexes[i].candidates);
            index_trim(&domain->indexes[i]);
        }
}

static void tick(struct core *core, uint64_t now_ns)
{
    struct session *session, *next;
    struct domain *domain;

    core->tick_ns = now_ns;
    cds_list_for_each_entry_safe (session, next, &core->sessions, link) {
        session_tend(session, now_ns);
        if (!session->ended && session->state == SESSION_LIVE)
            channel_wake(session);
    }
    tick_vms(core, now_ns);
    cds_list_for_each_entry (domain, &core->domains, link)
        domain_tend_fence(domain, now_ns);
    jobs_tick(core);
    if (now_ns - core->slow_tick_ns >= SLOW_TICK_NS)
        slow_tick(core, now_ns);
    if (now_ns - core->trimmed_ns >= TRIM_NS)
        trim(core, now_ns);
}

/* ---------------------------------------------------------------- the loop */

/* A turn for each session that has asked for one. True: there is more. */
static bool serve_sessions(struct core *core)
{
    struct session *session;
    CDS_LIST_HEAD(turn);

    cds_list_splice(&core->busy, &turn);
    CDS_INIT_LIST_HEAD(&core->busy);
    while (!cds_list_empty(&turn)) {
        session = cds_list_first_entry(&turn, struct session, busy_link);
        cds_list_del_init(&session->busy_link);
        if (channel_turn(session) && !session->ended)
            channel_wake(session);
    }
    channel_flush_all(core);
    return !cds_list_empty(&core->busy);
}

static bool rehash(struct core *core)
{
    struct domain *domain;
    bool more = false;

    cds_list_for_each_entry (domain, &core->domains, link)
        if (!domain_is_ready(domain))
            more |= domain_rehash(domain, REHASH_FRAMES);
    return more;
}

static bool anyone_waits(struct core *core)
{
    struct session *session;

    cds_list_for_each_entry (session, &core->sessions, link)
        if (session->state == SESSION_LIVE && channel_is_waiting(session)) {
            channel_wake(session);
            return true;
        }
    return false;
}

int core_run(struct core *core)
{
    bool more = false;

    while (!core->stopping) {
        int timeout_ms = more ? 0 : anyone_waits(core) ? (int)CORE_FAST_TICK_MS : (int)CORE_TICK_MS;
        int err = loop_turn(&core->loop, timeout_ms);
        if (err)
            return err;
        calls_run(&core->calls, core);
        more = serve_sessions(core);
        more |= rehash(core);
        uint64_t now_ns = clock_now_ns();
        if (now_ns - core->tick_ns >= CORE_TICK_MS * CLOCK_MS) {
            tick(core, now_ns);
            more |= serve_sessions(core);
        }
        session_reap(core);
    }
    return 0;
}

void core_stop(struct core *core)
{
    uint64_t one = 1;
    int saved = errno;
    ssize_t ignored = write(core->stop.fd, &one, sizeof one);

    (void)ignored;
    errno = saved;
}

static void on_stop(struct loop_source *source, uint32_t events)
{
    struct core *core = caa_container_of(source, struct core, stop);

    (void)events;
    core->stopping = true;
}

static void on_connect(struct loop_source *source, uint32_t events)
{
    struct core *core = caa_container_of(source, struct core, listener);

    (void)events;
    session_accept(core);
}

/* ---------------------------------------------------------------- opening and closing */

static unsigned count_nodes(const char *sys_root)
{
    char path[300];
    unsigned n = 0;

    snprintf(path, sizeof path, "%s/devices/system/node", sys_root);
    DIR *dir = opendir(path);
    for (struct dirent *file; dir && (file = readdir(dir));) {
        unsigned node;
        char rest;
        n += sscanf(file->d_name, "node%u%c", &node, &rest) == 1;
    }
    if (dir)
        closedir(dir);
    return n < 1 ? 1 : n > WIRE_NODES_MAX ? WIRE_NODES_MAX : n;
}

/* A store file is sparse: it is made as large as all memory of the host. */
static uint64_t store_bytes(uint64_t memory_bytes)
{
    uint64_t bytes = STORE_BYTES_MIN;

    while (bytes < memory_bytes && bytes < STORE_BYTES_MAX)
        bytes *= 2;
    return bytes;
}

static void init(struct core *core, const struct core_config *config)
{
    core->config = *config;
    core->merge_on = config->merge;
    core->lock_fd = core->store_fd = core->uffd_fd = core->listener.fd = core->stop.fd = -1;
    core->started_ns = clock_now_ns();
    CDS_INIT_LIST_HEAD(&core->domains);
    CDS_INIT_LIST_HEAD(&core->vms);
    CDS_INIT_LIST_HEAD(&core->sessions);
    CDS_INIT_LIST_HEAD(&core->busy);
    CDS_INIT_LIST_HEAD(&core->written);
    CDS_INIT_LIST_HEAD(&core->ended);
}

static int measure(struct core *core)
{
    uint64_t most = core->config.store_bytes_max;
    int err = proc_read_memory(core->config.proc_root, &core->memory);

    if (err)
        return err;
    core->nnodes = core->config.nodes ? core->config.nodes : count_nodes(core->config.sys_root);
    core->store_file_bytes = store_bytes(core->memory.total_bytes);
    core->quota.frames_max = (most ? most : core->memory.total_bytes / 2) / WIRE_PAGE_BYTES;
    core->max_map_count = proc_max_map_count(core->config.proc_root, MAP_COUNT_FALLBACK);
    core->uffd_fd = open(UFFD_DEVICE, O_RDWR | O_CLOEXEC);
    while (!core->incarnation)
        if (getrandom(&core->incarnation, sizeof core->incarnation, 0) < 0)
            return -errno;
    return 0;
}

static int start(struct core *core)
{
    core->stop = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_stop};
    core->listener.ready = on_connect;
    int err = core->stop.fd < 0 ? -errno : loop_add(&core->loop, &core->stop, EPOLLIN);
    if (!err)
        err = loop_add(&core->loop, &core->listener, EPOLLIN);
    if (!err)
        err = domain_reopen_all(core);
    return err;
}

static void release(struct core *core)
{
    struct domain *domain, *next;

    cds_list_for_each_entry_safe (domain, next, &core->domains, link)
        domain_close(domain);
    jobs_close(&core->jobs);
    exports_close(&core->exports);
    pages_close(&core->pages);
    place_close(core);
    if (core->stop.fd >= 0)
        close(core->stop.fd);
    if (core->uffd_fd >= 0)
        close(core->uffd_fd);
    calls_close(&core->calls, &core->loop);
    loop_close(&core->loop);
    free(core);
}

int core_open(const struct core_config *config, struct core **ret_core, char *ret_error, size_t error_bytes)
{
    struct core *core = calloc(1, sizeof *core);
    int err = core ? 0 : -ENOMEM;

    if (core) {
        init(core, config);
        err = loop_open(&core->loop);
        if (!err) {
            err = calls_open(&core->calls, &core->loop);
            if (err)
                loop_close(&core->loop);
        }
    }
    if (err) {
        snprintf(ret_error, error_bytes, "cannot start: %s", strerror(-err));
        free(core);
        return err;
    }
    err = place_open(core, ret_error, error_bytes);
    if (!err) {
        err = measure(core);
        if (!err)
            err = start(core);
        if (err)
            snprintf(ret_error, error_bytes, "cannot start in %s: %s", config->run_dir, strerror(-err));
    }
    if (err) {
        release(core);
        return err;
    }
    *ret_core = core;
    return 0;
}

void core_close(struct core *core)
{
    struct session *session, *next;
    struct vm *vm, *next_vm;

    calls_refuse(&core->calls);
    cds_list_for_each_entry_safe (session, next, &core->sessions, link)
        session_drop(session);
    session_reap(core);
    /* their files stay for the next daemon: so do the VMs' entries in the registry */
    cds_list_for_each_entry_safe (vm, next_vm, &core->vms, link) {
        vm->domain->kept = true;
        vm_forget(vm);
    }
    release(core);
}

/* ---------------------------------------------------------------- what users ask for */

struct merge_call {
    char vm[CORE_NAME_BYTES];
    bool all, on;
};

static int do_merge(struct core *core, void *arg)
{
    struct merge_call *call = arg;
    struct vm *vm = call->all ? NULL : vm_find(core, call->vm);

    if (!call->all && !vm)
        return -ENOENT;
    if (vm) {
        vm_set_merge(vm, call->on);
        return 0;
    }
    core->merge_on = call->on;
    cds_list_for_each_entry (vm, &core->vms, link)
        vm_set_merge(vm, call->on);
    return 0;
}

int core_merge_set(struct core *core, const char *vm, bool on)
{
    struct merge_call call = {.all = !vm, .on = on};

    snprintf(call.vm, sizeof call.vm, "%s", vm ? vm : "");
    return calls_ask(&core->calls, do_merge, &call, sizeof call, NULL);
}

struct job_call {
    char vm[CORE_NAME_BYTES];
    bool all;
    uint64_t id;
};

static int do_unmerge(struct core *core, void *arg)
{
    struct job_call *call = arg;
    return jobs_start_unmerge(core, call->all ? NULL : call->vm, &call->id);
}

static int do_settle(struct core *core, void *arg)
{
    return jobs_start_settle(core, &((struct job_call *)arg)->id);
}

static int ask_job(struct core *core, int (*fn)(struct core *core, void *arg), const char *vm, uint64_t *ret_job)
{
    struct job_call call = {.all = !vm};

    snprintf(call.vm, sizeof call.vm, "%s", vm ? vm : "");
    int err = calls_ask(&core->calls, fn, &call, sizeof call, NULL);
    if (!err)
        *ret_job = call.id;
    return err;
}

int core_unmerge_start(struct core *core, const char *vm, uint64_t *ret_job)
{
    return ask_job(core, do_unmerge, vm, ret_job);
}

int core_settle_start(struct core *core, uint64_t *ret_job)
{
    return ask_job(core, do_settle, NULL, ret_job);
}

/* The names are copied: the caller may have given up waiting when the loop gets to it. */
struct estimate_call {
    size_t nvms;
    char (*names)[CORE_NAME_BYTES];
    uint64_t id;
};

static int do_estimate(struct core *core, void *arg)
{
    struct estimate_call *call = arg;
    const char *vms[CORE_VMS_MAX];

    for (size_t i = 0; i < call->nvms; i++)
        vms[i] = call->names[i];
    int err = jobs_start_estimate(core, call->nvms, vms, &call->id);
    free(call->names);
    call->names = NULL;
    return err;
}

int core_estimate_start(struct core *core, size_t nvms, const char *const *vms, uint64_t *ret_job)
{
    struct estimate_call call = {.nvms = nvms};

    if (nvms > CORE_VMS_MAX)
        return -E2BIG;
    call.names = calloc(nvms + 1, sizeof *call.names);
    if (!call.names)
        return -ENOMEM;
    for (size_t i = 0; i < nvms; i++)
        snprintf(call.names[i], sizeof call.names[i], "%s", vms[i]);
    int err = calls_ask(&core->calls, do_estimate, &call, sizeof call, NULL);
    if (err == -EBUSY || err == -ESHUTDOWN)
        free(call.names); /* NULL if the loop got to it */
    if (!err)
        *ret_job = call.id;
    return err;
}

struct poll_call {
    uint64_t id;
    struct core_job job;
};

static int do_poll(struct core *core, void *arg)
{
    struct poll_call *call = arg;
    return jobs_poll(core, call->id, &call->job);
}

int core_job_poll(struct core *core, uint64_t job, struct core_job *ret_job)
{
    struct poll_call call = {.id = job};
    int err = calls_ask(&core->calls, do_poll, &call, sizeof call, NULL);

    if (!err)
        *ret_job = call.job;
    return err;
}

static int do_cancel(struct core *core, void *arg)
{
    return jobs_cancel(core, *(uint64_t *)arg);
}

int core_job_cancel(struct core *core, uint64_t job)
{
    return calls_ask(&core->calls, do_cancel, &job, sizeof job, NULL);
}
