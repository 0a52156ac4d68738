/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * report: what was measured, as a table and as JSON. In the JSON every measure is a number under its key;
 * "measures" holds target, verdict and both sides' figures for it, "raw" everything else that was seen.
 */
#ifndef BENCH_DEDUP_REPORT_H
#define BENCH_DEDUP_REPORT_H

#include "bench/dedup/bench.h"

/* `key` is one of the table in report.c. The sides' figures are in the unit named there. */
void report_measure(const char *key, double ksm, double memd, double value);
/* A further figure; groups and names are kept in the order of their first use. `name` is copied. */
void report_raw(const char *group, double value, const char *name, ...) __attribute__((format(printf, 3, 4)));
/* memd's own counters: a JSON document, taken over as it is. */
void report_status(const char *json);

void report_print(const struct bench *bench);
void report_write(const struct bench *bench, const char *path);

#endif
