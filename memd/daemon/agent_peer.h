/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * agent_peer: the daemon's side of memd-agent's protocol (include/memd/agent.h) for one guest, as a state
 * machine without input and output: bytes in, bytes out, time as an argument.
 *
 * The guest is not trusted. What it sends is read at a bounded rate, in bytes and in frames; every number is
 * held against what the host knows: sizes against the guest's size, what only grows against the time since,
 * by the host's clock. What is beyond is cut off and counted. Numbers are hints all the same: a guest may say
 * that it has more or less free memory than it has, and harms nobody but itself as long as its own memory is
 * all that is decided by them.
 */
#ifndef MEMD_DAEMON_AGENT_PEER_H
#define MEMD_DAEMON_AGENT_PEER_H

#include "memd/common/agent_codec.h"
#include "memd/common/clock.h"
#include "memd/daemon/core.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_PEER_BYTES_PER_S      16384u
#define AGENT_PEER_BYTES_BURST      8192u
#define AGENT_PEER_FRAMES_PER_S     20u
#define AGENT_PEER_FRAMES_BURST     40u
#define AGENT_PEER_HEARTBEAT_MS     10000u
#define AGENT_PEER_STALE_NS         (25 * CLOCK_S) /* not heard for longer */
#define AGENT_PEER_HELLO_NS         (2 * CLOCK_S)  /* between greetings that are not answered */
#define AGENT_PEER_RECLAIM_GRACE_NS (5 * CLOCK_S)  /* for an answer to arrive */
#define AGENT_PEER_OUT_BYTES        64u

/* What only grows in a guest: `sum` is the host's own count. */
struct agent_count {
    bool known;
    uint64_t last, sum;
};

struct agent_peer_reclaim {
    bool runs, to_send;
    bool over; /* its end has not been fetched yet */
    uint64_t id, want_bytes, got_bytes, until_ns;
    uint32_t timeout_ms;
    int error; /* positive errno */
};

struct agent_peer {
    /* of the connection */
    bool connected, answered;
    uint64_t session;
    unsigned version; /* 0: none in common, or not known yet */
    uint32_t seq_out;
    uint64_t greeted_ns, heard_ns;
    /* rates: what may be read, in units of a byte and a frame per second */
    uint64_t filled_ns;
    double bytes_allowed, frames_allowed;
    size_t nin, nout;
    uint8_t in[AGENT_FRAME_MAX], out[AGENT_PEER_OUT_BYTES];
    /* of the agent, which may outlive a connection */
    bool known;
    uint64_t instance, boot;
    uint32_t features, seq_in;
    char release[AGENT_RELEASE_BYTES];
    /* what it said, clamped */
    uint64_t present, value[AGENT_VALUES];
    struct agent_count count[AGENT_VALUES];
    uint64_t first_ns, reported_ns; /* by the host's clock; 0: no report yet */
    double stall_some_percent, stall_full_percent;
    unsigned nconsumers;
    struct agent_consumer consumers[AGENT_CONSUMERS_MAX];
    struct agent_peer_reclaim reclaim;
    /* cumulative */
    uint64_t frames, lost, bad, throttled, clamped;
};

/* A connection is there; `session` is random, not 0. What was heard before stays known. */
void agent_peer_connected(struct agent_peer *peer, uint64_t session, uint64_t now_ns);
void agent_peer_disconnected(struct agent_peer *peer);

/* Where to put received bytes, and how many; 0: none for now. */
size_t agent_peer_room(struct agent_peer *peer, uint64_t now_ns, uint8_t **ret_at);
/* `cap_bytes`: the most memory the guest can have. */
void agent_peer_received(struct agent_peer *peer, size_t bytes, uint64_t cap_bytes, uint64_t now_ns);
/* From time to time: go on with what was too much, greet again, give up. */
void agent_peer_tick(struct agent_peer *peer, uint64_t cap_bytes, uint64_t now_ns);

/* What is to be sent; NULL: nothing. Then say how much of it was. */
const uint8_t *agent_peer_pending(struct agent_peer *peer, uint64_t now_ns, size_t *ret_bytes);
void agent_peer_sent(struct agent_peer *peer, size_t bytes);

enum core_agent_state agent_peer_state(const struct agent_peer *peer, uint64_t now_ns);

/* Ask for a reclaim. -ENOTCONN: the agent is not heard; -ENOTSUP: it cannot; -EBUSY: one is under way. */
int agent_peer_reclaim(struct agent_peer *peer, uint64_t id, uint64_t bytes, uint32_t timeout_ms,
                       uint64_t now_ns);
/* Nobody waits for it any more. */
void agent_peer_reclaim_forget(struct agent_peer *peer);
/* True, once: it is over; ret_error is 0 or a positive errno. */
bool agent_peer_reclaim_over(struct agent_peer *peer, uint64_t *ret_bytes, int *ret_error);

#endif
