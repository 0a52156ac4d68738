/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * reclaim: keeps budgets. Looks at what is used (usage.h), decides (policy.h, budget.h), notes why (why.h),
 * and has engines take pages out of RAM (paging.h).
 *
 * The host has one budget, and domains of the configuration may have theirs. Without a budget the host's
 * available memory decides the state (free-soft, free-hard, free-low). An order is given to a VM when its
 * last one is answered, or if the new one is more urgent: so how fast pages leave is decided by how fast
 * engines and devices take them, and what a VM has to do at a time is bounded. An engine that finds less than
 * half of what was asked for is not asked to search so deep again for a while.
 *
 * A dry run decides and notes, and orders nothing; nor is a VM refused then.
 */
#ifndef MEMD_DAEMON_RECLAIM_H
#define MEMD_DAEMON_RECLAIM_H

#include "memd/common/log.h"
#include "memd/daemon/budget.h"
#include "memd/daemon/policy.h"
#include "memd/daemon/usage.h"
#include "memd/daemon/why.h"

#include <stdint.h>

struct core;
struct core_memory;
struct core_why;
struct domain;
struct terms_recalled;
struct vm;

struct reclaim {
    struct budget_scope host;
    struct budget_shown shown;
    uint64_t used_bytes, headroom_bytes; /* of all VMs and memd, whatever decides the state */
    double stall_some, stall_full;
    uint64_t looked_ns;
    uint64_t rest_until_ns;                  /* after a look: no other out of turn */
    uint32_t siblings_id, siblings_vms;      /* usage.c */
    bool is_short;                           /* as of the last look */
    bool budget_set, dry_run_set, file_read; /* terms_file.c */
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
    struct policy_vm policy;
    uint64_t target_bytes;
    struct why_ring why;
};

/* Once a tick. */
void reclaim_tick(struct core *core, uint64_t now_ns);
/* Now, or with the next tick if looks take too much of the time: something has happened that does not wait.
 */
void reclaim_look_now(struct core *core, uint64_t now_ns);
/* There is no budget and no limit to be kept, and the host has enough: a look now and then will do. */
bool reclaim_rests(const struct core *core);
/* An order of the daemon's own was answered. */
void reclaim_answered(struct vm *vm, const struct budget_order *own, uint64_t pages, int error);
/* Whether no new VM may join this domain, because memory is low; then ret_why says which. */
bool reclaim_refuses(struct core *core, const struct domain *domain, char *ret_why, size_t bytes);

/* Begin or end a dry run. */
void reclaim_set_dry_run(struct core *core, bool on);

/* The last decisions about a VM. 0, -ENOENT, -ENOMEM. */
int reclaim_explain(struct core *core, const char *vm, struct core_why **ret_why);
void reclaim_show(const struct core *core, struct core_memory *ret_memory);
void reclaim_show_domain(const struct domain *domain, struct core_memory *ret_memory);

#endif
