/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The worker thread: talks to the daemon, carries out what it proposes, scans. It works in short turns under
 * engine.work, lets API callers in between, and sleeps when there is nothing to do.
 */
#include "memd/engine/engine.h"
#include "memd/engine/pager.h"
#include "memd/engine/sample.h"
#include "memd/engine/vmballoon.h"

#include <errno.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DRAIN_RECORDS  32u
#define STATS_EVERY_NS 100000000ull
#define SLEEP_MS_MAX   1000
#define CHILD_MS       100 /* a forked child is looked for this often: nobody tells when it is gone */
#define NICE_DEFAULT   5

static void sample_cpu(struct memd *m)
{
    struct timespec w = {0}, f = {0};
    clockid_t clock;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &w);
    if (!pthread_getcpuclockid(m->fault, &clock))
        clock_gettime(clock, &f);
    atomic_store(&m->cpu_ns,
                 (uint64_t)(w.tv_sec + f.tv_sec) * 1000000000u + (uint64_t)(w.tv_nsec + f.tv_nsec));
}

/* Pages refused as pinned, and mappings refused for want of map count, are tried again after a while. */
static void retry_refused(struct memd *m, uint64_t now)
{
    if (m->map_count_short && now >= m->map_count_retry_ns)
        m->map_count_short = false;
    if (!m->pin_retry_ns || now < m->pin_retry_ns)
        return;
    m->pin_retry_ns = 0;
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        for (uint32_t p = 0; r && r->n.pinned && p < r->npages; p++)
            if (page_get(r, p) & WIRE_PAGE_F_PINNED) {
                page_set(r, p, page_get(r, p) & ~(uint64_t)WIRE_PAGE_F_PINNED);
                pending_set(r, p);
            }
    }
}

/* True: there is more to do. */
static bool turn(struct memd *m)
{
    uint64_t now = now_ns();

    session_turn(m, now);
    bool more = session_drain(m, DRAIN_RECORDS) > 0;
    retry_refused(m, now);
    refs_flush_all(m);
    more |= apply_step(m);
    more |= scan_step(m);
    more |= pager_step(m);
    more |= sample_step(m);
    hold_release(m, !more);
    if (now - m->cpu_sampled_ns >= STATS_EVERY_NS) {
        m->cpu_sampled_ns = now;
        sample_cpu(m);
        session_stats(m);
    }
    vmballoon_report(m);
    session_kick(m);
    return more;
}

static int sleep_ms(struct memd *m)
{
    uint64_t now = now_ns(), due = scan_due_ns(m), apply_ns = apply_due_ns(m);

    if (m->session.state == SESSION_NONE && !(m->flags & MEMD_OPEN_NO_DAEMON) && m->session.retry_ns < due)
        due = m->session.retry_ns;
    due = apply_ns < due ? apply_ns : due;
    due = pager_due_ns(m) < due ? pager_due_ns(m) : due;
    due = sample_due_ns(m) < due ? sample_due_ns(m) : due;
    due = vmballoon_due_ns(m) < due ? vmballoon_due_ns(m) : due;
    if (due <= now) /* due, but not possible yet: waits for ring room or tokens */
        return 2;
    uint64_t ms = (due - now) / 1000000 + 1;
    return ms > SLEEP_MS_MAX ? SLEEP_MS_MAX : (int)ms;
}

/* There is something in the ring. Not always is it taken: then this is no reason to stay awake. */
static int sleep_with_records(struct memd *m, int ms)
{
    if (atomic_load(&m->paused))
        return ms;
    if (fork_pending(m))
        return ms < CHILD_MS ? ms : CHILD_MS;
    return 0;
}

static void rest(struct memd *m, int sock, int kick, int ms)
{
    struct pollfd fds[] = {{sock, POLLIN, 0}, {kick, POLLIN, 0}, {m->wake_worker, POLLIN, 0}};
    uint64_t count;

    poll(fds, 3, ms);
    for (unsigned i = 1; i < 3; i++)
        if (fds[i].revents & POLLIN && read(fds[i].fd, &count, sizeof count) < 0 && errno != EAGAIN)
            log_msg(m, MEMD_LOG_ERROR, "worker: eventfd: %d", errno);
}

void *worker_main(void *arg)
{
    struct memd *m = arg;

    /* background: whatever the VMM's own threads want comes first */
    if (!m->filtered)
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), m->worker_nice ? m->worker_nice : NICE_DEFAULT);
    while (!atomic_load(&m->stopping)) {
        work_lock_worker(m);
        bool more = turn(m);
        int sock = m->session.sock, kick = m->session.kick_down, ms = 0;
        if (!more) {
            ms = sleep_ms(m);
            if (m->session.state == SESSION_LIVE && !ring_sleep(&m->session.down))
                ms = sleep_with_records(m, ms);
            session_stats(m);
        }
        work_unlock_worker(m);
        if (vmballoon_call(m))
            ms = 0;
        if (ms)
            rest(m, sock, kick, ms);
    }
    return NULL;
}
