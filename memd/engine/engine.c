/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An engine's life: open, pause, statistics, close. What the parts do and which thread may do it: engine.h.
 */
#include "memd/engine/engine.h"

#include "memd/common/name.h"
#include "memd/engine/maps.h"
#include "memd/engine/pager.h"
#include "memd/engine/remote.h"
#include "memd/engine/sample.h"
#include "memd/engine/stores.h"
#include "memd/engine/vmballoon.h"

#include <errno.h>
#include <fcntl.h>
#include <numa.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PREFIX_MAX 8

const char *memd_version(void)
{
    return MEMD_VERSION;
}

void engine_kick(struct memd *m)
{
    uint64_t one = 1;

    if (write(m->wake_worker, &one, sizeof one) < 0 && errno != EAGAIN)
        log_msg(m, MEMD_LOG_ERROR, "eventfd: %d", errno);
}

static bool options_valid(const struct memd_options *o)
{
    return o && o->size >= sizeof *o && o->name && name_is_valid(o->name) &&
           (!o->domain || name_is_valid(o->domain)) &&
           (!o->thread_prefix || strlen(o->thread_prefix) <= PREFIX_MAX) && o->worker_nice >= 0 &&
           o->worker_nice <= 19 && !(o->flags & ~MEMD_OPEN_NO_DAEMON);
}

/* A filter that somebody else has made may end the process for what it does not know of. */
static bool is_filtered(void)
{
    char line[128];
    struct lines l;
    int mode = 0;

    if (!lines_open(&l, "/proc/thread-self/status"))
        while (lines_next(&l, line, sizeof line) && sscanf(line, "Seccomp: %d", &mode) != 1)
            ;
    lines_close(&l);
    return mode == 2;
}

static void set_defaults(struct memd *m, const struct memd_options *o)
{
    const char *env = getenv("MEMD_RUN_DIR");

    snprintf(m->name, sizeof m->name, "%s", o->name);
    snprintf(m->domain, sizeof m->domain, "%s", o->domain ? o->domain : "");
    snprintf(m->run_dir, sizeof m->run_dir, "%s", o->run_dir ? o->run_dir : env && *env ? env : WIRE_RUN_DIR);
    m->log = o->log;
    m->poison = o->poison;
    m->ctx = o->ctx;
    m->flags = o->flags;
    m->worker_nice = o->worker_nice;
    m->pid = getpid();
    m->forks = fork_is_heir() ? WIRE_FORKS_HEIR : 1;
    m->uffd_a = m->uffd_b = m->pagemap = m->wake_worker = m->wake_fault = -1;
    m->session = (struct session){.sock = -1, .kick_up = -1, .kick_down = -1};
    m->max_map_count = file_number("/proc/sys/vm/max_map_count", 65530);
    m->filtered = is_filtered();
    m->nodes = numa_available() < 0 ? 1 : numa_num_configured_nodes();
    m->budget = (struct budget){.quiet_ms = QUIET_MS_DEFAULT, .round_ms_max = ROUND_MS_DEFAULT};
    m->tokens_ns = now_ns();
    if (m->flags & MEMD_OPEN_NO_DAEMON) {
        m->budget.flags = WIRE_BUDGET_MERGE;
        m->budget.scan_pages_per_s = UINT32_MAX;
    }
}

static int start_thread(struct memd *m, const struct memd_options *o, const char *suffix,
                        void *(*main)(void *), pthread_t *ret_thread)
{
    char name[16];
    int err = pthread_create(ret_thread, NULL, main, m);

    if (err)
        return -err;
    snprintf(name, sizeof name, "%s-%s", o->thread_prefix ? o->thread_prefix : "memd", suffix);
    pthread_setname_np(*ret_thread, name);
    if (o->cpu_set && !m->filtered && pthread_setaffinity_np(*ret_thread, o->cpu_set_bytes, o->cpu_set))
        log_msg(m, MEMD_LOG_WARN, "binding %s to the given CPUs failed", name);
    return 0;
}

/* Signals are the VMM's business: the engine's threads take none. */
static int start_threads(struct memd *m, const struct memd_options *o)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = start_thread(m, o, "fault", fault_main, &m->fault);
    m->fault_started = !err;
    if (!err) {
        err = start_thread(m, o, "work", worker_main, &m->worker);
        m->worker_started = !err;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

static void stop_threads(struct memd *m)
{
    uint64_t one = 1;

    atomic_store(&m->stopping, true);
    if (m->worker_started) {
        engine_kick(m);
        pthread_join(m->worker, NULL);
        m->worker_started = false;
    }
    if (m->fault_started) {
        fault_attend(m); /* it is there until it has been told to stop */
        atomic_store(&m->fault_stop, true);
        while (write(m->wake_fault, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(m->fault, NULL);
        m->fault_started = false;
    }
}

static void engine_free(struct memd *m)
{
    const int fds[] = {m->uffd_a, m->uffd_b, m->pagemap, m->wake_worker, m->wake_fault};

    session_close(m);
    vmballoon_close(m);
    stores_close(m);
    sample_close(m);
    pager_close(m);
    place_fini(m);
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_cond_destroy(&m->work_free);
    pthread_mutex_destroy(&m->work);
    free(m);
}

static int open_files(struct memd *m)
{
    int err = uffd_open(m, -1);

    if (err == -EPERM && !(m->flags & MEMD_OPEN_NO_DAEMON))
        err = session_fetch_uffd(m);
    if (err)
        return err;
    m->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    m->wake_worker = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    m->wake_fault = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return m->pagemap < 0 || m->wake_worker < 0 || m->wake_fault < 0 ? -errno : 0;
}

/* A kernel may have no shared zero page for those who read what is not there: they get a page of their own
 * then, and what was dropped would be back with the first that looks. UFFDIO_ZEROPAGE gives it to them. */
static bool probe_reads(struct memd *m)
{
    const struct scan_query q = {.mask = PAGE_IS_PRESENT, .ret = PAGE_IS_PRESENT | PAGE_IS_PFNZERO};
    struct page_region vec[1];
    uint64_t end;
    char *page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool takes = false;

    if (page == MAP_FAILED)
        return false;
    (void)*(volatile const char *)page;
    if (pagemap_scan(m, page, PAGE_BYTES, &q, vec, 1, &end) == 1)
        takes = !(vec[0].categories & PAGE_IS_PFNZERO);
    munmap(page, PAGE_BYTES);
    return takes;
}

/* PAGEMAP_SCAN came with Linux 6.7: a kernel without it says ENOTTY. */
static int probe_scan(struct memd *m)
{
    const struct scan_query q = {.mask = PAGE_IS_PRESENT, .ret = PAGE_IS_PRESENT};
    struct page_region vec[1];
    uint64_t end;

    m->guards = PAGE_IS_GUARD;
    if (pagemap_scan(m, m->window, PAGE_BYTES, &q, vec, 1, &end) >= 0)
        return 0;
    m->guards = 0;
    return pagemap_scan(m, m->window, PAGE_BYTES, &q, vec, 1, &end) < 0 ? -ENOSYS : 0;
}

int memd_open(const struct memd_options *options, struct memd **ret_memd)
{
    if (!options_valid(options) || !ret_memd)
        return -EINVAL;
    if (options->run_dir && strlen(options->run_dir) >= sizeof((struct memd *)0)->run_dir)
        return -EINVAL;
    struct memd *m = calloc(1, sizeof *m);
    if (!m)
        return -ENOMEM;
    pthread_mutex_init(&m->work, NULL);
    pthread_cond_init(&m->work_free, NULL);
    set_defaults(m, options);
    int err = pager_open(m);
    if (!err)
        err = vmballoon_open(m);
    if (!err)
        err = open_files(m);
    if (!err)
        err = place_init(m);
    if (!err)
        err = probe_scan(m);
    if (!err)
        m->reads_take_pages = probe_reads(m);
    if (!err)
        place_measure(m);
    if (!err)
        err = start_threads(m, options);
    if (!err)
        err = fork_enlist(m);
    if (err) {
        stop_threads(m);
        engine_free(m);
        return err;
    }
    *ret_memd = m;
    return 0;
}

static int close_engine(struct memd *memd, unsigned timeout_ms)
{
    uint64_t deadline = now_ns() + timeout_ms * 1000000ull;
    int err = 0;

    for (uint32_t i = 0; i < MEMD_REGIONS_MAX && !err; i++) {
        uint64_t now = now_ns();
        unsigned left_ms = now < deadline ? (unsigned)((deadline - now) / 1000000) : 0;
        err = memd_region_del(memd, i, left_ms);
        if (err == -ENOENT)
            err = 0;
    }
    if (err)
        return err;
    fork_delist(memd);
    stop_threads(memd);
    session_bye(memd);
    engine_free(memd);
    return 0;
}

int memd_close(struct memd *memd, unsigned timeout_ms)
{
    int before, ignored;

    if (!memd)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    int err = close_engine(memd, timeout_ms);
    pthread_setcancelstate(before, &ignored);
    return err;
}

int memd_pause(struct memd *memd)
{
    if (!memd)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    work_lock_api(memd); /* no batch is under way while it is held */
    atomic_fetch_add(&memd->paused, 1);
    work_unlock_api(memd);
    engine_kick(memd);
    return 0;
}

int memd_resume(struct memd *memd)
{
    int err = 0;

    if (!memd)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    work_lock_api(memd);
    if (atomic_load(&memd->paused))
        atomic_fetch_sub(&memd->paused, 1);
    else
        err = -EINVAL;
    work_unlock_api(memd);
    engine_kick(memd);
    return err;
}

void engine_count(struct memd *m, struct region_counts *ret_n, uint64_t ret_ineligible[MEMD_INELIGIBLE_COUNT],
                  uint64_t *ret_skipped)
{
    struct region_counts n = {0};

    *ret_skipped = 0;
    memset(ret_ineligible, 0, MEMD_INELIGIBLE_COUNT * sizeof *ret_ineligible);
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        if (!r)
            continue;
        n.zero += r->n.zero;
        n.shared += r->n.shared;
        n.broken += r->n.broken;
        n.tagged += r->n.tagged + atomic_load_explicit(&r->out.tagged, memory_order_relaxed);
        n.pending += r->n.pending;
        n.pinned += r->n.pinned;
        for (uint32_t c = 0; c < r->nchunks; c++) {
            if (r->chunks[c].huge)
                *ret_skipped += CHUNK_PAGES;
            if (r->chunks[c].pins)
                ret_ineligible[MEMD_INELIGIBLE_PINNED] += (chunk_end(r, c) - chunk_first(r, c)) * PAGE_BYTES;
        }
        region_ineligible(r, ret_ineligible);
    }
    ret_ineligible[MEMD_INELIGIBLE_PINNED] += n.pinned * PAGE_BYTES;
    *ret_n = n;
}

int memd_stats(struct memd *memd, struct memd_stats *ret_stats)
{
    struct region_counts n;

    if (!memd || !ret_stats || ret_stats->size < sizeof *ret_stats)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    struct memd_stats st = {.size = sizeof st};
    work_lock_api(memd);
    engine_count(memd, &n, st.ineligible_bytes, &st.skipped_pages);
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        st.guest_bytes += memd->regions[i] ? memd->regions[i]->npages * PAGE_BYTES : 0;
    struct pager_counts out = pager_count(memd);
    st.lost_pages = memd->pager->lost_pages;
    st.vmas_used = memd->vmas_used;
    st.vmas_limit = memd->budget.vmas_max;
    st.connected = memd->session.state == SESSION_LIVE;
    work_unlock_api(memd);
    st.zero_pages = n.zero;
    st.merged_pages = n.shared;
    st.broken_pages = n.broken;
    st.unshared_pages = n.tagged;
    st.volatile_pages = n.pending;
    st.full_scans = atomic_load(&memd->stats.full_scans);
    st.merges = atomic_load(&memd->stats.merges);
    st.zero_drops = atomic_load(&memd->stats.zero_drops);
    st.cow_breaks = atomic_load(&memd->stats.cow_breaks);
    st.heals = atomic_load(&memd->stats.heals);
    st.faults = atomic_load(&memd->stats.faults);
    st.rejected = atomic_load(&memd->stats.rejected);
    st.huge_broken = atomic_load(&memd->stats.huge_broken);
    st.parked_pages = out.parked;
    st.packed_pages = out.packed;
    st.packed_bytes = out.packed_bytes;
    st.pool_bytes = out.host_bytes;
    st.swapped_pages = out.swapped;
    st.remote_pages = out.remote;
    st.remote_outs = atomic_load(&memd->stats.remote_outs);
    st.remote_faults = atomic_load(&memd->stats.remote_faults);
    st.held_faults = atomic_load(&memd->stats.held_faults);
    st.held_ns = atomic_load(&memd->stats.held_ns);
    st.swap_bytes = out.swap.file_bytes;
    st.swap_written_bytes = out.swap.written_bytes;
    st.swap_errors = out.swap.errors;
    st.swap_reads = out.swap.reads;
    st.prefetched_pages = out.swap.prefetched;
    st.prefetch_used = out.swap.prefetch_used;
    st.prefetch_wasted = out.swap.prefetch_wasted;
    st.swapped_faults = atomic_load(&memd->stats.swapped_faults);
    st.page_outs = atomic_load(&memd->stats.page_outs);
    st.page_ins = atomic_load(&memd->stats.page_ins);
    st.parked_faults = atomic_load(&memd->stats.parked_faults);
    st.packed_faults = atomic_load(&memd->stats.packed_faults);
    st.merged_outs = atomic_load(&memd->stats.merged_outs);
    st.metadata_bytes = atomic_load(&memd->metadata_bytes) + out.metadata_bytes;
    st.cpu_ns = atomic_load(&memd->cpu_ns);
    st.paused = atomic_load(&memd->paused) != 0;
    *ret_stats = st;
    return 0;
}
