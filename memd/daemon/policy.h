/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * policy: what memory budgets are kept by, from look to look. Pure, as budget.h is: no I/O, no clock, no
 * threads; reclaim.c feeds it in the daemon, bench/policy-sim in the simulator.
 *
 * budget.h decides on a snapshot. Here is what is remembered of a VM between two snapshots - how fast it
 * needs its pages back, whether searches came back with too little, whether anything moves - how often there
 * is a look, and in which order the rules of budget.h are asked: limits, domains, the host.
 */
#ifndef MEMD_DAEMON_POLICY_H
#define MEMD_DAEMON_POLICY_H

#include "memd/daemon/budget.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POLICY_SHORT_NS                                                                      \
    100000000ull /* between two looks, while memory is short (hard, low, well above a limit) \
                  */
#define POLICY_BUSY_NS     250000000ull  /* where there is something to keep */
#define POLICY_REST_NS     1000000000ull /* else */
#define POLICY_DRY_COLD_NS 2000000000ull /* rounds find out meanwhile what is cold */
#define POLICY_DRY_ANY_NS  1000000000ull
#define POLICY_NO_SWAP_NS  10000000000ull /* until a swap file that was full is tried again */
#define POLICY_SILENT_NS   10000000000ull /* an order under way without anything moving */

/* What an order came back with. */
struct policy_answer {
    uint64_t at_ns; /* 0: there was none yet */
    uint64_t asked_pages, returned_pages;
    int error; /* positive errno, or 0 */
};

/* What is remembered of a VM. */
struct policy_vm {
    struct budget_faults seen;
    struct budget_rates rates;
    enum budget_state dry;
    uint64_t dry_ns, no_swap_ns; /* since when; 0: it is not */
    bool at_it;
    uint64_t moved,
        moved_ns;     /* pages that have ever moved, and when that grew last while it was at an order */
    uint64_t periods; /* of its samples */
    uint64_t home, home_before; /* pages that came home in this one, and in the one before */
    struct policy_answer answer;
};

/* What is seen of a VM with each look. */
struct policy_seen {
    struct budget_faults faults;
    uint64_t moved;   /* pages that have ever moved out */
    uint64_t periods; /* of samples of its working set that are over */
    bool at_it;       /* it has an order of ours */
};
void policy_measure(struct policy_vm *vm, const struct policy_seen *now);
/* What it uses: as samples say (0: not known, nor is this), and what has come home that they do not know of
 * yet. A VM that begins to use its memory would pay for it as for idle memory until the period of samples is
 * over, and what it brings home would be taken from it again. */
uint64_t policy_working_set(const struct policy_vm *vm, uint64_t sampled_bytes);
/* It was given an order, which takes the place of the last one. */
void policy_ordered(struct policy_vm *vm, uint64_t now_ns);
void policy_answered(struct policy_vm *vm, const struct budget_order *order, uint64_t pages, int error,
                     uint64_t now_ns);
/* It is at an order, and nothing moves: neither is it asked again nor counted on. */
bool policy_is_silent(const struct policy_vm *vm, uint64_t now_ns);
/* When what a VM is spared for may be over; 0: that is not a matter of time. */
uint64_t policy_dry_until_ns(const struct policy_vm *vm);

/* One look. */
struct policy_look {
    struct budget_policy policy;
    struct budget_scope host;
    size_t ndomains;
    struct budget_scope *domains;
    size_t n;
    struct budget_vm *vms;
    size_t *domain; /* of each VM: the index of its scope */
    struct budget_plan *plans;
    bool *member; /* room for n */
};

/* Make room for so many, and none in it yet. 0 or -ENOMEM, and nothing to close. */
int policy_look_open(struct policy_look *look, size_t nvms, size_t ndomains);
void policy_look_close(struct policy_look *look);
/* Fill the plans. */
void policy_decide(struct policy_look *look);
/* A scope is in hard or low, or a VM is above its limit. */
bool policy_is_short(const struct policy_look *look);

#endif
