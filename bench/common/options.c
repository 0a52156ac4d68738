/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see options.h. */
#include "bench/common/options.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 512

static const struct option longs[] = {
    {"quick", no_argument, NULL, 'q'},        {"only", required_argument, NULL, 'o'},
    {"rounds", required_argument, NULL, 'r'}, {"build-dir", required_argument, NULL, 'b'},
    {"out", required_argument, NULL, 'f'},    {"help", no_argument, NULL, 'h'},
    {"guests", required_argument, NULL, 'g'}, /* these two not of every benchmark */
    {"mem", required_argument, NULL, 'm'},    {NULL, 0, NULL, 0},
};

static bool number_ok(const char *text, unsigned min, unsigned max, unsigned *ret_number)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);

    if (*end || end == text || number < min || number > max)
        return false;
    *ret_number = (unsigned)number;
    return true;
}

/* The build directory: what is above the directory of this program. */
static const char *own_build_dir(void)
{
    static char path[PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

    if (n <= 0)
        bench_die("/proc/self/exe: %s", strerror(errno));
    path[n] = '\0';
    return dirname(dirname(path));
}

static void make_quick(const struct options_program *program, struct bench *bench)
{
    bench->quick = true;
    bench->rounds = 1;
    if (program->quick_guests) {
        bench->guests = program->quick_guests;
        bench->guest_bytes = program->quick_mib * BENCH_MIB;
    }
}

/* One option with its argument, which is of this benchmark. */
static bool take(const struct options_program *program, int option, struct bench *bench)
{
    unsigned mib = 0;

    switch (option) {
    case 'o':
        return program->want(optarg);
    case 'r':
        return number_ok(optarg, 1, BENCH_ROUNDS_MAX, &bench->rounds);
    case 'g':
        return number_ok(optarg, 2, program->guests_max, &bench->guests);
    case 'm':
        if (!number_ok(optarg, program->mib_min, program->mib_max, &mib) || mib % program->mib_step)
            return false;
        bench->guest_bytes = mib * BENCH_MIB;
        return true;
    case 'b':
        bench->build_dir = optarg;
        return true;
    default:
        return false;
    }
}

static bool parse(const struct options_program *program, int argc, char **argv, struct bench *bench,
                  const char **ret_out)
{
    struct option mine[sizeof longs / sizeof longs[0]];
    bool all = true;

    memcpy(mine, longs, sizeof mine);
    for (struct option *o = mine; !program->guests_max && o->name; o++)
        if (o->val == 'g')
            *o = (struct option){0};
    for (int c; (c = getopt_long(argc, argv, "", mine, NULL)) != -1;) {
        if (c == '?')
            return false;
        if (c == 'h') {
            fputs(program->help, stdout);
            exit(OPTIONS_OK);
        }
        if (c == 'q') {
            make_quick(program, bench);
        } else if (c == 'f') {
            *ret_out = optarg;
        } else if (!take(program, c, bench)) {
            fprintf(stderr, "%s: '%s' is not possible here\n", program->name, optarg);
            return false;
        }
        all &= c != 'o';
    }
    if (all)
        program->want(NULL);
    return optind == argc;
}

const char *options_read(const struct options_program *program, int argc, char **argv, struct bench *bench)
{
    static char path[PATH_BYTES + 64];
    const char *out = NULL;

    if (!parse(program, argc, argv, bench, &out)) {
        fprintf(stderr, "%s --help tells more.\n", program->name);
        exit(OPTIONS_USAGE);
    }
    if (!bench->build_dir)
        bench->build_dir = own_build_dir();
    snprintf(path, sizeof path, "%s/bench/%s.json", bench->build_dir, program->name);
    return out ? out : path;
}
