/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See dedup.h. Every figure is a median over the runs; the sides take turns. */
#include "bench/dedup/dedup.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUNS_MAX 9

static pid_t self;

void quit(const char *format, ...)
{
    va_list args;

    fputs("dedup: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    if (getpid() == self)
        exit(1);
    _exit(1);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median of a field of `n` results. */
static double median(const struct settled *run, unsigned n, size_t offset)
{
    double value[RUNS_MAX];

    for (unsigned i = 0; i < n; i++)
        memcpy(&value[i], (const char *)&run[i] + offset, sizeof value[i]);
    qsort(value, n, sizeof value[0], compare);
    return value[n / 2];
}
#define MEDIAN(side, field) median(run[side], setup.runs, offsetof(struct settled, field))

struct row {
    const char *key, *what, *unit;
    double ksm, memd, ratio, target;
    bool at_least; /* the target is a minimum */
};

static bool row_reached(const struct row *r)
{
    return r->at_least ? r->ratio >= r->target : r->ratio <= r->target;
}

static void print_table(const struct row *row, size_t n)
{
    printf("\n%-40s %12s %12s %9s %9s\n", "measure", "KSM", "memd", "ratio", "target");
    for (size_t i = 0; i < n; i++)
        printf("%-40s %12.2f %12.2f %9.2f %s%6.2f  %s\n", row[i].what, row[i].ksm, row[i].memd, row[i].ratio,
               row[i].at_least ? ">=" : "<=", row[i].target, row_reached(&row[i]) ? "reached" : "missed");
}

static void write_json(const char *path, const struct setup *setup, const struct row *row, size_t n)
{
    FILE *f = fopen(path, "we");

    if (!f)
        quit("cannot write %s", path);
    fprintf(f, "{\n  \"guests\": %u,\n  \"guest_mib\": %u,\n  \"runs\": %u", setup->guests, setup->mem_mib,
            setup->runs);
    for (size_t i = 0; i < n; i++)
        fprintf(f,
                ",\n  \"%s\": {\"value\": %.4f, \"target\": %.2f, \"reached\": %s, \"ksm\": %.4f, \"memd\": "
                "%.4f, "
                "\"unit\": \"%s\"}",
                row[i].key, row[i].ratio, row[i].target, row_reached(&row[i]) ? "true" : "false", row[i].ksm,
                row[i].memd, row[i].unit);
    fprintf(f, "\n}\n");
    if (fclose(f))
        quit("cannot write %s", path);
    printf("\n%s\n", path);
}

static const char help[] =
    "usage: dedup [OPTION...]\n"
    "memd and the kernel's KSM on the same contents, side by side: half zero, half of the rest duplicates in "
    "runs\n"
    "of 9 on average, the rest incompressible. Needs root, for KSM's settings, which are put back.\n\n"
    "  --guests N   processes with guest RAM (default 8)\n"
    "  --mem MIB    of each (default 256)\n"
    "  --runs N     of each side; figures are medians (default 3)\n"
    "  --quick      one run of four guests of 64 MiB\n"
    "  --out FILE   the JSON (default BUILD/bench/dedup.json)\n"
    "  --help       this text\n\n"
    "Exit code: 0 all was measured (targets missed are said so), 1 error, 2 usage.\n";

static bool parse(int argc, char **argv, struct setup *setup, const char **ret_out)
{
    static const struct option options[] = {
        {"guests", required_argument, NULL, 'g'},
        {"mem", required_argument, NULL, 'm'},
        {"runs", required_argument, NULL, 'r'},
        {"quick", no_argument, NULL, 'q'},
        {"out", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };

    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'g')
            setup->guests = (unsigned)atoi(optarg);
        else if (c == 'm')
            setup->mem_mib = (unsigned)atoi(optarg);
        else if (c == 'r')
            setup->runs = (unsigned)atoi(optarg);
        else if (c == 'o')
            *ret_out = optarg;
        else if (c == 'q')
            setup->guests = 4, setup->mem_mib = 64, setup->runs = 1;
        else if (c == 'h')
            exit(fputs(help, stdout) < 0);
        else
            return false;
    }
    return optind == argc && setup->guests >= 1 && setup->guests <= GUESTS_MAX / 8 && setup->mem_mib >= 16 &&
           setup->mem_mib % 16 == 0 && setup->mem_mib <= 4096 && setup->runs >= 1 && setup->runs <= RUNS_MAX;
}

int main(int argc, char **argv)
{
    struct setup setup = {.guests = 8, .mem_mib = 256, .runs = 3};
    static struct settled run[2][RUNS_MAX];
    char build_dir[256], path[300];
    const char *out = path;

    self = getpid();
    if (!parse(argc, argv, &setup, &out)) {
        fputs(help, stderr);
        return 2;
    }
    ssize_t n = readlink("/proc/self/exe", build_dir, sizeof build_dir - 1);
    build_dir[n < 0 ? 0 : n] = '\0';
    for (int i = 0; i < 2; i++) /* BUILD/bench/dedup */
        *strrchr(build_dir, '/') = '\0';
    setup.build_dir = build_dir;
    snprintf(path, sizeof path, "%s/bench/dedup.json", build_dir);
    signal(SIGPIPE, SIG_IGN);
    ksm_save();

    size_t bytes = (size_t)setup.mem_mib << 20;
    for (unsigned i = 0; i < setup.runs; i++)
        for (int side = SIDE_KSM; side <= SIDE_MEMD; side++) {
            run[side][i] = settle_run(&setup, side, setup.guests, bytes);
            printf("run %u of %u, %-4s: 95%% saved after %.2f s and %.2f s of CPU; %.0f MiB saved\n", i + 1,
                   setup.runs, side ? "memd" : "KSM", run[side][i].s, run[side][i].cpu_s,
                   run[side][i].saved / 1048576);
            fflush(stdout);
        }
    struct settled many = settle_run(&setup, SIDE_MEMD, setup.guests * 8, bytes / 8);
    printf("%u guests of %zu MiB: %.2f s of CPU in all\n", setup.guests * 8, bytes / 8 >> 20,
           many.total_cpu_s);

    double ksm_s = MEDIAN(SIDE_KSM, s), memd_s = MEDIAN(SIDE_MEMD, s);
    double ksm_cpu = MEDIAN(SIDE_KSM, cpu_s), memd_cpu = MEDIAN(SIDE_MEMD, cpu_s);
    double ksm_net = MEDIAN(SIDE_KSM, net), memd_net = MEDIAN(SIDE_MEMD, net);
    double ksm_write = MEDIAN(SIDE_KSM, first_write_ns), memd_write = MEDIAN(SIDE_MEMD, first_write_ns);
    double few = MEDIAN(SIDE_MEMD, total_cpu_s);
    const struct row rows[] = {
        {"settle_speedup", "time to settle, s", "s", ksm_s, memd_s, ksm_s / memd_s, 5, true},
        {"settle_cpu_ratio", "CPU to settle, s", "s", ksm_cpu, memd_cpu, ksm_cpu / memd_cpu, 5, true},
        {"net_saved_ratio", "net saved, MiB", "MiB", ksm_net / 1048576, memd_net / 1048576,
         memd_net / ksm_net, 1, true},
        {"available_gained_ratio", "MemAvailable gained, MiB", "MiB", MEDIAN(SIDE_KSM, available) / 1048576,
         MEDIAN(SIDE_MEMD, available) / 1048576, MEDIAN(SIDE_MEMD, available) / MEDIAN(SIDE_KSM, available),
         1, true},
        {"metadata_bytes_per_page", "metadata per page, bytes", "bytes", MEDIAN(SIDE_KSM, metadata_per_page),
         MEDIAN(SIDE_MEMD, metadata_per_page), MEDIAN(SIDE_MEMD, metadata_per_page), 20, false},
        {"metadata_with_vmas_bytes_per_page", "the same with VMAs, bytes", "bytes",
         MEDIAN(SIDE_KSM, with_vmas_per_page), MEDIAN(SIDE_MEMD, with_vmas_per_page),
         MEDIAN(SIDE_MEMD, with_vmas_per_page), 40, false},
        {"cow_ratio", "first write to a merged page, ns", "ns", ksm_write, memd_write, memd_write / ksm_write,
         1.2, false},
        {"vm_scaling", "CPU, 8 times the guests (memd), s", "s", few, many.total_cpu_s,
         many.total_cpu_s / few, 1.3, false},
    };
    print_table(rows, sizeof rows / sizeof rows[0]);
    write_json(out, &setup, rows, sizeof rows / sizeof rows[0]);
    return 0;
}
