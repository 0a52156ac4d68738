/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * talk: the agent's side of the protocol, as a state machine without input and output: bytes in, bytes out,
 * samples in, reclaim steps out. Times are in ms of any clock that does not jump.
 *
 * There is no queue. What is to be said is noted in a flag, and made into a frame when the last one has left:
 * a host end that does not read gets the latest state when it does, and costs nothing meanwhile. Only one
 * that has greeted is spoken to.
 */
#ifndef GUEST_AGENT_TALK_H
#define GUEST_AGENT_TALK_H

#include "guest-agent/parse.h"
#include "memd/common/agent_codec.h"

/* Of the host's, read: little work, but enough that what a flood has left in the device's queue (half a
 * megabyte) does not keep the next host end waiting. */
#define TALK_BYTES_PER_S 262144u
#define TALK_BYTES_BURST 32768u
#define TALK_INTERVAL_MS 1000u
#define TALK_TIGHT_MS    100u /* between looks where memory is tight */
#define TALK_WARY_MS     250u /* where it may soon be: in a balloon, mostly */
#define TALK_SOON_MS     25u  /* at least; what is available may be used up by the look after the next */
/* Of reports, in the long run: fewer than a host end reads, else what it reads is old. */
#define TALK_REPORT_MS        60u
#define TALK_REPORTS_BURST    30u
#define TALK_INTERVAL_MS_MIN  100u
#define TALK_INTERVAL_MS_MAX  60000u
#define TALK_HEARTBEAT_MS     10000u
#define TALK_HEARTBEAT_MS_MAX 600000u
#define TALK_RECLAIM_MS_MAX   600000u
#define TALK_PROGRESS_MS      500u
#define TALK_RECLAIM_STEP     (16ull << 20) /* between two looks at the host */
#define TALK_RECLAIM_STEP_MIN (1ull << 20)

/* A reclaim: nothing, under way (steps are asked for), or over and to be told. */
enum talk_reclaim_state { TALK_RECLAIM_NONE, TALK_RECLAIM_RUNS, TALK_RECLAIM_OVER };

struct talk_reclaim {
    enum talk_reclaim_state state;
    uint64_t id, want_bytes, got_bytes, step_bytes, until_ms, told_ms;
    enum agent_error error;
    bool due; /* how far it has come is to be told */
};

struct talk {
    /* of this run of the agent */
    uint64_t instance, boot;
    uint32_t features;
    unsigned own_interval_ms;
    uint32_t seq;
    /* of the session; 0: nobody has greeted */
    uint64_t session;
    unsigned version; /* 0: no common one */
    unsigned interval_ms, heartbeat_ms;
    bool here_due, report_due, consumers_due;
    bool refusal_due; /* a second reclaim while one is under way */
    uint64_t refused_id;
    struct talk_reclaim reclaim;
    /* what is known, and what of it was told */
    struct sample sample, told;
    uint64_t told_ms, total_max; /* total_max: bytes, the most it has ever had */
    uint64_t seen_refaults;      /* with the last look */
    uint64_t paced_ms;           /* when all reports would have been told, TALK_REPORT_MS apart */
    unsigned nconsumers;
    struct agent_consumer consumers[AGENT_CONSUMERS_MAX];
    /* the stream */
    uint64_t allowance, allowed_ms; /* bytes that may be read */
    size_t nin, nout, sent;
    uint8_t in[AGENT_FRAME_MAX];
    union agent_frame out;
};

void talk_open(struct talk *talk, uint64_t instance, uint64_t boot, uint32_t features, unsigned interval_ms,
               uint64_t now_ms);
/* The host end is another one, or gone: forget what was half said. */
void talk_reset(struct talk *talk);

/* Where to put received bytes, and how many; 0: enough for now. */
size_t talk_room(struct talk *talk, uint64_t now_ms, uint8_t **ret_at);
void talk_received(struct talk *talk, size_t bytes, uint64_t now_ms);
/* In how many ms to look again after a look: sooner where memory is tight, or may soon be, or there is news:
 * what happens then does not wait. */
unsigned talk_look_in_ms(struct talk *talk);
/* In how many ms there is room again; 0: there is. */
unsigned talk_room_in_ms(const struct talk *talk, uint64_t now_ms);

/* Somebody listens: samples are wanted. */
static inline bool talk_is_on(const struct talk *talk)
{
    return talk->session && talk->version;
}
/* Whether talk->sample is worth telling: something has changed, or it is time for a heartbeat. */
bool talk_is_news(const struct talk *talk, uint64_t now_ms);
/* It will be told. */
void talk_tell(struct talk *talk);
bool talk_heartbeat_due(const struct talk *talk, uint64_t now_ms);

/* What is to be written now; NULL: nothing. Then say how much of it was. */
const uint8_t *talk_pending(struct talk *talk, uint64_t now_ms, size_t *ret_bytes);
void talk_written(struct talk *talk, size_t bytes);

/* Bytes to reclaim next; 0: none. Then say what came of it. */
uint64_t talk_reclaim_step(struct talk *talk, uint64_t now_ms);
void talk_reclaim_stepped(struct talk *talk, enum agent_error error, uint64_t now_ms);

#endif
