/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check: what must hold, whatever the load.
 *
 * Nobody excluded gets an order; no order asks for what is reserved, and no VM is brought below its
 * reservation by one; where it can be done, all targets together are within what the state reclaims to; a VM
 * above its limit comes down to it soon. Nothing is taken by a balloon whose guest cannot say that it needs
 * it, nor below its floor; a guest with an agent does not kill because of its balloon, and has memory soon
 * when it is short. A run in which it did not has violations.
 */
#include "bench/policy-sim/sim.h"

#include <stdarg.h>

#define LIMIT_SLACK  1.10 /* of its limit, what a VM may have while pages come home */
#define LIMIT_S      60.0 /* it may be above that for so long */
#define TARGET_SLACK 1e-6 /* of all memory, for rounding */
#define SHORT_S      5.0  /* a guest with an agent may be short of what its balloon holds for so long */

void sim_check_violated(struct sim_result *result, double now_s, const char *format, ...)
{
    char text[120];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!result->violations++)
        snprintf(result->first_violation, sizeof result->first_violation, "%.1f s: %s", now_s, text);
}

static void check_balloon(struct sim_result *result, double now_s, const struct sim_vm *vm,
                          const struct budget_plan *plan)
{
    const struct balloon_verdict *v = &vm->kernel.rung.verdict;

    if (plan->balloon_bytes &&
        (vm->kernel.speaks == SIM_BARE || vm->kernel.speaks == SIM_MUTE || vm->kernel.speaks == SIM_RISKY))
        sim_check_violated(result, now_s, "%s cannot say what it needs, and its balloon was asked", vm->name);
    if (plan->balloon_bytes > balloon_policy_yield(v, v->offer_bytes) + 1)
        sim_check_violated(result, now_s, "the balloon of %s was asked for more than it offers", vm->name);
}

void sim_check_plan(struct sim_result *result, double now_s, const struct sim_vm *vm,
                    const struct budget_vm *seen, const struct budget_plan *plan)
{
    uint64_t reserved = seen->terms.reservation_bytes, asked = plan->order.pages * (uint64_t)SIM_PAGE;

    if (seen->excluded && (asked || plan->balloon_bytes))
        sim_check_violated(result, now_s, "%s is excluded (%s) and was asked for %.0f MiB", vm->name,
                           budget_excluded_name(seen->excluded),
                           (double)(asked + plan->balloon_bytes) / (1 << 20));
    if (asked && reserved && seen->resident_bytes < reserved + seen->loose_bytes + asked)
        sim_check_violated(result, now_s, "%s has %.0f MiB and was asked for %.0f of the %.0f reserved",
                           vm->name, (double)seen->resident_bytes / (1 << 20), (double)asked / (1 << 20),
                           (double)reserved / (1 << 20));
    uint64_t under_way = seen->pending_bytes + seen->inflating_bytes;
    if (plan->target_bytes < reserved && plan->target_bytes + under_way < seen->resident_bytes)
        sim_check_violated(result, now_s, "%s has a target below its reservation", vm->name);
    if ((plan->why.reason == BUDGET_ORDERED) != (asked || plan->balloon_bytes))
        sim_check_violated(result, now_s, "%s: an order and its reason differ", vm->name);
    check_balloon(result, now_s, vm, plan);
}

/* Where all targets together are to end, if what cannot be had leaves that. */
void sim_check_sum(struct sim_result *result, double now_s, const struct policy_look *look)
{
    double targets = 0, floors = 0, all = (double)look->host.budget_bytes;
    double end = (double)(look->host.used_bytes + look->host.headroom_bytes - budget_excess(&look->host));

    if (look->host.state < BUDGET_HARD) /* in soft those that are left alone have time */
        return;
    for (size_t i = 0; i < look->n; i++) {
        targets += (double)look->plans[i].target_bytes;
        floors += look->plans[i].seller.floor;
    }
    if (floors <= end && targets > end + all * TARGET_SLACK)
        sim_check_violated(result, now_s, "targets add up to %.0f MiB, and %.0f could be kept",
                           targets / (1 << 20), end / (1 << 20));
}

void sim_check_limit(struct sim_result *result, double now_s, struct sim_vm *vm, const struct budget_vm *seen,
                     double s)
{
    double limit = (double)vm->terms.limit_bytes / SIM_PAGE;

    /* what is packed is in RAM, and may be more; a guest that needs what its balloon could give keeps it */
    bool stays = vm->no_engine || vm->terms.swap_never || !seen->can_swap;

    if (!limit || stays || seen->excluded || vm->trouble || sim_resident(vm) <= limit * LIMIT_SLACK) {
        vm->above_limit_s = 0;
        return;
    }
    vm->above_limit_s += s;
    if (vm->above_limit_s > LIMIT_S && vm->above_limit_s - s <= LIMIT_S)
        sim_check_violated(result, now_s, "%s is above its limit of %.0f MiB for long: %.0f", vm->name,
                           limit / 256, sim_resident(vm) / 256);
}

void sim_check_tick(struct sim_result *result, double now_s, const struct sim_vm *vm,
                    const struct sim_before *before)
{
    double reserved = (double)vm->terms.reservation_bytes / SIM_PAGE, has = sim_resident(vm);
    const struct sim_guest *g = &vm->kernel;
    bool paged = vm->taken > before->taken, filled = vm->balloons.filled > before->filled;

    if ((paged || filled) && has + 1 < reserved && has + 1 < vm->touched && has < before->resident)
        sim_check_violated(result, now_s, "%s was brought to %.0f of %.0f reserved pages%s", vm->name, has,
                           reserved, paged ? "" : " by its balloon");
    if (filled && vm->guest - g->balloon + 1 < g->floor)
        sim_check_violated(result, now_s, "%s was left %.0f pages, below its floor of %.0f", vm->name,
                           vm->guest - g->balloon, g->floor);
    if (g->speaks != SIM_AGENT)
        return;
    if (vm->balloons.kills > before->kills)
        sim_check_violated(result, now_s, "%s has an agent, and had to kill: its balloon holds %.0f MiB",
                           vm->name, g->balloon / 256);
    if (g->short_s > SHORT_S)
        sim_check_violated(result, now_s, "%s is short of memory for long, and its balloon holds %.0f MiB",
                           vm->name, g->balloon / 256);
}
