/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Both ends of memd-agent's protocol against streams made of random bytes. The first byte of an input says
 * which end reads it; the rest is operations: bytes as they are, frames with a right head and checksum around
 * random contents (so that deep states are met), time that passes, connections that end. What must hold
 * whatever comes:
 *
 *   - an end never takes more than it has room for, and always has room again when time has passed;
 *   - what it sends are sound frames, and of its own way;
 *   - the host end: no value beyond what a guest of this size can have; counts never fall; no more frames
 * than the rate allows; names are printable;
 *   - the agent: says nothing before it was greeted; reclaims no more than it was asked for, in steps of
 * bounded size.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-agent/talk.h"
#include "memd/daemon/agent_peer.h"
#include "tests/fuzz/mutate.h"

/* memd-test: timeout=240 san=address */

#define CAP (1ull << 30)

#define MUST(condition)                                                             \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

struct fuzz {
    const uint8_t *data, *end;
    uint64_t now_ns, begun_ns;
    uint64_t session;
    uint32_t seq;
    uint64_t sums[AGENT_VALUES];
    uint64_t frames;
    bool greeted;
    uint64_t asked_bytes, reclaimed_bytes;
    union {
        struct agent_peer peer;
        struct talk talk;
    };
};

static uint64_t take(struct fuzz *f, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && f->data < f->end; i++)
        value |= (uint64_t)*f->data++ << 8 * i;
    return value;
}

/* Up to `bytes` of the input; the rest stays as it is. */
static void take_bytes(struct fuzz *f, void *to, size_t bytes)
{
    size_t n = (size_t)(f->end - f->data) < bytes ? (size_t)(f->end - f->data) : bytes;

    memcpy(to, f->data, n);
    f->data += n;
}

static void pass(struct fuzz *f, uint64_t ms)
{
    f->now_ns += ms * CLOCK_MS;
}

static uint64_t now_ms(const struct fuzz *f)
{
    return f->now_ns / CLOCK_MS;
}

/* A frame around contents of the input. A type that is none of the protocol's stays as bytes. */
static size_t make_frame(struct fuzz *f, union agent_frame *frame)
{
    unsigned type = (unsigned)take(f, 1) % 8, how = (unsigned)take(f, 1);
    size_t bytes = agent_bytes_of(type), body = (size_t)take(f, 2) % sizeof *frame;

    memset(frame, how & 1 ? 0xff : 0, sizeof *frame);
    if (!bytes)
        return 0;
    take_bytes(f, (uint8_t *)frame + sizeof frame->h,
               body < bytes - sizeof frame->h ? body : bytes - sizeof frame->h);
    f->seq += how >> 4;
    return agent_seal(frame, type, how & 2 ? 1 : (uint8_t)(how >> 2), f->seq++,
                      how & 4   ? f->session
                      : how & 8 ? 0
                                : 7);
}

/* ---- the host end reads */

static void check_peer(struct fuzz *f)
{
    struct agent_peer *p = &f->peer;

    for (unsigned i = 0; i < AGENT_VALUES; i++) {
        enum agent_kind kind = agent_values[i].kind;
        MUST(p->value[i] <= 1ull << 53);
        if (i == AGENT_MEM_TOTAL || i == AGENT_MEM_FREE || i == AGENT_MEM_AVAILABLE || i == AGENT_CACHED)
            MUST(p->value[i] <= CAP);
        if (kind == AGENT_GAUGE_BYTES || kind == AGENT_GAUGE_MS)
            continue;
        MUST(p->count[i].sum >= f->sums[i]);
        f->sums[i] = p->count[i].sum;
    }
    MUST(p->frames <= AGENT_PEER_FRAMES_BURST +
                          AGENT_PEER_FRAMES_PER_S * ((f->now_ns - f->begun_ns) / CLOCK_S + 1) + f->frames);
    MUST(p->stall_some_percent >= 0 && p->stall_some_percent <= 100);
    MUST(p->nconsumers <= AGENT_CONSUMERS_MAX);
    for (unsigned i = 0; i < p->nconsumers; i++)
        for (const char *c = p->consumers[i].name; *c; c++)
            MUST(*c > ' ' && *c < 0x7f);
    MUST(p->nin <= sizeof p->in && p->nout <= sizeof p->out);
}

static void peer_reads(struct fuzz *f, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    unsigned waits = 0;
    uint8_t *at;

    while (n) {
        size_t room = agent_peer_room(&f->peer, f->now_ns, &at);
        if (!room) {
            MUST(waits++ < 100000);
            pass(f, 50);
            agent_peer_tick(&f->peer, CAP, f->now_ns);
            continue;
        }
        MUST(at + room <= f->peer.in + sizeof f->peer.in);
        room = room < n ? room : n;
        memcpy(at, from, room);
        agent_peer_received(&f->peer, room, CAP, f->now_ns);
        check_peer(f);
        from += room;
        n -= room;
    }
}

static void peer_sends(struct fuzz *f)
{
    union agent_frame frame;
    const uint8_t *from;
    size_t n, used;

    while ((from = agent_peer_pending(&f->peer, f->now_ns, &n))) {
        MUST(agent_decode(from, n, AGENT_TO_GUEST, &frame, &used) == 1 && used == n);
        MUST(frame.h.session == f->session);
        agent_peer_sent(&f->peer, n);
    }
}

static void peer_connects(struct fuzz *f)
{
    f->frames += AGENT_PEER_FRAMES_BURST;
    agent_peer_connected(&f->peer, ++f->session, f->now_ns);
}

static uint64_t fuzz_peer(struct fuzz *f)
{
    uint8_t raw[64];
    union agent_frame frame;
    uint64_t what = 0, bytes;
    int error;

    peer_connects(f);
    while (f->data < f->end) {
        unsigned op = (unsigned)take(f, 1) % 8;
        size_t n = 1 + (size_t)op * 8 % sizeof raw;
        switch (op) {
        case 0:
            memset(raw, 0, sizeof raw);
            take_bytes(f, raw, n);
            peer_reads(f, raw, n);
            break;
        case 1:
            pass(f, take(f, 2));
            agent_peer_tick(&f->peer, CAP, f->now_ns);
            break;
        case 2:
            agent_peer_disconnected(&f->peer);
            peer_connects(f);
            break;
        case 3:
            if (!agent_peer_reclaim(&f->peer, take(f, 1), 1 + take(f, 4), 1 + (uint32_t)take(f, 2),
                                    f->now_ns))
                what |= 1ull << 40;
            break;
        default:
            peer_reads(f, &frame, make_frame(f, &frame));
        }
        peer_sends(f);
        bytes = f->peer.reclaim.want_bytes;
        uint64_t got;
        if (agent_peer_reclaim_over(&f->peer, &got, &error)) {
            MUST(got <= bytes && error >= 0);
            what |= 1ull << (41 + error % 8);
        }
        check_peer(f);
        what |= 1ull << agent_peer_state(&f->peer, f->now_ns);
    }
    what ^= (uint64_t)(f->peer.frames > 7 ? 7 : f->peer.frames) << 8;
    what ^= (uint64_t)(f->peer.bad > 3) << 12 ^ (uint64_t)(f->peer.lost > 0) << 13;
    what ^= (uint64_t)(f->peer.clamped > 0) << 14 ^ (uint64_t)(f->peer.throttled > 0) << 15;
    return what ^ (f->peer.present & 0xffff) << 16 ^ (uint64_t)f->peer.nconsumers << 34;
}

/* ---- the agent reads */

static void agent_reads(struct fuzz *f, const void *bytes, size_t n)
{
    const uint8_t *from = bytes;
    unsigned waits = 0;
    uint8_t *at;

    while (n) {
        size_t room = talk_room(&f->talk, now_ms(f), &at);
        if (!room) {
            MUST(waits++ < 100000);
            MUST(talk_room_in_ms(&f->talk, now_ms(f)) <= TALK_INTERVAL_MS_MIN);
            pass(f, 100);
            continue;
        }
        MUST(at + room <= f->talk.in + sizeof f->talk.in);
        room = room < n ? room : n;
        memcpy(at, from, room);
        talk_received(&f->talk, room, now_ms(f));
        from += room;
        n -= room;
    }
}

/* Does what the program around it does. */
static uint64_t agent_works(struct fuzz *f, unsigned how)
{
    union agent_frame frame;
    const uint8_t *from;
    size_t n, used;
    uint64_t what = 0, step = talk_reclaim_step(&f->talk, now_ms(f));

    if (step) {
        struct talk_reclaim *r = &f->talk.reclaim;
        MUST(step <= TALK_RECLAIM_STEP && step <= r->want_bytes - r->got_bytes);
        talk_reclaim_stepped(&f->talk, how & 1 ? AGENT_ERROR_DRY : AGENT_OK, now_ms(f));
        MUST(r->got_bytes <= r->want_bytes);
        what |= 1;
    }
    if (talk_is_on(&f->talk)) {
        sample_set(&f->talk.sample, AGENT_MEM_AVAILABLE, how * CAP / 256);
        if (talk_is_news(&f->talk, now_ms(f)))
            talk_tell(&f->talk);
        f->talk.consumers_due |= how & 2;
    }
    while ((from = talk_pending(&f->talk, now_ms(f), &n))) {
        if (how & 4 && n > 3) { /* the host reads a little only */
            talk_written(&f->talk, 3);
            return what;
        }
        if (f->talk.sent == 0) {
            MUST(agent_decode(from, n, AGENT_TO_HOST, &frame, &used) == 1 && used == n);
            MUST(frame.h.session == f->talk.session && frame.h.session != 0);
            what |= 1ull << frame.h.type;
        }
        talk_written(&f->talk, n);
    }
    return what;
}

static uint64_t fuzz_talk(struct fuzz *f)
{
    union agent_frame frame;
    uint8_t raw[64];
    uint64_t what = 0;
    size_t none;

    talk_open(&f->talk, 1, 2, (uint32_t)take(f, 1) & 3, TALK_INTERVAL_MS, now_ms(f));
    MUST(!talk_pending(&f->talk, now_ms(f), &none));
    while (f->data < f->end) {
        unsigned op = (unsigned)take(f, 1) % 8;
        size_t n = 1 + (size_t)take(f, 1) % sizeof raw;
        switch (op) {
        case 0:
            memset(raw, 0, sizeof raw);
            take_bytes(f, raw, n);
            agent_reads(f, raw, n);
            break;
        case 1:
            pass(f, take(f, 2));
            break;
        case 2:
            talk_reset(&f->talk);
            MUST(!talk_is_on(&f->talk));
            break;
        default:
            f->session = f->talk.session ? f->talk.session : 1;
            agent_reads(f, &frame, make_frame(f, &frame));
        }
        what |= agent_works(f, (unsigned)n) << 8;
        MUST(f->talk.interval_ms >= TALK_INTERVAL_MS_MIN && f->talk.interval_ms <= TALK_INTERVAL_MS_MAX);
        MUST(f->talk.heartbeat_ms >= f->talk.interval_ms && f->talk.heartbeat_ms <= TALK_HEARTBEAT_MS_MAX);
        what |= (uint64_t)f->talk.reclaim.state << 4 | (uint64_t)f->talk.reclaim.error << 20 |
                talk_is_on(&f->talk);
    }
    return what | 1ull << 63;
}

static uint64_t target(const uint8_t *data, size_t bytes)
{
    static struct fuzz f;

    memset(&f, 0, sizeof f);
    f.data = data;
    f.end = data + bytes;
    f.now_ns = f.begun_ns = 1000 * CLOCK_S;
    return take(&f, 1) & 1 ? fuzz_talk(&f) : fuzz_peer(&f);
}

#ifdef FUZZ_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    target(data, bytes);
    return 0;
}
#else
int main(int argc, char **argv)
{
    return fuzz_main("agent", target, 1000000, argc, argv);
}
#endif
