/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * metrics: the counters of a snapshot, named; and the page at /metrics.
 *
 * metrics_counters names every field of struct core_counters once, for the JSON of the control API and for
 * OpenMetrics alike. Pure functions: a snapshot in, text out; any thread.
 */
#ifndef MEMD_DAEMON_METRICS_H
#define MEMD_DAEMON_METRICS_H

#include "memd/daemon/core.h"
#include "memd/memd.h"

enum metrics_kind {
    METRICS_GAUGE,      /* a current count */
    METRICS_GAUGE_BOTH, /* a current count that can be negative (int64_t) */
    METRICS_COUNTER,    /* only grows */
    METRICS_COUNTER_NS, /* only grows; shown in seconds by OpenMetrics */
};

struct metrics_counter {
    const char *name; /* as in JSON */
    const char *help;
    size_t offset; /* in struct core_counters; 8 bytes there */
    enum metrics_kind kind;
};

extern const struct metrics_counter metrics_counters[];
extern const size_t metrics_ncounters;

/* The keys of ineligible_bytes, in the order of enum memd_ineligible. */
extern const char *const metrics_ineligible_names[MEMD_INELIGIBLE_COUNT];

/* In the order of enum wire_tier. */
extern const char *const metrics_tier_names[WIRE_TIERS];

/* In the order of enum core_agent_state. */
extern const char *const metrics_agent_states[CORE_AGENT_STATES];

#define METRICS_CONTENT_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

struct balloons;

/* The whole page in OpenMetrics text format. Returns 0 and memory for the caller to free, or -ENOMEM. */
int metrics_format(const struct core_snapshot *snapshot, struct balloons *balloons, char **ret_text,
                   size_t *ret_bytes);

#endif
