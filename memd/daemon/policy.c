/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see policy.h. */
#include "memd/daemon/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 4096u
/* One part in so many above its limit, a VM is in a hurry: some are above theirs all the time, and are
 * brought back with every look. */
#define LIMIT_SHORT 32u

/* ---------------------------------------------------------------- one VM */

static void measure_home(struct policy_vm *vm, const struct policy_seen *now)
{
    const struct budget_faults *before = &vm->seen, *faults = &now->faults;

    if (now->periods != vm->periods) {
        vm->periods = now->periods;
        vm->home_before = vm->home;
        vm->home = 0;
    }
    if (before->at_ns && faults->packed >= before->packed && faults->swapped >= before->swapped)
        vm->home += faults->packed - before->packed + faults->swapped - before->swapped;
}

void policy_measure(struct policy_vm *vm, const struct policy_seen *now)
{
    uint64_t now_ns = now->faults.at_ns;

    measure_home(vm, now);
    if (vm->seen.at_ns)
        budget_measure(&vm->rates, &vm->seen, &now->faults);
    vm->seen = now->faults;
    if (now->moved != vm->moved || now->at_it != vm->at_it)
        vm->moved_ns = now_ns;
    vm->moved = now->moved;
    vm->at_it = now->at_it;
    if (vm->dry && now_ns >= policy_dry_until_ns(vm))
        vm->dry = BUDGET_HIGH;
    if (vm->no_swap_ns && now_ns - vm->no_swap_ns > POLICY_NO_SWAP_NS)
        vm->no_swap_ns = 0;
}

uint64_t policy_working_set(const struct policy_vm *vm, uint64_t sampled_bytes)
{
    return sampled_bytes ? sampled_bytes + (vm->home + vm->home_before) * PAGE_BYTES : 0;
}

void policy_ordered(struct policy_vm *vm, uint64_t now_ns)
{
    vm->at_it = true;
    vm->moved_ns = now_ns;
}

void policy_answered(struct policy_vm *vm, const struct budget_order *order, uint64_t pages, int error,
                     uint64_t now_ns)
{
    vm->answer = (struct policy_answer){now_ns, order->pages, pages, error};
    vm->at_it = false;
    if (error == ENOSPC)
        vm->no_swap_ns = now_ns;
    if ((!error || error == ENOSPC || error == EDQUOT) && pages < order->pages / 2) {
        vm->dry = order->depth;
        vm->dry_ns = now_ns;
    }
}

bool policy_is_silent(const struct policy_vm *vm, uint64_t now_ns)
{
    return vm->at_it && now_ns > vm->moved_ns && now_ns - vm->moved_ns > POLICY_SILENT_NS;
}

uint64_t policy_dry_until_ns(const struct policy_vm *vm)
{
    if (!vm->dry)
        return 0;
    return vm->dry_ns + (vm->dry == BUDGET_LOW ? POLICY_DRY_ANY_NS : POLICY_DRY_COLD_NS);
}

/* ---------------------------------------------------------------- all of them */

int policy_look_open(struct policy_look *look, size_t nvms, size_t ndomains)
{
    /* also of none, so that NULL means that there is no memory */
    look->vms = calloc(nvms + 1, sizeof *look->vms);
    look->domain = calloc(nvms + 1, sizeof *look->domain);
    look->plans = calloc(nvms + 1, sizeof *look->plans);
    look->member = calloc(nvms + 1, sizeof *look->member);
    look->domains = calloc(ndomains + 1, sizeof *look->domains);
    look->n = look->ndomains = 0;
    if (look->vms && look->domain && look->plans && look->member && look->domains)
        return 0;
    policy_look_close(look);
    return -ENOMEM;
}

void policy_look_close(struct policy_look *look)
{
    free(look->vms);
    free(look->domain);
    free(look->plans);
    free(look->member);
    free(look->domains);
    *look = (struct policy_look){0};
}

void policy_decide(struct policy_look *look)
{
    budget_plan_limits(&look->policy, look->n, look->vms, look->plans);
    for (size_t d = 0; d < look->ndomains; d++) {
        if (!look->domains[d].state)
            continue;
        for (size_t i = 0; i < look->n; i++)
            look->member[i] = look->domain[i] == d;
        budget_plan(&look->domains[d], BUDGET_BY_DOMAIN, &look->policy, look->n, look->vms, look->member,
                    look->plans);
    }
    memset(look->member, true, look->n * sizeof *look->member);
    budget_plan(&look->host, BUDGET_BY_HOST, &look->policy, look->n, look->vms, look->member, look->plans);
}

bool policy_is_short(const struct policy_look *look)
{
    if (look->host.state >= BUDGET_HARD)
        return true;
    for (size_t d = 0; d < look->ndomains; d++)
        if (look->domains[d].state >= BUDGET_HARD)
            return true;
    for (size_t i = 0; i < look->n; i++) {
        uint64_t limit = look->vms[i].terms.limit_bytes;
        if (limit && look->vms[i].resident_bytes > limit + limit / LIMIT_SHORT)
            return true;
    }
    return false;
}
