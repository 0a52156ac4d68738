/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See track.h. */
#include "memd/preload/track.h"

#include "memd/common/name.h"
#include "memd/common/ranges.h"
#include "memd/engine/engine.h"
#include "memd/engine/maps.h"
#include "memd/engine/sock.h"
#include "memd/preload/alone.h"
#include "memd/preload/hand.h"
#include "memd/preload/inherit.h"
#include "memd/preload/self.h"
#include "memd/preload/sys.h"
#include "memd/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define CUT_TIMEOUT_MS 2000u
#define DAEMON_LOOK_MS 1000u /* is there a daemon now? */
#define OPEN_RETRY_MS  5000u
#define LATER_MS       2000u
#define LEFT_MS        100u /* every LATER_MS */
#define GATHER_US      2000u
#define ALONE_LOOK_MS  100u
#define CHILD_WAIT_MS  1000u /* most forked children execute another program at once */

struct tracked {
    uint64_t start, end;
    uint32_t id;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* there is work for the helper thread */
    pthread_cond_t gone;        /* the helper thread is */
    _Atomic uint64_t low, high; /* nothing outside concerns us; only ever grows */
    struct ranges wanted;
    struct ranges todo;      /* wanted, and to be looked at */
    struct ranges later;     /* wanted, and to be looked at now and then */
    struct ranges left;      /* wanted, and there was no room for it */
    struct ranges nofork;    /* the program keeps it from its children */
    struct ranges inherited; /* may be mapped from the frames of a parent */
    struct tracked region[MEMD_REGIONS_MAX];
    unsigned nregions;
    struct memd *memd;
    bool thread, late_handler, start_due, child, full_warned, daemon_warned, given_up, main_ended, leave,
        asleep;
} track = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .changed = PTHREAD_COND_INITIALIZER,
           .gone = PTHREAD_COND_INITIALIZER,
           .low = UINT64_MAX};

static __thread bool inside __attribute__((tls_model("initial-exec")));

uint64_t track_all_anon(void)
{
    return self.all_anon;
}

/* ---- getting in and out */

void track_mark_own(void)
{
    inside = true;
}

bool track_mark_is_watched(void)
{
    uint64_t at = (uintptr_t)&inside;

    return ranges_touch(&track.wanted, at, at + 1);
}

bool track_hits(uint64_t start, uint64_t end)
{
    return start < atomic_load_explicit(&track.high, memory_order_relaxed) &&
           end > atomic_load_explicit(&track.low, memory_order_relaxed);
}

bool track_enter(struct track_guard *guard)
{
    sigset_t all;

    if (inside || fork_is_stray())
        return false;
    inside = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &guard->before);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guard->cancel);
    pthread_mutex_lock(&track.lock);
    return true;
}

void track_leave(const struct track_guard *guard)
{
    int ignored;

    pthread_mutex_unlock(&track.lock);
    pthread_setcancelstate(guard->cancel, &ignored);
    pthread_sigmask(SIG_SETMASK, &guard->before, NULL);
    inside = false;
}

/* The helper thread, if it sleeps: it is not woken by each of ten thousand pieces. */
static void wake(void)
{
    if (track.asleep)
        pthread_cond_signal(&track.changed);
    track.asleep = false;
}

static void widen(uint64_t start, uint64_t end)
{
    if (start < atomic_load(&track.low))
        atomic_store(&track.low, start);
    if (end > atomic_load(&track.high))
        atomic_store(&track.high, end);
}

/* ---- pieces of a range: one region's, or between them */

struct piece {
    uint64_t start, end;
    struct tracked *region; /* NULL: none */
};

static struct piece piece_at(uint64_t at, uint64_t end)
{
    struct piece p = {at, end, NULL};

    for (unsigned i = 0; i < track.nregions; i++) {
        struct tracked *r = &track.region[i];
        if (at >= r->start && at < r->end)
            return (struct piece){at, r->end < end ? r->end : end, r};
        if (r->start > at && r->start < p.end)
            p.end = r->start;
    }
    return p;
}

static void regions_prune(void)
{
    for (unsigned i = 0; i < track.nregions;) {
        struct tracked *r = &track.region[i];
        if (!ranges_touch(&track.wanted, r->start, r->end) && !hand_del(track.memd, r->id, 0))
            *r = track.region[--track.nregions];
        else
            i++;
    }
}

/* ---- the helper thread */

/* Until there may be something to do, or `ms` have passed. */
static void wait_ms(unsigned ms)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000l;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    track.asleep = true;
    pthread_cond_timedwait(&track.changed, &track.lock, &t);
    track.asleep = false;
}

/* However much there is to do, unless the thread is to end. */
static void pass_ms(unsigned ms)
{
    uint64_t begun = now_ns(), passed = 0;

    while (!track.leave && !track.main_ended && (passed = (now_ns() - begun) / 1000000) < ms)
        wait_ms(ms - (unsigned)passed);
    if (track.main_ended)
        wait_ms(ms < ALONE_LOOK_MS ? ms : ALONE_LOOK_MS);
}

static bool daemon_there(void)
{
    int fd = sock_connect(self.run_dir);

    if (fd >= 0)
        close(fd);
    return fd >= 0 || fd == -EAGAIN;
}

/* Why memd_open() fails is told once, however often it is tried. */
static atomic_bool told;

static void open_log(void *ctx, enum memd_log_level level, const char *message)
{
    if (!atomic_load(&told))
        self_log(ctx, level, message);
}

/* The lock is let go meanwhile. False: try again after a while. */
static bool open_engine(void)
{
    self_name(); /* the program may have forked before it advised anything */
    const struct memd_options o = {.size = sizeof o,
                                   .name = self.name,
                                   .domain = *self.domain ? self.domain : NULL,
                                   .run_dir = self.run_dir,
                                   .log = open_log,
                                   .thread_prefix = "memd"};
    struct memd *memd = NULL;

    atomic_store(&told, track.daemon_warned);
    pthread_mutex_unlock(&track.lock);
    int err = daemon_there() ? 0 : -ENOTCONN;
    if (!err)
        err = hand_start();
    if (!err)
        err = memd_open(&o, &memd);
    atomic_store(&told, false);
    pthread_mutex_lock(&track.lock);
    if (!err) {
        self_dump();
        track.memd = memd;
        track.daemon_warned = false;
        return true;
    }
    if (!track.daemon_warned && err == -ENOTCONN)
        self_say("no memd answers in ", self.run_dir);
    else if (!track.daemon_warned)
        self_say("memd cannot work here: ", err == -ENOSYS  ? "Linux 6.8 or later is needed (memctl doctor)"
                                            : err == -EPERM ? "no access to /dev/userfaultfd (memctl doctor)"
                                                            : strerrordesc_np(-err));
    track.daemon_warned = true;
    track.given_up = err == -ENOSYS;
    pass_ms(err == -ENOTCONN ? DAEMON_LOOK_MS : OPEN_RETRY_MS);
    return false;
}

static int is_mapped(void *ctx, const struct mapping *v)
{
    (void)ctx, (void)v;
    return 1;
}

static void leave(struct piece p)
{
    ranges_add(&track.left, p.start, p.end);
    if (!track.full_warned)
        self_say("more pieces of memory than memd can look after: ", "some are left alone");
    track.full_warned = true;
}

static void enrol(struct range want)
{
    for (uint64_t at = want.start; at < want.end;) {
        struct piece p = piece_at(at, want.end);
        at = p.end;
        if (!p.region && track.nregions == MEMD_REGIONS_MAX) {
            leave(p);
            continue;
        }
        if (!mappings_each(p.start, p.end, false, is_mapped, NULL)) { /* unmapped behind our back */
            ranges_remove(&track.wanted, p.start, p.end);
            continue;
        }
        if (p.region) {
            memd_region_refresh(track.memd, p.region->id, p.start - p.region->start, p.end - p.start);
            continue;
        }
        const struct memd_region_desc d = {.size = sizeof d,
                                           .hva = (void *)p.start,
                                           .bytes = p.end - p.start,
                                           .gpa = p.start,
                                           .node = -1,
                                           .flags = MEMD_REGION_KEEP};
        uint32_t id;
        int err = memd_region_add(track.memd, &d, &id);
        if (!err)
            track.region[track.nregions++] = (struct tracked){p.start, p.end, id};
        if (err == -ENOSPC)
            leave(p);
    }
}

/* More may be about to come. */
static void enrol_todo(void)
{
    struct range r;

    pthread_mutex_unlock(&track.lock);
    usleep(GATHER_US);
    pthread_mutex_lock(&track.lock);
    while (track.memd && ranges_next(&track.todo, 0, UINT64_MAX, &r) &&
           !ranges_remove(&track.todo, r.start, r.end))
        enrol(r);
}

/* As many as there is room for now, and not for long: where there are thousands of mappings each takes its
 * time. */
static void look_at_left(void)
{
    uint64_t begun = now_ns();
    struct range r;

    regions_prune();
    while (track.nregions < MEMD_REGIONS_MAX && ranges_next(&track.left, 0, UINT64_MAX, &r) &&
           now_ns() - begun < LEFT_MS * 1000000ull && !ranges_remove(&track.left, r.start, r.end))
        enrol(r);
}

static void look_later(void)
{
    struct memd_stats st = {.size = sizeof st};
    struct range r;

    for (uint64_t at = 0; ranges_next(&track.later, at, UINT64_MAX, &r); at = r.end)
        enrol(r);
    if (!memd_stats(track.memd, &st) && !st.ineligible_bytes[MEMD_INELIGIBLE_UFFD])
        ranges_free(&track.later);
}

static void *help(void *arg)
{
    struct range r;

    (void)arg;
    inside = true;
    pthread_mutex_lock(&track.lock);
    if (track.child)
        pass_ms(CHILD_WAIT_MS);
    while (!track.given_up && !track.leave) {
        if (!track.memd && track.wanted.n) {
            if (open_engine())
                for (uint64_t at = 0; ranges_next(&track.wanted, at, UINT64_MAX, &r); at = r.end)
                    ranges_add(&track.todo, r.start, r.end);
        } else if (track.memd && track.todo.n) {
            enrol_todo();
        } else if (track.memd && (track.later.n || track.left.n)) {
            wait_ms(LATER_MS);
            if (track.memd && track.later.n)
                look_later();
            if (track.memd)
                look_at_left();
        } else if (track.main_ended) {
            wait_ms(ALONE_LOOK_MS);
        } else {
            track.asleep = true;
            pthread_cond_wait(&track.changed, &track.lock);
            track.asleep = false;
        }
        if (track.main_ended && alone_now()) {
            pthread_mutex_unlock(&track.lock);
            exit(0); /* what libc does in the last thread of a program */
        }
    }
    if (track.leave)
        track.thread = false;
    pthread_cond_broadcast(&track.gone);
    pthread_mutex_unlock(&track.lock);
    return NULL;
}

static void start_in_child(void);

/* Its signals are blocked: so are those of its creator. */
static void start_helper(void)
{
    pthread_attr_t attr;
    pthread_t thread;

    if (track.thread || track.given_up || fork_is_vforked()) /* a thread would be the child's */
        return;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    track.thread = !pthread_create(&thread, &attr, help, NULL);
    pthread_attr_destroy(&attr);
    if (!track.thread) {
        self_say("no thread can be started: ", "memory is left alone");
        return;
    }
    pthread_setname_np(thread, "memd-run");
    /* in a child no thread can be started before its allocator is through with its own handlers: they were
     * registered by now */
    if (!track.late_handler)
        track.late_handler = !pthread_atfork(NULL, NULL, start_in_child);
}

void track_main_ends(void)
{
    struct track_guard guard;

    if (!track_enter(&guard))
        return;
    track.main_ended = true;
    wake();
    track_leave(&guard);
}

/* Memory of an allocator is wanted from inside of it, where no thread can be started. */
__attribute__((constructor)) static void begin(void)
{
    struct track_guard guard;

    track_watch_forks();
    if (!track_enter(&guard))
        return;
    self_read();
    if (self.all_anon)
        start_helper();
    track_leave(&guard);
}

/* ---- inside */

int track_want(uint64_t start, uint64_t end)
{
    int err = ranges_add(&track.wanted, start, end);

    if (!err)
        err = ranges_add(&track.todo, start, end);
    if (err)
        return err;
    widen(start, end);
    if (!self.all_anon)
        start_helper();
    wake();
    return 0;
}

bool track_wants(uint64_t start, uint64_t end)
{
    return ranges_touch(&track.wanted, start, end);
}

void track_again(uint64_t start, uint64_t end)
{
    struct range r;

    for (uint64_t at = start; ranges_next(&track.wanted, at, end, &r); at = r.end)
        ranges_add(&track.todo, r.start, r.end);
    wake();
}

void track_again_later(uint64_t start, uint64_t end)
{
    struct range r;

    for (uint64_t at = start; ranges_next(&track.wanted, at, end, &r); at = r.end)
        ranges_add(&track.later, r.start, r.end);
    wake();
}

int track_cut(uint64_t start, uint64_t end, enum memd_ineligible why)
{
    int err = ranges_remove(&track.todo, start, end);

    for (uint64_t at = start; at < end && !err;) {
        struct piece p = piece_at(at, end);
        at = p.end;
        if (p.region)
            err = hand_cut(track.memd, p.region->id, p.start - p.region->start, p.end - p.start, why,
                           CUT_TIMEOUT_MS);
    }
    if (err)
        track_again(start, end);
    return err;
}

/* The range is gone, or nobody's business any more. */
static void forget(uint64_t start, uint64_t end)
{
    struct ranges *sets[] = {&track.wanted, &track.todo,   &track.later,
                             &track.left,   &track.nofork, &track.inherited};

    for (unsigned i = 0; i < sizeof sets / sizeof *sets; i++)
        ranges_remove(sets[i], start, end);
    regions_prune();
}

int track_unwant(uint64_t start, uint64_t end)
{
    int err = track_cut(start, end, MEMD_INELIGIBLE_OTHER);

    if (err)
        return err;
    ranges_remove(&track.wanted, start, end);
    ranges_remove(&track.later, start, end);
    ranges_remove(&track.left, start, end);
    regions_prune();
    return 0;
}

int track_unmap(uint64_t start, uint64_t end, int (*call)(void *ctx), void *ctx)
{
    int err = track.memd ? hand_unmap(track.memd, (void *)start, end - start, call, ctx) : call(ctx);

    if (!err)
        forget(start, end);
    return err;
}

int track_own(uint64_t start, uint64_t end)
{
    return inherit_own(&track.inherited, start, end);
}

int track_advise(uint64_t start, uint64_t end, int advice)
{
    bool fork_advice = advice == MADV_DONTFORK || advice == MADV_DOFORK;
    int err = 0;

    for (uint64_t at = start; at < end;) {
        struct piece p = piece_at(at, end);
        int piece_err = 0;
        at = p.end;
        if (p.region)
            piece_err =
                hand_advise(track.memd, p.region->id, p.start - p.region->start, p.end - p.start, advice);
        else if (sys_madvise((void *)p.start, p.end - p.start, advice))
            piece_err = -errno;
        err = err ? err : piece_err;
    }
    if (!err && fork_advice)
        err = advice == MADV_DONTFORK ? ranges_add(&track.nofork, start, end)
                                      : ranges_remove(&track.nofork, start, end);
    return err;
}

int track_discard(uint64_t start, uint64_t end, int advice)
{
    if (advice == MADV_REMOVE) /* it is anonymous memory to the program */
        return ranges_touch(&track.inherited, start, end) ? -EINVAL : track_advise(start, end, advice);
    int err = inherit_discard(&track.inherited, start, end);
    return err ? err : track_advise(start, end, advice);
}

bool track_has_threads(void)
{
    return track.thread && !fork_is_vforked();
}

int track_end_threads(void)
{
    track.leave = true;
    wake();
    while (track.thread)
        pthread_cond_wait(&track.gone, &track.lock);
    track.leave = false;
    int err = track_close();
    if (!err)
        hand_stop();
    return err;
}

void track_start_threads(void)
{
    if (track.wanted.n || self.all_anon)
        start_helper();
}

int track_close(void)
{
    int err = track.memd ? hand_close(track.memd, CUT_TIMEOUT_MS) : 0;

    if (err)
        return err;
    track.memd = NULL;
    track.nregions = 0;
    track_again(0, UINT64_MAX);
    return 0;
}

/* ---- fork */

static struct track_guard fork_guard;
static bool fork_guarded, fork_paused;

void track_fork_prepare(void)
{
    fork_guarded = track_enter(&fork_guard);
    fork_paused = fork_guarded && track.memd && hand_fork(track.memd);
}

void track_fork_parent(void)
{
    if (fork_paused)
        memd_resume(track.memd);
    fork_paused = false;
    if (fork_guarded)
        track_leave(&fork_guard);
}

/* The engine has taken itself out of the child (its handler comes first). */
void track_fork_child(void)
{
    struct range r;

    for (uint64_t at = 0; ranges_next(&track.nofork, at, UINT64_MAX, &r); at = r.end)
        ranges_remove(&track.wanted, r.start, r.end);
    ranges_free(&track.nofork);
    ranges_free(&track.todo);
    ranges_free(&track.later);
    ranges_free(&track.left);
    for (unsigned i = 0; i < track.nregions; i++)
        for (uint64_t at = track.region[i].start; ranges_next(&track.wanted, at, track.region[i].end, &r);
             at = r.end)
            ranges_add(&track.inherited, r.start, r.end);
    track.nregions = 0;
    track.memd = NULL;
    fork_paused = false;
    hand_forget();
    track.thread = track.daemon_warned = track.full_warned = false;
    track.child = true;
    track.main_ended = false; /* the thread that forked is the child's main one */
    track.leave = false;
    pthread_cond_init(&track.gone, NULL);
    pthread_cond_init(&track.changed, NULL); /* the parent's waiters are not here */
    self_name();
    track.start_due = track.wanted.n;
    track_fork_parent();
}

static void start_in_child(void)
{
    struct track_guard guard;

    if (!track.start_due || !track_enter(&guard))
        return;
    track.start_due = false;
    start_helper();
    track_leave(&guard);
}

void track_watch_forks(void)
{
    static atomic_flag done = ATOMIC_FLAG_INIT;

    if (atomic_flag_test_and_set(&done))
        return;
    /* what is registered later runs earlier: ours, then the engine's, then the lock of what they allocate */
    wrap_watch_forks();
    fork_watch();
    pthread_atfork(track_fork_prepare, track_fork_parent, track_fork_child);
}
