/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pager: memory that leaves RAM and comes back, by memd and by the kernel's own swap (zram with lz4, a swap
 * file), side by side in one run.
 *
 *   main.c        options; which measures, in which order
 *   faults.c      pages that are parked or packed, over the bare round trip of floor.c
 *   floor.c       a fault served in user space that does nothing else
 *   bulk.c        a whole guest out and in again
 *   rewrite.c     unchanged pages are not written twice
 *   idle.c        what it costs when nothing happens
 *   isolation.c   a quiet guest beside one that thrashes; burn.c: beside one that only takes CPU
 *   density.c     memory for guests that use 30% of theirs
 *   guest.c       a guest: a plain process with an image in private memory; vm.c: as the benchmark sees it
 *   kvm.c         a guest: memvm
 *   content.c     images, of the machine's own files
 *   ../common     what it shares with the other benchmarks
 */
#include "bench/common/bench.h"
#include "bench/common/cleanup.h"
#include "bench/common/daemon.h"
#include "bench/common/kernel.h"
#include "bench/common/ksm.h"
#include "bench/common/options.h"
#include "bench/common/report.h"
#include "bench/common/swapdev.h"
#include "bench/pager/bulk.h"
#include "bench/pager/density.h"
#include "bench/pager/faults.h"
#include "bench/pager/idle.h"
#include "bench/pager/isolation.h"
#include "bench/pager/rewrite.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NEED_BYTES (4096 * BENCH_MIB)
#define KEYS_MAX   4

static const struct part {
    const char *name;
    const char *keys[KEYS_MAX];
    void (*measure)(const struct bench *bench);
} parts[] = {
    {"faults", {FAULTS_KEYS}, faults_measure},
    {"bulk", {BULK_KEYS}, bulk_measure},
    {"rewrite", {REWRITE_KEYS}, rewrite_measure},
    {"idle", {IDLE_KEYS}, idle_measure},
    {"isolation", {ISOLATION_KEYS}, isolation_measure},
    {"density", {DENSITY_KEYS}, density_measure},
    {"density_kvm", {DENSITY_KVM_KEYS}, density_kvm_measure},
};
#define NPARTS (sizeof parts / sizeof parts[0])

static const char help[] =
    "Usage: pager [OPTION]...\n\n"
    "Memory that leaves RAM and comes back: memd beside the kernel's zram (lz4), swap files and KSM, on the\n"
    "same pages of real files. Needs root, zram, and a machine without swap; what it sets up is taken away "
    "at\n"
    "the end, whatever that is. docs/benchmarks.md tells what is measured and how.\n\n"
    "  --quick            less memory, one round: whether everything works, in two minutes\n"
    "  --only MEASURE     a part (faults, bulk, rewrite, idle, isolation, density, density_kvm) or a key of\n"
    "                     the JSON; may be given several times\n"
    "  --rounds N         figures are medians over them (default 5)\n"
    "  --build-dir DIR    where memd and memctl are (default: the directory above this program's)\n"
    "  --out FILE         the JSON (default: bench/pager.json in the build directory)\n"
    "  --help             this text\n\n"
    "Exit codes: 0 everything was measured (targets missed are said so), 1 failed, 2 usage.\n";

static struct report_measure measures[] = {
    {.key = "density", .what = "memory of guests, 70% cold", .unit = "MiB", .at_least = true, .target = 3},
    {.key = "density_vs_ksm_zram",
     .what = "the same, with KSM and zram",
     .unit = "MiB",
     .at_least = true,
     .target = 1.3},
    {.key = "density_slowdown", .what = "their job meanwhile", .unit = "s", .target = 1.02},
    {.key = "density_kvm", .what = "memory of KVM guests", .unit = "MiB", .at_least = true, .target = 3},
    {.key = "density_kvm_vs_ksm_zram",
     .what = "the same, with KSM and zram",
     .unit = "MiB",
     .at_least = true,
     .target = 1.3},
    {.key = "density_kvm_slowdown", .what = "their job meanwhile", .unit = "s", .target = 1.02},
    {.key = "parked_over_floor", .what = "fault of a parked page", .unit = "us", .target = 1.2},
    {.key = "packed_over_floor", .what = "fault of a packed page", .unit = "us", .target = 1.3},
    {.key = "restore_ratio",
     .what = "a packed guest comes back",
     .unit = "kpages/s",
     .at_least = true,
     .target = 2},
    {.key = "swapout_ratio",
     .what = "pages packed a CPU second",
     .unit = "thousand",
     .at_least = true,
     .target = 1.3},
    {.key = "swapout_stored_ratio", .what = "bytes stored of a page", .unit = "B", .target = 1.03},
    {.key = "silent_write_ratio", .what = "10 rounds to the swap file", .unit = "MiB", .target = 1.05},
    {.key = "isolation", .what = "p99 stall beside a thrasher", .unit = "us", .target = 1.5},
    {.key = "idle_cpu", .what = "CPU while nothing happens", .unit = "CPUs", .target = 0.001},
};

static bool wanted[NPARTS];

static bool want(const char *what)
{
    bool found = false;

    for (size_t part = 0; part < NPARTS; part++) {
        bool is = !what || !strcmp(parts[part].name, what);
        for (size_t i = 0; what && i < KEYS_MAX && parts[part].keys[i]; i++)
            is |= !strcmp(parts[part].keys[i], what);
        wanted[part] |= is;
        found |= is;
    }
    return found;
}

static const struct options_program program = {.name = "pager", .help = help, .want = want};

/* Not enough, and the kernel would swap what nobody has told it to. */
static void check_machine(void)
{
    uint64_t available = kernel_available_bytes();

    if (available < NEED_BYTES)
        bench_die("%lu MiB of free memory are needed, there are %lu", NEED_BYTES / BENCH_MIB,
                  available / BENCH_MIB);
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
        bench_die("two CPUs are needed");
}

static void restore(void)
{
    ksm_restore();
    swapdev_restore();
}

int main(int argc, char **argv)
{
    struct bench bench = {.guests = 4, .guest_bytes = 256 * BENCH_MIB, .rounds = 5};
    const char *out = options_read(&program, argc, argv, &bench);

    report_begin(measures, sizeof measures / sizeof measures[0], "other");
    ksm_save();
    swapdev_prepare(true);
    check_machine();
    daemon_prepare();
    cleanup_start(restore, (const char *const[]){daemon_run_dir(), daemon_work_dir()});
    bench_say("memd of %s, %u round%s", bench.build_dir, bench.rounds, bench.rounds > 1 ? "s" : "");
    for (size_t part = 0; part < NPARTS; part++)
        if (wanted[part])
            parts[part].measure(&bench);
    report_print(&bench);
    report_write(&bench, out);
    printf("\n%s\n", out);
    return OPTIONS_OK;
}
