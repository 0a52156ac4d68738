/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * agent_codec: see agent_codec.h.
 *
 * Theory of operation. Bytes before the next magic are skipped. A head that makes no sense (type, length) is
 * skipped by its magic alone, at no cost; a frame whose checksum is wrong is skipped as a whole, so that a
 * hostile stream cannot have the same bytes summed up again and again. What a true frame loses by that is
 * sent again: reports as a heartbeat, greetings until they are answered.
 */
#include "memd/common/agent_codec.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are copied as they are");
static_assert(sizeof(union agent_frame) <= AGENT_FRAME_MAX, "any frame fits");

const struct agent_value_desc agent_values[AGENT_VALUES] = {
    [AGENT_MEM_TOTAL] = {"mem_total_bytes", AGENT_GAUGE_BYTES},
    [AGENT_MEM_FREE] = {"mem_free_bytes", AGENT_GAUGE_BYTES},
    [AGENT_MEM_AVAILABLE] = {"mem_available_bytes", AGENT_GAUGE_BYTES},
    [AGENT_CACHED] = {"cached_bytes", AGENT_GAUGE_BYTES},
    [AGENT_SWAP_TOTAL] = {"swap_total_bytes", AGENT_GAUGE_BYTES},
    [AGENT_SWAP_FREE] = {"swap_free_bytes", AGENT_GAUGE_BYTES},
    [AGENT_COMMITTED] = {"committed_bytes", AGENT_GAUGE_BYTES},
    [AGENT_STALL_SOME_US] = {"stall_some_us", AGENT_COUNTER_US},
    [AGENT_STALL_FULL_US] = {"stall_full_us", AGENT_COUNTER_US},
    [AGENT_REFAULT_ANON] = {"refault_anon_bytes", AGENT_COUNTER_BYTES},
    [AGENT_REFAULT_FILE] = {"refault_file_bytes", AGENT_COUNTER_BYTES},
    [AGENT_SWAP_IN] = {"swap_in_bytes", AGENT_COUNTER_BYTES},
    [AGENT_SWAP_OUT] = {"swap_out_bytes", AGENT_COUNTER_BYTES},
    [AGENT_ALLOC_STALLS] = {"alloc_stalls", AGENT_COUNTER_EVENTS},
    [AGENT_OOM_KILLS] = {"oom_kills", AGENT_COUNTER_EVENTS},
    [AGENT_UPTIME_MS] = {"uptime_ms", AGENT_GAUGE_MS},
};

static const struct {
    uint16_t bytes;
    enum agent_way way;
} types[AGENT_TYPES] = {
    [AGENT_HELLO] = {sizeof(struct agent_hello), AGENT_TO_GUEST},
    [AGENT_HERE] = {sizeof(struct agent_here), AGENT_TO_HOST},
    [AGENT_REPORT] = {sizeof(struct agent_report), AGENT_TO_HOST},
    [AGENT_CONSUMERS] = {sizeof(struct agent_consumers), AGENT_TO_HOST},
    [AGENT_RECLAIM] = {sizeof(struct agent_reclaim), AGENT_TO_GUEST},
    [AGENT_RECLAIMED] = {sizeof(struct agent_reclaimed), AGENT_TO_HOST},
};

size_t agent_bytes_of(unsigned type)
{
    return type < AGENT_TYPES ? types[type].bytes : 0;
}

/* Half a byte at a time: frames are few and short, a larger table would be most of the agent's memory. */
static uint32_t crc_add(uint32_t crc, const uint8_t *bytes, size_t n)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };

    for (size_t i = 0; i < n; i++) {
        crc = table[(crc ^ bytes[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ bytes[i] >> 4) & 15] ^ crc >> 4;
    }
    return crc;
}

uint32_t agent_crc(const void *data, size_t bytes)
{
    return ~crc_add(~0u, data, bytes);
}

/* Of a frame: its own field counts as zero. */
static uint32_t crc_of_frame(const uint8_t *frame, size_t bytes)
{
    static const uint8_t zero[sizeof(uint32_t)];
    size_t at = offsetof(struct agent_head, crc), after = at + sizeof zero;

    return ~crc_add(crc_add(crc_add(~0u, frame, at), zero, sizeof zero), frame + after, bytes - after);
}

/* Where the next frame may begin. */
static size_t find_magic(const uint8_t *bytes, size_t n)
{
    const uint32_t magic = AGENT_MAGIC;
    const uint8_t *end = bytes + n, *at = bytes;

    while (at < end && (at = memchr(at, AGENT_MAGIC & 0xff, (size_t)(end - at)))) {
        size_t left = (size_t)(end - at);
        if (!memcmp(at, &magic, left < sizeof magic ? left : sizeof magic))
            return (size_t)(at - bytes);
        at++;
    }
    return n;
}

static bool head_is_sound(const struct agent_head *h, enum agent_way way)
{
    size_t least = agent_bytes_of(h->type);

    return least && types[h->type].way == way && h->version && h->bytes >= least &&
           h->bytes <= AGENT_FRAME_MAX;
}

/* Strings end, counts are within their arrays. */
static bool body_is_sound(const union agent_frame *frame)
{
    switch (frame->h.type) {
    case AGENT_HERE:
        return memchr(frame->here.release, 0, sizeof frame->here.release);
    case AGENT_CONSUMERS:
        if (frame->consumers.count > AGENT_CONSUMERS_MAX)
            return false;
        for (uint32_t i = 0; i < frame->consumers.count; i++)
            if (!memchr(frame->consumers.top[i].name, 0, AGENT_CONSUMER_BYTES))
                return false;
        return true;
    case AGENT_RECLAIMED:
        return frame->reclaimed.error < AGENT_ERRORS;
    default:
        return true;
    }
}

int agent_decode(const uint8_t *bytes, size_t n, enum agent_way way, union agent_frame *ret_frame,
                 size_t *ret_used)
{
    union agent_frame frame = {0};
    size_t at = find_magic(bytes, n);

    *ret_used = at;
    if (at)
        return -EBADMSG;
    if (n < sizeof frame.h)
        return 0;
    memcpy(&frame.h, bytes, sizeof frame.h);
    if (!head_is_sound(&frame.h, way)) {
        *ret_used = sizeof frame.h.magic;
        return -EBADMSG;
    }
    if (n < frame.h.bytes)
        return 0;
    *ret_used = frame.h.bytes;
    if (crc_of_frame(bytes, frame.h.bytes) != frame.h.crc)
        return -EBADMSG;
    memcpy(&frame, bytes, agent_bytes_of(frame.h.type));
    if (!body_is_sound(&frame))
        return -EBADMSG;
    *ret_frame = frame;
    return 1;
}

size_t agent_seal(union agent_frame *frame, enum agent_type type, uint8_t version, uint32_t seq,
                  uint64_t session)
{
    size_t bytes = agent_bytes_of(type);

    frame->h = (struct agent_head){.magic = AGENT_MAGIC,
                                   .version = version,
                                   .type = (uint8_t)type,
                                   .bytes = (uint16_t)bytes,
                                   .seq = seq,
                                   .session = session};
    frame->h.crc = crc_of_frame((const uint8_t *)frame, bytes);
    return bytes;
}

unsigned agent_common_version(unsigned min_a, unsigned max_a, unsigned min_b, unsigned max_b)
{
    unsigned min = min_a > min_b ? min_a : min_b, max = max_a < max_b ? max_a : max_b;

    return min && min <= max ? max : 0;
}
