/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: a queue has two descriptors and one buffer in flight, descriptor 0, so a ring is used
 * up as soon as it is filled and nothing has to be kept free. Each queue has a quarter of the driver's
 * memory: a ring at its start, the contents of its buffer behind it.
 *
 * Queues other than statistics ask for no interrupt: the driver waits for them on the spot.
 */
#include "balloon-driver/guest/balloon.h"

#define REG_MAGIC           0x000u
#define REG_VERSION         0x004u
#define REG_DEVICE_ID       0x008u
#define REG_DEVICE_FEATURES 0x010u
#define REG_DEVICE_SEL      0x014u
#define REG_DRIVER_FEATURES 0x020u
#define REG_DRIVER_SEL      0x024u
#define REG_QUEUE_SEL       0x030u
#define REG_QUEUE_NUM_MAX   0x034u
#define REG_QUEUE_NUM       0x038u
#define REG_QUEUE_READY     0x044u
#define REG_QUEUE_NOTIFY    0x050u
#define REG_INTERRUPT       0x060u
#define REG_INTERRUPT_ACK   0x064u
#define REG_STATUS          0x070u
#define REG_QUEUE_DESC      0x080u /* low half; the high one follows */
#define REG_QUEUE_AVAIL     0x090u
#define REG_QUEUE_USED      0x0a0u
#define REG_NUM_PAGES       0x100u
#define REG_ACTUAL          0x104u
#define REG_POISON          0x10cu

#define MAGIC     0x74726976u
#define VERSION   2u
#define DEVICE_ID 5u

#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER      2u
#define STATUS_DRIVER_OK   4u
#define STATUS_FEATURES_OK 8u
#define STATUS_NEEDS_RESET 64u

#define FEATURE_VERSION_1  1u /* bit 32: of the second word */
#define DESC_WRITE         2u
#define AVAIL_NO_INTERRUPT 1u
#define INTERRUPT_CONFIG   2u

#define ENTRIES          2u
#define QUEUE_BYTES      (BALLOON_GUEST_BYTES / BALLOON_QUEUES)
#define AVAIL_AT         0x100u
#define USED_AT          0x200u
#define CONTENTS_AT      0x400u
#define STATS_NUMBER     2u
#define REPORTING_NUMBER 4u

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
struct avail {
    uint16_t flags, idx, ring[ENTRIES];
};
struct used {
    uint16_t flags, idx;
    struct {
        uint32_t id, len;
    } ring[ENTRIES];
};
_Static_assert(sizeof(struct desc) == 16 && sizeof(struct used) == 4 + 8 * ENTRIES, "rings");
_Static_assert(CONTENTS_AT + BALLOON_PAGES_MAX * sizeof(uint32_t) <= QUEUE_BYTES, "contents");
_Static_assert(CONTENTS_AT + BALLOON_STATS_MAX * sizeof(struct balloon_stat) <= QUEUE_BYTES, "statistics");

static uint32_t get(struct balloon_guest *b, uint32_t reg)
{
    return b->ops->read(b->ctx, reg);
}

static void set(struct balloon_guest *b, uint32_t reg, uint32_t value)
{
    b->ops->write(b->ctx, reg, value);
}

static void set_address(struct balloon_guest *b, uint32_t reg, uint64_t gpa)
{
    set(b, reg, (uint32_t)gpa);
    set(b, reg + 4, (uint32_t)(gpa >> 32));
}

static void *queue_memory(const struct balloon_guest *b, enum balloon_queue queue, uint32_t at)
{
    return b->memory + (uint32_t)queue * QUEUE_BYTES + at;
}

/* ---- start */

static int has_queue(const struct balloon_guest *b, enum balloon_queue queue)
{
    return queue == BALLOON_STATS       ? (b->features & BALLOON_F_STATS) != 0
           : queue == BALLOON_REPORTING ? (b->features & BALLOON_F_REPORTING) != 0
                                        : 1;
}

static int set_up_queue(struct balloon_guest *b, enum balloon_queue queue, uint16_t number)
{
    uint64_t gpa = b->memory_gpa + (uint32_t)queue * QUEUE_BYTES;
    struct avail *avail = queue_memory(b, queue, AVAIL_AT);

    b->ring[queue] = (struct balloon_ring){.number = number};
    avail->flags = queue == BALLOON_STATS ? 0 : AVAIL_NO_INTERRUPT;
    set(b, REG_QUEUE_SEL, number);
    if (get(b, REG_QUEUE_READY) != 0 || get(b, REG_QUEUE_NUM_MAX) < ENTRIES)
        return BALLOON_REFUSED;
    set(b, REG_QUEUE_NUM, ENTRIES);
    set_address(b, REG_QUEUE_DESC, gpa);
    set_address(b, REG_QUEUE_AVAIL, gpa + AVAIL_AT);
    set_address(b, REG_QUEUE_USED, gpa + USED_AT);
    set(b, REG_QUEUE_READY, 1);
    return get(b, REG_QUEUE_READY) == 1 ? BALLOON_OK : BALLOON_REFUSED;
}

static int set_up_queues(struct balloon_guest *b, int as_linux)
{
    uint16_t next = 0;

    for (enum balloon_queue queue = BALLOON_INFLATE; queue < BALLOON_QUEUES; queue++) {
        uint16_t number = queue == BALLOON_STATS       ? STATS_NUMBER
                          : queue == BALLOON_REPORTING ? REPORTING_NUMBER
                                                       : (uint16_t)queue;
        if (!has_queue(b, queue))
            continue;
        if (set_up_queue(b, queue, as_linux ? next : number))
            return BALLOON_REFUSED;
        next++;
    }
    return BALLOON_OK;
}

static int negotiate(struct balloon_guest *b, uint32_t features)
{
    set(b, REG_STATUS, 0);
    set(b, REG_STATUS, STATUS_ACKNOWLEDGE);
    set(b, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    set(b, REG_DEVICE_SEL, 1);
    if (!(get(b, REG_DEVICE_FEATURES) & FEATURE_VERSION_1))
        return BALLOON_REFUSED;
    set(b, REG_DEVICE_SEL, 0);
    b->features = get(b, REG_DEVICE_FEATURES) & features;
    set(b, REG_DRIVER_SEL, 0);
    set(b, REG_DRIVER_FEATURES, b->features);
    set(b, REG_DRIVER_SEL, 1);
    set(b, REG_DRIVER_FEATURES, FEATURE_VERSION_1);
    set(b, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    return get(b, REG_STATUS) & STATUS_FEATURES_OK ? BALLOON_OK : BALLOON_REFUSED;
}

int balloon_start(struct balloon_guest *b, const struct balloon_ops *ops, void *ctx, void *memory,
                  uint64_t memory_gpa, uint32_t features, uint32_t poison, int as_linux)
{
    *b = (struct balloon_guest){.ops = ops, .ctx = ctx, .memory = memory, .memory_gpa = memory_gpa};
    if (get(b, REG_MAGIC) != MAGIC || get(b, REG_VERSION) != VERSION || get(b, REG_DEVICE_ID) != DEVICE_ID)
        return BALLOON_NO_DEVICE;
    if (negotiate(b, features))
        return BALLOON_REFUSED;
    for (uint32_t i = 0; i < BALLOON_GUEST_BYTES; i++)
        b->memory[i] = 0;
    if (set_up_queues(b, as_linux))
        return BALLOON_REFUSED;
    if (b->features & BALLOON_F_POISON)
        set(b, REG_POISON, poison);
    set(b, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
    return BALLOON_OK;
}

void balloon_stop(struct balloon_guest *b)
{
    set(b, REG_STATUS, 0);
}

/* ---- buffers */

static void post(struct balloon_guest *b, enum balloon_queue queue, uint64_t gpa, uint32_t bytes,
                 uint16_t flags)
{
    struct balloon_ring *ring = &b->ring[queue];
    struct desc *desc = queue_memory(b, queue, 0);
    struct avail *avail = queue_memory(b, queue, AVAIL_AT);

    desc[0] = (struct desc){.addr = gpa, .len = bytes, .flags = flags};
    avail->ring[ring->avail % ENTRIES] = 0;
    ring->avail++;
    /* release: the device that sees the index sees descriptor and contents */
    __atomic_store_n(&avail->idx, ring->avail, __ATOMIC_RELEASE);
    set(b, REG_QUEUE_NOTIFY, ring->number);
}

static int is_used(struct balloon_guest *b, enum balloon_queue queue)
{
    struct used *used = queue_memory(b, queue, USED_AT);

    /* acquire: what the device did to the pages comes before */
    return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) != b->ring[queue].used;
}

static int wait_used(struct balloon_guest *b, enum balloon_queue queue)
{
    while (!is_used(b, queue)) {
        if (get(b, REG_STATUS) & STATUS_NEEDS_RESET)
            return BALLOON_BROKEN;
        b->ops->relax(b->ctx);
    }
    b->ring[queue].used++;
    return BALLOON_OK;
}

static uint64_t contents_gpa(const struct balloon_guest *b, enum balloon_queue queue)
{
    return b->memory_gpa + (uint32_t)queue * QUEUE_BYTES + CONTENTS_AT;
}

static int send_pages(struct balloon_guest *b, enum balloon_queue queue, const uint32_t *pfns, uint32_t n)
{
    uint32_t *contents = queue_memory(b, queue, CONTENTS_AT);

    n = n < BALLOON_PAGES_MAX ? n : BALLOON_PAGES_MAX;
    for (uint32_t i = 0; i < n; i++)
        contents[i] = pfns[i];
    post(b, queue, contents_gpa(b, queue), n * (uint32_t)sizeof *pfns, 0);
    return wait_used(b, queue);
}

int balloon_inflate(struct balloon_guest *b, const uint32_t *pfns, uint32_t n)
{
    return send_pages(b, BALLOON_INFLATE, pfns, n);
}

int balloon_deflate(struct balloon_guest *b, const uint32_t *pfns, uint32_t n)
{
    return send_pages(b, BALLOON_DEFLATE, pfns, n);
}

int balloon_report(struct balloon_guest *b, uint64_t gpa, uint32_t bytes)
{
    if (!has_queue(b, BALLOON_REPORTING))
        return BALLOON_REFUSED;
    post(b, BALLOON_REPORTING, gpa, bytes, DESC_WRITE);
    return wait_used(b, BALLOON_REPORTING);
}

void balloon_send_stats(struct balloon_guest *b, const struct balloon_stat *stats, uint32_t n)
{
    struct balloon_stat *contents = queue_memory(b, BALLOON_STATS, CONTENTS_AT);

    if (!has_queue(b, BALLOON_STATS))
        return;
    n = n < BALLOON_STATS_MAX ? n : BALLOON_STATS_MAX;
    for (uint32_t i = 0; i < n; i++)
        contents[i] = stats[i];
    post(b, BALLOON_STATS, contents_gpa(b, BALLOON_STATS), n * (uint32_t)sizeof *stats, 0);
}

/* ---- registers */

uint32_t balloon_target(struct balloon_guest *b)
{
    return get(b, REG_NUM_PAGES);
}

void balloon_set_actual(struct balloon_guest *b, uint32_t pages)
{
    set(b, REG_ACTUAL, pages);
}

uint32_t balloon_poll(struct balloon_guest *b)
{
    uint32_t interrupts = get(b, REG_INTERRUPT), what = 0;

    if (interrupts)
        set(b, REG_INTERRUPT_ACK, interrupts);
    if (interrupts & INTERRUPT_CONFIG)
        what |= BALLOON_CONFIG_CHANGED;
    if (has_queue(b, BALLOON_STATS) && is_used(b, BALLOON_STATS)) {
        b->ring[BALLOON_STATS].used++;
        what |= BALLOON_STATS_WANTED;
    }
    return what;
}
