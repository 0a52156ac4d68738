/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See balloons.h. */
#include "balloon-driver/backends/balloons.h"

#include "balloon-driver/backends/facts.h"
#include "balloon-driver/backends/keeper.h"

#include "memd/common/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MIB          (UINT64_C(1) << 20)
#define REFRESH_MS   5000u
#define RETRY_MS     500u
#define RETRY_MS_MAX 10000u
#define CALLS_WAITED 3u         /* a look that is under way, one before the request, and the request itself */
#define END_S        3u         /* patience with a thread that does not end */
#define STACK_BYTES  (1u << 20) /* jansson recurses, at most 2048 deep */

struct balloons {
    int stop_fd;
    size_t n;
    struct keeper *keepers[]; /* each by itself: one that does not end is left behind */
};

static const struct balloon_backend *const backends[] = {&balloon_qmp, &balloon_firecracker,
                                                         &balloon_cloud_hypervisor, &balloon_libvirt};

/* ---------------------------------------------------------------- addresses */

/* The backend of an address, and what follows the colon. NULL: there is none. */
static const struct balloon_backend *backend_of(const char *address, const char **ret_where)
{
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        size_t length = strlen(backends[i]->scheme);
        if (strncmp(address, backends[i]->scheme, length) || address[length] != ':')
            continue;
        if (backends[i]->version != BALLOON_BACKEND_VERSION || backends[i]->size < sizeof *backends[i])
            return NULL;
        *ret_where = address + length + 1;
        return backends[i];
    }
    return NULL;
}

int balloons_check_address(const char *address, struct balloon_error *error)
{
    const char *where;

    if (strlen(address) >= BALLOON_ADDRESS_BYTES)
        return balloon_fail(error, -EINVAL, "an address has at most %u bytes", BALLOON_ADDRESS_BYTES - 1);
    for (const char *c = address; *c; c++)
        if (*c < 0x20 || *c > 0x7e)
            return balloon_fail(error, -EINVAL, "an address is printable ASCII");
    const struct balloon_backend *backend = backend_of(address, &where);
    if (!backend)
        return balloon_fail(
            error, -EINVAL,
            "give qmp:/PATH, firecracker:/PATH, cloud-hypervisor:/PATH or libvirt:URI/DOMAIN");
    return backend->check(where, error);
}

/* ---------------------------------------------------------------- the set */

static void keeper_free(struct keeper *k)
{
    if (!k)
        return;
    if (k->ctl.wake_fd >= 0)
        close(k->ctl.wake_fd);
    pthread_cond_destroy(&k->answered);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

static struct keeper *keeper_make(const struct balloons_options *o, const struct balloons_spec *spec,
                                  int stop_fd)
{
    struct keeper *k = calloc(1, sizeof *k);
    pthread_condattr_t attr;

    if (!k)
        return NULL;
    k->spec = *spec;
    k->backend = backend_of(k->spec.address, &k->where);
    snprintf(k->proc_root, sizeof k->proc_root, "%s", o->proc_root);
    k->refresh_ms = o->refresh_ms ? o->refresh_ms : REFRESH_MS;
    k->retry_ms = o->retry_ms ? o->retry_ms : RETRY_MS;
    k->retry_ms_max = o->retry_ms_max ? o->retry_ms_max : RETRY_MS_MAX;
    k->ctl = (struct balloon_ctl){.stop_fd = stop_fd,
                                  .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                                  .proc_root = k->proc_root,
                                  .call_ms = o->call_ms ? o->call_ms : BALLOON_CALL_MS,
                                  .stats_every_s = KEEPER_STATS_S};
    facts_clear(&k->seen);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&k->answered, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&k->lock, NULL);
    return k;
}

static int keeper_start(struct keeper *k)
{
    pthread_attr_t attr;

    if (k->ctl.wake_fd < 0)
        return -EMFILE;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int result = pthread_create(&k->thread, &attr, keeper_run, k);
    pthread_attr_destroy(&attr);
    return -result;
}

int balloons_open(const struct balloons_options *options, struct balloons **ret_balloons)
{
    struct balloon_error error;
    int result = 0;

    if (options->nspecs > BALLOONS_MAX)
        return -EINVAL;
    for (size_t i = 0; i < options->nspecs; i++)
        if (balloons_check_address(options->specs[i].address, &error))
            return -EINVAL;
    struct balloons *b = calloc(1, sizeof *b + options->nspecs * sizeof b->keepers[0]);
    if (!b)
        return -ENOMEM;
    b->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->stop_fd < 0) {
        free(b);
        return -EMFILE;
    }
    while (!result && b->n < options->nspecs) {
        struct keeper *k = keeper_make(options, &options->specs[b->n], b->stop_fd);
        result = k ? keeper_start(k) : -ENOMEM;
        if (result)
            keeper_free(k);
        else
            b->keepers[b->n++] = k;
    }
    if (result) {
        balloons_close(b);
        return result;
    }
    *ret_balloons = b;
    return 0;
}

void balloons_close(struct balloons *b)
{
    struct timespec until;
    uint64_t one = 1;
    bool left = false;

    ssize_t ignored = write(b->stop_fd, &one, sizeof one);
    (void)ignored; /* cannot fail */
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += END_S;
    for (size_t i = 0; i < b->n; i++) {
        struct keeper *k = b->keepers[i];
        if (pthread_timedjoin_np(k->thread, NULL, &until)) {
            log_warn("balloon of %s: its thread is stuck in a call and is left behind", k->spec.vm);
            pthread_detach(k->thread);
            left = true;
        } else {
            keeper_free(k);
        }
    }
    if (!left)
        close(b->stop_fd);
    free(b);
}

/* ---------------------------------------------------------------- what there is to see */

size_t balloons_count(const struct balloons *b)
{
    return b->n;
}

int balloons_find(const struct balloons *b, const char *vm)
{
    for (size_t i = 0; i < b->n; i++)
        if (!strcmp(b->keepers[i]->spec.vm, vm))
            return (int)i;
    return -ENOENT;
}

void balloons_view(struct balloons *b, size_t i, struct balloons_view *ret_view)
{
    struct keeper *k = b->keepers[i];
    uint64_t now = clock_now_ns();

    pthread_mutex_lock(&k->lock);
    *ret_view = (struct balloons_view){
        .backend = k->backend->scheme,
        .backend_can = k->backend->can,
        .state = k->state,
        .facts = k->seen,
        .age_ms = k->seen_ns ? now > k->seen_ns ? (now - k->seen_ns) / CLOCK_MS : 0 : BALLOONS_NEVER,
        .stats_age_ms =
            k->seen.stats_serial ? now > k->stats_ns ? (now - k->stats_ns) / CLOCK_MS : 0 : BALLOONS_NEVER,
        .floor_bytes = k->seen.ram_bytes || k->spec.min_bytes ? keeper_floor(k) : 0,
        .min_bytes = k->spec.min_bytes,
        .max_bytes = k->spec.max_bytes,
        .connects = k->connects,
        .failures = k->failures,
        .sets = k->sets,
        .is_auto = k->spec.is_auto,
        .note = k->note ? k->note : "",
        .order_serial = k->order_serial,
        .order_error = k->order_error,
    };
    memcpy(ret_view->vm, k->spec.vm, sizeof ret_view->vm);
    memcpy(ret_view->address, k->spec.address, sizeof ret_view->address);
    memcpy(ret_view->reason, k->reason, sizeof ret_view->reason);
    pthread_mutex_unlock(&k->lock);
}

/* ---------------------------------------------------------------- what can be done */

static struct timespec patience(const struct keeper *k)
{
    struct timespec until;
    uint64_t ms = (uint64_t)CALLS_WAITED * k->ctl.call_ms;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    return until;
}

/* The keeper has not answered in time: take the request back, or tell it that nobody listens any more. */
static void request_give_up(struct keeper *k)
{
    if (k->request == KEEPER_QUEUED)
        k->request = KEEPER_IDLE;
    else
        k->given_up = true;
}

int balloons_set(struct balloons *b, size_t i, uint64_t bytes, struct balloon_error *error)
{
    struct keeper *k = b->keepers[i];
    struct timespec until = patience(k);
    uint64_t one = 1;
    int late = 0, result;

    pthread_mutex_lock(&k->lock);
    if (k->spec.is_auto) {
        pthread_mutex_unlock(&k->lock);
        return balloon_fail(error, -EBUSY,
                            "memd moves this balloon by its memory policy; `memctl balloon auto off %s` first",
                            k->spec.vm);
    }
    if (k->request != KEEPER_IDLE) {
        pthread_mutex_unlock(&k->lock);
        return balloon_fail(error, -EAGAIN, "another request for this balloon is under way; try again");
    }
    k->request = KEEPER_QUEUED;
    k->request_bytes = bytes;
    ssize_t ignored = write(k->ctl.wake_fd, &one, sizeof one);
    (void)ignored; /* a full counter wakes just as well */
    while (k->request != KEEPER_DONE && !late)
        late = pthread_cond_timedwait(&k->answered, &k->lock, &until);
    if (k->request == KEEPER_DONE) {
        k->request = KEEPER_IDLE;
        *error = k->answer;
        result = -error->error;
    } else {
        request_give_up(k);
        result =
            balloon_fail(error, -ETIMEDOUT, "the VMM did not answer in time; it may still take the size");
    }
    pthread_mutex_unlock(&k->lock);
    return result;
}

static void wake(struct keeper *k)
{
    uint64_t one = 1;
    ssize_t ignored = write(k->ctl.wake_fd, &one, sizeof one);

    (void)ignored; /* a full counter wakes just as well */
}

void balloons_order(struct balloons *b, size_t i, uint64_t bytes)
{
    struct keeper *k = b->keepers[i];

    pthread_mutex_lock(&k->lock);
    k->order_bytes = bytes;
    pthread_mutex_unlock(&k->lock);
    wake(k);
}

void balloons_watch(struct balloons *b, size_t i, bool on)
{
    struct keeper *k = b->keepers[i];

    pthread_mutex_lock(&k->lock);
    bool news = k->spec.is_auto != on;
    k->spec.is_auto = on;
    pthread_mutex_unlock(&k->lock);
    if (news)
        wake(k);
}

void balloons_note(struct balloons *b, size_t i, const char *note)
{
    struct keeper *k = b->keepers[i];

    pthread_mutex_lock(&k->lock);
    k->note = note;
    pthread_mutex_unlock(&k->lock);
}

int balloons_limit(struct balloons *b, size_t i, const uint64_t *min_bytes, const uint64_t *max_bytes,
                   struct balloon_error *error)
{
    struct keeper *k = b->keepers[i];
    int result = 0;

    pthread_mutex_lock(&k->lock);
    uint64_t min = min_bytes ? *min_bytes : k->spec.min_bytes,
             max = max_bytes ? *max_bytes : k->spec.max_bytes;
    uint64_t ram = k->seen.ram_bytes;
    if (max && max < (min ? min : balloons_floor(ram)))
        result = balloon_fail(error, -ERANGE,
                              "a maximum of %" PRIu64 " MiB is below the minimum of %" PRIu64 " MiB",
                              max / MIB, ((min ? min : balloons_floor(ram)) + MIB - 1) / MIB);
    else if (ram && min > ram)
        result = balloon_fail(error, -ERANGE,
                              "a minimum of %" PRIu64 " MiB is above the %" PRIu64 " MiB of RAM of the VM",
                              min / MIB, ram / MIB);
    if (!result) {
        k->spec.min_bytes = min;
        k->spec.max_bytes = max;
    }
    pthread_mutex_unlock(&k->lock);
    return result;
}
