/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * report: what was measured, as a table and as JSON. In the JSON every measure is a number under its key;
 * "measures" holds target, verdict and both sides' figures for it, "raw" everything else that was seen.
 */
#ifndef BENCH_COMMON_REPORT_H
#define BENCH_COMMON_REPORT_H

#include "bench/common/bench.h"

struct report_measure {
    const char *key, *what, *unit; /* unit: of the sides' figures */
    bool at_least;                 /* else the target is a maximum */
    double target;
    bool known; /* this and the following: false and 0 at first */
    double other, memd, value;
};

/* What may be measured. The table is kept, and filled in. `other`: what memd is compared with, as it is
 * called in the table's head and, in small letters, in the JSON. Before anything else here. */
void report_begin(struct report_measure *table, size_t n, const char *other);
/* `key` is one of the table's. The sides' figures are in the unit named there. */
void report_value(const char *key, double other, double memd, double value);
/* A further figure; groups and names are kept in the order of their first use. `name` is copied. */
void report_raw(const char *group, double value, const char *name, ...) __attribute__((format(printf, 3, 4)));
/* memd's own counters: a JSON document, taken over as it is. */
void report_status(const char *json);

void report_print(const struct bench *bench);
void report_write(const struct bench *bench, const char *path);

#endif
