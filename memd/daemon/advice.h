/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * advice: keeps what the advisor needs to know of each VM, and turns its plans into BUDGET records.
 *
 * Budgets are looked at with every tick and sent when they have changed enough to matter.
 */
#ifndef MEMD_DAEMON_ADVICE_H
#define MEMD_DAEMON_ADVICE_H

#include "memd/daemon/advisor.h"
#include "memd/wire.h"

struct core;
struct vm;

/* How many VMs digest and how many are steady, see advisor.h; as of the last tick. */
struct advice_shares {
    uint32_t digesting, steady;
    double weight;
};

/* Of one VM. Zeroed when its session becomes live. */
struct advice {
    struct advisor_counters seen; /* at the last tick */
    struct advisor_rates rates;
    bool digests;
    bool was_settled; /* at any time */
    uint32_t pages_per_s;
    uint64_t used_ns, used_cpu_ns; /* time and CPU counter at the last correction */
    struct wire_rec_budget sent;   /* type 0: none yet */
};

/* Once a tick: budgets that have changed become due. */
void advice_tick(struct core *core, uint64_t now_ns);
/* What is to be sent to a VM now: vm.advice.sent. */
void advice_make(struct vm *vm);

#endif
