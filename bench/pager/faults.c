/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see faults.h. All of a guest is ordered out; while it is parked, pages of it are
 * touched one by one, then the rest is packed, and more are touched. Just before, the same is done without
 * memd, by the same process in memory of its own. Twice each: with the server on the CPU of whoever touches,
 * where a fault costs least and the share of memd's own work is largest, and on another, where waking it up
 * is most of the time. The worse of the two ratios counts.
 *
 * The engine's own counters must say that what was touched was parked, or packed.
 */
#include "bench/pager/faults.h"

#include "bench/common/daemon.h"
#include "bench/common/report.h"
#include "bench/pager/content.h"
#include "bench/pager/vm.h"

#include <stdio.h>

#define NPAGES       16384u
#define TOUCHES      2000u /* of each sort and round */
#define SERVED_SHARE 0.99
#define PARK_TRIES   6u
#define PARK_S       0.6 /* a second after the last page was parked it is packed */
#define SERVER_CPU   0
#define MOST         0.97 /* of the pages must go out: a few may have been written, or pinned, a moment ago */

enum place { PLACE_SAME, PLACE_OTHER, NPLACES };
static const char *const place_names[NPLACES] = {"same", "other"};
enum tier { TIER_PARKED, TIER_PACKED, NTIERS };
static const char *const tier_names[NTIERS] = {"parked", "packed"};
static const enum guest_stat fault_stats[NTIERS] = {STAT_PARKED_FAULTS, STAT_PACKED_FAULTS};

/* ns of the rounds */
struct figures {
    double floor[NTIERS][NPLACES][BENCH_ROUNDS_MAX], memd[NTIERS][NPLACES][BENCH_ROUNDS_MAX];
};

static struct floor how(enum tier tier, enum place place)
{
    return (struct floor){.server_cpu = SERVER_CPU,
                          .toucher_cpu = place == PLACE_SAME ? SERVER_CPU : SERVER_CPU + 1,
                          .npages = TOUCHES,
                          .packed = tier == TIER_PACKED};
}

static double measure_one(const struct vm *vm, enum guest_op op, enum tier tier, enum place place,
                          unsigned round)
{
    const struct guest_order order = {.op = op, .floor = how(tier, place)};
    struct guest_answer answer = vm_ask(vm, &order);
    const char *side = op == GUEST_FLOOR ? "floor" : "memd";

    report_raw("faults", answer.value[0], "%s_%s_%s_p50_%u_ns", side, tier_names[tier], place_names[place],
               round);
    report_raw("faults", answer.value[1], "%s_%s_%s_p99_%u_ns", side, tier_names[tier], place_names[place],
               round);
    return answer.value[0];
}

static void measure_tier(const struct vm *vm, enum tier tier, unsigned round, struct figures *figures)
{
    double before = vm_stat(vm, fault_stats[tier]);

    for (enum place place = 0; place < NPLACES; place++)
        figures->memd[tier][place][round] = measure_one(vm, GUEST_FAULTS, tier, place, round);
    double served = vm_stat(vm, fault_stats[tier]) - before;
    if (served < SERVED_SHARE * NPLACES * TOUCHES)
        bench_die("only %.0f of %u pages were %s when they were touched: the machine is too busy", served,
                  NPLACES * TOUCHES, tier_names[tier]);
}

/* Orders all of it out, and returns while it is parked: for a second, before it is packed. What has been
 * written lately does not go, so after a pass in which memd had other things to do it is tried again. */
static void park(const struct bench *bench, const struct vm *vm)
{
    char words[64];

    snprintf(words, sizeof words, "pageout %s --bytes %luM", vm->name,
             vm->npages * BENCH_PAGE_BYTES / BENCH_MIB);
    for (unsigned tries = 0; tries < PARK_TRIES; tries++) {
        daemon_control(bench, "settle --timeout 60"); /* what was written lately is known: nothing */
        daemon_control_begin(bench, words);
        double until_s = bench_now_s() + PARK_S;
        while (bench_now_s() < until_s) {
            if (vm_stat(vm, STAT_PARKED) >= MOST * NPAGES)
                return;
            bench_sleep(0.002);
        }
        daemon_control_end();
        vm_control(bench, vm, "pagein", "");
    }
    bench_die("the guest cannot be parked: too many of its pages count as written lately");
}

static void measure_round(const struct bench *bench, const struct vm *vm, unsigned round,
                          struct figures *figures)
{
    for (enum tier tier = 0; tier < NTIERS; tier++)
        for (enum place place = 0; place < NPLACES; place++)
            figures->floor[tier][place][round] = measure_one(vm, GUEST_FLOOR, tier, place, round);
    park(bench, vm);
    measure_tier(vm, TIER_PARKED, round, figures);
    daemon_control_end();
    measure_tier(vm, TIER_PACKED, round, figures);
    vm_control(bench, vm, "pagein", "");
    vm_check(vm);
}

static void conclude(const char *key, double floor[NPLACES][BENCH_ROUNDS_MAX],
                     double memd[NPLACES][BENCH_ROUNDS_MAX], unsigned rounds)
{
    double ratio = 0, floor_us = 0, memd_us = 0;

    for (enum place place = 0; place < NPLACES; place++) {
        double f = bench_median(floor[place], rounds) / 1e3, m = bench_median(memd[place], rounds) / 1e3;
        bench_say("%s, server on %s CPU: floor %.2f us, memd %.2f us (%.2f)", key,
                  place == PLACE_SAME ? "the same" : "another", f, m, m / f);
        if (m / f > ratio) {
            ratio = m / f;
            floor_us = f;
            memd_us = m;
        }
    }
    report_value(key, floor_us, memd_us, ratio);
}

void faults_measure(const struct bench *bench)
{
    static struct figures figures;
    const char *image = vm_image_path("faults");
    struct vm vm;

    content_packable(image, NPAGES);
    daemon_configure("swap = off");
    pid_t daemon = daemon_start(bench);
    vm_start(&vm, 0, image, NPAGES);
    vm_enrol(&vm, SERVER_CPU);
    for (unsigned round = 0; round < bench->rounds; round++)
        measure_round(bench, &vm, round, &figures);
    vm_end(&vm);
    daemon_stop(daemon);
    conclude("parked_over_floor", figures.floor[TIER_PARKED], figures.memd[TIER_PARKED], bench->rounds);
    conclude("packed_over_floor", figures.floor[TIER_PACKED], figures.memd[TIER_PACKED], bench->rounds);
}
