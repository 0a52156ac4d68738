/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see agent_peer.h. */
#include "memd/daemon/agent_peer.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define SWAP_BYTES_MAX      (1ull << 46)
#define COMMITTED_BYTES_MAX (1ull << 50)
#define UPTIME_MS_MAX       (1ull << 52)
/* the most that can happen in a second, and what may have waited on the way to us */
#define COUNT_BYTES_PER_S  (64ull << 30)
#define COUNT_EVENTS_PER_S 1000000ull
#define COUNT_SLACK_NS     (30 * CLOCK_S)
#define RATE_NS_MIN        (CLOCK_S / 10) /* a rate over less says nothing */
#define LOST_MAX           (1u << 20)     /* more is no loss, but another numbering */

/* ---------------------------------------------------------------- connections */

void agent_peer_connected(struct agent_peer *peer, uint64_t session, uint64_t now_ns)
{
    peer->connected = true;
    peer->answered = false;
    peer->session = session;
    peer->version = 0;
    peer->seq_out = 0;
    peer->greeted_ns = 0;
    peer->nin = peer->nout = 0;
    peer->filled_ns = now_ns;
    peer->bytes_allowed = AGENT_PEER_BYTES_BURST;
    peer->frames_allowed = AGENT_PEER_FRAMES_BURST;
}

static void reclaim_end(struct agent_peer *peer, int error)
{
    struct agent_peer_reclaim *r = &peer->reclaim;

    if (!r->runs)
        return;
    r->runs = r->to_send = false;
    r->over = true;
    r->error = error;
}

void agent_peer_disconnected(struct agent_peer *peer)
{
    peer->connected = peer->answered = false;
    peer->session = 0;
    peer->nin = peer->nout = 0;
    reclaim_end(peer, ECONNRESET);
}

enum core_agent_state agent_peer_state(const struct agent_peer *peer, uint64_t now_ns)
{
    if (!peer->connected)
        return CORE_AGENT_ABSENT;
    if (!peer->answered)
        return CORE_AGENT_SILENT;
    if (!peer->version)
        return CORE_AGENT_REFUSED;
    return now_ns - peer->heard_ns > AGENT_PEER_STALE_NS ? CORE_AGENT_STALE : CORE_AGENT_LIVE;
}

/* ---------------------------------------------------------------- what it says */

static void take_here(struct agent_peer *peer, const struct agent_here *here)
{
    if (!peer->known || here->boot != peer->boot)
        for (unsigned i = 0; i < AGENT_VALUES; i++)
            peer->count[i].known = false;
    peer->known = peer->answered = true;
    peer->instance = here->instance;
    peer->boot = here->boot;
    peer->features = here->features;
    peer->version =
        agent_common_version(AGENT_VERSION_MIN, AGENT_VERSION_MAX, here->version_min, here->version_max);
    memcpy(peer->release, here->release, sizeof peer->release);
    for (char *c = peer->release; *c; c++)
        if (!isgraph((unsigned char)*c))
            *c = '?';
}

static uint64_t at_most(struct agent_peer *peer, uint64_t value, uint64_t max)
{
    if (value <= max)
        return value;
    peer->clamped++;
    return max;
}

/* The largest a gauge can be, given those before it. */
static uint64_t gauge_max(const struct agent_peer *peer, enum agent_value i, uint64_t cap_bytes)
{
    bool total = peer->present >> AGENT_MEM_TOTAL & 1, swap = peer->present >> AGENT_SWAP_TOTAL & 1;

    switch (i) {
    case AGENT_MEM_TOTAL:
        return cap_bytes;
    case AGENT_SWAP_TOTAL:
        return SWAP_BYTES_MAX;
    case AGENT_SWAP_FREE:
        return swap ? peer->value[AGENT_SWAP_TOTAL] : SWAP_BYTES_MAX;
    case AGENT_COMMITTED:
        return COMMITTED_BYTES_MAX;
    case AGENT_UPTIME_MS:
        return UPTIME_MS_MAX;
    default:
        return total ? peer->value[AGENT_MEM_TOTAL] : cap_bytes;
    }
}

/* The most a count can have come to. */
static uint64_t count_max(enum agent_kind kind, uint64_t elapsed_ns)
{
    elapsed_ns += COUNT_SLACK_NS;
    switch (kind) {
    case AGENT_COUNTER_US:
        return elapsed_ns / 1000;
    case AGENT_COUNTER_BYTES:
        return elapsed_ns / CLOCK_S * COUNT_BYTES_PER_S;
    default:
        return elapsed_ns / CLOCK_S * COUNT_EVENTS_PER_S;
    }
}

/* Add what has been counted since the last report; returns how much that is. */
static uint64_t take_count(struct agent_peer *peer, enum agent_value i, uint64_t value, uint64_t elapsed_ns)
{
    struct agent_count *count = &peer->count[i];
    uint64_t more = count->known && value > count->last ? value - count->last : 0;
    uint64_t max = count_max(agent_values[i].kind, elapsed_ns);

    if (count->known && value < count->last)
        peer->clamped++; /* it only grows */
    count->known = true;
    count->last = value;
    more = at_most(peer, more, max > count->sum ? max - count->sum : 0);
    count->sum += more;
    peer->value[i] = count->sum;
    return more;
}

static double percent(uint64_t part_us, uint64_t elapsed_ns)
{
    double value = 100.0 * 1000 * (double)part_us / (double)elapsed_ns;

    return value < 100 ? value : 100;
}

static void take_report(struct agent_peer *peer, const struct agent_report *report, uint64_t cap_bytes,
                        uint64_t now_ns)
{
    uint64_t some_us = 0, full_us = 0;
    uint64_t since_ns = now_ns - peer->reported_ns;

    if (!peer->reported_ns)
        peer->first_ns = now_ns;
    peer->present = report->present & ((1ull << AGENT_VALUES) - 1);
    for (unsigned i = 0; i < AGENT_VALUES; i++) {
        if (!(peer->present >> i & 1)) {
            peer->value[i] = 0;
            continue;
        }
        enum agent_kind kind = agent_values[i].kind;
        if (kind == AGENT_GAUGE_BYTES || kind == AGENT_GAUGE_MS) {
            peer->value[i] = at_most(peer, report->value[i], gauge_max(peer, i, cap_bytes));
            continue;
        }
        uint64_t more = take_count(peer, i, report->value[i], now_ns - peer->first_ns);
        some_us = i == AGENT_STALL_SOME_US ? more : some_us;
        full_us = i == AGENT_STALL_FULL_US ? more : full_us;
    }
    if (peer->reported_ns && since_ns >= RATE_NS_MIN) {
        peer->stall_some_percent = percent(some_us, since_ns);
        peer->stall_full_percent = percent(full_us, since_ns);
    }
    peer->reported_ns = now_ns;
}

/* Names are a guest's: what is not plain text becomes '?'. */
static void take_consumers(struct agent_peer *peer, const struct agent_consumers *consumers,
                           uint64_t cap_bytes)
{
    peer->nconsumers = consumers->count;
    for (unsigned i = 0; i < peer->nconsumers; i++) {
        struct agent_consumer *to = &peer->consumers[i];
        *to = consumers->top[i];
        to->bytes = at_most(peer, to->bytes, cap_bytes);
        for (char *c = to->name; *c; c++)
            if (!isgraph((unsigned char)*c))
                *c = '?';
    }
}

static int reclaim_error(uint32_t error)
{
    switch (error) {
    case AGENT_OK:
    case AGENT_ERROR_DRY:
    case AGENT_ERROR_TIMEOUT: /* what it came to is said by the bytes */
        return 0;
    case AGENT_ERROR_BUSY:
        return EBUSY;
    case AGENT_ERROR_UNSUPPORTED:
        return ENOTSUP;
    default:
        return EIO;
    }
}

static void take_reclaimed(struct agent_peer *peer, const struct agent_reclaimed *reclaimed)
{
    struct agent_peer_reclaim *r = &peer->reclaim;

    if (!r->runs || reclaimed->id != r->id)
        return; /* of one that was given up */
    uint64_t bytes = at_most(peer, reclaimed->bytes, r->want_bytes);
    if (bytes > r->got_bytes)
        r->got_bytes = bytes;
    if (!(reclaimed->flags & AGENT_RECLAIM_MORE))
        reclaim_end(peer, reclaim_error(reclaimed->error));
}

/* Frames are numbered: false: one that was there already, or is older than what was. */
static bool take_number(struct agent_peer *peer, uint32_t seq, bool begins)
{
    uint32_t gap = seq - peer->seq_in - 1;

    if (!begins) {
        if (gap >= UINT32_MAX / 2)
            return false;
        peer->lost += gap < LOST_MAX ? gap : 0;
    }
    peer->seq_in = seq;
    return true;
}

static void take_frame(struct agent_peer *peer, const union agent_frame *frame, uint64_t cap_bytes,
                       uint64_t now_ns)
{
    bool here = frame->h.type == AGENT_HERE;
    bool begins = here && (!peer->answered || frame->here.instance != peer->instance);

    if (frame->h.session != peer->session || (!here && frame->h.version != peer->version) ||
        (!here && !peer->answered) || !take_number(peer, frame->h.seq, begins)) {
        peer->bad++;
        return;
    }
    peer->frames++;
    peer->heard_ns = now_ns;
    switch (frame->h.type) {
    case AGENT_HERE:
        take_here(peer, &frame->here);
        break;
    case AGENT_REPORT:
        take_report(peer, &frame->report, cap_bytes, now_ns);
        break;
    case AGENT_CONSUMERS:
        take_consumers(peer, &frame->consumers, cap_bytes);
        break;
    default:
        take_reclaimed(peer, &frame->reclaimed);
        break;
    }
}

/* ---------------------------------------------------------------- the stream in */

static double fill(double allowed, double per_s, double most, uint64_t since_ns)
{
    allowed += per_s * (double)since_ns / (double)CLOCK_S;
    return allowed < most ? allowed : most;
}

static void refill(struct agent_peer *peer, uint64_t now_ns)
{
    uint64_t since_ns = now_ns - peer->filled_ns;

    peer->filled_ns = now_ns;
    peer->bytes_allowed = fill(peer->bytes_allowed, AGENT_PEER_BYTES_PER_S, AGENT_PEER_BYTES_BURST, since_ns);
    peer->frames_allowed =
        fill(peer->frames_allowed, AGENT_PEER_FRAMES_PER_S, AGENT_PEER_FRAMES_BURST, since_ns);
}

size_t agent_peer_room(struct agent_peer *peer, uint64_t now_ns, uint8_t **ret_at)
{
    size_t room = sizeof peer->in - peer->nin;

    refill(peer, now_ns);
    *ret_at = peer->in + peer->nin;
    if (peer->frames_allowed < 1 || peer->bytes_allowed < 1) {
        peer->throttled++;
        return 0;
    }
    return (double)room < peer->bytes_allowed ? room : (size_t)peer->bytes_allowed;
}

static void digest(struct agent_peer *peer, uint64_t cap_bytes, uint64_t now_ns)
{
    union agent_frame frame;
    size_t at = 0, used;

    while (peer->frames_allowed >= 1) {
        int result = agent_decode(peer->in + at, peer->nin - at, AGENT_TO_HOST, &frame, &used);
        if (!result)
            break;
        at += used;
        if (result > 0) {
            peer->frames_allowed--;
            take_frame(peer, &frame, cap_bytes, now_ns);
        } else {
            peer->bad++;
        }
    }
    peer->nin -= at;
    memmove(peer->in, peer->in + at, peer->nin);
}

void agent_peer_received(struct agent_peer *peer, size_t bytes, uint64_t cap_bytes, uint64_t now_ns)
{
    peer->nin += bytes;
    peer->bytes_allowed -= (double)bytes;
    digest(peer, cap_bytes, now_ns);
}

void agent_peer_tick(struct agent_peer *peer, uint64_t cap_bytes, uint64_t now_ns)
{
    if (!peer->connected)
        return;
    refill(peer, now_ns);
    digest(peer, cap_bytes, now_ns);
    if (peer->reclaim.runs && now_ns > peer->reclaim.until_ns)
        reclaim_end(peer, ETIMEDOUT);
}

/* ---------------------------------------------------------------- the stream out */

static void put(struct agent_peer *peer, union agent_frame *frame, enum agent_type type, unsigned version)
{
    peer->nout = agent_seal(frame, type, (uint8_t)version, peer->seq_out++, peer->session);
    memcpy(peer->out, frame, peer->nout);
}

/* Until it is answered; later when nothing was heard for longer than a heartbeat, for the agent may be
 * another one, who waits to be greeted. */
static bool greeting_is_due(const struct agent_peer *peer, uint64_t now_ns)
{
    if (!peer->greeted_ns)
        return true;
    if (now_ns - peer->greeted_ns < AGENT_PEER_HELLO_NS)
        return false;
    return !peer->answered || now_ns - peer->heard_ns > AGENT_PEER_HEARTBEAT_MS * 3 / 2 * CLOCK_MS;
}

const uint8_t *agent_peer_pending(struct agent_peer *peer, uint64_t now_ns, size_t *ret_bytes)
{
    static_assert(sizeof(struct agent_hello) <= AGENT_PEER_OUT_BYTES &&
                      sizeof(struct agent_reclaim) <= AGENT_PEER_OUT_BYTES,
                  "what is sent fits");
    struct agent_peer_reclaim *r = &peer->reclaim;

    if (!peer->nout && peer->connected && greeting_is_due(peer, now_ns)) {
        union agent_frame frame = {.hello = {.version_min = AGENT_VERSION_MIN,
                                             .version_max = AGENT_VERSION_MAX,
                                             .heartbeat_ms = AGENT_PEER_HEARTBEAT_MS}};
        peer->greeted_ns = now_ns;
        put(peer, &frame, AGENT_HELLO, 1);
    } else if (!peer->nout && r->to_send) {
        union agent_frame frame = {
            .reclaim = {.id = r->id, .bytes = r->want_bytes, .timeout_ms = r->timeout_ms}};
        r->to_send = false;
        put(peer, &frame, AGENT_RECLAIM, peer->version);
    }
    *ret_bytes = peer->nout;
    return peer->nout ? peer->out : NULL;
}

void agent_peer_sent(struct agent_peer *peer, size_t bytes)
{
    peer->nout -= bytes;
    memmove(peer->out, peer->out + bytes, peer->nout);
}

/* ---------------------------------------------------------------- reclaim */

int agent_peer_reclaim(struct agent_peer *peer, uint64_t id, uint64_t bytes, uint32_t timeout_ms,
                       uint64_t now_ns)
{
    struct agent_peer_reclaim *r = &peer->reclaim;

    if (agent_peer_state(peer, now_ns) != CORE_AGENT_LIVE)
        return -ENOTCONN;
    if (!(peer->features & AGENT_CAN_RECLAIM))
        return -ENOTSUP;
    if (r->runs || r->over)
        return -EBUSY;
    *r =
        (struct agent_peer_reclaim){.runs = true,
                                    .to_send = true,
                                    .id = id,
                                    .want_bytes = bytes,
                                    .timeout_ms = timeout_ms,
                                    .until_ns = now_ns + timeout_ms * CLOCK_MS + AGENT_PEER_RECLAIM_GRACE_NS};
    return 0;
}

void agent_peer_reclaim_forget(struct agent_peer *peer)
{
    peer->reclaim = (struct agent_peer_reclaim){0};
}

bool agent_peer_reclaim_over(struct agent_peer *peer, uint64_t *ret_bytes, int *ret_error)
{
    struct agent_peer_reclaim *r = &peer->reclaim;

    if (!r->over)
        return false;
    *ret_bytes = r->got_bytes;
    *ret_error = r->error;
    *r = (struct agent_peer_reclaim){0};
    return true;
}
