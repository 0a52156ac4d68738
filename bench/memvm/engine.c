/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see engine.h. libmemd is entered through include/memd/memd.h only. The engine needs
 * nothing from the VMM while it runs; the VMM's part is to enrol RAM before the guest starts, to route every
 * discard through the library, and to close before it unmaps the memory.
 */
#include "bench/memvm/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define RESTORE_TIMEOUT_MS 30000u

static void on_log(void *ctx, enum memd_log_level level, const char *message)
{
    const struct engine *engine = ctx;

    if (level <= MEMD_LOG_INFO)
        fprintf(stderr, "memvm %s: engine: %s\n", engine->options->name, message);
}

static void on_poison(void *ctx, uint64_t gpa, uint64_t bytes)
{
    const struct engine *engine = ctx;

    fprintf(stderr, "memvm %s: %llu bytes of guest memory at guest-physical 0x%llx are lost\n",
            engine->options->name, (unsigned long long)bytes, (unsigned long long)gpa);
}

/* What is done stays done: after a refusal the remaining segments are still enrolled. */
static int unmerge_locked(struct engine *engine)
{
    for (unsigned i = 0; i < RAM_SEGMENTS_MAX; i++) {
        int error = 0;
        if (engine->region[i] != ENGINE_NO_REGION)
            error = memd_region_del(engine->memd, engine->region[i], RESTORE_TIMEOUT_MS);
        if (error)
            return error;
        engine->region[i] = ENGINE_NO_REGION;
    }
    return 0;
}

static int enrol_locked(struct engine *engine)
{
    for (unsigned i = 0; i < engine->ram->nsegments; i++) {
        const struct ram_segment *segment = &engine->ram->segment[i];
        struct memd_region_desc desc = {
            .size = sizeof desc,
            .hva = ram_at(engine->ram, segment->offset),
            .bytes = segment->bytes,
            .gpa = segment->gpa,
            .node = -1,
            .name = i == 0 ? "ram-low" : "ram-high",
        };
        int error = 0;
        if (engine->region[i] == ENGINE_NO_REGION)
            error = memd_region_add(engine->memd, &desc, &engine->region[i]);
        if (error)
            return error;
    }
    return 0;
}

int engine_open(struct engine *engine, const struct options *options, const struct ram *ram)
{
    struct memd_options open_options = {
        .size = sizeof open_options,
        .name = options->name,
        .domain = options->domain,
        .run_dir = options->run_dir,
        .log = on_log,
        .poison = on_poison,
        .ctx = engine,
        .flags = options->no_daemon ? MEMD_OPEN_NO_DAEMON : 0,
    };
    int error;

    *engine = (struct engine){.options = options, .ram = ram, .lock = PTHREAD_MUTEX_INITIALIZER};
    for (unsigned i = 0; i < RAM_SEGMENTS_MAX; i++)
        engine->region[i] = ENGINE_NO_REGION;
    if (options->no_memd)
        return 0;
    error = memd_open(&open_options, &engine->memd);
    if (error) {
        fprintf(stderr, "memvm %s: opening memd's engine: %s; --no-memd runs without\n", options->name,
                strerror(-error));
        engine->memd = NULL;
        return error;
    }
    error = engine_enrol(engine);
    if (error) {
        fprintf(stderr, "memvm %s: enrolling guest RAM: %s\n", options->name, strerror(-error));
        engine_close(engine);
    }
    return error;
}

static int discard_in_segment(struct engine *engine, unsigned i, uint64_t offset, uint64_t bytes)
{
    if (engine->region[i] != ENGINE_NO_REGION)
        return memd_discard(engine->memd, engine->region[i], offset, bytes);
    if (madvise(ram_at(engine->ram, engine->ram->segment[i].offset + offset), bytes, MADV_DONTNEED))
        return -errno;
    return 0;
}

int engine_discard(struct engine *engine, uint64_t offset, uint64_t bytes)
{
    int error = 0;

    pthread_mutex_lock(&engine->lock);
    for (unsigned i = 0; i < engine->ram->nsegments && !error; i++) {
        const struct ram_segment *segment = &engine->ram->segment[i];
        uint64_t from = offset > segment->offset ? offset : segment->offset;
        uint64_t to = offset + bytes, end = segment->offset + segment->bytes;

        if (to > end)
            to = end;
        if (from < to)
            error = discard_in_segment(engine, i, from - segment->offset, to - from);
    }
    pthread_mutex_unlock(&engine->lock);
    return error;
}

int engine_discard_ranges(struct engine *engine, unsigned i, const struct memd_range *ranges, unsigned n)
{
    int error = -ENOTSUP;

    pthread_mutex_lock(&engine->lock);
    if (engine->region[i] != ENGINE_NO_REGION)
        error = memd_discard_ranges(engine->memd, engine->region[i], ranges, n);
    pthread_mutex_unlock(&engine->lock);
    return error;
}

typedef int pin_fn(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);

static int pin_with(struct engine *engine, pin_fn *fn, uint64_t offset, uint64_t bytes)
{
    int error = -EINVAL;

    pthread_mutex_lock(&engine->lock);
    for (unsigned i = 0; i < engine->ram->nsegments; i++) {
        const struct ram_segment *segment = &engine->ram->segment[i];

        if (offset < segment->offset || bytes > segment->bytes ||
            offset - segment->offset > segment->bytes - bytes)
            continue;
        error = engine->region[i] == ENGINE_NO_REGION
                    ? -ENOTSUP
                    : fn(engine->memd, engine->region[i], offset - segment->offset, bytes);
    }
    pthread_mutex_unlock(&engine->lock);
    return error;
}

int engine_pin(struct engine *engine, uint64_t offset, uint64_t bytes)
{
    return pin_with(engine, memd_pin, offset, bytes);
}

int engine_unpin(struct engine *engine, uint64_t offset, uint64_t bytes)
{
    return pin_with(engine, memd_unpin, offset, bytes);
}

int engine_pause(struct engine *engine)
{
    return engine->memd ? memd_pause(engine->memd) : -ENOTSUP;
}

int engine_resume(struct engine *engine)
{
    return engine->memd ? memd_resume(engine->memd) : -ENOTSUP;
}

int engine_unmerge(struct engine *engine)
{
    int error = -ENOTSUP;

    pthread_mutex_lock(&engine->lock);
    if (engine->memd)
        error = unmerge_locked(engine);
    pthread_mutex_unlock(&engine->lock);
    return error;
}

int engine_enrol(struct engine *engine)
{
    int error = -ENOTSUP;

    pthread_mutex_lock(&engine->lock);
    if (engine->memd)
        error = enrol_locked(engine);
    pthread_mutex_unlock(&engine->lock);
    return error;
}

bool engine_stats(struct engine *engine, struct memd_stats *ret_stats)
{
    struct memd_stats stats = {.size = sizeof stats};

    if (!engine->memd)
        stats = engine->last;
    else if (memd_stats(engine->memd, &stats))
        return false;
    if (stats.size == 0)
        return false;
    *ret_stats = stats;
    return true;
}

int engine_close(struct engine *engine)
{
    struct memd_stats stats = {.size = sizeof stats};
    int error = 0;

    if (!engine->memd)
        return 0;
    pthread_mutex_lock(&engine->lock);
    if (memd_stats(engine->memd, &stats))
        stats.size = 0;
    error = memd_close(engine->memd, RESTORE_TIMEOUT_MS);
    if (!error) {
        engine->memd = NULL;
        engine->last = stats;
        for (unsigned i = 0; i < RAM_SEGMENTS_MAX; i++)
            engine->region[i] = ENGINE_NO_REGION;
    }
    pthread_mutex_unlock(&engine->lock);
    return error;
}
