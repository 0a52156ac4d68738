/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * reclaim: keeps budgets. Looks at what is used (usage.h), decides (budget.h), and has engines take pages out
 * of RAM (paging.h).
 *
 * The host has one budget, and domains of the configuration may have theirs. Without a budget the host's
 * available memory decides the state (free-soft, free-hard, free-low). An order is given to a VM when its
 * last one is answered, or if the new one is more urgent: so how fast pages leave is decided by how fast
 * engines and devices take them, and what a VM has to do at a time is bounded. An engine that finds less than
 * half of what was asked for is not asked to search so deep again for a while.
 */
#ifndef MEMD_DAEMON_RECLAIM_H
#define MEMD_DAEMON_RECLAIM_H

#include "memd/common/log.h"
#include "memd/daemon/budget.h"
#include "memd/daemon/usage.h"

#include <stdint.h>

struct core;
struct core_memory;
struct domain;
struct terms_recalled;
struct vm;

struct reclaim {
    struct budget_scope host;
    struct budget_shown shown;
    uint64_t used_bytes, headroom_bytes; /* of all VMs and memd, whatever decides the state */
    double stall_some, stall_full;
    uint64_t looked_ns;
    uint32_t siblings_id, siblings_vms; /* usage.c */
    bool budget_set, file_read;         /* terms_file.c */
    struct terms_recalled *recalled;
    unsigned nrecalled;
    bool alarm;
    struct log_limit log;
};

/* Of a VM. */
struct reclaim_vm {
    struct budget_terms terms;
    bool terms_set; /* by a user: kept for the next daemon */
    struct usage usage;
    bool has_siblings; /* other engines in its process */
    struct budget_faults seen;
    struct budget_rates rates;
    uint64_t target_bytes;
    enum budget_state dry;
    uint64_t dry_ns, no_swap_ns; /* since when; 0: it is not */
};

/* Once a tick. */
void reclaim_tick(struct core *core, uint64_t now_ns);
/* There is no budget and no limit to be kept, and the host has enough: a look now and then will do. */
bool reclaim_rests(const struct core *core);
/* An order of the daemon's own was answered. */
void reclaim_answered(struct vm *vm, const struct budget_order *own, uint64_t pages, int error);
/* Whether no new VM may join this domain, because memory is low; then ret_why says which. */
bool reclaim_refuses(struct core *core, const struct domain *domain, char *ret_why, size_t bytes);

void reclaim_show(const struct core *core, struct core_memory *ret_memory);
void reclaim_show_domain(const struct domain *domain, struct core_memory *ret_memory);

#endif
