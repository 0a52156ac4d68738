/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A thread's own stack, and what the C library keeps beside it (errno, the thread's descriptor), may lie in
 * memory that is looked after: programs and their runtimes give threads stacks of their own making. While the
 * engine brings pages home it stops whoever touches them; done on such a thread it would stop itself, for
 * ever.
 *
 * So for such a thread a thread of ours does it. The caller waits in futex(2), with track.lock held: should
 * it touch its stack meanwhile, it waits for that page, which comes back without it. Ours runs on a stack
 * that the C library has mapped, never takes track.lock, and reads what it is to do from memory of this
 * library.
 *
 * It is started before the engine, by the helper thread: in a hook no thread can be started, an allocator may
 * be calling. It ends with the process, or before unshare(2).
 */
#include "memd/preload/hand.h"

#include "memd/engine/engine.h"
#include "memd/preload/track.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STACK_BELOW (256u << 10) /* more than the engine uses of a stack */
#define STACK_ABOVE (64u << 10)

enum stage { IDLE, ASKED, DONE };

enum what { CUT, ADVISE, DEL, UNMAP, CLOSE, FITS, FORK, STOP };

struct errand {
    enum what what;
    struct memd *memd;
    uint32_t region;
    uint64_t offset, bytes;
    int how; /* advice, reason */
    unsigned timeout_ms;
    void *hva;
    int (*call)(void *ctx);
    void *ctx;
    int err;
};

static struct errand errand;   /* the caller's while `stage` is not ASKED, the thread's else */
static _Atomic uint32_t stage; /* release and acquire hand `errand` over */
static bool running;
static pthread_t thread;

static int run(const struct errand *e)
{
    switch (e->what) {
    case CUT:
        return memd_region_cut(e->memd, e->region, e->offset, e->bytes, (enum memd_ineligible)e->how,
                               e->timeout_ms);
    case ADVISE:
        return memd_region_advise(e->memd, e->region, e->offset, e->bytes, e->how);
    case DEL:
        return memd_region_del(e->memd, e->region, e->timeout_ms);
    case UNMAP:
        return memd_unmap(e->memd, e->hva, e->bytes, e->call, e->ctx);
    case CLOSE:
        return memd_close(e->memd, e->timeout_ms);
    case FITS:
        return fork_fits();
    case FORK:
        fork_home(e->memd);
        return 0;
    case STOP:
        break;
    }
    return 0;
}

static void set_stage(enum stage to)
{
    atomic_store(&stage, to);
    syscall(SYS_futex, &stage, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void wait_stage(enum stage wanted)
{
    uint32_t is;

    while ((is = atomic_load(&stage)) != wanted)
        syscall(SYS_futex, &stage, FUTEX_WAIT_PRIVATE, is, NULL, NULL, 0);
}

static void *hand_main(void *arg)
{
    (void)arg;
    for (;;) {
        wait_stage(ASKED);
        enum what what = errand.what;
        errand.err = run(&errand);
        set_stage(DONE);
        if (what == STOP)
            return NULL;
    }
}

static int ask(const struct errand *e)
{
    errand = *e;
    set_stage(ASKED);
    wait_stage(DONE);
    atomic_store(&stage, IDLE);
    return errand.err;
}

static bool is_watched(const void *at, uint64_t below, uint64_t above)
{
    uint64_t a = (uintptr_t)at, start = a > below ? a - below : 0;

    return track_wants(start, a + above);
}

/* Does this thread touch watched memory whatever it does? */
static bool stands_on_it(void)
{
    return is_watched(__builtin_frame_address(0), STACK_BELOW, STACK_ABOVE) || is_watched(&errno, 0, 1) ||
           is_watched((void *)pthread_self(), 0, PAGE_BYTES) || track_mark_is_watched();
}

static int do_errand(const struct errand *e)
{
    return running && stands_on_it() ? ask(e) : run(e);
}

int hand_cut(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes, enum memd_ineligible why,
             unsigned timeout_ms)
{
    return do_errand(&(struct errand){.what = CUT,
                                      .memd = memd,
                                      .region = region,
                                      .offset = offset,
                                      .bytes = bytes,
                                      .how = (int)why,
                                      .timeout_ms = timeout_ms});
}

int hand_advise(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes, int advice)
{
    return do_errand(&(struct errand){
        .what = ADVISE, .memd = memd, .region = region, .offset = offset, .bytes = bytes, .how = advice});
}

int hand_del(struct memd *memd, uint32_t region, unsigned timeout_ms)
{
    return do_errand(&(struct errand){.what = DEL, .memd = memd, .region = region, .timeout_ms = timeout_ms});
}

int hand_unmap(struct memd *memd, void *hva, uint64_t bytes, int (*call)(void *ctx), void *ctx)
{
    return do_errand(
        &(struct errand){.what = UNMAP, .memd = memd, .hva = hva, .bytes = bytes, .call = call, .ctx = ctx});
}

int hand_close(struct memd *memd, unsigned timeout_ms)
{
    return do_errand(&(struct errand){.what = CLOSE, .memd = memd, .timeout_ms = timeout_ms});
}

int hand_fits(void)
{
    return do_errand(&(struct errand){.what = FITS});
}

bool hand_fork(struct memd *memd)
{
    if (!running || !stands_on_it())
        return false;
    ask(&(struct errand){.what = FORK, .memd = memd});
    return true;
}

int hand_start(void)
{
    if (running)
        return 0;
    int err = -pthread_create(&thread, NULL, hand_main, NULL);
    if (err)
        return err;
    pthread_setname_np(thread, "memd-hand");
    running = true;
    return 0;
}

void hand_stop(void)
{
    if (!running)
        return;
    ask(&(struct errand){.what = STOP});
    pthread_join(thread, NULL);
    running = false;
}

void hand_forget(void)
{
    running = false;
    atomic_store(&stage, IDLE);
}
