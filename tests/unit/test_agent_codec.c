/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frames of memd-agent's protocol: out of clean streams, torn ones, and such that lie. */
#include "memd/common/agent_codec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define STREAM_BYTES 8192u

struct stream {
    size_t n;
    uint8_t bytes[STREAM_BYTES];
};

static void add(struct stream *s, const void *bytes, size_t n)
{
    assert_true(s->n + n <= sizeof s->bytes);
    memcpy(s->bytes + s->n, bytes, n);
    s->n += n;
}

static union agent_frame make(enum agent_type type, uint32_t seq)
{
    union agent_frame frame = {0};

    if (type == AGENT_REPORT) {
        frame.report.present = 1;
        frame.report.value[0] = 1ull << 30;
    }
    agent_seal(&frame, type, 1, seq, 77);
    return frame;
}

static void add_frame(struct stream *s, enum agent_type type, uint32_t seq)
{
    union agent_frame frame = make(type, seq);

    add(s, &frame, frame.h.bytes);
}

/* Take all frames out; returns how many there were, their numbers in `seq`. What is left is moved up. */
static unsigned take(struct stream *s, enum agent_way way, uint32_t *seq)
{
    union agent_frame frame;
    unsigned n = 0;
    size_t at = 0, used;
    int result;

    while ((result = agent_decode(s->bytes + at, s->n - at, way, &frame, &used))) {
        assert_true(used > 0 && used <= s->n - at);
        at += used;
        if (result < 0)
            assert_int_equal(result, -EBADMSG);
        else
            seq[n++] = frame.h.seq;
    }
    assert_int_equal(used, 0);
    memmove(s->bytes, s->bytes + at, s->n - at);
    s->n -= at;
    return n;
}

static void the_checksum_is_the_well_known_one(void **state)
{
    (void)state;
    assert_int_equal(agent_crc("123456789", 9), 0xcbf43926);
    assert_int_equal(agent_crc("", 0), 0);
}

/* The bytes of a frame, as docs/agent.md shows them. */
static void a_frame_lies_on_the_wire_as_documented(void **state)
{
    static const uint8_t wire[] = {0x6d, 0x41, 0x47, 0x31, 0x01, 0x05, 0x30, 0x00, 0x02, 0x00, 0x00, 0x00,
                                   0x00, 0x00, 0x00, 0x00, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
                                   0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
                                   0x00, 0x00, 0x00, 0x00, 0x88, 0x13, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
    union agent_frame frame = {.reclaim = {.id = 7, .bytes = 1 << 24, .timeout_ms = 5000}};
    uint32_t crc;
    (void)state;

    assert_int_equal(agent_seal(&frame, AGENT_RECLAIM, 1, 2, 0x0102030405060708), sizeof wire);
    crc = frame.h.crc;
    frame.h.crc = 0;
    assert_memory_equal(&frame, wire, sizeof wire);
    assert_int_equal(crc, agent_crc(wire, sizeof wire));
}

static void frames_come_out_as_they_went_in(void **state)
{
    static const struct {
        enum agent_type type;
        enum agent_way way;
    } all[] = {{AGENT_HELLO, AGENT_TO_GUEST},   {AGENT_HERE, AGENT_TO_HOST},
               {AGENT_REPORT, AGENT_TO_HOST},   {AGENT_CONSUMERS, AGENT_TO_HOST},
               {AGENT_RECLAIM, AGENT_TO_GUEST}, {AGENT_RECLAIMED, AGENT_TO_HOST}};
    (void)state;

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        union agent_frame in = make(all[i].type, 9), out;
        size_t used;
        memset(&out, 0xee, sizeof out);
        assert_int_equal(agent_decode((uint8_t *)&in, in.h.bytes, all[i].way, &out, &used), 1);
        assert_int_equal(used, in.h.bytes);
        assert_memory_equal(&in, &out, sizeof out);
        /* the other way it is none */
        assert_int_equal(agent_decode((uint8_t *)&in, in.h.bytes, !all[i].way, &out, &used), -EBADMSG);
    }
}

static void a_frame_in_pieces_is_waited_for(void **state)
{
    union agent_frame in = make(AGENT_REPORT, 1), out;
    size_t used;
    (void)state;

    for (size_t n = 0; n < in.h.bytes; n++) {
        assert_int_equal(agent_decode((uint8_t *)&in, n, AGENT_TO_HOST, &out, &used), 0);
        assert_int_equal(used, 0);
    }
}

/* What is wrong with any one bit is noticed, and the next frame is found. */
static void no_flipped_bit_gets_through(void **state)
{
    union agent_frame good = make(AGENT_RECLAIMED, 5);
    (void)state;

    for (unsigned bit = 0; bit < 8u * good.h.bytes; bit++) {
        struct stream s = {0};
        uint32_t seq[64];
        add_frame(&s, AGENT_RECLAIMED, 5);
        s.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        for (unsigned i = 0; i < 30; i++) /* as a heartbeat would */
            add_frame(&s, AGENT_RECLAIMED, 6);
        unsigned n = take(&s, AGENT_TO_HOST, seq);
        assert_true(n > 0 && n <= 30);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(seq[i], 6);
    }
}

/* A host end that comes late sees the rest of a frame first. */
static void a_stream_may_begin_anywhere(void **state)
{
    (void)state;

    for (size_t cut = 1; cut < sizeof(struct agent_report); cut++) {
        struct stream s = {0};
        uint32_t seq[4];
        add_frame(&s, AGENT_REPORT, 1);
        s.n -= cut;
        memmove(s.bytes, s.bytes + cut, s.n);
        add_frame(&s, AGENT_REPORT, 2);
        add_frame(&s, AGENT_REPORT, 3);
        assert_int_equal(take(&s, AGENT_TO_HOST, seq), 2);
        assert_int_equal(seq[0], 2);
        assert_int_equal(seq[1], 3);
        assert_int_equal(s.n, 0);
    }
}

/* A longer frame is one of a later release: its tail is not looked at. */
static void later_fields_are_passed_over(void **state)
{
    struct {
        struct agent_report report;
        uint64_t more[4];
    } longer = {.more = {1, 2, 3, 4}};
    union agent_frame out;
    size_t used;
    (void)state;

    longer.report.value[3] = 33;
    longer.report.h = (struct agent_head){
        .magic = AGENT_MAGIC, .version = 1, .type = AGENT_REPORT, .bytes = sizeof longer, .session = 1};
    longer.report.h.crc = agent_crc(&longer, sizeof longer);
    assert_int_equal(agent_decode((uint8_t *)&longer, sizeof longer, AGENT_TO_HOST, &out, &used), 1);
    assert_int_equal(used, sizeof longer);
    assert_int_equal(out.report.value[3], 33);
}

/* Sound by its checksum, and still a lie. */
static void what_does_not_fit_is_refused(void **state)
{
    union agent_frame frame, out;
    size_t used;
    (void)state;

    frame = (union agent_frame){.here = {.release = "0123456789abcdef"}}; /* does not end */
    agent_seal(&frame, AGENT_HERE, 1, 1, 1);
    assert_int_equal(agent_decode((uint8_t *)&frame, frame.h.bytes, AGENT_TO_HOST, &out, &used), -EBADMSG);
    assert_int_equal(used, sizeof frame.here);

    frame = (union agent_frame){.consumers = {.count = AGENT_CONSUMERS_MAX + 1}};
    agent_seal(&frame, AGENT_CONSUMERS, 1, 1, 1);
    assert_int_equal(agent_decode((uint8_t *)&frame, frame.h.bytes, AGENT_TO_HOST, &out, &used), -EBADMSG);

    frame = (union agent_frame){.consumers = {.count = 2}};
    memset(frame.consumers.top[1].name, 'x', AGENT_CONSUMER_BYTES);
    agent_seal(&frame, AGENT_CONSUMERS, 1, 1, 1);
    assert_int_equal(agent_decode((uint8_t *)&frame, frame.h.bytes, AGENT_TO_HOST, &out, &used), -EBADMSG);

    frame = (union agent_frame){.reclaimed = {.error = AGENT_ERRORS}};
    agent_seal(&frame, AGENT_RECLAIMED, 1, 1, 1);
    assert_int_equal(agent_decode((uint8_t *)&frame, frame.h.bytes, AGENT_TO_HOST, &out, &used), -EBADMSG);

    frame = make(AGENT_REPORT, 1);
    frame.h.bytes = AGENT_FRAME_MAX + 1;
    assert_int_equal(agent_decode((uint8_t *)&frame, sizeof frame, AGENT_TO_HOST, &out, &used), -EBADMSG);
    assert_int_equal(used, 4);
    frame.h.bytes = sizeof frame.report - 1;
    assert_int_equal(agent_decode((uint8_t *)&frame, sizeof frame, AGENT_TO_HOST, &out, &used), -EBADMSG);
    frame = make(AGENT_REPORT, 1);
    frame.h.type = AGENT_TYPES;
    assert_int_equal(agent_decode((uint8_t *)&frame, sizeof frame, AGENT_TO_HOST, &out, &used), -EBADMSG);
    frame = make(AGENT_REPORT, 1);
    frame.h.version = 0;
    assert_int_equal(agent_decode((uint8_t *)&frame, sizeof frame, AGENT_TO_HOST, &out, &used), -EBADMSG);
}

static void versions_meet_at_the_highest_in_common(void **state)
{
    static const struct {
        unsigned min_a, max_a, min_b, max_b, common;
    } rows[] = {{1, 1, 1, 1, 1}, {1, 3, 2, 9, 3}, {1, 3, 3, 9, 3}, {1, 2, 3, 4, 0},
                {3, 4, 1, 2, 0}, {0, 0, 0, 0, 0}, {0, 5, 0, 4, 0}, {2, 1, 1, 2, 0}};
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(agent_common_version(rows[i].min_a, rows[i].max_a, rows[i].min_b, rows[i].max_b),
                         rows[i].common);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checksum_is_the_well_known_one),
        cmocka_unit_test(a_frame_lies_on_the_wire_as_documented),
        cmocka_unit_test(frames_come_out_as_they_went_in),
        cmocka_unit_test(a_frame_in_pieces_is_waited_for),
        cmocka_unit_test(no_flipped_bit_gets_through),
        cmocka_unit_test(a_stream_may_begin_anywhere),
        cmocka_unit_test(later_fields_are_passed_over),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(versions_meet_at_the_highest_in_common),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
