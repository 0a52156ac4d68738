/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see balloon_rung.h. */
#include "memd/daemon/balloon_rung.h"

#include "memd/common/less.h"
#define PAGE_BYTES 4096u

void balloon_rung_hear(struct balloon_seen *seen, const struct balloon_word *agent,
                       const struct balloon_word *stats)
{
    bool is_old = !agent->heard_ns || less(seen->now_ns, agent->heard_ns) > BALLOON_STALE_NS;
    const struct balloon_word *word = is_old && stats->heard_ns > agent->heard_ns ? stats : agent;

    seen->speaks_up = word == agent && agent->heard_ns;
    seen->heard_ns = word->heard_ns;
    seen->available_bytes = word->available_bytes;
    seen->stall_percent = word->stall_percent;
    seen->reread_bytes = word->reread_bytes;
    seen->oom_kills = word->oom_kills;
    seen->alloc_stalls = word->alloc_stalls;
}

void balloon_rung_see(struct balloon_rung *rung, const struct balloon_seen *seen, bool deflates_on_oom)
{
    bool has_room = rung->seen.has_room;

    rung->seen = *seen;
    rung->seen.has_room = has_room;
    if (seen->excluded)
        return;
    if (!seen->heard_ns)
        rung->seen.excluded = BALLOON_MUTE;
    else if (!seen->speaks_up && !deflates_on_oom)
        rung->seen.excluded = BALLOON_RISKY;
}

uint64_t balloon_rung_hidden(const struct balloon_rung *rung)
{
    const struct balloon_seen *seen = &rung->seen;
    uint64_t max = seen->max_bytes && seen->max_bytes < seen->ram_bytes ? seen->max_bytes : seen->ram_bytes;
    uint64_t has = seen->target_bytes && seen->target_bytes < seen->actual_bytes ? seen->target_bytes
                                                                                 : seen->actual_bytes;

    return balloon_policy_returns(seen->excluded) && max > has ? max - has : 0;
}

enum budget_state balloon_rung_state(enum budget_state host, enum budget_state domain,
                                     const struct budget_terms *terms, uint64_t resident_bytes)
{
    if (terms->limit_bytes && resident_bytes > terms->limit_bytes)
        return BUDGET_LOW; /* there is nothing to give it */
    return domain > host ? domain : host;
}

uint64_t balloon_rung_judge(struct balloon_rung *rung, const struct budget_scope *host, uint64_t hidden_bytes,
                            enum budget_state state)
{
    const struct balloon_memory before = rung->memory;
    uint64_t saw = before.step_resident, sees = rung->seen.resident_bytes;

    rung->seen.has_room = balloon_policy_has_room(host, hidden_bytes);
    balloon_policy_look(&rung->memory, &rung->seen, state, &rung->verdict);
    if (!before.is_step || before.reached_ns || !rung->memory.reached_ns || !sees || saw <= sees)
        return 0;
    return saw - sees < before.step_bytes ? saw - sees : before.step_bytes;
}

uint64_t balloon_rung_gives_back(const struct balloon_rung *rung, bool dry_run)
{
    enum balloon_rule rule = rung->verdict.rule;
    bool can_wait = rule == BALLOON_RULE_ROOM || rule == BALLOON_RULE_REREADS || rule == BALLOON_RULE_GROWS;

    return dry_run && can_wait ? 0 : rung->verdict.set_bytes;
}

/* Of `bytes`, what it can take if the host gets all of it, and all that leaves besides, and what is reserved
 * stays. */
static uint64_t unreserved(const struct budget_vm *vm, uint64_t pages, uint64_t bytes)
{
    uint64_t stays = vm->terms.reservation_bytes + vm->loose_bytes + vm->pending_bytes + pages * PAGE_BYTES;
    uint64_t most = vm->resident_bytes > stays ? vm->resident_bytes - stays : 0;

    return vm->terms.reservation_bytes && bytes > most ? most : bytes;
}

/* Whether its guest says that it uses all it has, and has not said so for too long without being given more.
 */
static bool is_believed(const struct balloon_rung *rung)
{
    const struct balloon_memory *memory = &rung->memory;
    uint64_t now_ns = rung->seen.now_ns;

    if (memory->kept_ns && now_ns - memory->kept_ns >= BALLOON_BLAME_NS)
        return false;
    switch (rung->verdict.rule) {
    case BALLOON_RULE_NEED:
    case BALLOON_RULE_REREADS:
    case BALLOON_RULE_GROWS:
        return true;
    case BALLOON_RULE_BACKOFF:
        return less(now_ns, memory->needed_ns) < BALLOON_BLAME_NS;
    default:
        return false;
    }
}

/* Samples tell after half a minute what its memory is used for, its guest at once: what it can spare it does
 * not use, and what it has just needed back it does. One that lies about its needs is believed for
 * BALLOON_BLAME_NS of each back-off, and gets no more than one that touches its memory. */
static uint64_t in_use(const struct balloon_rung *rung, const struct budget_vm *vm)
{
    uint64_t rest = less(vm->resident_bytes, vm->spare_bytes);

    if (is_believed(rung))
        return vm->resident_bytes;
    if (!vm->spare_bytes || (vm->working_set_bytes && vm->working_set_bytes < rest))
        return vm->working_set_bytes;
    return rest ? rest : PAGE_BYTES; /* 0 would be: not known */
}

void balloon_rung_offer(const struct balloon_rung *rung, const struct policy_answer *answer,
                        struct budget_vm *vm)
{
    const struct balloon_verdict *v = &rung->verdict;
    const struct balloon_seen *seen = &rung->seen;
    uint64_t moves = v->pending_bytes ? seen->actual_bytes - seen->target_bytes : 0;
    double paged = answer->asked_pages ? (double)answer->returned_pages / (double)answer->asked_pages : 1;
    uint64_t offer = unreserved(vm, 0, v->offer_bytes), gets = balloon_policy_yield(v, offer);

    vm->balloon_bytes = gets;
    if (v->rule == BALLOON_RULE_SPARE || v->rule == BALLOON_RULE_WAITS || v->rule == BALLOON_RULE_MOVING)
        vm->spare_bytes = balloon_policy_yield(v, unreserved(vm, 0, less(v->spare_bytes, moves)));
    vm->working_set_bytes = in_use(rung, vm);
    vm->inflating_bytes = v->pending_bytes;
    vm->loose_bytes += moves - v->pending_bytes; /* may come as well */
    vm->balloon_first = balloon_policy_is_first(offer ? (double)gets / (double)offer : v->returned, paged);
}

struct budget_vm balloon_rung_describe(const struct balloon_rung *rung, const struct budget_terms *terms)
{
    static const struct policy_answer nothing = {.asked_pages = 1}; /* there is no other means */
    const struct balloon_seen *seen = &rung->seen;
    bool known = seen->heard_ns && seen->actual_bytes > seen->available_bytes;
    struct budget_vm vm = {.guest_bytes = seen->ram_bytes,
                           .resident_bytes = seen->resident_bytes,
                           .working_set_bytes = known ? seen->actual_bytes - seen->available_bytes : 0,
                           .terms = *terms};

    balloon_rung_offer(rung, &nothing, &vm);
    return vm;
}

uint64_t balloon_rung_carry_out(struct balloon_rung *rung, const struct budget_vm *vm,
                                const struct budget_plan *plan, bool dry_run, uint64_t *ret_bytes)
{
    const struct balloon_verdict *v = &rung->verdict;
    uint64_t bytes = plan->balloon_bytes ? balloon_policy_asks(v, plan->balloon_bytes) : 0;

    if (bytes && bytes < v->band_bytes)
        bytes = v->band_bytes;
    if (bytes > v->offer_bytes)
        bytes = v->offer_bytes;
    bytes = unreserved(vm, plan->order.pages, bytes);
    *ret_bytes = bytes;
    if (!bytes || v->set_bytes || dry_run)
        return 0;
    return balloon_policy_step(&rung->memory, &rung->seen, bytes);
}

bool balloon_rung_is_urgent(const struct balloon_rung *rung)
{
    const struct balloon_seen *seen = &rung->seen;
    bool is_given = seen->target_bytes > seen->actual_bytes && /* all of it, and nobody takes it */
                    seen->target_bytes - seen->actual_bytes + BALLOON_NEAR >= balloon_rung_hidden(rung);

    return balloon_rung_hidden(rung) > BALLOON_NEAR && !is_given &&
           (balloon_policy_is_needed(&rung->memory, &rung->seen) ||
            balloon_policy_rereads(&rung->memory, &rung->seen) ||
            balloon_policy_grows(&rung->memory, &rung->seen));
}
