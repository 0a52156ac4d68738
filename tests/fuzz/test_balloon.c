/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The balloon device against a driver made of random bytes. An input is a list of operations: writes to guest
 * memory, to registers and configuration, notifications, requests of the host, and, so that deep states are
 * met often, well-formed steps of a driver (start, a buffer). What must hold whatever the driver does:
 *
 *   - every discard lies in RAM, in whole host pages, and is made only while the device works;
 *   - no report is discarded while a poison value was negotiated;
 *   - a notification of the deflate queue discards nothing;
 *   - a notification raises one interrupt for its queue, and one more if the device breaks;
 *   - the sums are right: what was handed to the callback is what is counted.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memd/balloon.h"
#include "tests/fuzz/mutate.h"

/* memd-test: timeout=240 san=address */

#define PAGE       4096u
#define PART_PAGES 32u
#define PART_BYTES (PART_PAGES * PAGE)
#define HIGH_GPA   (4ull << 30)
#define ENTRIES    16u
#define AT_START   UINT32_MAX /* in place of a queue's number: at DRIVER_OK all that wait are served */
#define STATUS_OK  15u        /* ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK */

/* Where the well-formed driver keeps its rings: a page for each queue, and one for contents. */
#define RING_GPA(index)  ((index)*PAGE)
#define AVAIL_GPA(index) (RING_GPA(index) + 1024)
#define USED_GPA(index)  (RING_GPA(index) + 2048)
#define CONTENTS_GPA     (8u * PAGE)

#define MUST(condition)                                                             \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

static uint8_t ram[2][PART_BYTES] __attribute__((aligned(PAGE)));

struct fuzz {
    const uint8_t *data, *end;
    struct memd_balloon *balloon;
    uint64_t page_bytes;
    uint64_t discarded, failed; /* bytes seen by the callback */
    uint32_t refuse;            /* the callback refuses if a bit of this and of the page number agree */
    bool may_discard;           /* a page queue is being worked on */
    unsigned kicked;            /* its number */
    unsigned interrupts;
};

/* ---- reading the input */

static uint64_t take(struct fuzz *f, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && f->data < f->end; i++)
        value |= (uint64_t)*f->data++ << 8 * i;
    return value;
}

/* An address near something of interest: in the low part, in the high one, or anywhere. */
static uint64_t take_gpa(struct fuzz *f)
{
    uint64_t kind = take(f, 1), value = take(f, 3);

    switch (kind % 8) {
    case 0:
        return take(f, 8);
    case 1:
        return HIGH_GPA - 64 + value % 128;
    case 2:
        return PART_BYTES - 64 + value % 128;
    case 3:
    case 4:
        return HIGH_GPA + value % PART_BYTES;
    case 5:
        return value % PART_PAGES * PAGE;
    default:
        return value % PART_BYTES;
    }
}

static void *at(uint64_t gpa, uint64_t bytes)
{
    if (gpa < PART_BYTES && bytes <= PART_BYTES - gpa)
        return &ram[0][gpa];
    if (gpa >= HIGH_GPA && gpa - HIGH_GPA < PART_BYTES && bytes <= PART_BYTES - (gpa - HIGH_GPA))
        return &ram[1][gpa - HIGH_GPA];
    return NULL;
}

static void put(uint64_t gpa, const void *data, size_t bytes)
{
    void *to = at(gpa, bytes);

    if (to)
        memcpy(to, data, bytes);
}

/* ---- callbacks */

static struct memd_balloon_info info_of(struct fuzz *f)
{
    struct memd_balloon_info info = {.size = sizeof info};

    memd_balloon_info(f->balloon, &info);
    return info;
}

static int on_discard(void *ctx, unsigned part, uint64_t offset, uint64_t bytes)
{
    struct fuzz *f = ctx;
    struct memd_balloon_info info = info_of(f);

    MUST(f->may_discard && info.running && !info.needs_reset);
    MUST(part < 2 && bytes > 0 && offset < PART_BYTES && bytes <= PART_BYTES - offset);
    MUST(offset % f->page_bytes == 0 && bytes % f->page_bytes == 0);
    MUST(f->kicked != 1); /* deflate */
    if (f->kicked != 0 && f->kicked != AT_START)
        MUST(info.features & MEMD_BALLOON_PAGE_REPORTING && info.poison_value == 0);
    if (offset / PAGE & f->refuse) {
        f->failed += bytes;
        return -16;
    }
    f->discarded += bytes;
    memset(&ram[!part][offset], 0, bytes);
    return 0;
}

static int on_discard_ranges(void *ctx, unsigned part, const struct memd_balloon_range *ranges, unsigned n)
{
    struct fuzz *f = ctx;

    MUST(n > 1 && n <= MEMD_BALLOON_RANGES_MAX);
    for (unsigned i = 0; i < n; i++) {
        MUST(i == 0 || ranges[i].offset > ranges[i - 1].offset + ranges[i - 1].bytes);
        if (ranges[i].offset / PAGE & f->refuse)
            return -16;
    }
    for (unsigned i = 0; i < n; i++)
        MUST(!on_discard(ctx, part, ranges[i].offset, ranges[i].bytes));
    return 0;
}

static void on_interrupt(void *ctx, int queue)
{
    struct fuzz *f = ctx;

    MUST(queue >= -1 && queue < (int)MEMD_BALLOON_QUEUES);
    f->interrupts++;
}

/* ---- operations */

static void op_write(struct fuzz *f)
{
    uint64_t gpa = take_gpa(f);
    uint8_t bytes[32];
    unsigned n = 1 + (unsigned)take(f, 1) % sizeof bytes;

    for (unsigned i = 0; i < n; i++)
        bytes[i] = (uint8_t)take(f, 1);
    put(gpa, bytes, n);
}

static void op_features(struct fuzz *f)
{
    uint64_t low = take(f, 1), high = take(f, 1);

    memd_balloon_set_features(f->balloon, low | (high & 1) << 32 | (high & 2) << 20);
}

static void set_status(struct fuzz *f, uint32_t status)
{
    f->may_discard = true;
    f->kicked = AT_START;
    memd_balloon_set_status(f->balloon, status);
    f->may_discard = false;
}

static void op_queue(struct fuzz *f)
{
    unsigned index = (unsigned)take(f, 1) % 8, shift = (unsigned)take(f, 1);
    uint64_t desc = take_gpa(f) & ~(shift & 0x10 ? 0ull : 15ull), avail = take_gpa(f) & ~1ull;
    uint64_t used = take_gpa(f) & ~3ull;

    memd_balloon_set_queue(f->balloon, index, shift & 0x20 ? shift : 1u << shift % 12, desc, avail, used);
}

static void kick(struct fuzz *f, unsigned index)
{
    unsigned before = f->interrupts;

    f->may_discard = true;
    f->kicked = index;
    memd_balloon_kick(f->balloon, index);
    f->may_discard = false;
    MUST(f->interrupts - before <= 2);
}

static void op_config(struct fuzz *f)
{
    uint64_t offset = take(f, 1);
    uint8_t bytes[32] = {0};
    unsigned n = (unsigned)take(f, 1) % sizeof bytes;

    if (offset == 255)
        offset = take(f, 8);
    for (unsigned i = 0; i < n; i++)
        bytes[i] = (uint8_t)take(f, 1);
    memd_balloon_config_write(f->balloon, offset, bytes, n);
    memd_balloon_config_read(f->balloon, offset, bytes, n);
    if (offset >= 16)
        MUST(bytes[0] == 0 || n == 0);
}

static void op_host(struct fuzz *f)
{
    uint64_t stats[MEMD_BALLOON_TAGS];

    switch (take(f, 1) % 3) {
    case 0:
        memd_balloon_set_target(f->balloon, take(f, 3) * 64);
        break;
    case 1:
        memd_balloon_ask_stats(f->balloon);
        break;
    default:
        memd_balloon_stats(f->balloon, stats);
    }
}

/* A driver's whole start: features, queues, DRIVER_OK. */
static void op_start(struct fuzz *f)
{
    uint64_t features = take(f, 1) & MEMD_BALLOON_FEATURES_ALL;
    unsigned queues = (unsigned)take(f, 1), poison = (unsigned)take(f, 1);
    uint8_t value[4] = {(uint8_t)poison, 0, 0, 0};

    set_status(f, 0);
    set_status(f, 3);
    memd_balloon_set_features(f->balloon, features | (queues & 0x80 ? 0 : MEMD_BALLOON_VERSION_1));
    set_status(f, queues & 0x80 ? 3 : STATUS_OK & ~4u);
    for (unsigned i = 0; i < MEMD_BALLOON_QUEUES; i++) {
        memset(&ram[0][RING_GPA(i)], 0, PAGE);
        if (queues & 1u << i)
            MUST(memd_balloon_set_queue(f->balloon, i, ENTRIES, RING_GPA(i), AVAIL_GPA(i), USED_GPA(i)) == 0);
    }
    memd_balloon_config_write(f->balloon, 12, value, sizeof value);
    set_status(f, queues & 0x80 ? STATUS_OK & ~8u : STATUS_OK);
    MUST(info_of(f).running);
}

/* A buffer of up to four pieces in the well-formed driver's ring, and perhaps a notification. */
static void op_buffer(struct fuzz *f)
{
    unsigned how = (unsigned)take(f, 1), index = how % 8 % MEMD_BALLOON_QUEUES, n = 1 + how / 8 % 4;
    uint16_t idx, head;

    memcpy(&idx, &ram[0][AVAIL_GPA(index) + 2], sizeof idx);
    head = (uint16_t)(idx * 4 % ENTRIES);
    for (unsigned i = 0; i < n; i++) {
        struct {
            uint64_t addr;
            uint32_t len;
            uint16_t flags, next;
        } desc = {.addr = take_gpa(f), .len = (uint32_t)take(f, 3)};
        desc.flags = (uint16_t)((i + 1 < n ? 1u : 0) | (index >= 3 || how & 0x80 ? 2u : 0));
        desc.next = (uint16_t)(head + i + 1);
        put(RING_GPA(index) + (head + i) * sizeof desc, &desc, sizeof desc);
    }
    put(AVAIL_GPA(index) + 4 + idx % ENTRIES * 2u, &head, sizeof head);
    idx++;
    put(AVAIL_GPA(index) + 2, &idx, sizeof idx);
    if (!(how & 0x40))
        kick(f, index);
}

/* Page numbers, or statistics, where buffers look for them. */
static void op_contents(struct fuzz *f)
{
    unsigned n = 1 + (unsigned)take(f, 1) % 128, first = (unsigned)take(f, 1), step = (unsigned)take(f, 1);
    bool high = step & 0x80, stats = step & 0x40;

    for (unsigned i = 0; i < n; i++) {
        uint32_t number = first + i * (step & 7) + (high ? 1u << 20 : 0);
        uint8_t entry[10] = {(uint8_t)(first + i), 0, (uint8_t)i};
        if (stats)
            put(CONTENTS_GPA + i * sizeof entry, entry, sizeof entry);
        else
            put(CONTENTS_GPA + i * sizeof number, &number, sizeof number);
    }
}

static void op_next(struct fuzz *f)
{
    switch (take(f, 1) % 12) {
    case 0:
        op_write(f);
        break;
    case 1:
        op_features(f);
        break;
    case 2:
        set_status(f, (uint32_t)take(f, 1));
        break;
    case 3:
        op_queue(f);
        break;
    case 4:
        kick(f, (unsigned)take(f, 1) % 8);
        break;
    case 5:
        op_config(f);
        break;
    case 6:
        op_host(f);
        break;
    case 7:
        f->refuse = (uint32_t)take(f, 1);
        break;
    case 8:
        op_start(f);
        break;
    case 9:
        op_contents(f);
        break;
    default:
        op_buffer(f);
    }
}

static unsigned log2_of(uint64_t value)
{
    return value ? 64 - (unsigned)__builtin_clzll(value) : 0;
}

/* What this input achieved: the magnitudes of all counters. */
static uint64_t summary(const struct memd_balloon_info *info)
{
    const uint64_t counters[] = {info->inflated_pages, info->deflated_pages, info->skipped_pages,
                                 info->reported_bytes, info->kept_bytes,     info->discarded_bytes,
                                 info->failed_bytes,   info->discards,       info->bad_descriptors,
                                 info->stats_updates,  info->actual_bytes,   info->target_bytes,
                                 info->features,       info->running,        info->needs_reset};
    uint64_t sum = 0;

    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        sum = (sum + log2_of(counters[i])) * 0x100000001b3ull;
    return sum;
}

static uint64_t run_input(const uint8_t *data, size_t bytes)
{
    struct fuzz f = {.data = data, .end = data + bytes};
    unsigned how = (unsigned)take(&f, 1);

    f.page_bytes = how & 1 ? 4 * PAGE : PAGE;
    /* the high part first: what the callback is told is the number in this list */
    struct memd_balloon_ram parts[] = {{HIGH_GPA, PART_BYTES, ram[1], f.page_bytes},
                                       {0, PART_BYTES, ram[0], f.page_bytes}};
    struct memd_balloon_options options = {
        .size = sizeof options,
        .features = MEMD_BALLOON_FEATURES_ALL,
        .ram = parts,
        .nram = 2,
        .discard = on_discard,
        .discard_ranges = on_discard_ranges,
        .interrupt = on_interrupt,
        .ctx = &f,
    };
    memset(ram, 0, sizeof ram);
    MUST(memd_balloon_create(&options, &f.balloon) == 0);
    while (f.data < f.end)
        op_next(&f);

    struct memd_balloon_info info = info_of(&f);
    MUST(info.discarded_bytes == f.discarded);
    MUST(info.failed_bytes <= f.failed); /* a refused range is tried in pieces */
    MUST(info.actual_bytes <= 2 * PART_BYTES && info.target_bytes <= 2 * PART_BYTES);
    memd_balloon_destroy(f.balloon);
    return summary(&info);
}

#ifdef FUZZ_LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    run_input(data, bytes);
    return 0;
}

#else

int main(int argc, char **argv)
{
    return fuzz_main("balloon", run_input, 400000, argc, argv);
}

#endif
