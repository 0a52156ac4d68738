/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/balloon/rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "memd/balloon.h"

#define RINGS_GPA   0x10000ull /* of queue 0; the next one 64 KiB further */
#define BUFFERS_GPA 0x80000ull

bool rig_singly;

static int on_discard(void *ctx, unsigned part, uint64_t offset, uint64_t bytes)
{
    struct rig *rig = ctx;
    uint64_t gpa = offset + (part ? HIGH_GPA : 0);
    int error = rig->refuse ? rig->refuse(gpa, bytes) : 0;

    assert_true(part < 2 && bytes > 0 && offset % PAGE == 0 && bytes % PAGE == 0);
    assert_true(offset < PART_BYTES && bytes <= PART_BYTES - offset);
    if (error)
        return error;
    if (rig->unlisted)
        return madvise(rig->part[part] + offset, bytes, MADV_DONTNEED);
    assert_true(rig->ndiscards < DISCARDS_MAX);
    struct rig_discard *entry = &rig->discards[rig->ndiscards++];
    *entry = (struct rig_discard){.gpa = gpa, .bytes = bytes};
    for (unsigned i = 0; i < MEMD_BALLOON_QUEUES; i++)
        entry->used_idx[i] = rig->queue[i].used ? rig->queue[i].used->idx : 0;
    assert_int_equal(madvise(rig->part[part] + offset, bytes, MADV_DONTNEED), 0);
    return 0;
}

/* What one of them would refuse, all of them are refused for: then each is tried. */
static int on_discard_ranges(void *ctx, unsigned part, const struct memd_balloon_range *ranges, unsigned n)
{
    struct rig *rig = ctx;

    assert_true(n > 1 && n <= MEMD_BALLOON_RANGES_MAX);
    rig->range_calls++;
    for (unsigned i = 0; i < n; i++) {
        if (rig->refuse && rig->refuse(ranges[i].offset + (part ? HIGH_GPA : 0), ranges[i].bytes))
            return -EBUSY;
        assert_true(i == 0 || ranges[i].offset > ranges[i - 1].offset + ranges[i - 1].bytes);
    }
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(on_discard(ctx, part, ranges[i].offset, ranges[i].bytes), 0);
    return 0;
}

static void on_interrupt(void *ctx, int queue)
{
    struct rig *rig = ctx;

    if (queue < 0)
        rig->config_interrupts++;
    else
        rig->interrupts[queue]++;
}

static void on_stats(void *ctx)
{
    ((struct rig *)ctx)->stats_calls++;
}

struct rig *rig_create(uint64_t features, uint64_t page_bytes)
{
    struct rig *rig = calloc(1, sizeof *rig);
    struct memd_balloon_ram ram[2];

    assert_non_null(rig);
    for (unsigned i = 0; i < 2; i++) {
        rig->part[i] = mmap(NULL, PART_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(rig->part[i], MAP_FAILED);
        ram[i] = (struct memd_balloon_ram){i ? HIGH_GPA : 0, PART_BYTES, rig->part[i], page_bytes};
    }
    struct memd_balloon_options options = {
        .size = sizeof options,
        .features = features,
        .ram = ram,
        .nram = 2,
        .discard = on_discard,
        .interrupt = on_interrupt,
        .stats = on_stats,
        .ctx = rig,
        .discard_ranges = rig_singly ? NULL : on_discard_ranges,
    };
    assert_int_equal(memd_balloon_create(&options, &rig->balloon), 0);
    rig_fill(rig);
    return rig;
}

void rig_destroy(struct rig *rig)
{
    memd_balloon_destroy(rig->balloon);
    for (unsigned i = 0; i < 2; i++)
        munmap(rig->part[i], PART_BYTES);
    free(rig);
}

void *rig_at(struct rig *rig, uint64_t gpa)
{
    return gpa < HIGH_GPA ? rig->part[0] + gpa : rig->part[1] + (gpa - HIGH_GPA);
}

void rig_fill(struct rig *rig)
{
    memset(rig->part[0] + FREE_GPA, FILLED, PART_BYTES - FREE_GPA);
    memset(rig->part[1], FILLED, PART_BYTES);
}

bool rig_page_is(struct rig *rig, uint32_t pfn, uint8_t byte)
{
    const uint8_t *page = rig_at(rig, pfn * PAGE);

    for (size_t i = 0; i < PAGE; i++) {
        if (page[i] != byte)
            return false;
    }
    return true;
}

void rig_enable(struct rig *rig, unsigned index)
{
    uint64_t gpa = RINGS_GPA * (index + 1);
    struct rig_queue *q = &rig->queue[index];

    *q = (struct rig_queue){rig_at(rig, gpa), rig_at(rig, gpa + 0x4000), rig_at(rig, gpa + 0x8000), 0, 0};
    memset(q->desc, 0, 0x10000);
    assert_int_equal(memd_balloon_set_queue(rig->balloon, index, ENTRIES, gpa, gpa + 0x4000, gpa + 0x8000),
                     0);
}

static void enable_all(struct rig *rig, unsigned queues)
{
    for (unsigned i = 0; i < MEMD_BALLOON_QUEUES; i++) {
        if (queues & 1u << i)
            rig_enable(rig, i);
    }
}

uint32_t rig_start_with(struct rig *rig, uint64_t features, unsigned queues)
{
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER);
    memd_balloon_set_features(rig->balloon, features);
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    enable_all(rig, queues);
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    return memd_balloon_status(rig->balloon);
}

void rig_start_legacy(struct rig *rig, uint64_t features, unsigned queues)
{
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER);
    memd_balloon_set_features(rig->balloon, features);
    enable_all(rig, queues);
    memd_balloon_set_status(rig->balloon, ACKNOWLEDGE | DRIVER | DRIVER_OK);
}

struct rig *rig_start(void)
{
    struct rig *rig = rig_create(MEMD_BALLOON_FEATURES_ALL, 0);

    assert_int_equal(rig_start_with(rig, MODERN, 0x17), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    return rig;
}

uint32_t rig_add(struct rig *rig, unsigned index, const struct rig_piece *pieces, unsigned n)
{
    struct rig_queue *q = &rig->queue[index];
    uint16_t head = q->next_desc % ENTRIES;

    for (unsigned i = 0; i < n; i++) {
        uint16_t at = q->next_desc++ % ENTRIES;
        q->desc[at] = (struct ring_desc){
            .addr = pieces[i].gpa,
            .len = pieces[i].bytes,
            .flags = (uint16_t)((pieces[i].writable ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0)),
            .next = q->next_desc % ENTRIES,
        };
    }
    q->avail->ring[q->avail->idx % ENTRIES] = head;
    __atomic_store_n(&q->avail->idx, (uint16_t)(q->avail->idx + 1), __ATOMIC_RELEASE);
    return head;
}

void rig_kick(struct rig *rig, unsigned index)
{
    memd_balloon_kick(rig->balloon, index);
}

uint32_t rig_used(struct rig *rig, unsigned index)
{
    struct rig_queue *q = &rig->queue[index];

    if (__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) == q->used_seen)
        return NO_USED;
    assert_int_equal(q->used->ring[q->used_seen % ENTRIES].len, 0);
    return q->used->ring[q->used_seen++ % ENTRIES].id;
}

uint64_t rig_buffer(struct rig *rig, const void *data, size_t bytes)
{
    assert_true(bytes <= FREE_GPA - BUFFERS_GPA);
    memcpy(rig_at(rig, BUFFERS_GPA), data, bytes);
    return BUFFERS_GPA;
}

void rig_send(struct rig *rig, unsigned index, const uint32_t *pfns, unsigned n)
{
    struct rig_piece piece = {rig_buffer(rig, pfns, n * sizeof *pfns), n * (uint32_t)sizeof *pfns, false};
    uint32_t head = rig_add(rig, index, &piece, 1);
    unsigned interrupts = rig->interrupts[index];

    rig_kick(rig, index);
    assert_int_equal(rig_used(rig, index), head);
    assert_int_equal(rig->interrupts[index], interrupts + 1);
}

void rig_report(struct rig *rig, uint64_t gpa, uint32_t bytes)
{
    struct rig_piece piece = {gpa, bytes, true};
    uint32_t head = rig_add(rig, Q_REPORTING, &piece, 1);

    rig_kick(rig, Q_REPORTING);
    assert_int_equal(rig_used(rig, Q_REPORTING), head);
}

uint32_t rig_config(struct rig *rig, uint64_t offset)
{
    uint8_t bytes[4];

    memd_balloon_config_read(rig->balloon, offset, bytes, sizeof bytes);
    return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

void rig_set_config(struct rig *rig, uint64_t offset, uint32_t value)
{
    uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                        (uint8_t)(value >> 24)};

    memd_balloon_config_write(rig->balloon, offset, bytes, sizeof bytes);
}

struct memd_balloon_info rig_info(struct rig *rig)
{
    struct memd_balloon_info info = {.size = sizeof info};

    memd_balloon_info(rig->balloon, &info);
    assert_int_equal(info.size, sizeof info);
    return info;
}

void rig_discarded(struct rig *rig, const uint64_t (*ranges)[2], size_t n)
{
    assert_int_equal(rig->ndiscards, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(rig->discards[i].gpa, ranges[i][0]);
        assert_int_equal(rig->discards[i].bytes, ranges[i][1]);
    }
    rig->ndiscards = 0;
}

void rig_nothing_discarded(struct rig *rig)
{
    assert_int_equal(rig->ndiscards, 0);
}
