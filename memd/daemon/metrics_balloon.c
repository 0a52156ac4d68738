/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The balloons at /metrics. What is not known has no sample. */
#include "balloon-driver/backends/balloons.h"
#include "memd/daemon/metrics_parts.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct field {
    const char *name, *help;
    size_t offset; /* in struct balloons_view */
    bool counter;
    uint64_t none; /* not known */
};

#define FIELD(field) offsetof(struct balloons_view, field)
#define STAT(tag)    (offsetof(struct balloons_view, facts.stats) + sizeof(uint64_t) * (tag))
#define ALWAYS       BALLOONS_NEVER /* no counter gets there */

static const struct field fields[] = {
    {"ram_bytes", "RAM of the VM, the balloon included.", FIELD(facts.ram_bytes), false, 0},
    {"actual_bytes", "What the balloon leaves to the guest.", FIELD(facts.actual_bytes), false, 0},
    {"target_bytes", "What it is to leave to the guest.", FIELD(facts.target_bytes), false, 0},
    {"floor_bytes", "What no target is below.", FIELD(floor_bytes), false, 0},
    {"guest_free_bytes", "Free memory, as the guest says.", STAT(MEMD_BALLOON_FREE_BYTES), false,
     MEMD_BALLOON_NO_STAT},
    {"guest_available_bytes", "Memory available without swapping, as the guest says.",
     STAT(MEMD_BALLOON_AVAILABLE_BYTES), false, MEMD_BALLOON_NO_STAT},
    {"guest_swap_in_bytes", "Swapped in, as the guest says.", STAT(MEMD_BALLOON_SWAP_IN_BYTES), false,
     MEMD_BALLOON_NO_STAT},
    {"guest_swap_out_bytes", "Swapped out, as the guest says.", STAT(MEMD_BALLOON_SWAP_OUT_BYTES), false,
     MEMD_BALLOON_NO_STAT},
    {"guest_major_faults", "Major page faults, as the guest says.", STAT(MEMD_BALLOON_MAJOR_FAULTS), false,
     MEMD_BALLOON_NO_STAT},
    {"guest_oom_kills", "Processes ended for want of memory, as the guest says.",
     STAT(MEMD_BALLOON_OOM_KILLS), false, MEMD_BALLOON_NO_STAT},
    {"connects", "Connections made to the VMM.", FIELD(connects), true, ALWAYS},
    {"failures", "Connections that failed or ended.", FIELD(failures), true, ALWAYS},
    {"sets", "Targets the VMM has taken.", FIELD(sets), true, ALWAYS},
    {"events", "Events of the VMM.", FIELD(facts.events), true, ALWAYS},
};
#define NFIELDS (sizeof fields / sizeof fields[0])

/* Names of VMs need no escapes. */
static void put_field(FILE *out, struct balloons *balloons, const struct field *field)
{
    struct balloons_view view;
    size_t cursor = 0;
    uint64_t value;
    int balloon;

    metrics_put_head(out, "memd_balloon_", field->name, field->counter ? "counter" : "gauge", field->help);
    while ((balloon = balloons_next(balloons, &cursor)) >= 0) {
        if (balloons_view(balloons, balloon, &view))
            continue;
        memcpy(&value, (const char *)&view + field->offset, sizeof value);
        if (value != field->none)
            fprintf(out, "memd_balloon_%s%s{vm=\"%s\"} %" PRIu64 "\n", field->name,
                    field->counter ? "_total" : "", view.vm, value);
    }
}

static void put_states(FILE *out, struct balloons *balloons)
{
    struct balloons_view view;
    size_t cursor = 0;
    int balloon;

    metrics_put_head(out, "memd_balloon_", "state", "gauge", "1 for the state the balloon is in.");
    while ((balloon = balloons_next(balloons, &cursor)) >= 0)
        if (!balloons_view(balloons, balloon, &view))
            fprintf(out, "memd_balloon_state{vm=\"%s\",backend=\"%s\",state=\"%s\"} 1\n", view.vm,
                    view.backend, balloons_state_name(view.state));
}

static void put_rules(FILE *out, struct balloons *balloons)
{
    struct balloons_view view;
    size_t cursor = 0;
    int balloon;

    metrics_put_head(out, "memd_balloon_", "rule", "gauge",
                     "1 for what the memory policy made of a balloon it moves, at its last look.");
    while ((balloon = balloons_next(balloons, &cursor)) >= 0)
        if (!balloons_view(balloons, balloon, &view) && view.is_auto && view.note[0])
            fprintf(out, "memd_balloon_rule{vm=\"%s\",rule=\"%s\"} 1\n", view.vm, view.note);
}

void metrics_put_balloons(FILE *out, struct balloons *balloons)
{
    put_states(out, balloons);
    put_rules(out, balloons);
    for (size_t f = 0; f < NFIELDS; f++)
        put_field(out, balloons, &fields[f]);
}
