/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * balloon_rung: a balloon as one of the means of a look. balloon_policy.h judges a balloon, budget.h decides
 * what a VM is to give; here is what goes from one to the other and back. Pure, as those are: inflate.c feeds
 * it in the daemon, bench/policy-sim in the simulator.
 *
 * A look at all balloons, in this order: _see() each; what all of them hold is added up; for each, _judge(),
 * what _gives_back() says is ordered, and what can be had goes into the look of policy.h by _offer(), or by
 * _describe() if the VM has no engine. When that is decided, _carry_out() says which target to order, before
 * pages of the same VM are.
 */
#ifndef MEMD_DAEMON_BALLOON_RUNG_H
#define MEMD_DAEMON_BALLOON_RUNG_H

#include "memd/daemon/balloon_policy.h"
#include "memd/daemon/policy.h"

#include <stdbool.h>
#include <stdint.h>

struct balloon_rung {
    struct balloon_seen seen;
    struct balloon_memory memory;
    struct balloon_verdict verdict; /* of the last look */
};

/* What somebody has said of the guest, as struct balloon_seen has it; heard_ns 0: nobody has. */
struct balloon_word {
    uint64_t heard_ns, available_bytes;
    double stall_percent;
    uint64_t reread_bytes, oom_kills, alloc_stalls;
};

/* Whose word counts: the agent's; if that is old, what the balloon's statistics said since. */
void balloon_rung_hear(struct balloon_seen *seen, const struct balloon_word *agent,
                       const struct balloon_word *stats);
/* What is known of it now. `seen.excluded`: what the host knows to speak against it; what its guest says, or
 * does not say, is added. `deflates_on_oom`: the guest takes memory from its balloon before it kills. */
void balloon_rung_see(struct balloon_rung *rung, const struct balloon_seen *seen, bool deflates_on_oom);
/* Bytes it holds, or is about to, that the guest could have back. */
uint64_t balloon_rung_hidden(const struct balloon_rung *rung);
/* The most urgent of those that may ask it: its host, its domain (high: none), its own limit. */
enum budget_state balloon_rung_state(enum budget_state host, enum budget_state domain,
                                     const struct budget_terms *terms, uint64_t resident_bytes);
/* The verdict. `hidden_bytes`: of all balloons. Returns the bytes the host has got by a step that is there
 * since the last look, as far as it can see. */
uint64_t balloon_rung_judge(struct balloon_rung *rung, const struct budget_scope *host, uint64_t hidden_bytes,
                            enum budget_state state);
/* The target to order at once; 0: none. A dry run gives back what a guest needs, and nothing else. */
uint64_t balloon_rung_gives_back(const struct balloon_rung *rung, bool dry_run);
/* What can be had by it, into what is known of its VM. `answer`: of the VM's last order for pages. What a
 * step returns is a hint: no more is offered than may come without what is reserved. */
void balloon_rung_offer(const struct balloon_rung *rung, const struct policy_answer *answer,
                        struct budget_vm *vm);
/* A VM that takes part by its balloon alone: what its guest does not say to be available it uses. */
struct budget_vm balloon_rung_describe(const struct balloon_rung *rung, const struct budget_terms *terms);
/* The target to order for the plan of this VM; 0: none. `ret_bytes`: what the balloon is to take, as the
 * guest sees it, also where something speaks against ordering it now. */
uint64_t balloon_rung_carry_out(struct balloon_rung *rung, const struct budget_vm *vm,
                                const struct budget_plan *plan, bool dry_run, uint64_t *ret_bytes);
/* What the guest has said since the last look cannot wait for the next one. */
bool balloon_rung_is_urgent(const struct balloon_rung *rung);

#endif
