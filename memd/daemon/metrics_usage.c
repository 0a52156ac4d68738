/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The part of the metrics page about what VMs use: their working sets by samples, with the memory idle for so
 * long, and histograms of how long accesses waited. A VM of which nothing is known has no samples here.
 */
#include "memd/daemon/metrics.h"
#include "memd/daemon/metrics_parts.h"

#include <inttypes.h>
#include <string.h>

const char *const metrics_tier_names[WIRE_TIERS] = {
    [WIRE_TIER_PARKED] = "parked", [WIRE_TIER_PACKED] = "packed", [WIRE_TIER_SWAPPED] = "swapped",
    [WIRE_TIER_ZERO] = "zero",     [WIRE_TIER_REMOTE] = "remote",
};

static void put_working_sets(FILE *out, const struct core_snapshot *snapshot)
{
    static const struct {
        const char *name, *help;
        size_t offset;
    } fields[] = {
        {"working_set_error_bytes", "The estimate of the working set is as near as this, 95 times of 100.",
         offsetof(struct core_working_set, error_bytes)},
        {"samplable_bytes", "Own memory of which samples are taken, an estimate.",
         offsetof(struct core_working_set, samplable_bytes)},
        {"unsampled_bytes", "Own memory of which none are: huge, pinned, written since merged.",
         offsetof(struct core_working_set, unsampled_bytes)},
        {"written_bytes", "Memory seen written by the last round.",
         offsetof(struct core_working_set, written_bytes)},
    };

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        metrics_put_head(out, "memd_vm_", fields[i].name, "gauge", fields[i].help);
        for (size_t k = 0; k < snapshot->nvms; k++) {
            const struct core_vm *vm = &snapshot->vms[k];
            uint64_t value;
            if (!vm->ws.periods)
                continue;
            memcpy(&value, (const char *)&vm->ws + fields[i].offset, sizeof value);
            fprintf(out, "memd_vm_%s", fields[i].name);
            metrics_put_labels(out, &(struct metrics_labels){.vm = vm});
            fprintf(out, " %" PRIu64 "\n", value);
        }
    }
}

static void put_idle(FILE *out, const struct core_snapshot *snapshot)
{
    char age[64];

    metrics_put_head(out, "memd_vm_", "idle_bytes", "gauge", "Samplable memory not touched for so long.");
    for (size_t k = 0; k < snapshot->nvms; k++) {
        const struct core_vm *vm = &snapshot->vms[k];
        for (unsigned i = 0; i < vm->ws.nidle; i++) {
            snprintf(age, sizeof age, "seconds=\"%" PRIu64 ".%03" PRIu64 "\"", vm->ws.idle_ms[i] / 1000,
                     vm->ws.idle_ms[i] % 1000);
            fputs("memd_vm_idle_bytes", out);
            metrics_put_labels(out, &(struct metrics_labels){.vm = vm, .more = age});
            fprintf(out, " %" PRIu64 "\n", vm->ws.idle_bytes[i]);
        }
    }
}

static void put_bucket(FILE *out, const struct core_vm *vm, unsigned tier, unsigned bucket, uint64_t count)
{
    uint64_t bound = wire_latency_bound(bucket);
    char more[80];

    if (bound == UINT64_MAX)
        snprintf(more, sizeof more, "tier=\"%s\",le=\"+Inf\"", metrics_tier_names[tier]);
    else
        snprintf(more, sizeof more, "tier=\"%s\",le=\"%" PRIu64 ".%09" PRIu64 "\"", metrics_tier_names[tier],
                 bound / 1000000000, bound % 1000000000);
    fputs("memd_vm_fault_latency_seconds_bucket", out);
    metrics_put_labels(out, &(struct metrics_labels){.vm = vm, .more = more});
    fprintf(out, " %" PRIu64 "\n", count);
}

static void put_histogram(FILE *out, const struct core_vm *vm, unsigned tier)
{
    const struct core_latency *l = &vm->latency[tier];
    uint64_t count = 0;
    char more[32];

    for (unsigned i = 0; i < WIRE_LATENCY_BUCKETS; i++)
        put_bucket(out, vm, tier, i, count += l->buckets[i]);
    snprintf(more, sizeof more, "tier=\"%s\"", metrics_tier_names[tier]);
    fputs("memd_vm_fault_latency_seconds_count", out);
    metrics_put_labels(out, &(struct metrics_labels){.vm = vm, .more = more});
    fprintf(out, " %" PRIu64 "\n", count);
    fputs("memd_vm_fault_latency_seconds_sum", out);
    metrics_put_labels(out, &(struct metrics_labels){.vm = vm, .more = more});
    fputc(' ', out);
    metrics_put_seconds(out, l->sum_ns);
    fputc('\n', out);
}

void metrics_put_usage(FILE *out, const struct core_snapshot *snapshot)
{
    put_working_sets(out, snapshot);
    put_idle(out, snapshot);
    metrics_put_head(out, "memd_vm_", "fault_latency_seconds", "histogram",
                     "How long accesses waited, from the fault server's hearing of them.");
    for (size_t k = 0; k < snapshot->nvms; k++)
        for (unsigned t = 0; t < WIRE_TIERS; t++)
            put_histogram(out, &snapshot->vms[k], t);
}
