/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see call.h. */
#include "memd/daemon/call.h"

#include "memd/daemon/core.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct call {
    struct cds_list_head link;
    int (*fn)(struct core *core, void *arg);
    void (*drop)(void *arg);
    int result;
    bool done, abandoned;
    size_t bytes;
    _Alignas(16) unsigned char arg[];
};

static void on_wake(struct loop_source *source, uint32_t events)
{
    (void)events;
    uint64_t count;
    ssize_t ignored = read(source->fd, &count, sizeof count);
    (void)ignored; /* the loop looks at the queue every turn */
}

int calls_open(struct calls *calls, struct loop *loop)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;

    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&calls->done, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&calls->lock, NULL);
    CDS_INIT_LIST_HEAD(&calls->queue);
    calls->nqueued = 0;
    calls->closed = false;
    calls->wake = (struct loop_source){.fd = fd, .ready = on_wake};
    int err = loop_add(loop, &calls->wake, EPOLLIN);
    if (err)
        close(fd);
    return err;
}

static void answer(struct call *call, int result)
{
    call->result = result;
    call->done = true;
    if (call->abandoned) {
        if (call->drop && !result)
            call->drop(call->arg);
        free(call);
    }
}

void calls_refuse(struct calls *calls)
{
    pthread_mutex_lock(&calls->lock);
    calls->closed = true;
    while (!cds_list_empty(&calls->queue)) {
        struct call *call = cds_list_first_entry(&calls->queue, struct call, link);
        cds_list_del(&call->link);
        answer(call, -ESHUTDOWN);
    }
    calls->nqueued = 0;
    pthread_cond_broadcast(&calls->done);
    pthread_mutex_unlock(&calls->lock);
}

void calls_close(struct calls *calls, struct loop *loop)
{
    loop_del(loop, &calls->wake);
    close(calls->wake.fd);
    pthread_cond_destroy(&calls->done);
    pthread_mutex_destroy(&calls->lock);
}

void calls_run(struct calls *calls, struct core *core)
{
    pthread_mutex_lock(&calls->lock);
    while (!cds_list_empty(&calls->queue)) {
        struct call *call = cds_list_first_entry(&calls->queue, struct call, link);
        cds_list_del(&call->link);
        calls->nqueued--;
        pthread_mutex_unlock(&calls->lock);
        int result = call->fn(core, call->arg);
        pthread_mutex_lock(&calls->lock);
        answer(call, result);
        pthread_cond_broadcast(&calls->done);
    }
    pthread_mutex_unlock(&calls->lock);
}

static struct call *enqueue(struct calls *calls, int (*fn)(struct core *core, void *arg), const void *arg,
                            size_t bytes, void (*drop)(void *arg), int *ret_err)
{
    struct call *call = calls->closed || calls->nqueued >= CALLS_MAX ? NULL : malloc(sizeof *call + bytes);
    if (!call) {
        *ret_err = calls->closed ? -ESHUTDOWN : calls->nqueued >= CALLS_MAX ? -EBUSY : -ENOMEM;
        return NULL;
    }
    *call = (struct call){.fn = fn, .drop = drop, .bytes = bytes};
    memcpy(call->arg, arg, bytes);
    cds_list_add_tail(&call->link, &calls->queue);
    calls->nqueued++;
    uint64_t one = 1;
    ssize_t ignored = write(calls->wake.fd, &one, sizeof one);
    (void)ignored; /* a full counter wakes just as well */
    return call;
}

int calls_ask(struct calls *calls, int (*fn)(struct core *core, void *arg), void *arg_inout, size_t bytes,
              void (*drop)(void *arg))
{
    struct timespec until;
    int err = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += CORE_CALL_TIMEOUT_MS / 1000;
    pthread_mutex_lock(&calls->lock);
    struct call *call = enqueue(calls, fn, arg_inout, bytes, drop, &err);
    while (call && !call->done && !err)
        err = -pthread_cond_timedwait(&calls->done, &calls->lock, &until);
    if (call && call->done) {
        err = call->result;
        memcpy(arg_inout, call->arg, bytes);
        free(call);
    } else if (call) {
        call->abandoned = true;
    }
    pthread_mutex_unlock(&calls->lock);
    return err;
}
