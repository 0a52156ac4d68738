/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * load: what VMs want, made up.
 *
 * Guests are of four sizes; of 20, six are steady, six idle, five go through phases, two have bursts,
 * one grows. One in five has twice the shares of its size, one in ten a reservation of half its memory, one
 * in twenty a limit a quarter above the most it uses, one in twenty is never swapped, one in fifty has next
 * to no swap file. They begin one after the other in the first tenth of the run.
 *
 * Who has a balloon and who says what is spread evenly over them, and over what they do.
 */
#include "bench/policy-sim/sim.h"

#include <math.h>
#include <stdlib.h>

#define MIB_PAGES 256.0
#define RISKY     0.2 /* of guests without an agent, in whose VMM nobody has set deflate-on-oom */
#define MUTE      0.1 /* and those whose driver has no statistics */

/* ---------------------------------------------------------------- chance */

static uint64_t next(struct sim_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

double sim_uniform(struct sim_random *random, double from, double to)
{
    return from + (to - from) * (double)(next(random) >> 11) * 0x1p-53;
}

bool sim_happens(struct sim_random *random, double probability)
{
    return sim_uniform(random, 0, 1) < probability;
}

double sim_normal(struct sim_random *random)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += sim_uniform(random, 0, 1);
    return sum;
}

const char *sim_kind_name(enum sim_kind kind)
{
    static const char *const names[SIM_KINDS] = {"steady", "idle", "phased", "batch", "growing", "traced"};

    return names[kind];
}

/* ---------------------------------------------------------------- made up */

static void make_load(struct sim_vm *vm, size_t i, double seconds)
{
    static const struct {
        double low[2], high[2], period_s[2], churn;
    } of[SIM_KINDS] = {
        [SIM_STEADY] = {{0.25, 0.4}, {0, 0}, {0, 0}, 0.0002},
        [SIM_IDLE] = {{0.02, 0.06}, {0, 0}, {0, 0}, 0.0002},
        [SIM_PHASED] = {{0.1, 0.2}, {0.35, 0.6}, {120, 1200}, 0.0002},
        [SIM_BATCH] = {{0.04, 0.08}, {0.5, 0.8}, {300, 1200}, 0.0005},
        [SIM_GROWING] = {{0.1, 0.2}, {0.6, 0.9}, {1800, 3600}, 0.0002},
    };
    static const enum sim_kind kinds[20] = {0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 1, 2, 0, 1, 2, 0, 1, 3, 2, 4};
    enum sim_kind kind = kinds[i % 20];
    struct sim_random *r = &vm->random;

    vm->load = (struct sim_load){.kind = kind,
                                 .start_s = sim_uniform(r, 0, seconds / 10),
                                 .low = vm->guest * sim_uniform(r, of[kind].low[0], of[kind].low[1]),
                                 .high = vm->guest * sim_uniform(r, of[kind].high[0], of[kind].high[1]),
                                 .period_s = sim_uniform(r, of[kind].period_s[0], of[kind].period_s[1]),
                                 .churn = of[kind].churn};
}

void sim_load_make(struct sim_vm *vms, size_t n, double host, double overcommit, double seconds,
                   uint64_t seed)
{
    static const double sizes[] = {1, 2, 4, 8};
    double all = 0;

    for (size_t i = 0; i < n; i++) {
        struct sim_vm *vm = &vms[i];
        *vm = (struct sim_vm){.random = {seed * 1000003 + i}};
        snprintf(vm->name, sizeof vm->name, "vm%zu", i);
        vm->guest = sizes[(size_t)sim_uniform(&vm->random, 0, 4) & 3];
        all += vm->guest;
    }
    for (size_t i = 0; i < n; i++) {
        struct sim_vm *vm = &vms[i];
        struct sim_random *r = &vm->random;
        vm->guest *= host * overcommit / all;
        vm->ratio = sim_uniform(r, 0.25, 0.5);
        vm->swap_room = sim_happens(r, 0.02) ? vm->guest / 50 : vm->guest;
        make_load(vm, i, seconds);
        vm->double_shares = i / 20 % 5 == 4;
        if (vm->double_shares)
            vm->terms.shares = (uint32_t)(2 * BUDGET_SHARES_PER_MIB * vm->guest / MIB_PAGES);
        if (sim_happens(r, 0.1))
            vm->terms.reservation_bytes = (uint64_t)(vm->guest / 2 * SIM_PAGE);
        else if (vm->swap_room == vm->guest && sim_happens(r, 0.05))
            vm->terms.limit_bytes = (uint64_t)(fmax(vm->load.low, vm->load.high) * 1.25 * SIM_PAGE);
        vm->terms.swap_never = !vm->terms.limit_bytes && sim_happens(r, 0.05);
        vm->next_sample_s = vm->load.start_s + sim_uniform(r, 0, 30);
    }
}

/* Multiples of these, modulo 1, are evenly spread, also with one another. */
static double spread(size_t i, double step)
{
    return fmod((double)(i + 1) * step, 1);
}

static enum sim_speaks speaks(size_t i, const struct sim_mix *mix)
{
    double which = spread(i, 0.6180339887498949), rest = spread(i, 0.7548776662466927);

    double agents = fmax(0, mix->agents);

    if (which < agents)
        return SIM_AGENT;
    if (which >= agents + fmax(0, mix->stats))
        return SIM_BARE;
    return rest < MUTE ? SIM_MUTE : rest < MUTE + RISKY ? SIM_RISKY : SIM_STATS;
}

void sim_load_mix(struct sim_vm *vms, size_t n, const struct sim_mix *mix, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        struct sim_vm *vm = &vms[i];
        struct sim_random random = {seed * 7000003 + i};
        if (mix->agents >= 0 || mix->stats >= 0)
            vm->kernel.speaks = speaks(i, mix);
        if (mix->no_engine >= 0)
            vm->no_engine = vm->kernel.speaks && spread(i, 0.5698402909980532) < mix->no_engine;
        vm->kernel.share = sim_uniform(&random, 0.5, 0.8);
        vm->kernel.base = vm->guest * sim_uniform(&random, 0.02, 0.08);
        if (vm->load.kind != SIM_TRACED)
            vm->kernel.needed = -1;
    }
}

/* How much it has used before, when it begins: most guests have filled their memory with files at some time.
 */
static void begin(struct sim_vm *vm)
{
    double used = vm->guest * sim_uniform(&vm->random, 0.6, 1);

    vm->want = vm->load.low;
    vm->touched = used > vm->want ? used : vm->want;
    vm->hot = vm->want;
    vm->cooling = vm->touched - vm->want;
}

static void make_up(struct sim_vm *vm, double now_s)
{
    const struct sim_load *l = &vm->load;
    bool was_low = vm->want <= l->low;

    if (now_s < vm->next_change_s)
        return;
    switch (l->kind) {
    case SIM_PHASED:
        vm->want = was_low ? l->high : l->low;
        vm->next_change_s = now_s + l->period_s * sim_uniform(&vm->random, 0.3, 0.7);
        break;
    case SIM_BATCH:
        vm->want = was_low ? l->high : l->low;
        vm->next_change_s = now_s + (was_low ? sim_uniform(&vm->random, 30, 120)
                                             : l->period_s * sim_uniform(&vm->random, 0.5, 1.5));
        break;
    case SIM_GROWING:
        vm->want = l->low + (l->high - l->low) * fmin(1, (now_s - l->start_s) / l->period_s);
        vm->next_change_s = now_s + 1;
        break;
    default:
        vm->want = l->low * sim_uniform(&vm->random, 0.9, 1.1);
        vm->next_change_s = now_s + 60;
        break;
    }
}

bool sim_load_now(struct sim_vm *vm, double now_s)
{
    if (vm->load.kind == SIM_TRACED)
        return sim_trace_follow(vm, now_s);
    if (!vm->touched)
        begin(vm);
    make_up(vm, now_s);
    return true;
}

void sim_load_free(struct sim_vm *vms, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(vms[i].load.point);
    free(vms);
}
