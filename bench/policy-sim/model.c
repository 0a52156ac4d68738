/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * model: a VM and the engine in it.
 *
 * A working set that grows takes in pages the VM has used before (REUSE of them) and fresh ones; of those
 * used before, as many have left RAM as of all that are cold. They are owed: the VM waits for each, as long
 * as the device takes. A working set that shrinks, or is replaced bit by bit, leaves pages behind that cool:
 * it takes a while until a round sees that they are not written any more. Cold pages are touched now and then
 * for no reason.
 *
 * The engine carries out one order at a time, as libmemd does: pages are parked for a while first; searches
 * for cold pages find what is known to be cold, and by mistake a few that are in use; others take what is
 * cold first, then anything. A swap order writes what it takes to the device, and what is in the pool.
 *
 * What the guest's balloon takes is gone from all of these; see guest.c.
 */
#include "bench/policy-sim/sim.h"

#include <errno.h>
#include <math.h>

#define REUSE        0.8     /* of what a working set takes in, was used before, if there is so much */
#define GROW_PER_S   0.1     /* of a VM's memory it can begin to use in a second */
#define COOL_S       4.0     /* until a page that is left alone is known to be cold */
#define STRAY_S      36000.0 /* between two touches of a cold page */
#define MISTAKES     0.01    /* of what is taken for cold, touched before a park of 100 ms is over */
#define PARK_SAVES   0.9     /* of these mistakes, where a park is longer: they are touched in time */
#define SAMPLE_S     30.0
#define SAMPLE_PAGES 128.0

static double less(double a, double b)
{
    return a > b ? a - b : 0;
}

double sim_resident(const struct sim_vm *vm)
{
    return vm->hot + vm->cooling + vm->cold + (vm->packed + vm->owed_packed) * vm->ratio;
}

/* ---------------------------------------------------------------- the guest */

/* So many pages used before become part of the working set. */
static void take_in(struct sim_vm *vm, double pages)
{
    double all = vm->cooling + vm->cold + vm->packed + vm->swapped, part = all > 0 ? pages / all : 0;

    part = part > 1 ? 1 : part;
    vm->hot += (vm->cooling + vm->cold) * part;
    vm->owed_packed += vm->packed * part;
    vm->owed_swapped += vm->swapped * part;
    vm->cooling *= 1 - part;
    vm->cold *= 1 - part;
    vm->packed *= 1 - part;
    vm->swapped *= 1 - part;
}

static void grow(struct sim_vm *vm, double pages)
{
    double before = vm->cooling + vm->cold + vm->packed + vm->swapped,
           fresh = less(vm->guest - vm->kernel.balloon, vm->touched);
    double used = pages * REUSE < before ? pages * REUSE : before;

    fresh = pages - used < fresh ? pages - used : fresh;
    take_in(vm, pages - fresh < before ? pages - fresh : before);
    vm->hot += fresh;
    vm->touched += fresh;
}

/* So many are not used any more. */
static void leave(struct sim_vm *vm, double pages)
{
    double all = vm->hot + vm->owed_packed + vm->owed_swapped, part = all > 0 ? pages / all : 0;

    part = part > 1 ? 1 : part;
    vm->cooling += vm->hot * part;
    vm->packed += vm->owed_packed * part;
    vm->swapped += vm->owed_swapped * part;
    vm->hot *= 1 - part;
    vm->owed_packed *= 1 - part;
    vm->owed_swapped *= 1 - part;
}

/* What waits for a page does not ask for another: so many pages can be owed at a time. */
static void use_memory(struct sim_vm *vm, const struct sim_device *device, double s)
{
    double most = vm->guest * GROW_PER_S * s, now = vm->hot + vm->owed_packed + vm->owed_swapped;
    double at_once = device->faults_at_once * s * 1e6;
    double waits =
        vm->owed_packed * device->packed_us / at_once + vm->owed_swapped * device->swapped_us / at_once;
    double replaced = now * vm->load.churn * s;

    if (replaced > 0) {
        leave(vm, replaced);
        take_in(vm, replaced);
    }
    now = vm->hot + vm->owed_packed + vm->owed_swapped;
    most *= less(1, waits);
    double want = vm->kernel.in_use;
    if (want > now)
        grow(vm, want - now < most ? want - now : most);
    else
        leave(vm, now - want);
    double cooled = vm->cooling * s / COOL_S;
    vm->cooling -= cooled;
    vm->cold += cooled;
}

/* So much of each. */
static void shrink(double *pages, double part)
{
    *pages *= 1 - part;
}

void sim_vm_discard(struct sim_vm *vm, double idle, double used)
{
    double all = vm->cooling + vm->cold + vm->packed + vm->swapped, part = all > 0 ? idle / all : 0;

    vm->touched = less(vm->touched, idle + used);
    part = part > 1 ? 1 : part;
    shrink(&vm->cooling, part);
    shrink(&vm->cold, part);
    shrink(&vm->packed, part);
    shrink(&vm->swapped, part);
    used += less(idle, all);
    all = vm->hot + vm->owed_packed + vm->owed_swapped;
    part = all > 0 ? used / all : 0;
    part = part > 1 ? 1 : part;
    shrink(&vm->hot, part);
    shrink(&vm->owed_packed, part);
    shrink(&vm->owed_swapped, part);
}

/* ---------------------------------------------------------------- faults */

void sim_note_wait(double waits[SIM_WAITS], double us, double pages)
{
    int exponent, bucket = 0;

    if (us > 1) /* a mantissa from a half on: quarters of it are near enough to those of the logarithm */
        bucket = (int)(8 * (frexp(us, &exponent) - 0.5)) + 4 * (exponent - 1);

    waits[bucket < SIM_WAITS ? bucket : SIM_WAITS - 1] += pages;
}

/* Pages come home from one place, as fast as they can. */
static double serve(struct sim_vm *vm, double *owed, double us, double most, double s,
                    double waits[SIM_WAITS])
{
    double served = *owed < most ? *owed : most;

    if (served <= 1e-9)
        return 0;
    double behind_us = *owed > most ? (*owed - most) / most * s * 1e6 : 0;
    sim_note_wait(waits, us + behind_us, served);
    vm->lost_s += served * us * 1e-6;
    *owed -= served;
    vm->hot += served;
    return served;
}

static void fault(struct sim_vm *vm, const struct sim_device *device, struct sim_share *share,
                  double waits[SIM_WAITS])
{
    double s = share->s, at_once = device->faults_at_once * s * 1e6, most = at_once / device->swapped_us;
    double stray_packed = vm->packed * s / STRAY_S, stray_swapped = vm->swapped * s / STRAY_S;

    double shared = vm->owed_swapped * share->read_part;
    share->read_wanted += vm->owed_swapped;
    vm->packed_faults +=
        serve(vm, &vm->owed_packed, device->packed_us, at_once / device->packed_us, s, waits);
    vm->swapped_faults +=
        serve(vm, &vm->owed_swapped, device->swapped_us, most < shared ? most : shared, s, waits);
    vm->packed -= stray_packed;
    vm->swapped -= stray_swapped;
    vm->cooling += stray_packed + stray_swapped;
    vm->packed_faults += stray_packed;
    vm->swapped_faults += stray_swapped;
    vm->lost_s += (stray_packed * device->packed_us + stray_swapped * device->swapped_us) * 1e-6;
}

/* ---------------------------------------------------------------- the engine */

void sim_vm_order(struct sim_vm *vm, const struct budget_order *order, uint64_t now_ns)
{
    vm->order = *order; /* a more urgent one ends the last */
    vm->left = (double)order->pages;
    vm->returned = vm->unwritten = 0;
    vm->ordered_ns = now_ns;
    policy_ordered(&vm->memory, now_ns);
}

static void answer(struct sim_vm *vm, int error, uint64_t now_ns)
{
    policy_answered(&vm->memory, &vm->order, (uint64_t)(vm->returned + 0.5), error, now_ns);
    vm->order = (struct budget_order){0};
}

/* Up to `most` pages leave for the pool; how many did. */
static double pack(struct sim_vm *vm, double most)
{
    const struct budget_order *o = &vm->order;
    double cold = most < vm->cold ? most : vm->cold, mistakes = 0, cooling = 0, hot = 0;

    if (o->all) {
        cooling = most - cold < vm->cooling ? most - cold : vm->cooling;
        hot = most - cold - cooling < vm->hot ? most - cold - cooling : vm->hot;
    } else {
        mistakes = cold * MISTAKES;
        mistakes = mistakes < vm->hot ? mistakes : vm->hot;
        double saved = o->park_ms > 100 ? mistakes * PARK_SAVES : 0;
        vm->parked += o->park_ms ? cold : 0;
        vm->unparked += saved;
        mistakes -= saved;
        cold -= mistakes;
    }
    vm->cold -= cold;
    vm->cooling -= cooling;
    vm->hot -= hot + mistakes;
    vm->packed += cold + cooling;
    vm->owed_packed += hot + mistakes;
    vm->taken_hot += hot + mistakes;
    return cold + mistakes + cooling + hot;
}

/* Up to `most` pages go from the pool to the device; how many did. */
static double write_out(struct sim_vm *vm, double most)
{
    double all = vm->packed + vm->owed_packed, room = less(vm->swap_room, vm->swapped + vm->owed_swapped);

    most = most < room ? most : room;
    most = most < all ? most : all;
    double part = all > 0 ? most / all : 0;
    vm->swapped += vm->packed * part;
    vm->owed_swapped += vm->owed_packed * part;
    vm->packed *= 1 - part;
    vm->owed_packed *= 1 - part;
    return most;
}

static void work(struct sim_vm *vm, const struct sim_device *device, struct sim_share *share, uint64_t now_ns)
{
    const struct budget_order *o = &vm->order;
    double most = device->pack_pages_per_s * share->s, taken = 0, written = 0;

    if (!o->pages || vm->trouble || now_ns - vm->ordered_ns < o->park_ms * 1000000ull)
        return;
    if (vm->left > 0) {
        most = most < vm->left ? most : vm->left;
        taken = pack(vm, most);
        vm->left = taken < most * 0.999 || vm->left - taken < 1 ? 0 : vm->left - taken;
        vm->returned += taken;
        vm->unwritten += o->swap ? taken : 0;
    }
    if (o->swap) {
        share->write_wanted += vm->packed + vm->owed_packed;
        written = write_out(vm, (vm->packed + vm->owed_packed) * share->write_part);
        vm->unwritten = less(vm->unwritten, written);
    }
    vm->taken += taken;
    vm->moved += taken + written;
    vm->written += written;
    bool full = o->swap && vm->swap_room - vm->swapped - vm->owed_swapped < 1;
    if (!vm->left && (vm->unwritten < 1 || full || vm->packed + vm->owed_packed < 1))
        answer(vm, full ? ENOSPC : 0, now_ns);
}

/* ---------------------------------------------------------------- what is seen of it */

/* As many samples as libmemd takes, of the memory that is there. */
static void sample(struct sim_vm *vm, double now_s)
{
    double all = vm->hot + vm->cooling + vm->cold, part = all > 0 ? vm->hot / all : 0;

    if (now_s < vm->next_sample_s || vm->no_engine)
        return;
    vm->next_sample_s = now_s + SAMPLE_S;
    vm->periods++;
    part += sim_normal(&vm->random) * sqrt(part * (1 - part) / SAMPLE_PAGES);
    double found = (part < 0 ? 0 : part > 1 ? 1 : part) * all;
    if (!vm->estimate || found > vm->estimate)
        vm->estimate = found;
    else
        vm->estimate += (found - vm->estimate) / 2;
    if (vm->estimate < 1)
        vm->estimate = 1;
}

bool sim_vm_is_quiet(const struct sim_vm *vm)
{
    return !vm->order.pages && vm->owed_packed + vm->owed_swapped < 1 && fabs(vm->hot - vm->want) < 1 &&
           sim_guest_is_quiet(vm);
}

void sim_vm_tick(struct sim_vm *vm, const struct sim_device *device, struct sim_share *share, uint64_t now_ns,
                 double waits[SIM_WAITS])
{
    sim_guest_tick(vm, share->s, (double)now_ns * 1e-9);
    use_memory(vm, device, share->s);
    fault(vm, device, share, waits);
    work(vm, device, share, now_ns);
    sample(vm, (double)now_ns * 1e-9);
}

void sim_vm_measure(struct sim_vm *vm, uint64_t now_ns)
{
    struct policy_seen now = {.faults = {now_ns, (uint64_t)vm->packed_faults, (uint64_t)vm->swapped_faults},
                              .moved = (uint64_t)vm->moved,
                              .periods = vm->periods,
                              .at_it = vm->order.pages};

    policy_measure(&vm->memory, &now);
}

struct budget_vm sim_vm_describe(const struct sim_vm *vm, uint64_t now_ns)
{
    bool can_swap = !vm->memory.no_swap_ns, silent = policy_is_silent(&vm->memory, now_ns);
    double own = vm->hot + vm->cooling + vm->cold, pool = (vm->packed + vm->owed_packed) * vm->ratio;

    return (struct budget_vm){.guest_bytes = (uint64_t)(vm->guest * SIM_PAGE),
                              .resident_bytes = (uint64_t)(sim_resident(vm) * SIM_PAGE),
                              .reclaimable_bytes = (uint64_t)(own * SIM_PAGE),
                              .loose_bytes = can_swap ? (uint64_t)(pool * SIM_PAGE) : 0,
                              .working_set_bytes =
                                  policy_working_set(&vm->memory, (uint64_t)(vm->estimate * SIM_PAGE)),
                              .rates = vm->memory.rates,
                              .terms = vm->terms,
                              .can_swap = can_swap,
                              /* that an engine is silent is for the policy to find out */
                              .excluded = vm->trouble && vm->trouble != BUDGET_SILENT ? vm->trouble
                                          : silent                                    ? BUDGET_SILENT
                                                                                      : BUDGET_INCLUDED,
                              .pending_bytes = vm->order.pages * (uint64_t)SIM_PAGE,
                              .pending = vm->order.state,
                              .dry = vm->memory.dry};
}
