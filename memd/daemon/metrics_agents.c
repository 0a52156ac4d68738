/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The part of the metrics page about agents in guests: memd_agent_NAME{vm}. Values of an agent that is not
 * heard are left out: what it said last is no news.
 */
#include "memd/common/agent_codec.h"
#include "memd/daemon/metrics.h"
#include "memd/daemon/metrics_parts.h"

#include <inttypes.h>
#include <string.h>

#define PREFIX "memd_agent_"

const char *const metrics_agent_states[CORE_AGENT_STATES] = {
    [CORE_AGENT_ABSENT] = "absent", [CORE_AGENT_SILENT] = "silent",   [CORE_AGENT_LIVE] = "live",
    [CORE_AGENT_STALE] = "stale",   [CORE_AGENT_REFUSED] = "refused",
};

/* Names of VMs hold nothing that is to be escaped. */
static void put_name(FILE *out, const char *name, const char *more, const struct core_agent *agent)
{
    fprintf(out, PREFIX "%s%s{vm=\"%s\"} ", name, more, agent->name);
}

/* One value of all agents. */
static void put_value(FILE *out, const struct core_snapshot *snapshot, unsigned i)
{
    enum agent_kind kind = agent_values[i].kind;
    bool gauge = kind == AGENT_GAUGE_BYTES;
    char name[64];

    if (kind == AGENT_GAUGE_MS)
        return; /* when its guest was booted is of no use to anybody */
    snprintf(name, sizeof name, "%s", agent_values[i].name);
    if (kind == AGENT_COUNTER_US)
        strcpy(name + strlen(name) - strlen("us"), "seconds");
    metrics_put_head(out, PREFIX, name, gauge ? "gauge" : "counter", "As the guest says, within bounds.");
    for (size_t k = 0; k < snapshot->nagents; k++) {
        const struct core_agent *agent = &snapshot->agents[k];
        if (agent->state != CORE_AGENT_LIVE || !(agent->present >> i & 1))
            continue;
        put_name(out, name, gauge ? "" : "_total", agent);
        if (kind == AGENT_COUNTER_US)
            metrics_put_seconds(out, agent->value[i] * 1000);
        else
            fprintf(out, "%" PRIu64, agent->value[i]);
        fputc('\n', out);
    }
}

void metrics_put_agents(FILE *out, const struct core_snapshot *snapshot)
{
    static const struct {
        const char *name, *help;
        size_t offset;
    } counters[] = {
        {"frames", "Frames taken.", offsetof(struct core_agent, frames)},
        {"lost_frames", "Frames that were missing.", offsetof(struct core_agent, lost_frames)},
        {"bad_frames", "Frames, and noise, that were refused.", offsetof(struct core_agent, bad_frames)},
        {"throttled", "Times it had sent more than is read.", offsetof(struct core_agent, throttled)},
        {"clamped", "Values that were out of bounds.", offsetof(struct core_agent, clamped)},
    };

    metrics_put_head(out, PREFIX, "up", "gauge", "1 if the agent in the guest is heard.");
    for (size_t k = 0; k < snapshot->nagents; k++) {
        put_name(out, "up", "", &snapshot->agents[k]);
        fprintf(out, "%d\n", snapshot->agents[k].state == CORE_AGENT_LIVE);
    }
    for (unsigned i = 0; i < AGENT_VALUES; i++)
        put_value(out, snapshot, i);
    for (size_t c = 0; c < sizeof counters / sizeof counters[0]; c++) {
        metrics_put_head(out, PREFIX, counters[c].name, "counter", counters[c].help);
        for (size_t k = 0; k < snapshot->nagents; k++) {
            uint64_t value;
            memcpy(&value, (const char *)&snapshot->agents[k] + counters[c].offset, sizeof value);
            put_name(out, counters[c].name, "_total", &snapshot->agents[k]);
            fprintf(out, "%" PRIu64 "\n", value);
        }
    }
}
