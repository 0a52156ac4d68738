/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* options: the command line of a benchmark. */
#ifndef BENCH_COMMON_OPTIONS_H
#define BENCH_COMMON_OPTIONS_H

#include "bench/common/bench.h"

#include <stdbool.h>

enum { OPTIONS_OK = 0, OPTIONS_USAGE = 2 };

struct options_program {
    const char *name; /* also of the JSON in BUILD_DIR/bench */
    const char *help;
    unsigned guests_max;       /* of --guests, at least 2; 0: neither --guests nor --mem */
    unsigned mib_min, mib_max; /* of --mem, a multiple of mib_step */
    unsigned mib_step;
    unsigned quick_guests; /* of --quick, with quick_mib; 0: as they are */
    unsigned quick_mib;
    /* A part or a key is wanted; NULL: all are. False: there is no such thing. */
    bool (*want)(const char *what);
};

/* Fills `bench`, which holds the defaults, and returns the name of the JSON (static). Ends the program for
 * --help and for what makes no sense. */
const char *options_read(const struct options_program *program, int argc, char **argv, struct bench *bench);

#endif
