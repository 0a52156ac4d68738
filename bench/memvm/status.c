/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: a table of members for the engine's counters, plain formatting for the rest. No string
 * in it needs escaping: names are checked on the command line, the others are constants.
 */
#include "bench/memvm/status.h"

#include <assert.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

struct line {
    char *text;
    size_t used;
};

static void __attribute__((format(printf, 2, 3))) add(struct line *line, const char *format, ...)
{
    size_t room = STATUS_LINE_MAX - line->used;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line->text + line->used, room, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < room); /* the longest line is known: some 70 numbers and a name */
    line->used += (size_t)n;
}

struct member {
    const char *name;
    size_t at; /* of a uint64_t */
};

#define MEMBER(name_)                              \
    {                                              \
#name_, offsetof(struct memd_stats, name_) \
    }

static const struct member engine_members[] = {
    MEMBER(guest_bytes),    MEMBER(zero_pages),     MEMBER(merged_pages),  MEMBER(broken_pages),
    MEMBER(unshared_pages), MEMBER(volatile_pages), MEMBER(skipped_pages), MEMBER(full_scans),
    MEMBER(merges),         MEMBER(zero_drops),     MEMBER(cow_breaks),    MEMBER(heals),
    MEMBER(faults),         MEMBER(rejected),       MEMBER(huge_broken),   MEMBER(vmas_used),
    MEMBER(vmas_limit),     MEMBER(metadata_bytes), MEMBER(cpu_ns),        MEMBER(parked_pages),
    MEMBER(packed_pages),   MEMBER(pool_bytes),     MEMBER(swapped_pages), MEMBER(swap_bytes),
    MEMBER(remote_pages),
};

static const char *const ineligible_names[] = {"pinned", "locked", "hugetlb", "shared", "uffd", "other"};
static_assert(sizeof ineligible_names / sizeof *ineligible_names == MEMD_INELIGIBLE_COUNT,
              "ineligible_names");

static void add_engine(struct line *line, struct engine *engine)
{
    struct memd_stats stats;

    if (!engine_stats(engine, &stats)) {
        add(line, ", \"memd\": null");
        return;
    }
    add(line, ", \"memd\": {\"version\": \"%s\", \"open\": %s, \"connected\": %s, \"paused\": %s",
        memd_version(), engine->memd ? "true" : "false", stats.connected ? "true" : "false",
        stats.paused ? "true" : "false");
    for (size_t i = 0; i < sizeof engine_members / sizeof *engine_members; i++) {
        const uint64_t *value = (const uint64_t *)((const char *)&stats + engine_members[i].at);
        add(line, ", \"%s\": %llu", engine_members[i].name, (unsigned long long)*value);
    }
    add(line, ", \"ineligible_bytes\": {");
    for (size_t i = 0; i < MEMD_INELIGIBLE_COUNT; i++)
        add(line, "%s\"%s\": %llu", i ? ", " : "", ineligible_names[i],
            (unsigned long long)stats.ineligible_bytes[i]);
    add(line, "}}");
}

static void add_balloon(struct line *line, struct balloon *balloon)
{
    struct memd_balloon_info info = balloon_info(balloon);
    const struct {
        const char *name;
        uint64_t value;
    } members[] = {
        {"running", info.running},
        {"target_bytes", info.target_bytes},
        {"actual_bytes", info.actual_bytes},
        {"inflated_pages", info.inflated_pages},
        {"deflated_pages", info.deflated_pages},
        {"bad_pages", info.skipped_pages},
        {"reported_bytes", info.reported_bytes},
        {"discarded_bytes", info.discarded_bytes},
        {"failed_bytes", info.failed_bytes},
        {"discards", info.discards},
        {"stats_updates", info.stats_updates},
        {"guest_total_bytes", balloon_stat(balloon, MEMD_BALLOON_TOTAL_BYTES)},
    };

    add(line, ", \"balloon\": {");
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        add(line, "%s\"%s\": %llu", i ? ", " : "", members[i].name, (unsigned long long)members[i].value);
    add(line, "}");
}

void status_line(struct vm *vm, const char *event, char text[STATUS_LINE_MAX])
{
    struct line line = {.text = text};
    struct vm_counters counters = vm_count(vm);
    const struct {
        const char *name;
        uint64_t value;
    } members[] = {
        {"vcpus", vm->options->vcpus},
        {"seed", vm->options->seed},
        {"ram_hva", (uintptr_t)vm->ram->base},
        {"ram_bytes", vm->ram->bytes},
        {"data_offset", vm->ram->data_first * ABI_PAGE_BYTES},
        {"pages", vm->ram->data_pages},
        {"verify_checks", counters.verify_checks},
        {"verify_passes", counters.verify_passes},
        {"verify_failures", counters.verify_failures},
        {"churn_writes", counters.churn_writes},
        {"toggle_writes", counters.toggle_writes},
        {"rewrite_writes", counters.rewrite_writes},
        {"rewrites_done", counters.rewrites_done},
        {"sweep_pages", counters.sweep_pages},
        {"jobs_done", counters.jobs_done},
        {"job_running", counters.job_running},
        {"job_ns", counters.job_ns},
    };

    add(&line, "{\"event\": \"%s\", \"name\": \"%s\", \"pid\": %d, \"accel\": \"%s\", \"state\": \"%s\"",
        event, vm->options->name, (int)getpid(), vm->options->accel, counters.state);
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        add(&line, ", \"%s\": %llu", members[i].name, (unsigned long long)members[i].value);
    add_engine(&line, vm->engine);
    if (vm->balloon)
        add_balloon(&line, vm->balloon);
    add(&line, "}\n");
}
