/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core: life of the daemon's brain: opening, the loop, what is done from time to time, closing.
 *
 * A turn of the loop: events (sockets, kicks, deaths of processes), calls of other threads, a turn for each
 * session with work left, publishing what was written to rings, freeing sessions that ended. Every
 * CORE_TICK_MS, and every CORE_FAST_TICK_MS while a session waits for ring room, sessions are looked at
 * anyhow; every CORE_REST_TICK_MS while all VMs are settled and nothing is under way.
 */
#include "memd/daemon/core.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/place.h"
#include "memd/daemon/state.h"
#include "memd/daemon/terms_file.h"
#include "memd/daemon/tick.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#define UFFD_DEVICE        "/dev/userfaultfd"
#define SESSION_FAST_NS    (2 * CLOCK_S)
#define REHASH_FRAMES      1024u /* in a turn */
#define MAP_COUNT_FALLBACK 65530u

void core_config_default(struct core_config *ret_config)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    *ret_config = (struct core_config){
        .run_dir = WIRE_RUN_DIR,
        .state_dir = "/var/lib/memd",
        .merge = true,
        .cpu_cap = cpus >= 4  ? (double)cpus / 2
                   : cpus > 1 ? (double)cpus
                              : 1.0,
        .quiet_ms = 100,
        .round_ms_max = 3500,
        .swap = true,
        .huge_share_percent = 50,
        .heal_pages_per_s = 1000,
        .vmas_percent = 50,
        .sample_pages = 128,
        .sample_ms = 30000,
        .budget_soft_percent = 90,
        .budget_hard_percent = 96,
        .budget_low_percent = 100,
        .free_soft_percent = 6,
        .free_hard_percent = 4,
        .free_low_percent = 2,
        .headroom_percent = 10,
        .idle_tax_percent = 75,
        .refault_percent = 1,
        .stall_percent = 1,
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
    if (strcmp(text, core->warning) && log_allowed(&core->warn_log))
        log_warn("%s", text);
    snprintf(core->warning, sizeof core->warning, "%s", text);
    core->warned_ns = clock_now_ns();
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

/* An engine that has not been heard of lately (stopped, paused) is looked at with the ordinary ticks. */
static bool anyone_waits(struct core *core)
{
    uint64_t now_ns = clock_now_ns();
    struct session *session;
    bool waits = false;

    cds_list_for_each_entry (session, &core->sessions, link)
        if (session->state == SESSION_LIVE && channel_is_waiting(session)) {
            channel_wake(session);
            waits |= now_ns - session->last_ns < SESSION_FAST_NS;
        }
    return waits;
}

/* ms until the core has to look for itself */
static unsigned rest_ms(struct core *core)
{
    if (anyone_waits(core))
        return CORE_FAST_TICK_MS;
    return core_rests(core, clock_now_ns()) ? CORE_REST_TICK_MS : CORE_TICK_MS;
}

int core_run(struct core *core)
{
    bool more = false;

    while (!core->stopping) {
        int err = loop_turn(&core->loop, more ? 0 : (int)rest_ms(core));
        if (err)
            return err;
        calls_run(&core->calls, core);
        more = serve_sessions(core);
        more |= rehash(core);
        uint64_t now_ns = clock_now_ns();
        if (now_ns - core->tick_ns >= CORE_TICK_MS * CLOCK_MS) {
            core_tick(core, now_ns);
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

/* Nodes by number: there may be gaps. */
static unsigned count_nodes(const char *sys_root)
{
    char path[300];
    unsigned n = 1;

    snprintf(path, sizeof path, "%s/devices/system/node", sys_root);
    DIR *dir = opendir(path);
    for (struct dirent *file; dir && (file = readdir(dir));) {
        unsigned node;
        char rest;
        if (sscanf(file->d_name, "node%u%c", &node, &rest) == 1 && node >= n)
            n = node < WIRE_NODES_MAX ? node + 1 : WIRE_NODES_MAX;
    }
    if (dir)
        closedir(dir);
    return n;
}

/* A store file is sparse: it is made as large as all memory of the host. */
static uint64_t store_bytes(uint64_t memory_bytes)
{
    uint64_t bytes = STORE_BYTES_MIN;

    while (bytes < memory_bytes && bytes < STORE_BYTES_MAX)
        bytes *= 2;
    return bytes;
}

/* A VM takes some eight descriptors; the usual limit of 1,024 is meant for select(). */
static void raise_fd_limit(void)
{
    struct rlimit limit;
    rlim_t want = 10ull * CORE_VMS_MAX;

    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = want < limit.rlim_max ? want : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void init(struct core *core, const struct core_config *config)
{
    core->config = *config;
    core->merge_on = config->merge;
    core->lock_fd = core->store_fd = core->uffd_fd = core->listener.fd = core->stop.fd = -1;
    core->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    core->started_ns = clock_now_ns();
    CDS_INIT_LIST_HEAD(&core->domains);
    CDS_INIT_LIST_HEAD(&core->vms);
    CDS_INIT_LIST_HEAD(&core->sessions);
    CDS_INIT_LIST_HEAD(&core->busy);
    CDS_INIT_LIST_HEAD(&core->written);
    CDS_INIT_LIST_HEAD(&core->ended);
    CDS_INIT_LIST_HEAD(&core->agents.list);
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
    if (!err)
        place_recall_merge(core);
    if (!err) {
        terms_file_read(core);
        agents_open(core);
        writes_open(core);
    }
    return err;
}

static void release(struct core *core)
{
    struct domain *domain, *next;

    heirs_close(core);
    inflate_close(core);
    agents_close(core);
    cds_list_for_each_entry_safe (domain, next, &core->domains, link)
        domain_close(domain);
    jobs_close(&core->jobs);
    exports_close(&core->exports);
    pages_close(&core->pages);
    terms_file_close(core);
    place_close(core);
    if (core->stop.fd >= 0)
        close(core->stop.fd);
    if (core->uffd_fd >= 0)
        close(core->uffd_fd);
    if (core->spare_fd >= 0)
        close(core->spare_fd);
    calls_close(&core->calls, &core->loop);
    loop_close(&core->loop);
    free(core);
}

int core_open(const struct core_config *config, struct core **ret_core, char *ret_error, size_t error_bytes)
{
    struct core *core = calloc(1, sizeof *core);
    int err = core ? 0 : -ENOMEM;

    if (core) {
        raise_fd_limit();
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
    core->made_run_dirs = core->made_state_dirs = 0;
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
    writes_close(core);
    /* their files stay for the next daemon: so do the VMs' entries in the registry */
    cds_list_for_each_entry_safe (vm, next_vm, &core->vms, link) {
        vm->domain->kept = true;
        vm_forget(vm);
    }
    release(core);
}
