/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * balloon: memory that guests give up, by memd and by what there is beside it.
 *
 *   main.c        options; which measures, in which order
 *   inflate.c     CPU time of giving up memory, and what comes back of it
 *   own.c         a guest with memd's device; qemu.c: with QEMU's
 *   driver.c      the driver both guests have
 *   trace.c       the page numbers it gives up
 *   ../common     what it shares with the other benchmarks
 */
#include "bench/balloon/inflate.h"
#include "bench/common/cleanup.h"
#include "bench/common/daemon.h"
#include "bench/common/kernel.h"
#include "bench/common/options.h"
#include "bench/common/report.h"

#include <stdio.h>
#include <string.h>

#define NEED_BYTES (1024 * BENCH_MIB)

static const char *const keys[] = {INFLATE_KEYS};

static const char help[] =
    "Usage: balloon [OPTION]...\n\n"
    "Memory that guests give up by their balloons: memd's device beside QEMU's, fed with the same page "
    "numbers.\n"
    "Needs /dev/userfaultfd and qemu-system-x86_64. docs/benchmarks.md tells what is measured and how.\n\n"
    "  --quick            one round: whether everything works\n"
    "  --only MEASURE     a part (inflate) or a key of the JSON; may be given several times\n"
    "  --rounds N         figures are medians over them (default 7)\n"
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
};

static bool want(const char *what)
{
    bool found = !what || !strcmp(what, "inflate");

    for (size_t i = 0; what && i < sizeof keys / sizeof keys[0]; i++)
        found |= !strcmp(keys[i], what);
    return found;
}

static const struct options_program program = {.name = "balloon", .help = help, .want = want};

static void restore(void)
{
}

int main(int argc, char **argv)
{
    struct bench bench = {.guests = 1, .guest_bytes = 256 * BENCH_MIB, .rounds = 7};
    const char *out = options_read(&program, argc, argv, &bench);
    uint64_t available = kernel_available_bytes();

    report_begin(measures, sizeof measures / sizeof measures[0], "QEMU");
    if (available < NEED_BYTES)
        bench_die("%lu MiB of free memory are needed, there are %lu", NEED_BYTES / BENCH_MIB,
                  available / BENCH_MIB);
    daemon_prepare();
    cleanup_start(restore, (const char *const[]){daemon_run_dir(), daemon_work_dir()});
    bench_say("memd of %s, %u round%s", bench.build_dir, bench.rounds, bench.rounds > 1 ? "s" : "");
    inflate_measure(&bench);
    report_print(&bench);
    report_write(&bench, out);
    printf("\n%s\n", out);
    return OPTIONS_OK;
}
