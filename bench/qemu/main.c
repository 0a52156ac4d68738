/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qemu: memd and the kernel's KSM on the same real Linux guests, one after the other.
 *
 *   main.c        options; which measures, in which order
 *   settle.c      what is saved, how soon, at what cost; memd's figures beside the kernel's
 *   slowdown.c    what a guest at work feels
 *   guests.c      the guests, as the benchmark sees them: unmodified QEMUs, through
 *   guests.sh     the hands of it, made of the vehicle of tests/qemu
 *   thp.c         huge pages are to be had
 *   ../common     what it shares with the benchmark of pinned contents, bench/dedup
 */
#include "bench/common/bench.h"
#include "bench/common/cleanup.h"
#include "bench/common/daemon.h"
#include "bench/common/kernel.h"
#include "bench/common/ksm.h"
#include "bench/common/options.h"
#include "bench/common/report.h"
#include "bench/qemu/guests.h"
#include "bench/qemu/settle.h"
#include "bench/qemu/slowdown.h"
#include "bench/qemu/thp.h"

#include <stdio.h>
#include <string.h>

static const char *const keys_settle[] = {SETTLE_KEYS, NULL};
static const char *const keys_slowdown[] = {SLOWDOWN_KEYS, NULL};

static const struct part {
    const char *name;
    const char *const *keys;
    void (*measure)(const struct bench *bench);
} parts[] = {{"settle", keys_settle, settle_measure}, {"slowdown", keys_slowdown, slowdown_measure}};
#define NPARTS (sizeof parts / sizeof parts[0])

static const char help[] =
    "Usage: qemu [OPTION]...\n\n"
    "memd and the kernel's KSM on real Linux guests in unmodified QEMU, with different files in their page "
    "caches.\n"
    "Needs root, for KSM's settings; they are put back at the end, whatever that is. To be run where the "
    "source\n"
    "is. docs/benchmarks.md tells what is measured and how.\n\n"
    "  --quick            one round, one pair of jobs: whether everything works\n"
    "  --only MEASURE     a part (settle, slowdown) or a key of the JSON; may be given several times\n"
    "  --guests N         guests (default 4, at most 8)\n"
    "  --mem MIB          memory of each (default 384, at least 192)\n"
    "  --rounds N         of each side, in turns; figures are medians (default 3)\n"
    "  --build-dir DIR    where memd, memctl and memd-run are (default: the directory above this program's)\n"
    "  --out FILE         the JSON (default: bench/qemu.json in the build directory)\n"
    "  --help             this text\n\n"
    "Exit codes: 0 everything was measured (targets missed are said so), 1 failed, 2 usage.\n";

static struct report_measure measures[] = {
    {.key = "net_saved_ratio", .what = "net savings", .unit = "MiB", .at_least = true, .target = 1},
    {.key = "settle_speedup", .what = "time to settled savings", .unit = "s", .at_least = true, .target = 5},
    {.key = "settle_cpu_ratio", .what = "CPU to get there", .unit = "CPU s", .at_least = true, .target = 5},
    {.key = "guest_slowdown", .what = "a job in a guest (bare, memd)", .unit = "s", .target = 1.03},
    {.key = "vmas_per_merged_page", .what = "mappings of a merged page", .unit = "", .target = 0.25},
    {.key = "counter_error", .what = "memd's savings, the kernel's", .unit = "", .target = 0.02},
};

static bool wanted[NPARTS];

static bool want(const char *what)
{
    bool found = false;

    for (size_t part = 0; part < NPARTS; part++) {
        bool is = !what || !strcmp(parts[part].name, what);
        for (const char *const *key = parts[part].keys; what && *key; key++)
            is |= !strcmp(*key, what);
        wanted[part] |= is;
        found |= is;
    }
    return found;
}

static const struct options_program program = {
    .name = "qemu",
    .help = help,
    .guests_max = GUESTS_MAX,
    .mib_min = 192,
    .mib_max = 16384,
    .mib_step = 1,
    .want = want,
};

/* Two fleets are alive in the part `slowdown`. */
static void check_memory(const struct bench *bench)
{
    size_t available = kernel_available_bytes(), need = bench->guests * bench->guest_bytes * 5 / 2;

    if (available < need)
        bench_die("%zu MiB of free memory are needed; try --mem or --guests", need / BENCH_MIB);
}

static void restore(void)
{
    ksm_restore();
    thp_restore();
}

int main(int argc, char **argv)
{
    struct bench bench = {.guests = 4, .guest_bytes = 384 * BENCH_MIB, .rounds = 3};
    const char *out = options_read(&program, argc, argv, &bench);

    report_begin(measures, sizeof measures / sizeof measures[0], "KSM");
    ksm_save();
    thp_save();
    check_memory(&bench);
    daemon_prepare();
    cleanup_start(restore, (const char *const[]){daemon_run_dir(), daemon_work_dir()});
    thp_allow();
    bench_say("%u Linux guests of %zu MiB, %u round%s, memd of %s", bench.guests,
              bench.guest_bytes / BENCH_MIB, bench.rounds, bench.rounds > 1 ? "s" : "", bench.build_dir);
    for (size_t part = 0; part < NPARTS; part++)
        if (wanted[part])
            parts[part].measure(&bench);
    report_print(&bench);
    report_write(&bench, out);
    printf("\n%s\n", out);
    return OPTIONS_OK;
}
