/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * balloon: memory that guests give up, by memd and by what there is beside it.
 *
 *   main.c        options; which measures, in which order
 *   inflate.c     CPU time of giving up memory, and what comes back of it
 *   own.c         a guest with memd's device; qemu.c: with QEMU's
 *   driver.c      the driver both guests have
 *   trace.c       the page numbers it gives up
 *   phased.c      three Linux guests that are busy in turn, and too little memory
 *   giveback.c    how long a guest waits for memory that it needs
 *   host.c        a host with so much memory, and who moves the balloons: nobody, memd, or mom.c, MOM's rules
 *   bound.c       so much memory, and a swap file
 *   fleet.c       the Linux guests, through guests.sh; line.c: talk with them, and their monitors
 *   disks.c       their data disks; guest: what they do
 *   ../common     what it shares with the other benchmarks
 */
#include "bench/balloon/bound.h"
#include "bench/balloon/fleet.h"
#include "bench/balloon/giveback.h"
#include "bench/balloon/host.h"
#include "bench/balloon/inflate.h"
#include "bench/balloon/phased.h"
#include "bench/common/cleanup.h"
#include "bench/common/daemon.h"
#include "bench/common/kernel.h"
#include "bench/common/options.h"
#include "bench/common/report.h"
#include "bench/common/swapdev.h"

#include <stdio.h>
#include <string.h>

#define INFLATE_NEED_BYTES (1024 * BENCH_MIB)
#define GUESTS_NEED_BYTES  (5120 * BENCH_MIB)
#define SWAP_BYTES         (1536 * BENCH_MIB)

enum { INFLATE, PHASED, GIVEBACK, NPARTS };

static const char *const keys_inflate[] = {INFLATE_KEYS, NULL};
static const char *const keys_phased[] = {PHASED_KEYS, "guest_ooms", NULL};
static const char *const keys_giveback[] = {GIVEBACK_KEYS, "guest_ooms", NULL};

static const struct part {
    const char *name;
    const char *const *keys;
} parts[NPARTS] = {{"inflate", keys_inflate}, {"phased", keys_phased}, {"giveback", keys_giveback}};

static bool wanted[NPARTS];

static const char help[] =
    "Usage: balloon [OPTION]...\n\n"
    "Memory that guests give up by their balloons: memd's device beside QEMU's, fed with the same page "
    "numbers; and\nLinux guests in QEMU on a host that is too small for them, by memd, by MOM's rules, and "
    "by "
    "balloons that stand still.\n"
    "Needs root, /dev/userfaultfd, memory cgroups, no swap in use, and qemu-system-x86_64; to be run where "
    "the "
    "source is.\ndocs/benchmarks.md tells what is measured and how.\n\n"
    "  --quick            one round, small jobs: whether everything works\n"
    "  --only MEASURE     a part (inflate, phased, giveback) or a key of the JSON; may be given several "
    "times\n"
    "  --rounds N         figures are medians over them; of phased, half as many (default 5)\n"
    "  --build-dir DIR    where memd and memctl are (default: the directory above this program's)\n"
    "  --out FILE         the JSON (default: bench/balloon.json in the build directory)\n"
    "  --help             this text\n\n"
    "Exit codes: 0 everything was measured (targets missed are said so), 1 failed, 2 usage.\n";

static struct report_measure measures[] = {
    {.key = "inflate_ratio",
     .what = "CPU of a page given up, fresh guest",
     .unit = "ns",
     .at_least = true,
     .target = 2},
    {.key = "inflate_fragmented_ratio",
     .what = "the same, all in single pages",
     .unit = "ns",
     .at_least = true,
     .target = 1},
    {.key = "returned_ratio", .what = "memory returned of it", .unit = "", .at_least = true, .target = 0.99},
    {.key = "phased_slowdown", .what = "jobs, unlimited memory", .unit = "s", .target = 1.10},
    {.key = "vs_mom", .what = "the same jobs by MOM's rules", .unit = "s", .at_least = true, .target = 1.2},
    {.key = "vs_static", .what = "and with static balloons", .unit = "s", .at_least = true, .target = 1.2},
    {.key = "guest_ooms", .what = "OOM kills in guests", .unit = "", .target = 0},
    {.key = "giveback_ms_p99", .what = "a guest's wait for memory, p99", .unit = "ms", .target = 250},
};

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

static const struct options_program program = {.name = "balloon", .help = help, .want = want};

static void restore(void)
{
    bound_restore();
    swapdev_restore();
}

static void measure_guests(const struct bench *bench)
{
    unsigned kills = 0, other = 0;
    struct host_disk disk = host_disk(bench);

    fleet_prepare(bench, (disk.old_mib + disk.job_mib) * BENCH_MIB);
    bench_say("the guests are made");
    if (wanted[PHASED]) {
        char swap[512];
        snprintf(swap, sizeof swap, "%s/swap", daemon_work_dir());
        swapdev_file_on(swap, SWAP_BYTES, 10);
        kills += phased_measure(bench, &other);
        swapdev_off();
    }
    if (wanted[GIVEBACK])
        kills += giveback_measure(bench);
    report_value("guest_ooms", other, kills, kills);
}

int main(int argc, char **argv)
{
    struct bench bench = {.guests = FLEET_GUESTS, .guest_bytes = 512 * BENCH_MIB, .rounds = 5};
    const char *out = options_read(&program, argc, argv, &bench);
    bool guests = wanted[PHASED] || wanted[GIVEBACK];
    uint64_t available = kernel_available_bytes(), need = guests ? GUESTS_NEED_BYTES : INFLATE_NEED_BYTES;

    report_begin(measures, sizeof measures / sizeof measures[0], "other");
    if (available < need)
        bench_die("%lu MiB of free memory are needed, there are %lu", need / BENCH_MIB,
                  available / BENCH_MIB);
    if (wanted[PHASED])
        swapdev_prepare(false);
    if (guests)
        bound_prepare();
    daemon_prepare();
    cleanup_start(restore, (const char *const[]){daemon_run_dir(), daemon_work_dir()});
    bench_say("memd of %s, %u round%s", bench.build_dir, bench.rounds, bench.rounds > 1 ? "s" : "");
    if (wanted[INFLATE])
        inflate_measure(&bench);
    if (guests)
        measure_guests(&bench);
    report_print(&bench);
    report_write(&bench, out);
    printf("\n%s\n", out);
    return OPTIONS_OK;
}
