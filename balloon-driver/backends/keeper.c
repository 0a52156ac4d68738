/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See keeper.h. */
#include "balloon-driver/backends/keeper.h"

#include "balloon-driver/backends/facts.h"

#include "memd/common/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

uint64_t keeper_floor(const struct keeper *k)
{
    return k->spec.min_bytes ? k->spec.min_bytes : balloons_floor(k->seen.ram_bytes);
}

/* ---------------------------------------------------------------- what others see */

static enum balloons_state state_of(int result, const struct balloon_facts *facts)
{
    switch (-result) {
    case 0:
        return facts->no_driver ? BALLOONS_NO_DRIVER : BALLOONS_READY;
    case ENODEV:
        return BALLOONS_NO_DEVICE;
    case EBUSY:
        return BALLOONS_TAKEN;
    case ENOTCONN:
        return BALLOONS_GONE;
    default:
        return BALLOONS_FAILED;
    }
}

static void state_log(struct keeper *k, enum balloons_state state, const char *reason)
{
    if (!log_allowed(&k->log))
        return;
    if (state == BALLOONS_READY)
        log_info("balloon of %s: ready, %" PRIu64 " of %" PRIu64 " MiB are left to the guest", k->spec.vm,
                 k->facts.actual_bytes / MIB, k->facts.ram_bytes / MIB);
    else
        log_warn("balloon of %s: %s: %s", k->spec.vm, balloons_state_name(state), reason);
}

/* The facts and the state, for the others. `fresh`: they are what the VMM has just said. */
static void publish(struct keeper *k, int result, bool fresh, const struct balloon_error *error)
{
    const char *reason = !result && k->facts.no_driver ? "the guest has no balloon driver bound"
                         : result                      ? error->reason
                                                       : "";
    uint64_t now = clock_now_ns();

    facts_clamp(&k->facts);
    enum balloons_state state = state_of(result, &k->facts);
    pthread_mutex_lock(&k->lock);
    bool news = state != k->state;
    k->state = state;
    snprintf(k->reason, sizeof k->reason, "%s", reason);
    if (k->facts.stats_serial != k->seen.stats_serial)
        k->stats_ns = now;
    if (fresh && !result)
        k->seen_ns = now;
    k->seen = k->facts;
    pthread_mutex_unlock(&k->lock);
    if (news)
        state_log(k, state, reason);
}

/* ---------------------------------------------------------------- what users ask for */

static bool request_waits(struct keeper *k)
{
    pthread_mutex_lock(&k->lock);
    bool waits = k->request == KEEPER_QUEUED;
    pthread_mutex_unlock(&k->lock);
    return waits;
}

static bool request_take(struct keeper *k, uint64_t *ret_bytes)
{
    pthread_mutex_lock(&k->lock);
    bool taken = k->request == KEEPER_QUEUED;
    if (taken) {
        k->request = KEEPER_RUNNING;
        k->given_up = false;
        *ret_bytes = k->request_bytes;
    }
    pthread_mutex_unlock(&k->lock);
    return taken;
}

static void request_answer(struct keeper *k, const struct balloon_error *error)
{
    pthread_mutex_lock(&k->lock);
    k->answer = *error;
    k->sets += !error->error;
    k->request = k->given_up ? KEEPER_IDLE : KEEPER_DONE;
    pthread_cond_broadcast(&k->answered);
    pthread_mutex_unlock(&k->lock);
}

/* There is nobody to pass it on to. */
static void request_refuse(struct keeper *k, const struct balloon_error *error)
{
    uint64_t bytes;

    if (request_take(k, &bytes))
        request_answer(k, error);
}

/* Whether the guest may be left `bytes`. */
static int request_check(struct keeper *k, uint64_t bytes, struct balloon_error *error)
{
    const struct balloon_facts *f = &k->facts;
    uint64_t before = f->target_bytes ? f->target_bytes : f->actual_bytes;

    pthread_mutex_lock(&k->lock);
    uint64_t floor = keeper_floor(k), max = k->spec.max_bytes;
    pthread_mutex_unlock(&k->lock);
    if (bytes > f->ram_bytes)
        return balloon_fail(error, -ERANGE,
                            "%" PRIu64 " MiB are more than the %" PRIu64 " MiB of RAM of the VM", bytes / MIB,
                            f->ram_bytes / MIB);
    if (bytes < floor)
        return balloon_fail(error, -ERANGE,
                            "%" PRIu64 " MiB are below the floor of %" PRIu64
                            " MiB; `memctl balloon limits VM --min SIZE` sets another",
                            bytes / MIB, (floor + MIB - 1) / MIB);
    if (max && bytes > max)
        return balloon_fail(error, -ERANGE,
                            "%" PRIu64 " MiB are above the limit of %" PRIu64
                            " MiB; `memctl balloon limits VM --max SIZE` sets another",
                            bytes / MIB, max / MIB);
    if (f->no_driver && bytes < before)
        return balloon_fail(error, -ENXIO,
                            "the guest has no balloon driver bound: it would give nothing back (modprobe "
                            "virtio_balloon in the guest)");
    return 0;
}

/* Whether the connection is of no more use after this. */
static bool is_fatal(int result)
{
    return result == -ENOTCONN || result == -ETIMEDOUT || result == -EPROTO || result == -ESHUTDOWN ||
           result == -ENOMEM;
}

/* 0, or what ends the connection. */
static int request_serve(struct keeper *k, void *peer, struct balloon_error *error)
{
    struct balloon_error none = {0};
    uint64_t bytes;

    /* one that has come since the last look, which found no device, waits for the next */
    if (!k->facts.ram_bytes || !request_take(k, &bytes))
        return 0;
    int result = request_check(k, bytes, error);
    if (bytes % MEMD_BALLOON_PAGE_BYTES)
        bytes += MEMD_BALLOON_PAGE_BYTES - bytes % MEMD_BALLOON_PAGE_BYTES;
    if (!result)
        result = k->backend->set(peer, bytes, &k->facts, error);
    if (!result) {
        k->moved_ns = clock_now_ns();
        k->moved_bytes = k->facts.actual_bytes;
        publish(k, 0, false, error);
    }
    request_answer(k, result ? error : &none);
    return is_fatal(result) ? result : 0;
}

/* What the policy wants, without the look that precedes what a user asks for: it must not wait. 0, or what
 * ends the connection. */
static int order_serve(struct keeper *k, void *peer, struct balloon_error *error)
{
    pthread_mutex_lock(&k->lock);
    uint64_t bytes = k->order_bytes;
    k->order_bytes = 0;
    pthread_mutex_unlock(&k->lock);
    if (!bytes)
        return 0;
    int result = k->facts.ram_bytes ? request_check(k, bytes, error) : -ENOTCONN;
    if (!result)
        result = k->backend->set(peer, bytes - bytes % MEMD_BALLOON_PAGE_BYTES, &k->facts, error);
    if (!result) {
        k->moved_ns = clock_now_ns();
        k->moved_bytes = k->facts.actual_bytes;
        publish(k, 0, false, error);
    }
    pthread_mutex_lock(&k->lock);
    k->order_serial++;
    k->order_error = -result;
    k->sets += !result;
    pthread_mutex_unlock(&k->lock);
    return k->facts.ram_bytes && is_fatal(result) ? result : 0;
}

/* There is nobody to pass one on to. */
static void order_refuse(struct keeper *k)
{
    pthread_mutex_lock(&k->lock);
    if (k->order_bytes) {
        k->order_bytes = 0;
        k->order_serial++;
        k->order_error = ENOTCONN;
    }
    pthread_mutex_unlock(&k->lock);
}

static unsigned refresh_ms(struct keeper *k)
{
    pthread_mutex_lock(&k->lock);
    bool watched = k->spec.is_auto;
    pthread_mutex_unlock(&k->lock);
    return watched && k->refresh_ms > KEEPER_WATCHED_MS ? KEEPER_WATCHED_MS : k->refresh_ms;
}

/* ---------------------------------------------------------------- a connection */

/* The guest is on its way to a target, as far as can be seen, and gets somewhere. */
static bool is_moving(struct keeper *k, uint64_t now)
{
    const struct balloon_facts *f = &k->facts;
    uint64_t apart = f->actual_bytes > f->target_bytes ? f->actual_bytes - f->target_bytes
                                                       : f->target_bytes - f->actual_bytes;

    if (f->actual_bytes != k->moved_bytes) {
        k->moved_bytes = f->actual_bytes;
        k->moved_ns = now;
    }
    return f->target_bytes && f->can & BALLOON_CAN_ACTUAL && apart && !f->no_driver &&
           now - k->moved_ns < KEEPER_STALLED_MS * CLOCK_MS;
}

/* Nothing that comes from here on is answered. */
static void keeper_end(struct keeper *k, const struct balloon_error *error)
{
    pthread_mutex_lock(&k->lock);
    k->ended = true;
    pthread_mutex_unlock(&k->lock);
    request_refuse(k, error);
    order_refuse(k);
}

static void count(struct keeper *k, uint64_t *counter)
{
    pthread_mutex_lock(&k->lock);
    ++*counter;
    pthread_mutex_unlock(&k->lock);
}

/* Ask the VMM, if it is time to or a user waits. 0, -ENODEV, or what ends the connection. */
static int look(struct keeper *k, void *peer, struct balloon_error *error)
{
    uint64_t now = clock_now_ns();
    bool full = now >= k->full_ns || request_waits(k);

    if (now < k->due_ns && !full)
        return 0;
    int result = k->backend->refresh(peer, !full, &k->facts, error);
    if (result && result != -ENODEV)
        return result;
    if (result)
        facts_clear(&k->facts);
    if (!k->connected)
        count(k, &k->connects);
    k->connected = true;
    publish(k, result, true, error);
    now = clock_now_ns();
    if (full)
        k->full_ns = now + refresh_ms(k) * CLOCK_MS;
    k->due_ns = is_moving(k, now) ? now + KEEPER_MOVING_MS * CLOCK_MS : k->full_ns;
    return result;
}

static void wake_drain(const struct keeper *k)
{
    uint64_t count;
    ssize_t ignored = read(k->ctl.wake_fd, &count, sizeof count);

    (void)ignored; /* it does not block */
}

/* For `ms`, or until a user wants something or memd ends: -ESHUTDOWN. */
static int pause_for(const struct keeper *k, unsigned ms)
{
    struct pollfd fds[] = {{.fd = k->ctl.stop_fd, .events = POLLIN},
                           {.fd = k->ctl.wake_fd, .events = POLLIN}};
    int n = poll(fds, 2, (int)ms);

    return n > 0 && fds[0].revents ? -ESHUTDOWN : 0;
}

static int wait_for_news(struct keeper *k, void *peer, struct balloon_error *error)
{
    uint64_t now = clock_now_ns();
    unsigned ms = now < k->due_ns ? (unsigned)((k->due_ns - now) / CLOCK_MS) + 1 : 0;
    uint64_t events = k->facts.events;

    if (!k->backend->wait) {
        int result = pause_for(k, ms);
        return result ? balloon_fail(error, result, "memd is ending") : 0;
    }
    int result = k->backend->wait(peer, ms, &k->facts, error);
    if (!result && k->facts.events != events && k->facts.ram_bytes)
        publish(k, 0, false, error);
    return result;
}

/* Until the connection ends; returns why. */
static int serve(struct keeper *k, void *peer, struct balloon_error *error)
{
    k->connected = false;
    k->due_ns = k->full_ns = 0;
    for (;;) {
        wake_drain(k);
        int result = order_serve(k, peer, error);
        if (!result)
            result = look(k, peer, error);
        if (result == -ENODEV)
            request_refuse(k, error);
        else if (result)
            return result;
        else
            result = request_serve(k, peer, error);
        if (is_fatal(result))
            return result;
        if (is_moving(k, clock_now_ns()) && k->due_ns > clock_now_ns() + KEEPER_MOVING_MS * CLOCK_MS)
            k->due_ns = clock_now_ns() + KEEPER_MOVING_MS * CLOCK_MS;
        result = wait_for_news(k, peer, error);
        if (result)
            return result;
    }
}

void *keeper_run(void *arg)
{
    struct balloon_error error = {0};
    struct keeper *k = arg;
    unsigned pause_ms = k->retry_ms;
    int result = 0;

    while (result != -ESHUTDOWN) {
        uint64_t begun_ns = clock_now_ns();
        void *peer;
        wake_drain(k);
        facts_clear(&k->facts);
        result = k->backend->open(&k->ctl, k->where, &peer, &error);
        if (!result) {
            result = serve(k, peer, &error);
            k->backend->close(peer);
        }
        facts_clear(&k->facts);
        request_refuse(k, &error);
        order_refuse(k);
        if (result == -ESHUTDOWN)
            break;
        count(k, &k->failures);
        publish(k, result, false, &error);
        /* one that never lasts long is tried as seldom as one that is not there */
        if (clock_now_ns() - begun_ns > k->retry_ms_max * CLOCK_MS)
            pause_ms = k->retry_ms;
        else
            pause_ms = pause_ms < k->retry_ms_max / 2 ? 2 * pause_ms : k->retry_ms_max;
        result = pause_for(k, result == -EBUSY ? KEEPER_TAKEN_TIMES * k->retry_ms_max : pause_ms);
    }
    balloon_fail(&error, -ESHUTDOWN, "the balloon is gone, or memd is ending");
    keeper_end(k, &error);
    return NULL;
}
