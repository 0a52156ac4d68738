/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see report.h. */
#include "bench/dedup/report.h"

#include "memd/memd.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define RAW_MAX    1024
#define NAME_BYTES 48

struct measure {
    const char *key, *what, *unit; /* unit: of the sides' figures */
    bool at_least;                 /* else the target is a maximum */
    double target;
    bool known;
    double ksm, memd, value;
};

static struct measure measures[] = {
    {.key = "settle_speedup", .what = "time to settled savings", .unit = "s", .at_least = true, .target = 5},
    {.key = "settle_cpu_ratio", .what = "CPU to get there", .unit = "CPU s", .at_least = true, .target = 5},
    {.key = "steady_cpu_ratio", .what = "CPU to keep up", .unit = "CPU s/s", .at_least = true, .target = 10},
    {.key = "net_saved_ratio", .what = "net savings", .unit = "MiB", .at_least = true, .target = 1},
    {.key = "metadata_bytes_per_page", .what = "metadata of a guest page", .unit = "B", .target = 20},
    {.key = "metadata_with_vmas_bytes_per_page",
     .what = "the same with the kernel's VMAs",
     .unit = "B",
     .target = 40},
    {.key = "cow_ratio", .what = "first write to a merged page", .unit = "us", .target = 1.2},
    {.key = "access_ratio", .what = "random accesses after merging", .unit = "s", .target = 1.02},
    {.key = "huge_kept_ratio",
     .what = "huge pages still mapped",
     .unit = "MiB",
     .at_least = true,
     .target = 1},
    {.key = "vm_scaling", .what = "CPU, 8 times the guests (memd)", .unit = "CPU s", .target = 1.3},
};
#define NMEASURES (sizeof measures / sizeof measures[0])

static struct raw {
    char group[NAME_BYTES], name[NAME_BYTES];
    double value;
} raws[RAW_MAX];
static size_t nraws;
static char *status;

void report_measure(const char *key, double ksm, double memd, double value)
{
    for (size_t i = 0; i < NMEASURES; i++)
        if (!strcmp(measures[i].key, key)) {
            measures[i].ksm = ksm;
            measures[i].memd = memd;
            measures[i].value = value;
            measures[i].known = isfinite(value);
        }
}

void report_raw(const char *group, double value, const char *name, ...)
{
    va_list args;

    if (nraws == RAW_MAX)
        bench_die("more than %d figures", RAW_MAX);
    struct raw *raw = &raws[nraws++];
    snprintf(raw->group, sizeof raw->group, "%s", group);
    va_start(args, name);
    vsnprintf(raw->name, sizeof raw->name, name, args);
    va_end(args);
    raw->value = value;
}

void report_status(const char *json)
{
    free(status);
    status = strdup(json);
}

static bool met(const struct measure *m)
{
    return m->at_least ? m->value >= m->target : m->value <= m->target;
}

/* ---------------------------------------------------------------- table */

void report_print(const struct bench *bench)
{
    printf("\n%-34s %-8s %10s %10s %9s %9s\n", "", "", "KSM", "memd", "", "must be");
    for (size_t i = 0; i < NMEASURES; i++) {
        const struct measure *m = &measures[i];
        if (!m->known)
            continue;
        printf("%-34s %-8s %10.3f %10.3f %9.2f  %s %5.2f  %s\n", m->what, m->unit, m->ksm, m->memd, m->value,
               m->at_least ? ">=" : "<=", m->target, met(m) ? "reached" : "MISSED");
    }
    if (bench->quick)
        puts("\n--quick: little memory, one round: for trying out, not for judging.");
}

/* ---------------------------------------------------------------- JSON */

static void put_number(FILE *f, double value)
{
    if (isfinite(value))
        fprintf(f, "%.6g", value);
    else
        fputs("null", f);
}

static void put_measures(FILE *f)
{
    for (size_t i = 0; i < NMEASURES; i++)
        if (measures[i].known) {
            fprintf(f, "  \"%s\": ", measures[i].key);
            put_number(f, measures[i].value);
            fputs(",\n", f);
        }
    fputs("  \"measures\": {", f);
    const char *between = "";
    for (size_t i = 0; i < NMEASURES; i++) {
        const struct measure *m = &measures[i];
        if (!m->known)
            continue;
        fprintf(f, "%s\n    \"%s\": {\"value\": ", between, m->key);
        put_number(f, m->value);
        fprintf(f, ", \"%s\": %g, \"reached\": %s, \"ksm\": ", m->at_least ? "at_least" : "at_most",
                m->target, met(m) ? "true" : "false");
        put_number(f, m->ksm);
        fputs(", \"memd\": ", f);
        put_number(f, m->memd);
        fprintf(f, ", \"unit\": \"%s\"}", m->unit);
        between = ",";
    }
    fputs("\n  },\n", f);
}

static bool group_seen_before(size_t raw)
{
    for (size_t i = 0; i < raw; i++)
        if (!strcmp(raws[i].group, raws[raw].group))
            return true;
    return false;
}

static void put_raws(FILE *f)
{
    const char *between_groups = "";

    fputs("  \"raw\": {", f);
    for (size_t i = 0; i < nraws; i++) {
        if (group_seen_before(i))
            continue;
        fprintf(f, "%s\n    \"%s\": {", between_groups, raws[i].group);
        const char *between = "";
        for (size_t k = i; k < nraws; k++) {
            if (strcmp(raws[k].group, raws[i].group))
                continue;
            fprintf(f, "%s\n      \"%s\": ", between, raws[k].name);
            put_number(f, raws[k].value);
            between = ",";
        }
        fputs("\n    }", f);
        between_groups = ",";
    }
    fputs("\n  },\n", f);
}

void report_write(const struct bench *bench, const char *path)
{
    struct utsname host = {0};
    FILE *f = fopen(path, "we");

    if (!f)
        bench_die("cannot write %s: %s", path, strerror(errno));
    uname(&host);
    fprintf(f, "{\n  \"version\": \"%s\",\n  \"kernel\": \"%s\",\n  \"cpus\": %ld,\n", MEMD_VERSION,
            host.release, sysconf(_SC_NPROCESSORS_ONLN));
    fprintf(f, "  \"quick\": %s,\n  \"guests\": %u,\n  \"guest_bytes\": %zu,\n  \"rounds\": %u,\n",
            bench->quick ? "true" : "false", bench->guests, bench->guest_bytes, bench->rounds);
    put_measures(f);
    put_raws(f);
    fprintf(f, "  \"memd_status\": %s\n}\n", status ? status : "null");
    if (ferror(f) | fclose(f))
        bench_die("cannot write %s: %s", path, strerror(errno));
}
