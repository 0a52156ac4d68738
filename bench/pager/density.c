/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see density.h. Guests with images of real files (mkimage's defaults) work on three
 * runs of 32 pages in ten: random reads, some writes to an eighth of it. The others are cold: of these 0.2%
 * are read a minute, but for that nobody touches them.
 *
 *   bare     nothing is done
 *   memd     as shipped: merges, drops zero pages; then `memctl pageout --bytes`, as many bytes as are cold,
 * of each guest while it works: cold pages are packed. This is `density`. Then `memctl pageout`: all is
 *            written to the swap file, what is hot comes back.
 *   kernel   KSM, until it has settled; then MADV_PAGEOUT of the cold pages to a swap file of as many bytes
 * as memd has used of its own, and what does not fit into it to zram. So both have the same room on the disk,
 * and the kernel's RAM is as small as its swap makes it. This and memd's second figure are
 *            `density_vs_ksm_zram`.
 *
 * Memory is what the kernel says: PSS, blocks of memd's stores and memfds, the zram device, KSM's items,
 * growth of the slabs of mappings; without the benchmark's own tables in the guests. It is looked at after
 * the jobs. For these a guest of each of two sides takes a turn, one after the other; the medians are
 * compared.
 *
 * All of it twice: guests are plain processes (guest.c), or memvm's, under KVM (kvm.c), whose job only reads.
 */
#include "bench/pager/density.h"

#include "bench/common/curve.h"
#include "bench/common/daemon.h"
#include "bench/common/join.h"
#include "bench/common/kernel.h"
#include "bench/common/ksm.h"
#include "bench/common/report.h"
#include "bench/common/swapdev.h"
#include "bench/pager/content.h"
#include "bench/pager/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TURNS            9u
#define ACCESSES         10000000ull
#define ACCESSES_QUICK   2000000ull
#define COLD_PER_MIN     0.002 /* of the cold pages */
#define WARM_S           1.5
#define PAGEOUT_S        3.0 /* a guest works for so long while it is paged out: the order takes a second */
#define SWAP_HOME_S      8.0 /* for hot pages to come back from the swap file */
#define SLOWDOWN_MAX     1.02
#define KSM_ITEM_BYTES   64
#define COLD_SHARE_OF(n) ((n)*7 / 10)
#define SPARE_BYTES      (64 * BENCH_MIB)

enum side { SIDE_BARE, SIDE_MEMD, SIDE_KERNEL };

/* Guests of one kind, and the keys of what is measured with them. */
struct kind {
    const char *group, *density, *slowdown, *vs_kernel;
    bool kvm;
};

struct fleet {
    enum side side;
    const struct kind *kind;
    unsigned n;
    struct vm vm[BENCH_GUESTS_MAX];
    pid_t daemon;
    uint64_t own_before, slabs_before; /* of the guests, beside their memory */
};

/* ---------------------------------------------------------------- guests and their memory */

static const char *image_of(unsigned guest)
{
    char name[32];

    snprintf(name, sizeof name, "density%u", guest);
    return vm_image_path(name);
}

static void guest_start(const struct bench *bench, struct fleet *fleet, unsigned i)
{
    static const enum guest_kind guest_kinds[] = {
        [SIDE_BARE] = GUEST_BARE, [SIDE_MEMD] = GUEST_MEMD, [SIDE_KERNEL] = GUEST_KSM};
    size_t npages = bench->guest_bytes / BENCH_PAGE_BYTES;
    unsigned number = (unsigned)fleet->side * fleet->n + i;
    char memvm[512];

    snprintf(memvm, sizeof memvm, "%s/memvm", bench->build_dir);
    if (fleet->kind->kvm)
        vm_start_kvm(&fleet->vm[i], number, image_of(i), npages, memvm, guest_kinds[fleet->side]);
    else
        vm_start(&fleet->vm[i], number, image_of(i), npages);
}

/* `bare`: guests without memd; NULL for themselves. memvm has its engine from the start, so what it has
 * beside guest memory is taken to be as much as they have. */
static void fleet_start(const struct bench *bench, const struct kind *kind, enum side side,
                        const struct fleet *bare, struct fleet *fleet)
{
    uint64_t slabs_before = kernel_vma_slab_bytes();

    *fleet = (struct fleet){.side = side, .kind = kind, .n = bench->guests};
    for (unsigned i = 0; i < fleet->n; i++) {
        guest_start(bench, fleet, i);
        fleet->own_before += kernel_pss_outside(fleet->vm[i].pid, fleet->vm[i].ram, bench->guest_bytes, NULL);
    }
    if (bare && kind->kvm)
        fleet->own_before = bare->own_before;
    fleet->slabs_before = kind->kvm ? slabs_before : kernel_vma_slab_bytes();
}

static void fleet_end(struct fleet *fleet)
{
    for (unsigned i = 0; i < fleet->n; i++) {
        vm_check(&fleet->vm[i]);
        vm_end(&fleet->vm[i]);
    }
}

static uint64_t ksm_bytes(const struct fleet *fleet)
{
    uint64_t items = ksm_value("pages_shared");

    for (unsigned i = 0; i < fleet->n; i++)
        items += kernel_ksm_items(fleet->vm[i].pid);
    return items * KSM_ITEM_BYTES;
}

static uint64_t used_bytes(const struct fleet *fleet)
{
    pid_t pid[BENCH_GUESTS_MAX + 1];
    uint64_t slabs = kernel_vma_slab_bytes();
    size_t n = 0;

    for (unsigned i = 0; i < fleet->n; i++)
        pid[n++] = fleet->vm[i].pid;
    if (fleet->side == SIDE_MEMD)
        pid[n++] = fleet->daemon;
    uint64_t used = kernel_used_bytes(pid, n, fleet->side == SIDE_MEMD ? daemon_run_dir() : NULL);
    if (fleet->side != SIDE_BARE && slabs > fleet->slabs_before)
        used += slabs - fleet->slabs_before;
    return used - fleet->own_before;
}

static double note_mib(const struct fleet *fleet, const char *what, double bytes)
{
    report_raw(fleet->kind->group, bytes, "%s_bytes", what);
    return bytes / BENCH_MIB;
}

/* ---------------------------------------------------------------- work */

static struct guest_order job_order(const struct vm *vm, uint64_t accesses, double until_s)
{
    struct guest_order order = {.op = GUEST_JOB};

    order.job.accesses = accesses;
    order.job.until_s = until_s;
    order.job.cold_per_s = (double)COLD_SHARE_OF(vm->npages) * COLD_PER_MIN / 60;
    return order;
}

/* All guests for a while, so that what is hot is there. */
static void work_all(const struct fleet *fleet, double s)
{
    double until_s = bench_now_s() + s;

    for (unsigned i = 0; i < fleet->n; i++) {
        struct guest_order order = job_order(&fleet->vm[i], 0, until_s);
        vm_order(&fleet->vm[i], &order);
    }
    for (unsigned i = 0; i < fleet->n; i++)
        vm_wait(&fleet->vm[i]);
}

/* Of a job's time, other / bare. */
static double slowdown(const struct bench *bench, const struct fleet *bare, const struct fleet *other,
                       const char *what, double *ret_bare_s, double *ret_other_s)
{
    const struct fleet *fleets[2] = {bare, other};
    double s[2][TURNS];

    for (unsigned turn = 0; turn < TURNS; turn++)
        for (unsigned k = 0; k < 2; k++) {
            unsigned who = (k + turn) % 2;
            const struct vm *vm = &fleets[who]->vm[bench->guests ? turn % bench->guests : 0];
            struct guest_order order = job_order(vm, bench->quick ? ACCESSES_QUICK : ACCESSES, 0);
            s[who][turn] = vm_ask(vm, &order).value[0];
            report_raw(bare->kind->group, s[who][turn], "%s_%s_%u_s", what, who ? "job" : "bare_job", turn);
        }
    *ret_bare_s = bench_median(s[0], TURNS);
    *ret_other_s = bench_median(s[1], TURNS);
    return *ret_other_s / *ret_bare_s;
}

/* ---------------------------------------------------------------- memd */

/* While it works, so that hot pages that were parked come back. */
static void page_out_cold(const struct bench *bench, const struct vm *vm)
{
    struct guest_order order = job_order(vm, 0, bench_now_s() + PAGEOUT_S);
    char bytes[64];

    snprintf(bytes, sizeof bytes, "--bytes %luK", COLD_SHARE_OF(vm->npages * BENCH_PAGE_BYTES / 1024));
    vm_order(vm, &order);
    vm_control(bench, vm, "pageout", bytes);
    vm_wait(vm);
}

static double sum_of(const struct fleet *fleet, enum guest_stat stat)
{
    double sum = 0;

    for (unsigned i = 0; i < fleet->n; i++)
        sum += vm_stat(&fleet->vm[i], stat);
    return sum;
}

static void measure_packed(const struct bench *bench, const struct fleet *bare, struct fleet *memd,
                           double bare_mib)
{
    double bare_s, memd_s;

    daemon_control(bench, "settle --timeout 120");
    note_mib(memd, "memd_merged", (double)used_bytes(memd));
    work_all(memd, WARM_S);
    for (unsigned i = 0; i < memd->n; i++)
        page_out_cold(bench, &memd->vm[i]);
    work_all(memd, WARM_S);
    double ratio = slowdown(bench, bare, memd, "packed", &bare_s, &memd_s);
    double mib = note_mib(memd, "memd_packed", (double)used_bytes(memd));
    report_raw(memd->kind->group, sum_of(memd, STAT_PACKED), "memd_packed_pages");
    report_raw(memd->kind->group, sum_of(memd, STAT_POOL_BYTES), "memd_pool_bytes");
    report_raw(memd->kind->group, bare_mib / mib, "ratio");
    bench_say("guests: bare %.0f MiB, memd %.0f MiB; job: bare %.3f s, memd %.3f s", bare_mib, mib, bare_s,
              memd_s);
    report_value(memd->kind->slowdown, bare_s, memd_s, ratio);
    report_value(memd->kind->density, bare_mib, mib, ratio <= SLOWDOWN_MAX ? bare_mib / mib : 0);
}

/* Returns MiB. */
static double measure_swapped(const struct bench *bench, const struct fleet *bare, struct fleet *memd,
                              double *ret_disk_bytes, double *ret_slowdown)
{
    double bare_s, memd_s;

    for (unsigned i = 0; i < memd->n; i++)
        vm_control(bench, &memd->vm[i], "pageout", "");
    work_all(memd, SWAP_HOME_S);
    *ret_slowdown = slowdown(bench, bare, memd, "swapped", &bare_s, &memd_s);
    *ret_disk_bytes = sum_of(memd, STAT_SWAP_BYTES);
    double mib = note_mib(memd, "memd_swapped", (double)used_bytes(memd));
    report_raw(memd->kind->group, *ret_disk_bytes, "memd_disk_bytes");
    report_raw(memd->kind->group, sum_of(memd, STAT_SWAPPED), "memd_swapped_pages");
    bench_say(
        "guests, memd with swap files: %.0f MiB and %.0f MiB on the disk; job: bare %.3f s, memd %.3f s", mib,
        *ret_disk_bytes / BENCH_MIB, bare_s, memd_s);
    return mib;
}

/* ---------------------------------------------------------------- the kernel */

struct watched {
    const struct fleet *fleet;
    uint64_t before;
};

static struct curve_sample take_sample(const void *context)
{
    const struct watched *watched = context;

    return (struct curve_sample){.saved = (double)watched->before - (double)used_bytes(watched->fleet)};
}

static double measure_kernel(const struct bench *bench, const struct fleet *bare, double disk_bytes,
                             double *ret_slowdown)
{
    const struct guest_order out = {.op = GUEST_PAGEOUT, .cold_only = true};
    uint64_t disk = ((uint64_t)disk_bytes + BENCH_MIB) / BENCH_PAGE_BYTES * BENCH_PAGE_BYTES;
    double bare_s, kernel_s;
    struct fleet kernel;

    ksm_reset();
    fleet_start(bench, bare->kind, SIDE_KERNEL, bare, &kernel);
    struct watched watched = {&kernel, used_bytes(&kernel)};
    ksm_run(&ksm_fastest);
    double begun_s = bench_now_s();
    for (unsigned i = 0; i < kernel.n; i++)
        vm_do(&kernel.vm[i], GUEST_ENROL);
    curve_watch(take_sample, &watched, begun_s, "KSM");
    ksm_stop();
    note_mib(&kernel, "kernel_merged", (double)(used_bytes(&kernel) + ksm_bytes(&kernel)));
    swapdev_file_on(vm_image_path("swap"), disk, 20);
    swapdev_zram_on(bench->guests * bench->guest_bytes + SPARE_BYTES, 10);
    work_all(&kernel, WARM_S);
    for (unsigned i = 0; i < 2 * kernel.n; i++) /* once more for what was being written */
        vm_ask(&kernel.vm[i % kernel.n], &out);
    work_all(&kernel, WARM_S);
    *ret_slowdown = slowdown(bench, bare, &kernel, "kernel", &bare_s, &kernel_s);
    double used = (double)(used_bytes(&kernel) + ksm_bytes(&kernel) + swapdev_zram_bytes());
    double mib = note_mib(&kernel, "kernel", used);
    report_raw(bare->kind->group, (double)swapdev_zram_bytes(), "kernel_zram_bytes");
    report_raw(bare->kind->group, (double)ksm_bytes(&kernel), "kernel_ksm_items_bytes");
    report_raw(bare->kind->group, (double)swapdev_file_bytes(), "kernel_disk_bytes");
    bench_say("guests, KSM and zram: %.0f MiB and %.0f MiB on the disk; job: bare %.3f s, kernel %.3f s", mib,
              (double)swapdev_file_bytes() / BENCH_MIB, bare_s, kernel_s);
    fleet_end(&kernel);
    swapdev_off();
    ksm_reset();
    return mib;
}

static void measure_kind(const struct bench *bench, const struct kind *kind)
{
    double disk_bytes, memd_slowdown, kernel_slowdown;
    struct fleet bare, memd;

    for (unsigned i = 0; i < bench->guests; i++)
        content_guest(image_of(i), bench->guest_bytes / BENCH_PAGE_BYTES, i + 1);
    ksm_stop();
    fleet_start(bench, kind, SIDE_BARE, NULL, &bare);
    double bare_mib = note_mib(&bare, "bare", (double)used_bytes(&bare));
    daemon_configure("");
    pid_t daemon = daemon_start(bench);
    fleet_start(bench, kind, SIDE_MEMD, &bare, &memd);
    memd.daemon = daemon;
    for (unsigned i = 0; i < memd.n; i++)
        vm_enrol(&memd.vm[i], JOIN_ANY_CPU);
    measure_packed(bench, &bare, &memd, bare_mib);
    double memd_mib = measure_swapped(bench, &bare, &memd, &disk_bytes, &memd_slowdown);
    report_status(daemon_status(bench));
    fleet_end(&memd);
    daemon_stop(daemon);
    double kernel_mib = measure_kernel(bench, &bare, disk_bytes, &kernel_slowdown);
    fleet_end(&bare);
    report_raw(kind->group, memd_slowdown, "swapped_slowdown");
    report_raw(kind->group, kernel_slowdown, "kernel_slowdown");
    report_raw(kind->group, kernel_mib / memd_mib, "ksm_zram_ratio");
    report_value(kind->vs_kernel, kernel_mib, memd_mib,
                 memd_slowdown <= SLOWDOWN_MAX ? kernel_mib / memd_mib : 0);
}

void density_measure(const struct bench *bench)
{
    static const struct kind kind = {"density", "density", "density_slowdown", "density_vs_ksm_zram", false};

    measure_kind(bench, &kind);
}

void density_kvm_measure(const struct bench *bench)
{
    static const struct kind kind = {"density_kvm", "density_kvm", "density_kvm_slowdown",
                                     "density_kvm_vs_ksm_zram", true};

    if (access("/dev/kvm", R_OK | W_OK))
        bench_die("/dev/kvm: %s", strerror(errno));
    measure_kind(bench, &kind);
}
