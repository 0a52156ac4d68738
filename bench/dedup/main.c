/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see bench.h. */
#include "bench/dedup/bench.h"
#include "bench/dedup/cleanup.h"
#include "bench/dedup/daemon.h"
#include "bench/dedup/huge.h"
#include "bench/dedup/ksm.h"
#include "bench/dedup/report.h"
#include "bench/dedup/settle.h"
#include "bench/dedup/steady.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_OK = 0, EXIT_ERROR = 1, EXIT_USAGE = 2 };

#define PATH_BYTES 512

static const char *const keys_settle[] = {SETTLE_KEYS, SETTLE_SCALE, NULL};
static const char *const keys_steady[] = {STEADY_KEY, NULL};
static const char *const keys_huge[] = {HUGE_KEYS, NULL};

static const struct part {
    const char *name;
    const char *const *keys;
} parts[] = {{"settle", keys_settle}, {"steady", keys_steady}, {"huge", keys_huge}};
enum { PART_SETTLE, PART_STEADY, PART_HUGE, NPARTS };

static const char help[] =
    "Usage: dedup [OPTION]...\n\n"
    "memd and the kernel's KSM on the same memory contents, side by side: half zero pages, half of the rest\n"
    "duplicates in runs of 9 on average, the rest incompressible. Needs root, for KSM's settings and page\n"
    "frame numbers; the settings are put back at the end, whatever that is. docs/benchmarks.md tells what "
    "is\n"
    "measured and how.\n\n"
    "  --quick            little memory, one round: whether everything works, in two minutes\n"
    "  --only MEASURE     a part (settle, steady, huge) or a key of the JSON; may be given several times\n"
    "  --guests N         guests (default 8, at most 8)\n"
    "  --mem MIB          memory of each, a multiple of 128 (default 256)\n"
    "  --rounds N         of each side, in turns; figures are medians (default 3)\n"
    "  --build-dir DIR    where memd and memctl are (default: the directory above this program's)\n"
    "  --out FILE         the JSON (default: bench/dedup.json in the build directory)\n"
    "  --help             this text\n\n"
    "Exit codes: 0 everything was measured (targets missed are said so), 1 failed, 2 usage.\n";

struct options {
    struct bench bench;
    bool wanted[NPARTS];
    bool scaling;
    const char *out;
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

static bool want(struct options *options, const char *name)
{
    bool found = false;

    for (int part = 0; part < NPARTS; part++) {
        bool whole = !strcmp(parts[part].name, name);
        for (const char *const *key = parts[part].keys; *key; key++) {
            if (!whole && strcmp(*key, name))
                continue;
            options->wanted[part] = found = true;
            options->scaling |= !strcmp(*key, SETTLE_SCALE);
        }
    }
    return found;
}

static bool parse(int argc, char **argv, struct options *options)
{
    static const struct option longs[] = {
        {"quick", no_argument, NULL, 'q'},
        {"only", required_argument, NULL, 'o'},
        {"guests", required_argument, NULL, 'g'},
        {"mem", required_argument, NULL, 'm'},
        {"rounds", required_argument, NULL, 'r'},
        {"build-dir", required_argument, NULL, 'b'},
        {"out", required_argument, NULL, 'f'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    unsigned mib = 0;
    bool ok = true, all = true;

    for (int c; ok && (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'q':
            options->bench = (struct bench){options->bench.build_dir, 4, 128 * BENCH_MIB, 1, true};
            break;
        case 'o':
            all = false;
            ok = want(options, optarg);
            break;
        case 'g':
            ok = number_ok(optarg, 2, BENCH_GUESTS_MAX / 8, &options->bench.guests);
            break;
        case 'm':
            ok = number_ok(optarg, 128, 65536, &mib) && mib % 128 == 0;
            options->bench.guest_bytes = mib * BENCH_MIB;
            break;
        case 'r':
            ok = number_ok(optarg, 1, BENCH_ROUNDS_MAX, &options->bench.rounds);
            break;
        case 'b':
            options->bench.build_dir = optarg;
            break;
        case 'f':
            options->out = optarg;
            break;
        case 'h':
            fputs(help, stdout);
            exit(EXIT_OK);
        default:
            return false;
        }
        if (!ok)
            fprintf(stderr, "dedup: '%s' is not possible here\n", optarg);
    }
    for (int part = 0; all && part < NPARTS; part++)
        want(options, parts[part].name);
    return ok && optind == argc;
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

static void check_memory(const struct bench *bench)
{
    long pages = sysconf(_SC_AVPHYS_PAGES);
    size_t need = bench->guests * bench->guest_bytes * 3 / 2;

    if (pages > 0 && (size_t)pages < need / BENCH_PAGE_BYTES)
        bench_die("%zu MiB of free memory are needed; try --mem or --quick", need / BENCH_MIB);
}

int main(int argc, char **argv)
{
    struct options options = {.bench = {.guests = 8, .guest_bytes = 256 * BENCH_MIB, .rounds = 3}};
    struct bench *bench = &options.bench;
    char out[PATH_BYTES];

    if (!parse(argc, argv, &options)) {
        fputs("dedup --help tells more.\n", stderr);
        return EXIT_USAGE;
    }
    if (!bench->build_dir)
        bench->build_dir = own_build_dir();
    snprintf(out, sizeof out, "%s/bench/dedup.json", bench->build_dir);
    if (!options.out)
        options.out = out;
    ksm_save();
    check_memory(bench);
    daemon_prepare();
    cleanup_start(ksm_restore, (const char *const[]){daemon_run_dir(), daemon_work_dir()});
    bench_say("%u guests of %zu MiB, %u round%s, memd of %s", bench->guests, bench->guest_bytes / BENCH_MIB,
              bench->rounds, bench->rounds > 1 ? "s" : "", bench->build_dir);
    if (options.wanted[PART_SETTLE])
        settle_measure(bench, options.scaling);
    if (options.wanted[PART_STEADY])
        steady_measure(bench);
    if (options.wanted[PART_HUGE])
        huge_measure(bench);
    report_print(bench);
    report_write(bench, options.out);
    printf("\n%s\n", options.out);
    return EXIT_OK;
}
