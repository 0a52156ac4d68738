/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* metrics_parts: what metrics.c, metrics_usage.c and metrics_balloon.c share. One thread. */
#ifndef MEMD_DAEMON_METRICS_PARTS_H
#define MEMD_DAEMON_METRICS_PARTS_H

#include "memd/daemon/core.h"

#include <stdio.h>

/* The labels of a sample: of one VM, of one domain, or none; and more of them, as they are written. */
struct metrics_labels {
    const struct core_vm *vm;
    const struct core_domain *domain;
    const char *more;
};

/* "# TYPE", "# UNIT" where the name ends in one, "# HELP". */
void metrics_put_head(FILE *out, const char *prefix, const char *name, const char *type, const char *help);
void metrics_put_labels(FILE *out, const struct metrics_labels *labels);
/* Nanoseconds as seconds, exact. */
void metrics_put_seconds(FILE *out, uint64_t ns);

/* What agents in guests say: metrics_agents.c. */
void metrics_put_agents(FILE *out, const struct core_snapshot *snapshot);

/* What VMs use, and how long they waited: metrics_usage.c. */
void metrics_put_usage(FILE *out, const struct core_snapshot *snapshot);

/* What the memory policy decides: metrics_policy.c. */
void metrics_put_policy(FILE *out, const struct core_snapshot *snapshot);

/* The balloons: metrics_balloon.c. */
struct balloons;
void metrics_put_balloons(FILE *out, struct balloons *balloons);

#endif
