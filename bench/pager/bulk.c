/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see bulk.h. Two guests with the same pages, all of which can be packed: one for the
 * kernel, one with an engine and merging off. In each round the kernel's is taken out with MADV_PAGEOUT by
 * its own thread and read through in order; memd's is taken out by `memctl pageout` and brought back by
 * `memctl pagein`, timed from outside, memctl included. CPU is that of the whole process, and for memd of the
 * daemon, too. Stored bytes are what the zram device and the engine's pool have taken from the host.
 */
#include "bench/pager/bulk.h"

#include "bench/common/daemon.h"
#include "bench/common/join.h"
#include "bench/common/kernel.h"
#include "bench/common/report.h"
#include "bench/common/swapdev.h"
#include "bench/pager/content.h"
#include "bench/pager/vm.h"

#define NPAGES_FULL  65536u
#define NPAGES_QUICK 16384u
#define MOST         0.99 /* of the pages must have gone out */

enum side { SIDE_KERNEL, SIDE_MEMD, NSIDES };
static const char *const side_names[NSIDES] = {"kernel", "memd"};

struct figures { /* by round */
    double in[BENCH_ROUNDS_MAX], out[BENCH_ROUNDS_MAX], stored[BENCH_ROUNDS_MAX];
};

static void note(enum side side, unsigned round, double out_pages, double out_cpu_s, double stored_bytes,
                 double in_pages, double in_s, struct figures *figures)
{
    if (in_pages < MOST * out_pages || in_s <= 0 || out_cpu_s <= 0)
        bench_die("%s: %.0f pages went out, %.0f came back", side_names[side], out_pages, in_pages);
    figures->in[round] = in_pages / in_s;
    figures->out[round] = out_pages / out_cpu_s;
    figures->stored[round] = stored_bytes / out_pages;
    report_raw("bulk", out_pages, "%s_out_pages_%u", side_names[side], round);
    report_raw("bulk", figures->out[round], "%s_out_pages_per_cpu_s_%u", side_names[side], round);
    report_raw("bulk", figures->stored[round], "%s_stored_bytes_per_page_%u", side_names[side], round);
    report_raw("bulk", figures->in[round], "%s_in_pages_per_s_%u", side_names[side], round);
}

static void require(enum side side, double pages, size_t npages)
{
    if (pages < MOST * (double)npages)
        bench_die("%s took only %.0f of %zu pages out", side_names[side], pages, npages);
}

static void round_kernel(const struct vm *vm, unsigned round, struct figures *figures)
{
    const struct guest_order out = {.op = GUEST_PAGEOUT}, in = {.op = GUEST_READ};
    double before = (double)swapdev_zram_bytes(), cpu_ns = (double)kernel_cpu_ns(vm->child.pid);
    double pages = vm_ask(vm, &out).value[1];

    cpu_ns = (double)kernel_cpu_ns(vm->child.pid) - cpu_ns;
    require(SIDE_KERNEL, pages, vm->npages);
    double out_cpu_s = cpu_ns * 1e-9;
    double stored = (double)swapdev_zram_bytes() - before;
    cpu_ns = (double)kernel_cpu_ns(vm->child.pid);
    struct guest_answer answer = vm_ask(vm, &in);
    report_raw("bulk", ((double)kernel_cpu_ns(vm->child.pid) - cpu_ns) * 1e-9, "kernel_in_cpu_s_%u", round);
    note(SIDE_KERNEL, round, pages, out_cpu_s, stored, answer.value[1], answer.value[0], figures);
}

static double cpu_s(const struct vm *vm, pid_t daemon)
{
    return (double)(kernel_cpu_ns(vm->child.pid) + kernel_cpu_ns(daemon)) * 1e-9;
}

static void round_memd(const struct bench *bench, const struct vm *vm, pid_t daemon, unsigned round,
                       struct figures *figures)
{
    double cpu_before_s = cpu_s(vm, daemon);

    vm_control(bench, vm, "pageout", "");
    double out_cpu_s = cpu_s(vm, daemon) - cpu_before_s;
    double pages = vm_stat(vm, STAT_PACKED), stored = vm_stat(vm, STAT_POOL_BYTES);
    require(SIDE_MEMD, pages, vm->npages);
    double begun_s = bench_now_s(), begun_cpu_s = cpu_s(vm, daemon);
    vm_control(bench, vm, "pagein", "");
    double in_s = bench_now_s() - begun_s;
    report_raw("bulk", cpu_s(vm, daemon) - begun_cpu_s, "memd_in_cpu_s_%u", round);
    double came = pages - vm_stat(vm, STAT_PACKED);
    note(SIDE_MEMD, round, pages, out_cpu_s, stored, came, in_s, figures);
}

void bulk_measure(const struct bench *bench)
{
    size_t npages = bench->quick ? NPAGES_QUICK : NPAGES_FULL;
    static struct figures figures[NSIDES];
    const char *image = vm_image_path("bulk");
    unsigned rounds = bench->rounds;
    double value[NSIDES][3];
    struct vm vm[NSIDES];

    content_packable(image, npages);
    daemon_configure("swap = off\nmerge = off");
    pid_t daemon = daemon_start(bench);
    for (enum side side = 0; side < NSIDES; side++)
        vm_start(&vm[side], side, image, npages);
    vm_enrol(&vm[SIDE_MEMD], JOIN_ANY_CPU);
    swapdev_zram_on(2 * npages * BENCH_PAGE_BYTES, 10);
    for (unsigned round = 0; round < rounds; round++) {
        round_kernel(&vm[SIDE_KERNEL], round, &figures[SIDE_KERNEL]);
        round_memd(bench, &vm[SIDE_MEMD], daemon, round, &figures[SIDE_MEMD]);
    }
    for (enum side side = 0; side < NSIDES; side++) {
        vm_check(&vm[side]);
        vm_end(&vm[side]);
        value[side][0] = bench_median(figures[side].in, rounds);
        value[side][1] = bench_median(figures[side].out, rounds);
        value[side][2] = bench_median(figures[side].stored, rounds);
        bench_say("%s: in %.0f pages/s, out %.0f pages/CPU s, %.0f bytes a page", side_names[side],
                  value[side][0], value[side][1], value[side][2]);
    }
    swapdev_off();
    daemon_stop(daemon);
    report_value("restore_ratio", value[SIDE_KERNEL][0] / 1e3, value[SIDE_MEMD][0] / 1e3,
                 value[SIDE_MEMD][0] / value[SIDE_KERNEL][0]);
    report_value("swapout_ratio", value[SIDE_KERNEL][1] / 1e3, value[SIDE_MEMD][1] / 1e3,
                 value[SIDE_MEMD][1] / value[SIDE_KERNEL][1]);
    report_value("swapout_stored_ratio", value[SIDE_KERNEL][2], value[SIDE_MEMD][2],
                 value[SIDE_MEMD][2] / value[SIDE_KERNEL][2]);
}
