/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memvm's use of libmemd: all of guest RAM enrolled, one region for each segment. This is the embedding
 * example: everything a VMM has to do to take part is in engine.c.
 *
 * With --no-memd the same functions work on plain memory where that means something (discard) and return
 * -ENOTSUP where it does not.
 *
 * Threads: discard is called by vCPU threads, everything else by the main thread. `lock` is held across the
 * calls into libmemd that use region ids, so that no region goes away under a discard.
 */
#ifndef MEMVM_ENGINE_H
#define MEMVM_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/memvm/options.h"
#include "bench/memvm/ram.h"
#include "memd/memd.h"

struct engine {
    const struct options *options;
    const struct ram *ram;
    pthread_mutex_t lock;              /* guards the two below */
    struct memd *memd;                 /* NULL: --no-memd, or closed */
    uint32_t region[RAM_SEGMENTS_MAX]; /* ENGINE_NO_REGION: this segment is plain memory */
    struct memd_stats last;            /* as they stood when the engine closed; size 0: it did not yet */
};
#define ENGINE_NO_REGION UINT32_MAX

/* Open and enrol. Returns 0 or -errno, having said why on stderr. */
int engine_open(struct engine *engine, const struct options *options, const struct ram *ram);

/* A range in RAM offsets; 0 or -errno. A discard may cross segments, a pin may not. */
int engine_discard(struct engine *engine, uint64_t offset, uint64_t bytes);
/* Of segment `i`, from its start. -ENOTSUP: it is no region. */
int engine_discard_ranges(struct engine *engine, unsigned i, const struct memd_range *ranges, unsigned n);
int engine_pin(struct engine *engine, uint64_t offset, uint64_t bytes);
int engine_unpin(struct engine *engine, uint64_t offset, uint64_t bytes);

int engine_pause(struct engine *engine);
int engine_resume(struct engine *engine);

/* Take guest RAM back from the engine, and enrol it again. 0 (also when nothing was to do) or -errno. */
int engine_unmerge(struct engine *engine);
int engine_enrol(struct engine *engine);

/* After engine_close() those of before it. False when there never was an engine. */
bool engine_stats(struct engine *engine, struct memd_stats *ret_stats);

/* 0, also when there is no engine; -errno with the engine still serving. */
int engine_close(struct engine *engine);

#endif
