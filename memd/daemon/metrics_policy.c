/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory policy at /metrics: what was decided, by its reasons, and what came of it, of all VMs together.
 */
#include "memd/daemon/metrics_parts.h"

#include <inttypes.h>

#define PREFIX "memd_policy_"

static const char *const rung_names[CORE_RUNGS] = {
    [CORE_RUNG_BALLOON] = "balloon", [CORE_RUNG_PAGER] = "pager"};

static void put_sample(FILE *out, const char *name, const char *label, const char *value, uint64_t count)
{
    fprintf(out, PREFIX "%s_total{%s=\"%s\"} %" PRIu64 "\n", name, label, value, count);
}

static void put_rungs(FILE *out, const char *name, const char *help, const uint64_t counts[CORE_RUNGS])
{
    metrics_put_head(out, PREFIX, name, "counter", help);
    for (unsigned i = 0; i < CORE_RUNGS; i++)
        put_sample(out, name, "rung", rung_names[i], counts[i]);
}

void metrics_put_policy(FILE *out, const struct core_snapshot *snapshot)
{
    const struct core_policy *p = &snapshot->policy;

    metrics_put_head(out, PREFIX, "decisions", "counter", "Decisions about VMs, by the rule that decided.");
    for (unsigned i = 0; i < BUDGET_REASONS; i++)
        put_sample(out, "decisions", "reason", budget_reason_name((enum budget_reason)i), p->decisions[i]);
    metrics_put_head(out, PREFIX, "balloon_looks", "counter", "Looks at balloons it moves, by their rules.");
    for (unsigned i = 0; i < BALLOON_RULES; i++)
        put_sample(out, "balloon_looks", "rule", balloon_rule_name((enum balloon_rule)i),
                   p->balloon_looks[i]);
    metrics_put_head(out, PREFIX, "balloon_excluded", "counter", "Of these: why nothing may be asked of it.");
    for (unsigned i = BALLOON_INCLUDED + 1; i < BALLOON_EXCLUDED_COUNT; i++)
        put_sample(out, "balloon_excluded", "reason", balloon_excluded_name((enum balloon_excluded)i),
                   p->balloon_excluded[i]);
    put_rungs(out, "orders", "Orders to give memory back.", p->orders);
    put_rungs(out, "asked_bytes", "What they asked for.", p->asked_bytes);
    put_rungs(out, "returned_bytes", "What the host has got of it, as far as it can see.", p->returned_bytes);
}
