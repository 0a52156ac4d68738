/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * metrics: OpenMetrics text from a snapshot.
 *
 * Names. memd_NAME is the daemon's, the host's or the sum over all VMs, the ones that have left included;
 * memd_vm_NAME{vm,id,domain} is one VM's, memd_domain_NAME{domain} one domain's and memd_balloon_NAME{vm} one
 * balloon's. The sums are families of
 * their own, so that sum(memd_vm_...) counts nothing twice.
 *
 * Form (OpenMetrics 1.0): every family is one block, "# TYPE" first; samples of counters end in _total; a
 * unit is the end of the name; label values escape backslash, quote and newline; the page ends with "# EOF".
 */
#include "memd/daemon/metrics.h"

#include "memd/daemon/metrics_parts.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METRICS_NAME_BYTES 64
#define COUNTER(field, kind, help)                                \
    {                                                             \
#field, help, offsetof(struct core_counters, field), kind \
    }

const struct metrics_counter metrics_counters[] = {
    COUNTER(guest_bytes, METRICS_GAUGE, "Guest RAM enrolled."),
    COUNTER(zero_pages, METRICS_GAUGE, "Pages known to be all zero and dropped."),
    COUNTER(pages_shared, METRICS_GAUGE, "Frames in use."),
    COUNTER(pages_sharing, METRICS_GAUGE, "Further pages that map a frame in use."),
    COUNTER(pages_unshared, METRICS_GAUGE, "Pages hashed for which no equal page is known."),
    COUNTER(pages_volatile, METRICS_GAUGE, "Pages written too often to be worth hashing."),
    COUNTER(pages_skipped, METRICS_GAUGE, "Pages in huge pages kept whole, or passed over."),
    COUNTER(full_scans, METRICS_COUNTER, "Rounds completed over all guest RAM."),
    COUNTER(merges, METRICS_COUNTER, "Pages merged, zero pages not counted."),
    COUNTER(zero_drops, METRICS_COUNTER, "Zero pages dropped."),
    COUNTER(cow_breaks, METRICS_COUNTER, "Merged pages written since."),
    COUNTER(heals, METRICS_COUNTER, "Pages brought back into plain memory."),
    COUNTER(faults, METRICS_COUNTER, "Accesses that waited for a fault server."),
    COUNTER(rejected, METRICS_COUNTER, "Proposals refused because the bytes differed."),
    COUNTER(huge_broken, METRICS_COUNTER, "Huge pages broken up to reclaim parts of them."),
    COUNTER(broken_pages, METRICS_GAUGE,
            "Merged pages written since that still take a mapping of their own."),
    COUNTER(saved_bytes, METRICS_GAUGE, "Guest pages no longer held privately, in bytes."),
    COUNTER(metadata_bytes, METRICS_GAUGE, "Memory memd itself needs for this."),
    COUNTER(net_saved_bytes, METRICS_GAUGE_BOTH, "Saved, less frames, pools and metadata."),
    COUNTER(cpu_ns, METRICS_COUNTER_NS, "CPU time of the engines; in sums with the daemon's."),
    COUNTER(vmas_used, METRICS_GAUGE, "Mappings memd added to the VMM."),
    COUNTER(vmas_limit, METRICS_GAUGE, "Mappings memd may add to the VMM."),
    COUNTER(parked_pages, METRICS_GAUGE, "Pages out of guest RAM, moved aside and still whole."),
    COUNTER(packed_pages, METRICS_GAUGE, "Pages out of guest RAM, compressed."),
    COUNTER(packed_bytes, METRICS_GAUGE, "What the packed pages need."),
    COUNTER(pool_bytes, METRICS_GAUGE, "Memory taken for packed pages."),
    COUNTER(page_outs, METRICS_COUNTER, "Pages packed."),
    COUNTER(page_ins, METRICS_COUNTER, "Pages that came home."),
    COUNTER(parked_faults, METRICS_COUNTER, "Accesses that found their page parked."),
    COUNTER(packed_faults, METRICS_COUNTER, "Accesses that found their page packed."),
    COUNTER(swapped_pages, METRICS_GAUGE, "Pages in swap files."),
    COUNTER(swap_bytes, METRICS_GAUGE, "What the swap files take."),
    COUNTER(swap_written_bytes, METRICS_GAUGE, "Written to swap files so far."),
    COUNTER(swap_errors, METRICS_COUNTER, "Writes to swap files that failed; the pages stayed in RAM."),
    COUNTER(swapped_faults, METRICS_COUNTER, "Accesses that found their page in a swap file."),
    COUNTER(lost_pages, METRICS_COUNTER, "Pages a swap file did not give back as they were."),
    COUNTER(merged_outs, METRICS_COUNTER, "Merged pages that went to swap files."),
    COUNTER(remote_pages, METRICS_GAUGE, "Merged pages whose frame is kept and not mapped."),
    COUNTER(remote_outs, METRICS_COUNTER, "Merged pages that gave up their mapping."),
    COUNTER(remote_faults, METRICS_COUNTER, "Accesses that found their page in a frame that is not mapped."),
    COUNTER(held_faults, METRICS_COUNTER,
            "Accesses made to wait longer, because the VM brings pages home faster than they leave."),
    COUNTER(held_ns, METRICS_COUNTER_NS, "For how long, all together."),
    COUNTER(swap_reads, METRICS_COUNTER, "Reads of swap files, of one page or several."),
    COUNTER(prefetched_pages, METRICS_COUNTER, "Pages read from swap files with others that left with them."),
    COUNTER(prefetch_used, METRICS_COUNTER, "Pages read with others that were then touched."),
    COUNTER(prefetch_wasted, METRICS_COUNTER, "Pages read with others for nothing."),
    COUNTER(sampled_pages, METRICS_GAUGE, "Pages set aside to see whether they are touched."),
    COUNTER(sampled_faults, METRICS_COUNTER, "Accesses that found their page set aside as a sample."),
    COUNTER(working_set_bytes, METRICS_GAUGE, "Memory touched within a sampling period, an estimate."),
};
const size_t metrics_ncounters = sizeof metrics_counters / sizeof metrics_counters[0];

/* All of core_counters is named: what is not in the table is the array by reason. */
static_assert(sizeof(struct core_counters) == sizeof metrics_counters / sizeof metrics_counters[0] * 8 +
                                                  sizeof(((struct core_counters *)0)->ineligible_bytes),
              "a counter without a name");

const char *const metrics_ineligible_names[MEMD_INELIGIBLE_COUNT] = {
    [MEMD_INELIGIBLE_PINNED] = "pinned",   [MEMD_INELIGIBLE_LOCKED] = "locked",
    [MEMD_INELIGIBLE_HUGETLB] = "hugetlb", [MEMD_INELIGIBLE_SHARED] = "shared",
    [MEMD_INELIGIBLE_UFFD] = "uffd",       [MEMD_INELIGIBLE_OTHER] = "other",
};
static_assert(sizeof(((struct core_counters *)0)->ineligible_bytes) ==
                  MEMD_INELIGIBLE_COUNT * sizeof(uint64_t),
              "a name for each reason");

static void put_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' || *text == '"')
            fputc('\\', out);
        if (*text == '\n')
            fputs("\\n", out);
        else
            fputc(*text, out);
    }
}

void metrics_put_labels(FILE *out, const struct metrics_labels *labels)
{
    const char *between = "{";

    if (labels->vm) {
        fputs("{vm=\"", out);
        put_escaped(out, labels->vm->name);
        fprintf(out, "\",id=\"%" PRIu32 "\",domain=\"", labels->vm->id);
        put_escaped(out, labels->vm->domain);
        between = "\",";
    } else if (labels->domain) {
        fputs("{domain=\"", out);
        put_escaped(out, labels->domain->name);
        between = "\",";
    }
    if (labels->more)
        fprintf(out, "%s%s}", between, labels->more);
    else if (labels->vm || labels->domain)
        fputs("\"}", out);
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), want = strlen(end);

    return length >= want && !strcmp(text + length - want, end);
}

void metrics_put_head(FILE *out, const char *prefix, const char *name, const char *type, const char *help)
{
    static const char *const units[] = {"bytes", "seconds"};

    fprintf(out, "# TYPE %s%s %s\n", prefix, name, type);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (ends_with(name, units[i]))
            fprintf(out, "# UNIT %s%s %s\n", prefix, name, units[i]);
    fprintf(out, "# HELP %s%s %s\n", prefix, name, help);
}

static void put_gauge(FILE *out, const char *name, const char *help, uint64_t value)
{
    metrics_put_head(out, "memd_", name, "gauge", help);
    fprintf(out, "memd_%s %" PRIu64 "\n", name, value);
}

void metrics_put_seconds(FILE *out, uint64_t ns)
{
    fprintf(out, "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
}

/* Times are in ns here, and in seconds there. */
static const char *name_of(const struct metrics_counter *counter, char bytes[METRICS_NAME_BYTES])
{
    size_t n = strlen(counter->name);

    if (counter->kind != METRICS_COUNTER_NS)
        return counter->name;
    assert(ends_with(counter->name, "_ns") && n + sizeof "seconds" <= METRICS_NAME_BYTES);
    snprintf(bytes, METRICS_NAME_BYTES, "%.*sseconds", (int)(n - 2), counter->name);
    return bytes;
}

static void put_sample(FILE *out, const char *prefix, const struct metrics_counter *counter,
                       const struct core_counters *values, const struct metrics_labels *labels)
{
    bool ns = counter->kind == METRICS_COUNTER_NS;
    char name[METRICS_NAME_BYTES];
    uint64_t value;

    memcpy(&value, (const char *)values + counter->offset, sizeof value);
    fprintf(out, "%s%s%s", prefix, name_of(counter, name),
            ns || counter->kind == METRICS_COUNTER ? "_total" : "");
    metrics_put_labels(out, labels);
    fputc(' ', out);
    if (ns)
        metrics_put_seconds(out, value);
    else if (counter->kind == METRICS_GAUGE_BOTH)
        fprintf(out, "%" PRId64, (int64_t)value);
    else
        fprintf(out, "%" PRIu64, value);
    fputc('\n', out);
}

static void put_ineligible(FILE *out, const char *prefix, const struct core_counters *values,
                           const struct metrics_labels *labels)
{
    for (int i = 0; i < MEMD_INELIGIBLE_COUNT; i++) {
        char reason[32];
        struct metrics_labels with = *labels;
        snprintf(reason, sizeof reason, "reason=\"%s\"", metrics_ineligible_names[i]);
        with.more = reason;
        fprintf(out, "%sineligible_bytes", prefix);
        metrics_put_labels(out, &with);
        fprintf(out, " %" PRIu64 "\n", values->ineligible_bytes[i]);
    }
}

/* Every counter of the table: the sums, or one sample per VM. */
static void put_counters(FILE *out, const struct core_snapshot *snapshot, bool per_vm)
{
    static const struct metrics_labels none;
    const char *prefix = per_vm ? "memd_vm_" : "memd_";
    const char *help = "Guest RAM that takes no part, by reason.";

    for (size_t i = 0; i < metrics_ncounters; i++) {
        const struct metrics_counter *counter = &metrics_counters[i];
        bool grows = counter->kind == METRICS_COUNTER || counter->kind == METRICS_COUNTER_NS;
        char name[METRICS_NAME_BYTES];
        metrics_put_head(out, prefix, name_of(counter, name), grows ? "counter" : "gauge", counter->help);
        for (size_t vm = 0; per_vm && vm < snapshot->nvms; vm++)
            put_sample(out, prefix, counter, &snapshot->vms[vm].c,
                       &(struct metrics_labels){.vm = &snapshot->vms[vm]});
        if (!per_vm)
            put_sample(out, prefix, counter, &snapshot->totals, &none);
    }
    metrics_put_head(out, prefix, "ineligible_bytes", "gauge", help);
    for (size_t vm = 0; per_vm && vm < snapshot->nvms; vm++)
        put_ineligible(out, prefix, &snapshot->vms[vm].c, &(struct metrics_labels){.vm = &snapshot->vms[vm]});
    if (!per_vm)
        put_ineligible(out, prefix, &snapshot->totals, &none);
}

static void put_vm_states(FILE *out, const struct core_snapshot *snapshot)
{
    metrics_put_head(out, "memd_vm_", "settled", "gauge",
                     "1 if a whole pass found next to nothing left to merge.");
    for (size_t vm = 0; vm < snapshot->nvms; vm++) {
        fputs("memd_vm_settled", out);
        metrics_put_labels(out, &(struct metrics_labels){.vm = &snapshot->vms[vm]});
        fprintf(out, " %d\n", snapshot->vms[vm].settled);
    }
    metrics_put_head(out, "memd_vm_", "merge_enabled", "gauge", "1 if merging is on for the VM.");
    for (size_t vm = 0; vm < snapshot->nvms; vm++) {
        fputs("memd_vm_merge_enabled", out);
        metrics_put_labels(out, &(struct metrics_labels){.vm = &snapshot->vms[vm]});
        fprintf(out, " %d\n", snapshot->vms[vm].merge_on);
    }
}

/* What VMs have and may have. */
static void put_accounts(FILE *out, const struct core_snapshot *snapshot)
{
    static const struct {
        const char *name, *help;
        size_t offset;
    } fields[] = {
        {"resident_bytes", "What the VM takes of RAM.", offsetof(struct core_vm, resident_bytes)},
        {"target_bytes", "What it is to come down to.", offsetof(struct core_vm, target_bytes)},
        {"reservation_bytes", "What it is left in any case.",
         offsetof(struct core_vm, terms.reservation_bytes)},
        {"limit_bytes", "The most it may take; 0: no limit.", offsetof(struct core_vm, terms.limit_bytes)},
        {"swap_writes_bytes", "Most written to its swap file in a day; 0: no limit.",
         offsetof(struct core_vm, terms.writes_bytes)},
        {"swap_writes_left_bytes", "Of that, what may be written now.",
         offsetof(struct core_vm, writes_left_bytes)},
    };

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        metrics_put_head(out, "memd_vm_", fields[i].name, "gauge", fields[i].help);
        for (size_t vm = 0; vm < snapshot->nvms; vm++) {
            uint64_t value;
            memcpy(&value, (const char *)&snapshot->vms[vm] + fields[i].offset, sizeof value);
            fprintf(out, "memd_vm_%s", fields[i].name);
            metrics_put_labels(out, &(struct metrics_labels){.vm = &snapshot->vms[vm]});
            fprintf(out, " %" PRIu64 "\n", value);
        }
    }
}

static void put_domains(FILE *out, const struct core_snapshot *snapshot)
{
    static const struct {
        const char *name, *help;
        size_t offset;
    } fields[] = {
        {"frames", "Frames in use.", offsetof(struct core_domain, frames)},
        {"frame_bytes", "Frames in use, in bytes.", offsetof(struct core_domain, frame_bytes)},
        {"store_bytes", "Memory the store files hold.", offsetof(struct core_domain, store_bytes)},
        {"candidates", "Hashes waiting for an equal page.", offsetof(struct core_domain, candidates)},
        {"index_bytes", "Memory of the daemon's content index.", offsetof(struct core_domain, index_bytes)},
        {"budget_bytes", "The domain's budget; 0: none.", offsetof(struct core_domain, memory.budget_bytes)},
        {"used_bytes", "What its VMs and stores take of RAM.",
         offsetof(struct core_domain, memory.used_bytes)},
        {"headroom_bytes", "Kept free of its budget for merged pages to be written.",
         offsetof(struct core_domain, memory.headroom_bytes)},
    };

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        metrics_put_head(out, "memd_domain_", fields[i].name, "gauge", fields[i].help);
        for (size_t d = 0; d < snapshot->ndomains; d++) {
            const struct core_domain *domain = &snapshot->domains[d];
            uint64_t value;
            memcpy(&value, (const char *)domain + fields[i].offset, sizeof value);
            fprintf(out, "memd_domain_%s", fields[i].name);
            metrics_put_labels(out, &(struct metrics_labels){.domain = domain});
            fprintf(out, " %" PRIu64 "\n", value);
        }
    }
    metrics_put_head(out, "memd_domain_", "memory_level", "gauge",
                     "Of its budget: 0 high, 1 soft, 2 hard, 3 low.");
    for (size_t d = 0; d < snapshot->ndomains; d++) {
        fputs("memd_domain_memory_level", out);
        metrics_put_labels(out, &(struct metrics_labels){.domain = &snapshot->domains[d]});
        fprintf(out, " %d\n", (int)snapshot->domains[d].memory.state);
    }
    metrics_put_head(out, "memd_domain_", "vms", "gauge", "VMs in the domain.");
    for (size_t d = 0; d < snapshot->ndomains; d++) {
        fputs("memd_domain_vms", out);
        metrics_put_labels(out, &(struct metrics_labels){.domain = &snapshot->domains[d]});
        fprintf(out, " %" PRIu32 "\n", snapshot->domains[d].vms);
    }
}

static void put_daemon(FILE *out, const struct core_snapshot *snapshot)
{
    metrics_put_head(out, "memd_", "build", "info", "The running release.");
    fputs("memd_build_info{version=\"", out);
    put_escaped(out, snapshot->version);
    fputs("\"} 1\n", out);
    metrics_put_head(out, "memd_", "uptime_seconds", "gauge", "Time since the daemon started.");
    fputs("memd_uptime_seconds ", out);
    metrics_put_seconds(out, snapshot->uptime_ms * 1000000);
    fputc('\n', out);
    metrics_put_head(out, "memd_", "daemon_cpu_seconds", "counter", "CPU time of the daemon alone.");
    fputs("memd_daemon_cpu_seconds_total ", out);
    metrics_put_seconds(out, snapshot->daemon_cpu_ns);
    fputc('\n', out);
    put_gauge(out, "daemon_metadata_bytes", "Memory of the daemon's own tables.",
              snapshot->daemon_metadata_bytes);
    put_gauge(out, "restarts", "Daemons before this one that used its state directory.", snapshot->restarts);
    put_gauge(out, "awaited_engines", "Engines of an earlier daemon neither back nor gone.",
              snapshot->awaited_engines);
    put_gauge(out, "merge_enabled", "1 if merging is on.", snapshot->merge_on);
    put_gauge(out, "settled", "1 if a whole pass found next to nothing left to merge.", snapshot->settled);
    put_gauge(out, "vms", "VMs connected.", snapshot->nvms);
    put_gauge(out, "shortage", "1 while a shortage is reported; see memctl status.",
              snapshot->warning[0] ? 1 : 0);
    put_gauge(out, "memory_level", "State of memory: 0 high, 1 soft, 2 hard, 3 low.", snapshot->memory.state);
    put_gauge(out, "memory_alarm", "1 while memory is low, the host's or a domain's.", snapshot->alarm);
    put_gauge(out, "dry_run", "1 while decisions about memory are made and not carried out.",
              snapshot->dry_run);
    put_gauge(out, "budget_bytes", "What all VMs and memd may take of RAM; 0: no budget.",
              snapshot->memory.budget_bytes);
    put_gauge(out, "used_bytes", "What all VMs and memd take of RAM.", snapshot->memory.used_bytes);
    put_gauge(out, "headroom_bytes", "Kept free of the budget for merged pages to be written.",
              snapshot->memory.headroom_bytes);
    put_gauge(out, "swap_writes_bytes", "Most written to all swap files in a day; 0: no limit.",
              snapshot->writes_bytes);
    put_gauge(out, "swap_writes_left_bytes", "Of that, what may be written now.",
              snapshot->writes_left_bytes);
    put_gauge(out, "host_mem_total_bytes", "Memory of the host.", snapshot->mem_total_bytes);
    put_gauge(out, "host_mem_available_bytes", "Memory the host can still give out.",
              snapshot->mem_available_bytes);
}

int metrics_format(const struct core_snapshot *snapshot, struct balloons *balloons, char **ret_text,
                   size_t *ret_bytes)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);

    if (!out)
        return -ENOMEM;
    put_daemon(out, snapshot);
    put_counters(out, snapshot, false);
    put_domains(out, snapshot);
    put_counters(out, snapshot, true);
    put_accounts(out, snapshot);
    put_vm_states(out, snapshot);
    metrics_put_usage(out, snapshot);
    metrics_put_agents(out, snapshot);
    metrics_put_policy(out, snapshot);
    metrics_put_balloons(out, balloons);
    fputs("# EOF\n", out);
    bool failed = ferror(out);
    if (fclose(out) || failed) {
        free(text);
        return -ENOMEM;
    }
    *ret_text = text;
    *ret_bytes = bytes;
    return 0;
}
