/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See balloons.h. */
#include "balloon-driver/backends/balloons.h"

#include "balloon-driver/backends/embedded.h"
#include "balloon-driver/backends/facts.h"
#include "balloon-driver/backends/keeper.h"

#include "memd/common/clock.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MIB                  (UINT64_C(1) << 20)
#define REFRESH_MS           5000u
#define RETRY_MS             500u
#define RETRY_MS_MAX         10000u
#define CALLS_WAITED         3u /* a look that is under way, one before the request, and the request itself */
#define END_S                3u /* patience with a thread that does not end */
#define STACK_BYTES          (1u << 20) /* jansson recurses, at most 2048 deep */
#define STACK_BYTES_EMBEDDED (256u << 10)

#define SLOT_BITS       11u
#define GENERATION_BITS 19u /* of a slot: so many more balloons until a number comes again */
static_assert(BALLOONS_SLOTS <= 1u << SLOT_BITS && SLOT_BITS + GENERATION_BITS < 31, "a number is an int");

struct slot {
    struct keeper *keeper; /* NULL: free */
    unsigned generation;
};

/* Keepers are allocated each by itself: one that does not end is left behind. `lock` is taken before that of
 * a keeper, and held for moments only. */
struct balloons {
    struct balloons_options options; /* of those to come; specs: NULL */
    char proc_root[256];
    pthread_mutex_t lock; /* guards what follows, and keeper.users */
    size_t n;
    struct slot slots[BALLOONS_SLOTS];
    size_t nleft;
    struct keeper *left[2 * BALLOONS_SLOTS]; /* told to end, and not freed yet */
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
    embedded_free(k->ctl.port);
    if (k->ctl.wake_fd >= 0)
        close(k->ctl.wake_fd);
    if (k->ctl.stop_fd >= 0)
        close(k->ctl.stop_fd);
    pthread_cond_destroy(&k->answered);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

static struct keeper *keeper_make(const struct balloons_options *o, const struct balloons_spec *spec)
{
    struct keeper *k = calloc(1, sizeof *k);
    pthread_condattr_t attr;

    if (!k)
        return NULL;
    k->spec = *spec;
    snprintf(k->proc_root, sizeof k->proc_root, "%s", o->proc_root);
    k->refresh_ms = o->refresh_ms ? o->refresh_ms : REFRESH_MS;
    k->retry_ms = o->retry_ms ? o->retry_ms : RETRY_MS;
    k->retry_ms_max = o->retry_ms_max ? o->retry_ms_max : RETRY_MS_MAX;
    k->ctl = (struct balloon_ctl){.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
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

static int keeper_start(struct keeper *k, size_t stack_bytes)
{
    pthread_attr_t attr;

    if (k->ctl.wake_fd < 0 || k->ctl.stop_fd < 0)
        return -EMFILE;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, stack_bytes);
    int result = pthread_create(&k->thread, &attr, keeper_run, k);
    pthread_attr_destroy(&attr);
    return -result;
}

static void keeper_stop(struct keeper *k)
{
    uint64_t one = 1;
    ssize_t ignored = write(k->ctl.stop_fd, &one, sizeof one);

    (void)ignored; /* cannot fail */
}

static int number_of(const struct balloons *b, size_t slot)
{
    return (int)(b->slots[slot].generation << SLOT_BITS | slot);
}

/* Start it, and give it a free slot. Under the lock, or before anybody knows of `b`. */
static int admit(struct balloons *b, struct keeper *k, size_t stack_bytes)
{
    size_t slot = 0;

    while (slot < b->n && b->slots[slot].keeper)
        slot++;
    if (slot == BALLOONS_SLOTS)
        return -ENOSPC;
    int result = keeper_start(k, stack_bytes);
    if (result)
        return result;
    b->slots[slot].keeper = k;
    if (slot == b->n)
        b->n++;
    return number_of(b, slot);
}

static int add_configured(struct balloons *b, const struct balloons_spec *spec)
{
    struct keeper *k = keeper_make(&b->options, spec);

    if (!k)
        return -ENOMEM;
    k->backend = backend_of(k->spec.address, &k->where);
    int result = admit(b, k, STACK_BYTES);
    if (result < 0)
        keeper_free(k);
    return result < 0 ? result : 0;
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
    struct balloons *b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    pthread_mutex_init(&b->lock, NULL);
    b->options = *options;
    snprintf(b->proc_root, sizeof b->proc_root, "%s", options->proc_root);
    b->options.proc_root = b->proc_root;
    b->options.specs = NULL;
    for (size_t i = 0; i < options->nspecs && !result; i++)
        result = add_configured(b, &options->specs[i]);
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

    for (size_t i = 0; i < b->n; i++) /* nobody calls in any more */
        if (b->slots[i].keeper) {
            keeper_stop(b->slots[i].keeper);
            b->left[b->nleft++] = b->slots[i].keeper;
        }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += END_S;
    for (size_t i = 0; i < b->nleft; i++) {
        struct keeper *k = b->left[i];
        if (pthread_timedjoin_np(k->thread, NULL, &until)) {
            log_warn("balloon of %s: its thread is stuck in a call and is left behind", k->spec.vm);
            pthread_detach(k->thread);
        } else {
            keeper_free(k);
        }
    }
    pthread_mutex_destroy(&b->lock);
    free(b);
}

/* ---------------------------------------------------------------- those that come and go */

static int find_locked(const struct balloons *b, const char *vm)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->slots[i].keeper && !strcmp(b->slots[i].keeper->spec.vm, vm))
            return number_of(b, i);
    return -ENOENT;
}

int balloons_embed(struct balloons *b, const struct balloons_spec *spec, int asks_fd,
                   struct embedded **ret_port)
{
    struct keeper *k = keeper_make(&b->options, spec);

    if (!k)
        return -ENOMEM;
    k->backend = &balloon_embedded;
    strcpy(k->spec.address, EMBEDDED_ADDRESS);
    k->where = k->spec.address;
    k->ctl.port = k->ctl.wake_fd < 0 ? NULL : embedded_new(asks_fd, k->ctl.wake_fd);
    pthread_mutex_lock(&b->lock);
    int result = !k->ctl.port                         ? -EMFILE
                 : find_locked(b, spec->vm) >= 0      ? -EEXIST
                 : b->nleft >= BALLOONS_EMBEDDED / 2u ? -ENOSPC
                                                      : admit(b, k, STACK_BYTES_EMBEDDED);
    pthread_mutex_unlock(&b->lock);
    if (result < 0)
        keeper_free(k);
    else
        *ret_port = k->ctl.port;
    return result;
}

/* NULL: it is gone. The lock is held. */
static struct keeper *keeper_of(const struct balloons *b, int balloon)
{
    size_t slot = balloons_slot(balloon);

    return balloon >= 0 && slot < b->n && number_of(b, slot) == balloon ? b->slots[slot].keeper : NULL;
}

void balloons_leave(struct balloons *b, int balloon)
{
    pthread_mutex_lock(&b->lock);
    struct keeper *k = keeper_of(b, balloon);
    if (k) {
        struct slot *slot = &b->slots[balloons_slot(balloon)];
        slot->keeper = NULL;
        slot->generation = (slot->generation + 1) % (1u << GENERATION_BITS);
        b->left[b->nleft++] = k;
        keeper_stop(k);
    }
    pthread_mutex_unlock(&b->lock);
}

static bool has_ended(struct keeper *k)
{
    pthread_mutex_lock(&k->lock);
    bool ended = k->ended;
    pthread_mutex_unlock(&k->lock);
    return ended;
}

void balloons_reap(struct balloons *b)
{
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->nleft;) {
        struct keeper *k = b->left[i];
        if (k->users || !has_ended(k)) {
            i++;
            continue;
        }
        b->left[i] = b->left[--b->nleft];
        pthread_join(k->thread, NULL); /* it is at its end */
        keeper_free(k);
    }
    pthread_mutex_unlock(&b->lock);
}

/* For as long as it takes: NULL, it is gone. */
static struct keeper *keeper_get(struct balloons *b, int balloon)
{
    pthread_mutex_lock(&b->lock);
    struct keeper *k = keeper_of(b, balloon);
    if (k)
        k->users++;
    pthread_mutex_unlock(&b->lock);
    return k;
}

static void keeper_put(struct balloons *b, struct keeper *k)
{
    pthread_mutex_lock(&b->lock);
    k->users--;
    pthread_mutex_unlock(&b->lock);
}

/* ---------------------------------------------------------------- what there is to see */

size_t balloons_slot(int balloon)
{
    return (size_t)balloon & ((1u << SLOT_BITS) - 1);
}

int balloons_next(struct balloons *b, size_t *cursor)
{
    int balloon = -ENOENT;

    pthread_mutex_lock(&b->lock);
    while (balloon < 0 && *cursor < b->n) {
        if (b->slots[*cursor].keeper)
            balloon = number_of(b, *cursor);
        ++*cursor;
    }
    pthread_mutex_unlock(&b->lock);
    return balloon;
}

size_t balloons_count(struct balloons *b)
{
    size_t cursor = 0, n = 0;

    while (balloons_next(b, &cursor) >= 0)
        n++;
    return n;
}

int balloons_find(struct balloons *b, const char *vm)
{
    pthread_mutex_lock(&b->lock);
    int balloon = find_locked(b, vm);
    pthread_mutex_unlock(&b->lock);
    return balloon;
}

static void view_of(struct keeper *k, struct balloons_view *ret_view)
{
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

int balloons_view(struct balloons *b, int balloon, struct balloons_view *ret_view)
{
    struct keeper *k = keeper_get(b, balloon);

    if (!k) {
        *ret_view = (struct balloons_view){.balloon = balloon,
                                           .backend = "",
                                           .state = BALLOONS_GONE,
                                           .reason = "it is gone",
                                           .age_ms = BALLOONS_NEVER,
                                           .stats_age_ms = BALLOONS_NEVER,
                                           .note = ""};
        return -ENOENT;
    }
    view_of(k, ret_view);
    ret_view->balloon = balloon;
    keeper_put(b, k);
    return 0;
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

static void wake(struct keeper *k)
{
    uint64_t one = 1;
    ssize_t ignored = write(k->ctl.wake_fd, &one, sizeof one);

    (void)ignored; /* a full counter wakes just as well */
}

static int gone(struct balloon_error *error)
{
    return balloon_fail(error, -ENOENT, "the VM is gone, and its balloon with it");
}

static int set(struct keeper *k, uint64_t bytes, struct balloon_error *error)
{
    struct timespec until = patience(k);
    int late = 0, result;

    pthread_mutex_lock(&k->lock);
    if (k->ended) {
        pthread_mutex_unlock(&k->lock);
        return gone(error);
    }
    if (k->spec.is_auto) {
        pthread_mutex_unlock(&k->lock);
        return balloon_fail(
            error, -EBUSY, "memd moves this balloon by its memory policy; `memctl balloon auto off %s` first",
            k->spec.vm);
    }
    if (k->request != KEEPER_IDLE) {
        pthread_mutex_unlock(&k->lock);
        return balloon_fail(error, -EAGAIN, "another request for this balloon is under way; try again");
    }
    k->request = KEEPER_QUEUED;
    k->request_bytes = bytes;
    wake(k);
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

int balloons_set(struct balloons *b, int balloon, uint64_t bytes, struct balloon_error *error)
{
    struct keeper *k = keeper_get(b, balloon);

    if (!k)
        return gone(error);
    int result = set(k, bytes, error);
    keeper_put(b, k);
    return result;
}

void balloons_order(struct balloons *b, int balloon, uint64_t bytes)
{
    struct keeper *k = keeper_get(b, balloon);

    if (!k)
        return;
    pthread_mutex_lock(&k->lock);
    k->order_bytes = bytes;
    pthread_mutex_unlock(&k->lock);
    wake(k);
    keeper_put(b, k);
}

void balloons_watch(struct balloons *b, int balloon, bool on)
{
    struct keeper *k = keeper_get(b, balloon);

    if (!k)
        return;
    pthread_mutex_lock(&k->lock);
    bool news = k->spec.is_auto != on;
    k->spec.is_auto = on;
    pthread_mutex_unlock(&k->lock);
    if (news)
        wake(k);
    keeper_put(b, k);
}

void balloons_note(struct balloons *b, int balloon, const char *note)
{
    struct keeper *k = keeper_get(b, balloon);

    if (!k)
        return;
    pthread_mutex_lock(&k->lock);
    k->note = note;
    pthread_mutex_unlock(&k->lock);
    keeper_put(b, k);
}

static int limit(struct keeper *k, const uint64_t *min_bytes, const uint64_t *max_bytes,
                 struct balloon_error *error)
{
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

int balloons_limit(struct balloons *b, int balloon, const uint64_t *min_bytes, const uint64_t *max_bytes,
                   struct balloon_error *error)
{
    struct keeper *k = keeper_get(b, balloon);

    if (!k)
        return gone(error);
    int result = limit(k, min_bytes, max_bytes, error);
    keeper_put(b, k);
    return result;
}
