/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see report.h. */
#include "bench/common/report.h"

#include "memd/memd.h"

#include <ctype.h>
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

static struct raw {
    char group[NAME_BYTES], name[NAME_BYTES];
    double value;
} raws[RAW_MAX];
static size_t nraws;
static struct report_measure *measures;
static size_t nmeasures;
static const char *other_name;
static char *status;

void report_begin(struct report_measure *table, size_t n, const char *other)
{
    other_name = other;
    measures = table;
    nmeasures = n;
}

void report_value(const char *key, double other, double memd, double value)
{
    for (size_t i = 0; i < nmeasures; i++)
        if (!strcmp(measures[i].key, key)) {
            measures[i].other = other;
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

static bool met(const struct report_measure *m)
{
    return m->at_least ? m->value >= m->target : m->value <= m->target;
}

/* ---------------------------------------------------------------- table */

void report_print(const struct bench *bench)
{
    printf("\n%-34s %-8s %10s %10s %9s %9s\n", "", "", other_name, "memd", "", "must be");
    for (size_t i = 0; i < nmeasures; i++) {
        const struct report_measure *m = &measures[i];
        if (!m->known)
            continue;
        printf("%-34s %-8s %10.3f %10.3f %9.4g  %s %5g  %s\n", m->what, m->unit, m->other, m->memd, m->value,
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
    for (size_t i = 0; i < nmeasures; i++)
        if (measures[i].known) {
            fprintf(f, "  \"%s\": ", measures[i].key);
            put_number(f, measures[i].value);
            fputs(",\n", f);
        }
    fputs("  \"measures\": {", f);
    const char *between = "";
    for (size_t i = 0; i < nmeasures; i++) {
        const struct report_measure *m = &measures[i];
        if (!m->known)
            continue;
        fprintf(f, "%s\n    \"%s\": {\"value\": ", between, m->key);
        put_number(f, m->value);
        fprintf(f, ", \"%s\": %g, \"reached\": %s, \"", m->at_least ? "at_least" : "at_most", m->target,
                met(m) ? "true" : "false");
        for (const char *c = other_name; *c; c++)
            fputc(tolower((unsigned char)*c), f);
        fputs("\": ", f);
        put_number(f, m->other);
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
