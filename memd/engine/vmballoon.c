/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see vmballoon.h. */
#include "memd/engine/vmballoon.h"

#include "memd/balloon.h"
#include "memd/engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RAM_MAX (1ull << 50)

static_assert(WIRE_BALLOON_TAGS == MEMD_BALLOON_TAGS, "the wire has a place for each statistic");

struct vmballoon {
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t idle;  /* no callback runs */
    bool attached, ever;  /* now; ever */
    struct memd_balloon_ops ops;
    bool calling;                    /* a callback runs */
    struct wire_msg_balloon_ask ask; /* id 0: nothing is asked for */
    struct wire_rec_balloon is;      /* as it will be told */
    bool told;                       /* in this session: the daemon knows of it */
    bool news, urgent;               /* it has changed since; the daemon waits for it */
    uint64_t told_ns;
    uint64_t sessions; /* that have ended */
};

int vmballoon_open(struct memd *m)
{
    struct vmballoon *b = calloc(1, sizeof *b);

    if (!b)
        return -ENOMEM;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->idle, NULL);
    m->balloon = b;
    return 0;
}

void vmballoon_close(struct memd *m)
{
    struct vmballoon *b = m->balloon;

    if (!b)
        return;
    pthread_cond_destroy(&b->idle);
    pthread_mutex_destroy(&b->lock);
    free(b);
    m->balloon = NULL;
}

/* ---------------------------------------------------------------- the VMM's side */

static bool ops_valid(const struct memd_balloon_ops *ops)
{
    return ops && ops->size >= sizeof *ops && ops->set_target && ops->ram_bytes &&
           ops->ram_bytes % PAGE_BYTES == 0 && ops->ram_bytes <= RAM_MAX;
}

static void clear(struct wire_rec_balloon *is)
{
    *is = (struct wire_rec_balloon){.answered = is->answered, .error = is->error};
}

int memd_balloon_attach(struct memd *memd, const struct memd_balloon_ops *ops)
{
    int err = 0;

    if (!memd || !ops_valid(ops))
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    struct vmballoon *b = memd->balloon;
    pthread_mutex_lock(&b->lock);
    if (b->attached)
        err = -EEXIST;
    if (!err) {
        b->attached = b->ever = b->news = true;
        b->ops = *ops;
        clear(&b->is);
        b->is.flags = WIRE_BALLOON_ATTACHED;
        b->is.ram_bytes = ops->ram_bytes;
        memset(b->is.stats, 0xff, sizeof b->is.stats);
    }
    pthread_mutex_unlock(&b->lock);
    if (!err)
        engine_kick(memd);
    return err;
}

int memd_balloon_detach(struct memd *memd)
{
    int before, ignored, err = 0;

    if (!memd)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    struct vmballoon *b = memd->balloon;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    pthread_mutex_lock(&b->lock);
    if (!b->attached)
        err = -ENOENT;
    if (!err) {
        b->attached = false;
        b->news = true;
        clear(&b->is);
        while (b->calling)
            pthread_cond_wait(&b->idle, &b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    pthread_setcancelstate(before, &ignored);
    if (!err)
        engine_kick(memd);
    return err;
}

static uint64_t at_most(uint64_t bytes, uint64_t most)
{
    return bytes < most ? bytes : most;
}

static uint32_t flags_of(const struct memd_balloon_info *info)
{
    return WIRE_BALLOON_ATTACHED | (info->running ? WIRE_BALLOON_DRIVER : 0) |
           (info->features & MEMD_BALLOON_STATS_VQ ? WIRE_BALLOON_STATS : 0) |
           (info->features & MEMD_BALLOON_PAGE_REPORTING ? WIRE_BALLOON_REPORTING : 0) |
           (info->features & MEMD_BALLOON_DEFLATE_ON_OOM ? WIRE_BALLOON_DEFLATE_ON_OOM : 0);
}

int memd_balloon_update(struct memd *memd, const struct memd_balloon_info *info, const uint64_t *stats)
{
    bool kick = false;
    int err = 0;

    if (!memd || !info || info->size < sizeof *info)
        return -EINVAL;
    if (!fork_is_ours(memd))
        return -ECHILD;
    struct vmballoon *b = memd->balloon;
    pthread_mutex_lock(&b->lock);
    if (b->attached) {
        struct wire_rec_balloon was = b->is;
        b->is.flags = flags_of(info);
        b->is.target_bytes = at_most(info->target_bytes, b->is.ram_bytes);
        b->is.actual_bytes = at_most(info->actual_bytes, b->is.ram_bytes);
        if (stats) {
            memcpy(b->is.stats, stats, sizeof b->is.stats);
            b->is.stats_serial++;
        }
        kick = !b->news && memcmp(&was, &b->is, sizeof was) != 0;
        b->news |= kick;
    } else {
        err = -ENOENT;
    }
    pthread_mutex_unlock(&b->lock);
    if (kick)
        engine_kick(memd);
    return err;
}

/* ---------------------------------------------------------------- the daemon's side */

int vmballoon_asked(struct memd *m, const struct wire_msg_balloon_ask *ask)
{
    struct vmballoon *b = m->balloon;

    if (!ask->id)
        return -EPROTO;
    pthread_mutex_lock(&b->lock);
    b->ask = *ask;
    pthread_mutex_unlock(&b->lock);
    return 0;
}

void vmballoon_adopted(struct memd *m)
{
    struct vmballoon *b = m->balloon;

    pthread_mutex_lock(&b->lock);
    b->news = b->urgent = b->ever;
    pthread_mutex_unlock(&b->lock);
}

void vmballoon_forget(struct memd *m)
{
    struct vmballoon *b = m->balloon;

    if (!b) /* it was never opened */
        return;
    pthread_mutex_lock(&b->lock);
    b->ask.id = b->is.answered = 0;
    b->is.error = 0;
    b->told = b->news = b->urgent = false;
    b->sessions++;
    pthread_mutex_unlock(&b->lock);
}

/* A daemon that has not been told of it need not be told that it is gone. */
static bool is_due(const struct vmballoon *b, uint64_t now)
{
    return b->news && (b->attached || b->told || b->urgent) &&
           (b->urgent || now - b->told_ns >= VMBALLOON_NEWS_NS);
}

void vmballoon_report(struct memd *m)
{
    struct vmballoon *b = m->balloon;
    uint64_t now = now_ns();

    if (m->session.state != SESSION_LIVE || !m->session.balloons)
        return;
    pthread_mutex_lock(&b->lock);
    if (is_due(b, now) && ring_room(&m->session.up) >= 2 * sizeof b->is) {
        struct wire_rec_balloon *rec = ring_reserve(&m->session.up, WIRE_REC_BALLOON, sizeof *rec);
        if (rec) {
            struct wire_rec head = rec->r;
            *rec = b->is;
            rec->r = head;
            b->told = b->attached;
            b->told_ns = now;
            b->news = b->urgent = false;
        }
    }
    pthread_mutex_unlock(&b->lock);
}

uint64_t vmballoon_due_ns(struct memd *m)
{
    struct vmballoon *b = m->balloon;
    uint64_t due = UINT64_MAX;

    if (m->session.state != SESSION_LIVE || !m->session.balloons)
        return due;
    pthread_mutex_lock(&b->lock);
    if (b->ask.id || is_due(b, UINT64_MAX))
        due = b->ask.id || b->urgent ? 0 : b->told_ns + VMBALLOON_NEWS_NS;
    pthread_mutex_unlock(&b->lock);
    return due;
}

/* The lock is held, and released while a callback runs. */
static int call_vmm(struct vmballoon *b, const struct wire_msg_balloon_ask *ask)
{
    struct memd_balloon_ops ops = b->ops;
    uint64_t bytes = ask->bytes - ask->bytes % PAGE_BYTES;
    int err = 0;

    if (!b->attached)
        return -ENODEV;
    if (ask->flags & WIRE_BALLOON_SET && bytes > ops.ram_bytes)
        return -ERANGE;
    b->calling = true;
    pthread_mutex_unlock(&b->lock);
    if (ask->flags & WIRE_BALLOON_SET)
        err = ops.set_target(ops.ctx, bytes);
    if (ask->flags & WIRE_BALLOON_STATS_WANTED && ops.ask_stats)
        ops.ask_stats(ops.ctx);
    pthread_mutex_lock(&b->lock);
    b->calling = false;
    pthread_cond_broadcast(&b->idle);
    return err;
}

bool vmballoon_call(struct memd *m)
{
    struct vmballoon *b = m->balloon;

    pthread_mutex_lock(&b->lock);
    struct wire_msg_balloon_ask ask = b->ask;
    uint64_t session = b->sessions;
    b->ask.id = 0;
    int err = ask.id ? call_vmm(b, &ask) : 0;
    if (ask.id && b->sessions == session) { /* who has asked is still there */
        b->is.answered = ask.id;
        b->is.error = err < 0 ? -err : 0;
        b->news = b->urgent = true;
    }
    pthread_mutex_unlock(&b->lock);
    return ask.id;
}
