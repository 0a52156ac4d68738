/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sample: how much of the VM's memory is in use, found by samples; see sample.c. */
#ifndef MEMD_ENGINE_SAMPLE_H
#define MEMD_ENGINE_SAMPLE_H

#include "memd/engine/engine.h"

void sample_close(struct memd *m);

/* All: engine.work held. */

bool sample_step(struct memd *m); /* some of what is to be done; false: nothing now */
uint64_t sample_due_ns(struct memd *m);
/* Samples of the chunk become parked pages like others, at most `most`; returns how many. */
uint32_t sample_yield(struct memd *m, struct region *r, uint32_t chunk, uint64_t most);

/* What is known, in pages; see struct wire_stats. */
struct sample_counts {
    uint64_t periods, period_ms, samplable, unsampled, working_set, error, ages;
    uint64_t idle[WIRE_AGES];
};
struct sample_counts sample_count(const struct memd *m);

#endif
