/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see balloon.h. The transport keeps what virtio-mmio has registers for and the device
 * has not: selectors, the addresses of queues until they are ready, the interrupt status. `lock` guards
 * these; it is not held while the device works on a queue or resets, which may take as long as a discard.
 *
 * The guest has no interrupts: vm_interrupt() rings its doorbell.
 *
 * memd knows of the balloon through the engine (memd_balloon_attach()). `tell_lock` has what is told be the
 * latest: two threads that look at the device and then tell must not overtake each other. Nothing is waited
 * for under it, so that the engine's callback may take it.
 */
#include "bench/memvm/balloon.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/memvm/vm.h"

#define MAGIC     0x74726976u /* "virt" */
#define VERSION   2u
#define VENDOR_ID 0x646d656du /* "memd" */

#define INTERRUPT_USED   1u
#define INTERRUPT_CONFIG 2u

enum reg {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_NUM_MAX = 0x034,
    REG_QUEUE_NUM = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = 0x050,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC = 0x080,
    REG_QUEUE_AVAIL = 0x090,
    REG_QUEUE_USED = 0x0a0,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100,
};

/* A queue the driver is setting up. */
struct queue_regs {
    uint32_t num, ready;
    uint64_t desc, avail, used;
};

struct balloon {
    struct vm *vm;
    struct memd_balloon *device;
    _Atomic uint32_t interrupts;
    _Atomic uint32_t generation; /* of the configuration */

    pthread_mutex_t tell_lock; /* guards `memd`; taken alone */
    struct memd *memd;         /* NULL: nobody to tell */

    pthread_mutex_t lock; /* guards what follows */
    uint32_t device_sel, driver_sel, queue_sel;
    uint64_t driver_features;
    struct queue_regs queue[MEMD_BALLOON_QUEUES];
};

/* ---------------------------------------------------------------- the device's callbacks */

/* The parts of RAM are memvm's segments, in their order. */
static int on_discard(void *ctx, unsigned part, uint64_t offset, uint64_t bytes)
{
    struct balloon *balloon = ctx;

    return engine_discard(balloon->vm->engine, balloon->vm->ram->segment[part].offset + offset, bytes);
}

static int on_discard_ranges(void *ctx, unsigned part, const struct memd_balloon_range *ranges, unsigned n)
{
    struct balloon *balloon = ctx;
    struct memd_range range[MEMD_BALLOON_RANGES_MAX];

    for (unsigned i = 0; i < n; i++)
        range[i] = (struct memd_range){ranges[i].offset, ranges[i].bytes};
    return engine_discard_ranges(balloon->vm->engine, part, range, n);
}

static void on_interrupt(void *ctx, int queue)
{
    struct balloon *balloon = ctx;

    atomic_fetch_or(&balloon->interrupts, queue < 0 ? INTERRUPT_CONFIG : INTERRUPT_USED);
    vm_interrupt(balloon->vm);
}

/* ---------------------------------------------------------------- with memd */

/* How it is, and, if new ones have come, the guest's statistics. */
static void tell(struct balloon *balloon, bool new_stats)
{
    struct memd_balloon_info info = {.size = sizeof info};
    uint64_t stats[MEMD_BALLOON_TAGS];

    pthread_mutex_lock(&balloon->tell_lock);
    if (balloon->memd) {
        memd_balloon_info(balloon->device, &info);
        if (new_stats)
            memd_balloon_stats(balloon->device, stats);
        memd_balloon_update(balloon->memd, &info, new_stats ? stats : NULL);
    }
    pthread_mutex_unlock(&balloon->tell_lock);
}

static void on_stats(void *ctx)
{
    tell(ctx, true);
}

static int on_target(void *ctx, uint64_t bytes)
{
    return balloon_set_target(ctx, bytes);
}

static int on_ask_stats(void *ctx)
{
    return balloon_ask_stats(ctx);
}

static void attach(struct balloon *balloon, struct memd *memd)
{
    struct memd_balloon_ops ops = {
        .size = sizeof ops, .set_target = on_target, .ask_stats = on_ask_stats, .ctx = balloon};

    for (unsigned i = 0; i < balloon->vm->ram->nsegments; i++)
        ops.ram_bytes += balloon->vm->ram->segment[i].bytes;
    int error = memd_balloon_attach(memd, &ops);
    if (error) {
        fprintf(stderr, "memvm %s: memd is not told of the balloon: %s\n", balloon->vm->options->name,
                strerror(-error));
        return;
    }
    pthread_mutex_lock(&balloon->tell_lock);
    balloon->memd = memd;
    pthread_mutex_unlock(&balloon->tell_lock);
    tell(balloon, false);
}

void balloon_detach(struct balloon *balloon)
{
    pthread_mutex_lock(&balloon->tell_lock);
    struct memd *memd = balloon->memd;
    balloon->memd = NULL;
    pthread_mutex_unlock(&balloon->tell_lock);
    if (memd) /* waits for a callback, which may want the lock */
        memd_balloon_detach(memd);
}

int balloon_create(struct vm *vm, struct balloon **ret_balloon)
{
    struct balloon *balloon = calloc(1, sizeof *balloon);
    struct memd_balloon_ram ram[RAM_SEGMENTS_MAX];
    struct memd_balloon_options options = {
        .size = sizeof options,
        .features = MEMD_BALLOON_FEATURES_ALL,
        .ram = ram,
        .nram = vm->ram->nsegments,
        .discard = on_discard,
        .discard_ranges = on_discard_ranges,
        .interrupt = on_interrupt,
        .stats = on_stats,
        .ctx = balloon,
    };
    int error;

    if (!balloon)
        return -ENOMEM;
    for (unsigned i = 0; i < vm->ram->nsegments; i++) {
        const struct ram_segment *segment = &vm->ram->segment[i];
        ram[i] = (struct memd_balloon_ram){segment->gpa, segment->bytes, ram_at(vm->ram, segment->offset), 0};
    }
    balloon->vm = vm;
    error = memd_balloon_create(&options, &balloon->device);
    if (error) {
        fprintf(stderr, "memvm %s: balloon: %s\n", vm->options->name, strerror(-error));
        free(balloon);
        return error;
    }
    pthread_mutex_init(&balloon->lock, NULL);
    pthread_mutex_init(&balloon->tell_lock, NULL);
    if (vm->engine->memd)
        attach(balloon, vm->engine->memd);
    *ret_balloon = balloon;
    return 0;
}

void balloon_destroy(struct balloon *balloon)
{
    balloon_detach(balloon);
    memd_balloon_destroy(balloon->device);
    pthread_mutex_destroy(&balloon->tell_lock);
    pthread_mutex_destroy(&balloon->lock);
    free(balloon);
}

/* ---------------------------------------------------------------- registers */

static uint32_t half(uint64_t value, uint32_t sel)
{
    return sel == 0 ? (uint32_t)value : sel == 1 ? (uint32_t)(value >> 32) : 0;
}

static void set_half(uint64_t *value, uint32_t sel, uint32_t bits)
{
    if (sel == 0)
        *value = (*value & ~(uint64_t)UINT32_MAX) | bits;
    else if (sel == 1)
        *value = (*value & UINT32_MAX) | (uint64_t)bits << 32;
}

/* Under `lock`. */
static uint32_t read_register(struct balloon *balloon, enum reg reg)
{
    uint32_t sel = balloon->queue_sel;

    switch (reg) {
    case REG_MAGIC:
        return MAGIC;
    case REG_VERSION:
        return VERSION;
    case REG_DEVICE_ID:
        return MEMD_BALLOON_DEVICE_ID;
    case REG_VENDOR_ID:
        return VENDOR_ID;
    case REG_DEVICE_FEATURES:
        return half(memd_balloon_features(balloon->device), balloon->device_sel);
    case REG_QUEUE_NUM_MAX:
        return sel < MEMD_BALLOON_QUEUES ? MEMD_BALLOON_QUEUE_MAX : 0;
    case REG_QUEUE_READY:
        return sel < MEMD_BALLOON_QUEUES ? balloon->queue[sel].ready : 0;
    case REG_INTERRUPT_STATUS:
        return atomic_load(&balloon->interrupts);
    case REG_STATUS:
        return memd_balloon_status(balloon->device);
    case REG_CONFIG_GENERATION:
        return atomic_load(&balloon->generation);
    default:
        return 0;
    }
}

bool balloon_read(struct balloon *balloon, uint64_t offset, uint64_t bytes, void *ret_value)
{
    uint32_t value;

    if (offset >= ABI_VIRTIO_BYTES || bytes > sizeof value)
        return false;
    if (offset >= REG_CONFIG) {
        memd_balloon_config_read(balloon->device, offset - REG_CONFIG, ret_value, bytes);
        return true;
    }
    if (bytes != sizeof value || offset % sizeof value)
        return false;
    pthread_mutex_lock(&balloon->lock);
    value = read_register(balloon, (enum reg)offset);
    pthread_mutex_unlock(&balloon->lock);
    memcpy(ret_value, &value, sizeof value);
    return true;
}

static void set_ready(struct balloon *balloon, struct queue_regs *q, uint32_t ready)
{
    unsigned num = ready ? q->num : 0;
    int error = memd_balloon_set_queue(balloon->device, balloon->queue_sel, num, q->desc, q->avail, q->used);

    q->ready = error ? q->ready && error == -EBUSY : num > 0;
}

static void write_queue_register(struct balloon *balloon, uint64_t reg, uint32_t value)
{
    struct queue_regs *q = &balloon->queue[balloon->queue_sel];

    if (reg == REG_QUEUE_NUM)
        q->num = value;
    else if (reg == REG_QUEUE_READY)
        set_ready(balloon, q, value);
    else if (reg == REG_QUEUE_DESC || reg == REG_QUEUE_DESC + 4)
        set_half(&q->desc, reg != REG_QUEUE_DESC, value);
    else if (reg == REG_QUEUE_AVAIL || reg == REG_QUEUE_AVAIL + 4)
        set_half(&q->avail, reg != REG_QUEUE_AVAIL, value);
    else if (reg == REG_QUEUE_USED || reg == REG_QUEUE_USED + 4)
        set_half(&q->used, reg != REG_QUEUE_USED, value);
}

/* Under `lock`. */
static void write_register(struct balloon *balloon, uint64_t reg, uint32_t value)
{
    switch (reg) {
    case REG_DEVICE_FEATURES_SEL:
        balloon->device_sel = value;
        break;
    case REG_DRIVER_FEATURES_SEL:
        balloon->driver_sel = value;
        break;
    case REG_DRIVER_FEATURES:
        set_half(&balloon->driver_features, balloon->driver_sel, value);
        memd_balloon_set_features(balloon->device, balloon->driver_features);
        break;
    case REG_QUEUE_SEL:
        balloon->queue_sel = value;
        break;
    case REG_INTERRUPT_ACK:
        atomic_fetch_and(&balloon->interrupts, ~value);
        break;
    default:
        if (balloon->queue_sel < MEMD_BALLOON_QUEUES)
            write_queue_register(balloon, reg, value);
    }
}

static void set_status(struct balloon *balloon, uint32_t status)
{
    memd_balloon_set_status(balloon->device, status);
    if (status != 0)
        return;
    pthread_mutex_lock(&balloon->lock);
    balloon->driver_features = 0;
    memset(balloon->queue, 0, sizeof balloon->queue);
    atomic_store(&balloon->interrupts, 0);
    pthread_mutex_unlock(&balloon->lock);
}

bool balloon_write(struct balloon *balloon, uint64_t offset, uint64_t bytes, const void *data)
{
    uint32_t value;

    if (offset >= ABI_VIRTIO_BYTES || bytes > sizeof value)
        return false;
    if (offset >= REG_CONFIG) {
        memd_balloon_config_write(balloon->device, offset - REG_CONFIG, data, bytes);
        tell(balloon, false); /* of what it has now */
        return true;
    }
    if (bytes != sizeof value || offset % sizeof value)
        return false;
    memcpy(&value, data, sizeof value);
    if (offset == REG_QUEUE_NOTIFY) {
        memd_balloon_kick(balloon->device, value);
    } else if (offset == REG_STATUS) {
        set_status(balloon, value);
        tell(balloon, false);
    } else {
        pthread_mutex_lock(&balloon->lock);
        write_register(balloon, offset, value);
        pthread_mutex_unlock(&balloon->lock);
    }
    return true;
}

/* ---------------------------------------------------------------- the host's side */

int balloon_set_target(struct balloon *balloon, uint64_t bytes)
{
    int error = memd_balloon_set_target(balloon->device, bytes);

    atomic_fetch_add(&balloon->generation, 1);
    tell(balloon, false);
    return error;
}

int balloon_ask_stats(struct balloon *balloon)
{
    return memd_balloon_ask_stats(balloon->device);
}

struct memd_balloon_info balloon_info(struct balloon *balloon)
{
    struct memd_balloon_info info = {.size = sizeof info};

    memd_balloon_info(balloon->device, &info);
    return info;
}

uint64_t balloon_stat(struct balloon *balloon, enum memd_balloon_tag tag)
{
    uint64_t stats[MEMD_BALLOON_TAGS];

    memd_balloon_stats(balloon->device, stats);
    return stats[tag] == MEMD_BALLOON_NO_STAT ? 0 : stats[tag];
}
