/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: the registers, and who may do what when. Everything happens on the thread that calls:
 * a vCPU's, when the driver writes a register or notifies a queue. The device has no thread and no clock.
 *
 * Interrupts are collected as a bit mask while locks are held, and raised when none is: a bit for each queue,
 * and one for the configuration. One that comes after a reset is merely spurious.
 */
#include "balloon-driver/device/device.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define IRQ_CONFIG (1u << MEMD_BALLOON_QUEUES)

#define QUEUE_INFLATE       0u
#define QUEUE_DEFLATE       1u
#define QUEUE_STATS         2u
#define QUEUE_AFTER_STATS   3u
#define QUEUE_REPORTING     4u
#define CONFIG_BYTES        8u
#define CONFIG_BYTES_POISON 16u

struct config {
    uint32_t num_pages, actual, free_page_hint_cmd_id, poison_val;
};
_Static_assert(sizeof(struct config) == CONFIG_BYTES_POISON && offsetof(struct config, poison_val) == 12,
               "virtio_balloon_config");

static void raise_all(struct memd_balloon *b, uint32_t irqs)
{
    for (int index = 0; index < (int)MEMD_BALLOON_QUEUES; index++) {
        if (irqs & 1u << index)
            b->interrupt(b->ctx, index);
    }
    if (irqs & IRQ_CONFIG)
        b->interrupt(b->ctx, -1);
}

/* ---------------------------------------------------------------- life */

static void reset(struct memd_balloon *b)
{
    b->status = 0;
    b->features = 0;
    b->running = false;
    b->actual = b->poison = 0;
    memset(b->actual_bytes, 0, sizeof b->actual_bytes);
    memset(b->poison_bytes, 0, sizeof b->poison_bytes);
    memset(b->queue, 0, sizeof b->queue);
    for (unsigned i = 0; i < MEMD_BALLOON_QUEUES; i++)
        b->role[i] = ROLE_NONE;
    stats_reset(b);
    ram_forget_taken(&b->ram);
}

int memd_balloon_create(const struct memd_balloon_options *options, struct memd_balloon **ret_balloon)
{
    struct memd_balloon *b;
    int error;

    if (!options || options->size < sizeof *options ||
        options->features & ~(uint64_t)MEMD_BALLOON_FEATURES_ALL || !options->discard || !options->interrupt)
        return -EINVAL;
    b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    error = ram_init(&b->ram, options->ram, options->nram);
    if (error) {
        free(b);
        return error;
    }
    b->offered = options->features | MEMD_BALLOON_VERSION_1;
    b->discard = options->discard;
    b->discard_ranges = options->discard_ranges;
    b->interrupt = options->interrupt;
    b->on_stats = options->stats;
    b->ctx = options->ctx;
    pthread_mutex_init(&b->work, NULL);
    pthread_mutex_init(&b->lock, NULL);
    reset(b);
    *ret_balloon = b;
    return 0;
}

void memd_balloon_destroy(struct memd_balloon *b)
{
    pthread_mutex_destroy(&b->lock);
    pthread_mutex_destroy(&b->work);
    ram_free(&b->ram);
    free(b);
}

/* ---------------------------------------------------------------- queues */

int device_queue_of(const struct memd_balloon *b, enum role role)
{
    for (unsigned i = 0; i < MEMD_BALLOON_QUEUES; i++) {
        if (b->role[i] == role)
            return (int)i;
    }
    return -1;
}

static bool is_enabled(const struct memd_balloon *b, unsigned index)
{
    return b->queue[index].entries > 0;
}

/*
 * Which number has the reporting queue? 4 by the specification. Drivers that count the queues they use have
 * it right after stats, or in its place; such a driver does not enable 4.
 */
static int find_reporting(const struct memd_balloon *b)
{
    if (is_enabled(b, QUEUE_REPORTING))
        return QUEUE_REPORTING;
    if (is_enabled(b, QUEUE_AFTER_STATS))
        return QUEUE_AFTER_STATS;
    if (!(b->features & MEMD_BALLOON_STATS_VQ) && is_enabled(b, QUEUE_STATS))
        return QUEUE_STATS;
    return -1;
}

static void assign_roles(struct memd_balloon *b)
{
    b->role[QUEUE_INFLATE] = ROLE_INFLATE;
    b->role[QUEUE_DEFLATE] = ROLE_DEFLATE;
    if (b->features & MEMD_BALLOON_STATS_VQ && is_enabled(b, QUEUE_STATS))
        b->role[QUEUE_STATS] = ROLE_STATS;
    if (b->features & MEMD_BALLOON_PAGE_REPORTING && find_reporting(b) >= 0)
        b->role[find_reporting(b)] = ROLE_REPORTING;
}

int memd_balloon_set_queue(struct memd_balloon *b, unsigned index, unsigned entries, uint64_t desc_gpa,
                           uint64_t avail_gpa, uint64_t used_gpa)
{
    int error = -EBUSY;

    if (index >= MEMD_BALLOON_QUEUES)
        return -EINVAL;
    pthread_mutex_lock(&b->work);
    pthread_mutex_lock(&b->lock);
    if (!b->running)
        error = queue_enable(&b->queue[index], &b->ram, entries, desc_gpa, avail_gpa, used_gpa);
    pthread_mutex_unlock(&b->lock);
    pthread_mutex_unlock(&b->work);
    return error;
}

bool device_is_working(const struct memd_balloon *b)
{
    return b->running && !(b->status & (STATUS_NEEDS_RESET | STATUS_FAILED));
}

/* The driver broke a ring. Under `lock`; returns what to raise. */
static uint32_t set_broken(struct memd_balloon *b)
{
    b->status |= STATUS_NEEDS_RESET;
    return IRQ_CONFIG;
}

/* Under `work`. */
static uint32_t serve_pages(struct memd_balloon *b, unsigned index)
{
    bool working, interrupt = false;
    uint32_t irqs = 0;
    int error = 0;

    pthread_mutex_lock(&b->lock);
    working = device_is_working(b);
    pthread_mutex_unlock(&b->lock);
    if (working)
        error = pages_serve(b, index, &interrupt);
    if (error) {
        pthread_mutex_lock(&b->lock);
        irqs |= set_broken(b);
        pthread_mutex_unlock(&b->lock);
    }
    return irqs | (interrupt ? 1u << index : 0);
}

/* Under `lock`. */
static uint32_t serve_stats(struct memd_balloon *b, unsigned index, bool *ret_new)
{
    bool interrupt = false;
    uint32_t irqs = 0;

    *ret_new = false;
    if (device_is_working(b) && stats_serve(b, index, &interrupt, ret_new))
        irqs |= set_broken(b);
    return irqs | (interrupt ? 1u << index : 0);
}

static void after_serve(struct memd_balloon *b, uint32_t irqs, bool new_stats)
{
    raise_all(b, irqs);
    if (new_stats && b->on_stats)
        b->on_stats(b->ctx);
}

void memd_balloon_kick(struct memd_balloon *b, unsigned index)
{
    bool new_stats = false;
    uint32_t irqs = 0;
    enum role role;

    if (index >= MEMD_BALLOON_QUEUES)
        return;
    pthread_mutex_lock(&b->lock);
    role = b->role[index];
    if (role == ROLE_STATS)
        irqs = serve_stats(b, index, &new_stats);
    pthread_mutex_unlock(&b->lock);
    if (role != ROLE_STATS && role != ROLE_NONE) {
        pthread_mutex_lock(&b->work);
        role = b->role[index]; /* the device may have been reset, and started otherwise */
        if (role != ROLE_STATS && role != ROLE_NONE)
            irqs = serve_pages(b, index);
        pthread_mutex_unlock(&b->work);
    }
    after_serve(b, irqs, new_stats);
}

/* ---------------------------------------------------------------- features and status */

uint64_t memd_balloon_features(const struct memd_balloon *b)
{
    return b->offered;
}

void memd_balloon_set_features(struct memd_balloon *b, uint64_t features)
{
    pthread_mutex_lock(&b->lock);
    if (!(b->status & STATUS_FEATURES_OK) && !b->running)
        b->features = features;
    pthread_mutex_unlock(&b->lock);
}

uint32_t memd_balloon_status(struct memd_balloon *b)
{
    uint32_t status;

    pthread_mutex_lock(&b->lock);
    status = b->status;
    pthread_mutex_unlock(&b->lock);
    return status;
}

/* Take over what the driver wrote; true if the device starts. Under both locks. */
static bool write_status(struct memd_balloon *b, uint32_t status)
{
    if (status & STATUS_FEATURES_OK && b->features & ~b->offered)
        status &= ~STATUS_FEATURES_OK;
    b->status |= status & 0xffu & ~STATUS_NEEDS_RESET;
    if (b->running || !(b->status & STATUS_DRIVER_OK) || b->status & STATUS_FAILED)
        return false;
    if (is_legacy(b))
        b->features &= b->offered; /* it cannot be told that it wants too much */
    else if (!(b->status & STATUS_FEATURES_OK))
        return false;
    b->running = true;
    assign_roles(b);
    return true;
}

void memd_balloon_set_status(struct memd_balloon *b, uint32_t status)
{
    bool start = false, new_stats = false;
    uint32_t irqs = 0;

    pthread_mutex_lock(&b->work);
    pthread_mutex_lock(&b->lock);
    if (status == 0) {
        reset(b);
    } else {
        start = write_status(b, status);
        if (start && device_queue_of(b, ROLE_STATS) >= 0)
            irqs |= serve_stats(b, QUEUE_STATS, &new_stats);
    }
    pthread_mutex_unlock(&b->lock);
    for (unsigned i = 0; i < MEMD_BALLOON_QUEUES && start; i++) {
        if (b->role[i] != ROLE_NONE && b->role[i] != ROLE_STATS)
            irqs |= serve_pages(b, i);
    }
    pthread_mutex_unlock(&b->work);
    after_serve(b, irqs, new_stats);
}

/* ---------------------------------------------------------------- configuration space */

unsigned memd_balloon_config_bytes(const struct memd_balloon *b)
{
    return b->offered & MEMD_BALLOON_PAGE_POISON ? CONFIG_BYTES_POISON : CONFIG_BYTES;
}

void memd_balloon_config_read(struct memd_balloon *b, uint64_t offset, void *ret_data, size_t bytes)
{
    unsigned limit = memd_balloon_config_bytes(b);
    struct config config = {0};

    pthread_mutex_lock(&b->lock);
    config.num_pages = htole32(b->num_pages);
    config.actual = htole32(b->actual);
    config.poison_val = htole32(b->poison);
    pthread_mutex_unlock(&b->lock);
    memset(ret_data, 0, bytes);
    if (offset < limit)
        memcpy(ret_data, (const char *)&config + offset, bytes < limit - offset ? bytes : limit - offset);
}

/* A byte of a le32 that takes effect with its last byte. */
static void write_byte(uint8_t written[4], uint64_t at, uint8_t byte, uint32_t *value)
{
    uint32_t le;

    written[at] = byte;
    if (at != 3)
        return;
    memcpy(&le, written, sizeof le);
    *value = le32toh(le);
}

void memd_balloon_config_write(struct memd_balloon *b, uint64_t offset, const void *data, size_t bytes)
{
    const uint64_t actual = offsetof(struct config, actual), poison = offsetof(struct config, poison_val);
    const uint8_t *from = data;
    unsigned limit = memd_balloon_config_bytes(b);

    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < bytes && offset < limit && i < limit - offset; i++) {
        uint64_t at = offset + i;
        if (at - actual < sizeof(uint32_t))
            write_byte(b->actual_bytes, at - actual, from[i], &b->actual);
        else if (at - poison < sizeof(uint32_t) && !(b->status & STATUS_DRIVER_OK))
            write_byte(b->poison_bytes, at - poison, from[i], &b->poison);
    }
    pthread_mutex_unlock(&b->lock);
}

/* ---------------------------------------------------------------- the host's side */

int memd_balloon_set_target(struct memd_balloon *b, uint64_t bytes)
{
    uint64_t pages = bytes / MEMD_BALLOON_PAGE_BYTES;
    bool changed;

    if (bytes > b->ram.bytes || pages > UINT32_MAX)
        return -EINVAL;
    pthread_mutex_lock(&b->lock);
    changed = b->num_pages != pages && b->running;
    b->num_pages = (uint32_t)pages;
    pthread_mutex_unlock(&b->lock);
    if (changed)
        raise_all(b, IRQ_CONFIG);
    return 0;
}

void memd_balloon_info(struct memd_balloon *b, struct memd_balloon_info *ret_info)
{
    size_t size = ret_info->size < sizeof *ret_info ? ret_info->size : sizeof *ret_info;
    struct memd_balloon_info info;
    uint64_t actual_bytes;

    pthread_mutex_lock(&b->lock);
    info = b->counters;
    actual_bytes = (uint64_t)b->actual * MEMD_BALLOON_PAGE_BYTES;
    info.size = size;
    info.target_bytes = (uint64_t)b->num_pages * MEMD_BALLOON_PAGE_BYTES;
    info.actual_bytes = actual_bytes < b->ram.bytes ? actual_bytes : b->ram.bytes;
    info.features = b->running || b->status & STATUS_FEATURES_OK ? b->features : 0;
    info.running = b->running;
    info.needs_reset = (b->status & STATUS_NEEDS_RESET) != 0;
    info.poison_value = info.features & MEMD_BALLOON_PAGE_POISON ? b->poison : 0;
    pthread_mutex_unlock(&b->lock);
    memcpy(ret_info, &info, size);
}
