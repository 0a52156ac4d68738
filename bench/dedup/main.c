/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dedup: memd and the kernel's KSM on the same memory contents, side by side in one run.
 *
 *   main.c        options; which measures, in which order
 *   settle.c      how fast memory gets small, at what cost, how small; first writes; many guests
 *   steady.c      what keeping up costs: guests that rewrite memory and go on producing duplicates
 *   events.c      which pages those are
 *   watch.c       when the kernel shows them as merged
 *   huge.c        huge pages kept, and how fast a guest gets at its memory afterwards
 *   side.c        what both sides have in common: begin, enrol, CPU, memory, end
 *   fleet.c       the guests, as the benchmark sees them
 *   guest.c       a guest: a plain process with its contents in private memory
 *   writer.c      a guest's work while it is watched in the steady state
 *   content.c     what a guest's memory holds
 *   ../common     what it shares with the benchmark of real guests, bench/qemu
 */
#include "bench/common/bench.h"
#include "bench/common/cleanup.h"
#include "bench/common/daemon.h"
#include "bench/common/ksm.h"
#include "bench/common/options.h"
#include "bench/common/report.h"
#include "bench/dedup/huge.h"
#include "bench/dedup/settle.h"
#include "bench/dedup/steady.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

static struct report_measure measures[] = {
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

static struct {
    bool part[NPARTS], scaling;
} wanted;

static bool want(const char *what)
{
    bool found = false;

    for (int part = 0; part < NPARTS; part++) {
        bool whole = !what || !strcmp(parts[part].name, what);
        for (const char *const *key = parts[part].keys; *key; key++) {
            if (!whole && strcmp(*key, what))
                continue;
            wanted.part[part] = found = true;
            wanted.scaling |= !strcmp(*key, SETTLE_SCALE);
        }
    }
    return found;
}

static const struct options_program program = {
    .name = "dedup",
    .help = help,
    .guests_max = BENCH_GUESTS_MAX / 8,
    .mib_min = 128,
    .mib_max = 65536,
    .mib_step = 128,
    .quick_guests = 4,
    .quick_mib = 128,
    .want = want,
};

static void check_memory(const struct bench *bench)
{
    long pages = sysconf(_SC_AVPHYS_PAGES);
    size_t need = bench->guests * bench->guest_bytes * 3 / 2;

    if (pages > 0 && (size_t)pages < need / BENCH_PAGE_BYTES)
        bench_die("%zu MiB of free memory are needed; try --mem or --quick", need / BENCH_MIB);
}

int main(int argc, char **argv)
{
    struct bench bench = {.guests = 8, .guest_bytes = 256 * BENCH_MIB, .rounds = 3};
    const char *out = options_read(&program, argc, argv, &bench);

    report_begin(measures, sizeof measures / sizeof measures[0], "KSM");
    ksm_save();
    check_memory(&bench);
    daemon_prepare();
    cleanup_start(ksm_restore, (const char *const[]){daemon_run_dir(), daemon_work_dir()});
    bench_say("%u guests of %zu MiB, %u round%s, memd of %s", bench.guests, bench.guest_bytes / BENCH_MIB,
              bench.rounds, bench.rounds > 1 ? "s" : "", bench.build_dir);
    if (wanted.part[PART_SETTLE])
        settle_measure(&bench, wanted.scaling);
    if (wanted.part[PART_STEADY])
        steady_measure(&bench);
    if (wanted.part[PART_HUGE])
        huge_measure(&bench);
    report_print(&bench);
    report_write(&bench, out);
    printf("\n%s\n", out);
    return OPTIONS_OK;
}
