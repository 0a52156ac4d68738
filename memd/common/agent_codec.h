/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * agent_codec: frames of include/memd/agent.h out of a stream and into one, for both ends. Pure, without
 * allocation; any thread.
 */
#ifndef MEMD_COMMON_AGENT_CODEC_H
#define MEMD_COMMON_AGENT_CODEC_H

#include "memd/agent.h"

#include <stddef.h>

/* Any frame, as a whole: what was not sent of it is zero. */
union agent_frame {
    struct agent_head h;
    struct agent_hello hello;
    struct agent_here here;
    struct agent_report report;
    struct agent_consumers consumers;
    struct agent_reclaim reclaim;
    struct agent_reclaimed reclaimed;
};

/* Which way a stream goes: what comes the wrong way is no frame. */
enum agent_way { AGENT_TO_GUEST, AGENT_TO_HOST };

/*
 * Look at the beginning of `n` bytes of a stream. Returns
 *   1  a frame is in ret_frame: sound, of this way, with strings that end;
 *   0  there is more to come before anything can be said;
 *   -EBADMSG  these bytes are no frame.
 * In ret_used: how many bytes are done with; for 0 and -EBADMSG, what precedes the next place where a frame
 * may begin. Each byte is looked at a bounded number of times, whatever the stream holds.
 */
int agent_decode(const uint8_t *bytes, size_t n, enum agent_way way, union agent_frame *ret_frame,
                 size_t *ret_used);

/* Complete the head of a frame of this type (version, bytes, seq, session are arguments; CRC last). Returns
 * its length. */
size_t agent_seal(union agent_frame *frame, enum agent_type type, uint8_t version, uint32_t seq,
                  uint64_t session);

/* Of a type, both with the head; 0: no such type. */
size_t agent_bytes_of(unsigned type);

uint32_t agent_crc(const void *data, size_t bytes);

/* The version two ranges have in common, the highest; 0: none. */
unsigned agent_common_version(unsigned min_a, unsigned max_a, unsigned min_b, unsigned max_b);

enum agent_kind {
    AGENT_GAUGE_BYTES,
    AGENT_COUNTER_BYTES,
    AGENT_COUNTER_US,
    AGENT_COUNTER_EVENTS,
    AGENT_GAUGE_MS,
};
struct agent_value_desc {
    const char *name; /* as in JSON */
    enum agent_kind kind;
};
extern const struct agent_value_desc agent_values[AGENT_VALUES];

#endif
