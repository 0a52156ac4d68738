/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see balloon_policy.h. */
#include "memd/daemon/balloon_policy.h"

#include "memd/common/less.h"

#include <assert.h>
#include <math.h>

#define MIB            (1ull << 20)
#define PAGE_BYTES     4096u
#define RESERVE_PART   8u
#define RESERVE_MIN    (32 * MIB)
#define RESERVE_MAX    (1024 * MIB)
#define UNHEARD        2u
#define STEP_PART      8u
#define BAND_PART      64u
#define BAND_MIN       (4 * MIB)
#define BAND_MAX       (64 * MIB)
#define RETURNED_TRUST 0.5 /* how much the last step counts */

const char *balloon_excluded_name(enum balloon_excluded excluded)
{
    static const char *const names[] = {"no",   "off",   "not-ready", "blind",
                                        "mute", "risky", "migrating", "locked"};

    static_assert(sizeof names / sizeof names[0] == BALLOON_EXCLUDED_COUNT, "a name for each");
    return names[excluded];
}

bool balloon_policy_returns(enum balloon_excluded excluded)
{
    return excluded == BALLOON_INCLUDED || excluded == BALLOON_MUTE || excluded == BALLOON_RISKY;
}

const char *balloon_rule_name(enum balloon_rule rule)
{
    static const char *const names[] = {"excluded", "stale",  "need",    "rereads", "grows", "room",
                                        "stalled",  "moving", "backoff", "waits",   "small", "spare"};

    static_assert(sizeof names / sizeof names[0] == BALLOON_RULES, "a name for each");
    return names[rule];
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Of what is computed from a guest's word, and may be more than there is. */
static uint64_t whole(double bytes)
{
    return bytes < 0x1p63 ? (uint64_t)bytes : 1ull << 63;
}

static uint64_t between(uint64_t value, uint64_t min, uint64_t max)
{
    return value < min ? min : value > max ? max : value;
}

static uint64_t max_of(const struct balloon_seen *seen)
{
    return seen->max_bytes && seen->max_bytes < seen->ram_bytes ? seen->max_bytes : seen->ram_bytes;
}

/* More after it was asked for too much: half as much again for each doubling of the back-off. Twice as much
 * without an agent: what is available is cache, too, and that its tasks wait for what of it they use, nobody
 * else says. */
static uint64_t reserve_of(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    uint64_t reserve = between(seen->actual_bytes / RESERVE_PART, RESERVE_MIN, RESERVE_MAX), more = 0;

    for (uint64_t backoff = memory->backoff_ns; backoff >= BALLOON_BACKOFF_NS && more < 2 * reserve;
         backoff /= 2)
        more += reserve / 2;
    return (reserve + more) * (seen->speaks_up ? 1 : UNHEARD);
}

static uint64_t band_of(const struct balloon_seen *seen)
{
    return between(seen->actual_bytes / BAND_PART, BAND_MIN, BAND_MAX);
}

/* ---------------------------------------------------------------- what happened since the last look */

static void back_off(struct balloon_memory *memory, uint64_t now_ns)
{
    memory->backoff_ns =
        memory->backoff_ns ? least(2 * memory->backoff_ns, BALLOON_BACKOFF_MAX) : BALLOON_BACKOFF_NS;
    memory->hold_until_ns = now_ns + memory->backoff_ns;
    memory->needed_ns = now_ns;
}

/* A step is there: how much of it the host got. Whatever else the VM did meanwhile is in it: a hint. */
static void note_returned(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    if (!seen->resident_bytes || !memory->step_resident || !memory->step_bytes)
        return;
    double part = (double)less(memory->step_resident, seen->resident_bytes) / (double)memory->step_bytes;
    part = part > 1 ? 1 : part < BALLOON_RETURNED_MIN ? BALLOON_RETURNED_MIN : part;
    memory->returned =
        memory->returned > 0 ? memory->returned + (part - memory->returned) * RETURNED_TRUST : part;
}

static bool is_there(const struct balloon_seen *seen)
{
    return seen->actual_bytes <= seen->target_bytes + BALLOON_NEAR;
}

static void note(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    if (memory->actual_bytes && seen->actual_bytes != memory->actual_bytes)
        memory->moved_ns = seen->now_ns;
    memory->actual_bytes = seen->actual_bytes;
    if (memory->is_step && !memory->reached_ns && is_there(seen)) {
        memory->reached_ns = seen->now_ns;
        note_returned(memory, seen);
    }
    if (seen->activity == BALLOON_BUSY)
        memory->reads_idle = false;
    if ((seen->activity == BALLOON_IDLE && !memory->reads_idle) ||
        less(seen->now_ns, memory->some_until_ns) > BALLOON_FORGIVE_NS) {
        memory->some_backoff_ns = memory->some_until_ns = 0;
        memory->reads_idle = false;
    }
    if (less(seen->now_ns, memory->needed_ns) > BALLOON_FORGIVE_NS)
        memory->kept_ns = 0;
    if (memory->backoff_ns && seen->now_ns - memory->needed_ns > BALLOON_FORGIVE_NS) {
        memory->backoff_ns = memory->backoff_ns > BALLOON_BACKOFF_NS ? memory->backoff_ns / 2 : 0;
        memory->needed_ns = seen->now_ns;
    }
}

/* Since before the guest's last report but one; only then what has changed meanwhile is its own doing: a
 * balloon that fills takes what is available, and makes the guest's kernel wait while it finds memory for it.
 */
static bool is_at_rest(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    if (seen->actual_bytes != memory->actual_bytes || (seen->target_bytes && !is_there(seen)))
        return false;
    return !memory->moved_ns || memory->said_ns >= memory->moved_ns + BALLOON_AHEAD_NS;
}

/* Its agent, and the statistics of its balloon, count from different beginnings. */
static bool is_counted(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    return memory->said_ns && memory->spoke_up == seen->speaks_up;
}

/* What the guest will have available when memory that is given back now gets there: less, as fast as it has
 * become less since its last report. */
static uint64_t available_soon(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    uint64_t ns = less(seen->heard_ns, memory->said_ns),
             lost = less(memory->said_bytes, seen->available_bytes);

    if (!is_counted(memory, seen) || ns < BALLOON_GROWS_NS_MIN || !is_at_rest(memory, seen))
        return seen->available_bytes;
    return less(seen->available_bytes, whole((double)lost * (double)BALLOON_AHEAD_NS / (double)ns));
}

/* Whether the guest needs memory, by what it has said since the last look. */
bool balloon_policy_is_needed(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    uint64_t reserve = reserve_of(memory, seen);
    bool counted = is_counted(memory, seen), killed = counted && seen->oom_kills > memory->oom_kills,
         stalled = counted && seen->alloc_stalls > memory->alloc_stalls;

    if (!balloon_policy_returns(seen->excluded) || !seen->heard_ns)
        return false;
    return available_soon(memory, seen) < reserve / 2 || killed ||
           (stalled && seen->available_bytes < reserve) ||
           (seen->stall_percent > BALLOON_STALL_PERCENT && is_at_rest(memory, seen));
}

/* Bytes a second that it has read again since its last report; 0: there is no new one. */
static double rereads_per_s(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    uint64_t ns = less(seen->heard_ns, memory->said_ns);

    if (!is_counted(memory, seen) || ns < BALLOON_GROWS_NS_MIN)
        return 0;
    return (double)less(seen->reread_bytes, memory->reread_bytes) / ((double)ns * 1e-9);
}

/* What it will have read again by BALLOON_LACKS_NS from now, if what it has is more than chance, and more
 * memory would help. */
static uint64_t rereads(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    double per_s = rereads_per_s(memory, seen);
    uint64_t bytes = less(seen->reread_bytes, memory->reread_bytes),
             lack =
                 between(seen->actual_bytes / BALLOON_REREAD_PART, BALLOON_REREAD_LEAST, BALLOON_REREAD_MOST);
    bool lacks =
        per_s >= (double)lack && per_s >= 2 * memory->vain_per_s && bytes >= BALLOON_REREAD_LEAST / 2;

    return lacks ? whole(per_s * (double)BALLOON_LACKS_NS * 1e-9) : 0;
}

/* What it reads again with all its memory is too large for it: a file, from one end to the other, again and
 * again. */
static void note_vain(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    double per_s = rereads_per_s(memory, seen);

    if (seen->actual_bytes + BALLOON_NEAR < max_of(seen))
        memory->full_ns = 0;
    else if (!memory->full_ns)
        memory->full_ns = seen->now_ns;
    if (memory->vain_per_s > 0 && seen->now_ns - memory->vain_ns > BALLOON_FORGIVE_NS) {
        memory->vain_per_s /= 2;
        memory->vain_ns = seen->now_ns;
    }
    if (!memory->full_ns || seen->now_ns - memory->full_ns < BALLOON_VAIN_NS || per_s <= memory->vain_per_s)
        return;
    memory->vain_per_s = per_s;
    memory->vain_ns = seen->now_ns;
}

bool balloon_policy_rereads(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    return balloon_policy_returns(seen->excluded) && rereads(memory, seen);
}

bool balloon_policy_grows(const struct balloon_memory *memory, const struct balloon_seen *seen)
{
    uint64_t soon = available_soon(memory, seen);

    return balloon_policy_returns(seen->excluded) && memory->said_ns &&
           seen->available_bytes - soon >= band_of(seen) && soon < 2 * reserve_of(memory, seen);
}

static bool needs(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    bool needed = balloon_policy_is_needed(memory, seen);

    memory->oom_kills = seen->oom_kills;
    memory->alloc_stalls = seen->alloc_stalls;
    memory->said_ns = seen->heard_ns;
    memory->said_bytes = seen->available_bytes;
    memory->reread_bytes = seen->reread_bytes;
    memory->spoke_up = seen->speaks_up;
    return needed;
}

/* ---------------------------------------------------------------- the verdict */

/* All of it back, unless it has, or is getting, all already. */
static bool give_back(struct balloon_memory *memory, const struct balloon_seen *seen,
                      struct balloon_verdict *v)
{
    uint64_t all = max_of(seen), aims = seen->target_bytes ? seen->target_bytes : seen->actual_bytes;

    if (aims + BALLOON_NEAR >= all)
        return false;
    v->set_bytes = all;
    memory->is_step = false;
    return true;
}

/* As much as it is about to read again, or as a step takes, and twice as much as the last time if that was
 * just now: what is not touched costs nothing. A balloon that fills is stopped. In low there is nothing to
 * give; but it is left alone. */
static bool give_some(struct balloon_memory *memory, const struct balloon_seen *seen, uint64_t bytes,
                      enum budget_state state, struct balloon_verdict *v)
{
    uint64_t all = max_of(seen), aims = seen->target_bytes ? seen->target_bytes : seen->actual_bytes;
    uint64_t has = least(all, seen->actual_bytes);
    bool goes_on = memory->given_ns && seen->now_ns - memory->given_ns < BALLOON_GIVEN_NS;

    if (aims + BALLOON_NEAR >= all)
        return false;
    if (goes_on && bytes < 2 * memory->given_bytes)
        bytes = 2 * memory->given_bytes;
    if (bytes < seen->actual_bytes / STEP_PART)
        bytes = seen->actual_bytes / STEP_PART;
    if (state == BUDGET_LOW) {
        v->pending_bytes = balloon_policy_yield(v, less(seen->actual_bytes, aims));
        return true;
    }
    memory->given_ns = seen->now_ns;
    memory->given_bytes = least(all, bytes);
    v->set_bytes = aims + least(all - aims, bytes);
    if (v->set_bytes < has)
        v->set_bytes = has;
    memory->is_step = false;
    return true;
}

/* What is available falls at once and rises slowly. */
static void believe(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    double now = (double)seen->available_bytes;

    if (!memory->believed_ns || now <= memory->believed)
        memory->believed = now;
    else
        memory->believed += (now - memory->believed) *
                            (1 - exp(-(double)(seen->now_ns - memory->believed_ns) * 1e-9 / BALLOON_RISE_S));
    memory->believed_ns = seen->now_ns;
}

/* What it can spare, as far as the host can see. */
static uint64_t spare_of(const struct balloon_memory *memory, const struct balloon_seen *seen,
                         uint64_t reserve)
{
    uint64_t spare = less(least(whole(memory->believed), seen->actual_bytes), reserve);

    return least(spare, less(seen->actual_bytes, seen->min_bytes));
}

/* Whether it is known how it feels with the last step. One that speaks up says so by saying nothing. */
static bool has_said(const struct balloon_memory *memory, const struct balloon_seen *seen,
                     enum budget_state state)
{
    uint64_t rest_ns = state < BUDGET_HARD ? BALLOON_REST_NS : BALLOON_REST_HARD_NS;

    if (memory->reached_ns && seen->now_ns - memory->reached_ns < rest_ns)
        return false;
    return seen->speaks_up || seen->heard_ns > memory->reached_ns;
}

static enum balloon_rule offer(struct balloon_memory *memory, const struct balloon_seen *seen,
                               enum budget_state state, struct balloon_verdict *v)
{
    bool inflates = seen->target_bytes && !is_there(seen);

    if (inflates && memory->is_step && seen->now_ns - memory->moved_ns > BALLOON_STALLED_NS) {
        back_off(memory, seen->now_ns);
        memory->is_step = false;
        v->set_bytes = seen->actual_bytes;
        return BALLOON_RULE_STALLED;
    }
    if (inflates) {
        v->pending_bytes = balloon_policy_yield(v, seen->actual_bytes - seen->target_bytes);
        return BALLOON_RULE_MOVING;
    }
    uint64_t until_ns =
        memory->some_until_ns > memory->hold_until_ns ? memory->some_until_ns : memory->hold_until_ns;
    if (seen->now_ns < until_ns) {
        v->hold_ns = until_ns - seen->now_ns;
        return BALLOON_RULE_BACKOFF;
    }
    /* more available than it has: that was said before the balloon moved */
    if (!has_said(memory, seen, state) || seen->available_bytes > seen->actual_bytes)
        return BALLOON_RULE_WAITS;
    v->band_bytes = band_of(seen);
    uint64_t step = v->spare_bytes / 2;
    if (state < BUDGET_HARD)
        step = least(step, seen->actual_bytes / STEP_PART);
    if (step < v->band_bytes)
        return BALLOON_RULE_SMALL;
    v->offer_bytes = step;
    return BALLOON_RULE_SPARE;
}

/* Whether it has been unheard, or nothing could be asked of it, for too long to keep anything from it. An
 * agent may be about to come back. */
static bool is_stale(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    if (!seen->excluded)
        memory->alone_ns = 0;
    else if (!memory->alone_ns)
        memory->alone_ns = seen->now_ns;
    return (memory->alone_ns && seen->now_ns - memory->alone_ns > BALLOON_STALE_NS) ||
           (!seen->excluded && !seen->heard_ns) ||
           (seen->heard_ns && seen->now_ns - seen->heard_ns > BALLOON_STALE_NS);
}

static void hold(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    bool blamed = memory->step_ns && seen->now_ns - memory->step_ns < BALLOON_BLAME_NS;

    if (blamed)
        back_off(memory, seen->now_ns);
    else if (memory->hold_until_ns < seen->now_ns + BALLOON_BACKOFF_NS)
        memory->hold_until_ns = seen->now_ns + BALLOON_BACKOFF_NS;
}

/* Longer each time only if it can be seen when its work is over: one that hardly runs while it reads again
 * waits for its disk. */
static void hold_some(struct balloon_memory *memory, const struct balloon_seen *seen)
{
    bool blamed = memory->step_ns && seen->now_ns - memory->step_ns < BALLOON_BLAME_SOME_NS;

    if (!memory->some_backoff_ns)
        memory->some_backoff_ns = BALLOON_BACKOFF_NS;
    else if (blamed && seen->activity == BALLOON_BUSY)
        memory->some_backoff_ns = least(2 * memory->some_backoff_ns, BALLOON_BACKOFF_MAX);
    if (blamed && seen->activity == BALLOON_IDLE)
        memory->reads_idle = true;
    if (memory->some_until_ns < seen->now_ns + memory->some_backoff_ns)
        memory->some_until_ns = seen->now_ns + memory->some_backoff_ns;
}

/* By what it has said since the last look: all of it, some, or nothing. What it is given it has needed. */
static bool give(struct balloon_memory *memory, const struct balloon_seen *seen, enum budget_state state,
                 struct balloon_verdict *v)
{
    uint64_t reread = rereads(memory, seen);
    bool grows = state == BUDGET_HIGH && balloon_policy_grows(memory, seen);

    note_vain(memory, seen);
    if (needs(memory, seen) && give_back(memory, seen, v))
        v->rule = BALLOON_RULE_NEED;
    else if ((reread || grows) && give_some(memory, seen, reread, state, v))
        v->rule = reread ? BALLOON_RULE_REREADS : BALLOON_RULE_GROWS;
    else
        return false;
    if (v->set_bytes)
        memory->kept_ns = 0;
    else if (!memory->kept_ns)
        memory->kept_ns = seen->now_ns;
    memory->needed_ns = seen->now_ns;
    if (v->rule == BALLOON_RULE_NEED)
        hold(memory, seen);
    else
        hold_some(memory, seen);
    memory->step_ns = 0; /* blamed once */
    return true;
}

void balloon_policy_look(struct balloon_memory *memory, const struct balloon_seen *seen,
                         enum budget_state state, struct balloon_verdict *ret_verdict)
{
    struct balloon_verdict *v = ret_verdict;

    *v = (struct balloon_verdict){.rule = BALLOON_RULE_EXCLUDED, .excluded = seen->excluded, .returned = 1};
    if (!balloon_policy_returns(seen->excluded)) {
        memory->alone_ns = 0;
        return;
    }
    note(memory, seen);
    if (seen->heard_ns)
        believe(memory, seen);
    v->reserve_bytes = reserve_of(memory, seen);
    v->available_bytes = seen->available_bytes;
    v->actual_bytes = seen->actual_bytes;
    v->target_bytes = seen->target_bytes;
    v->spare_bytes = spare_of(memory, seen, v->reserve_bytes);
    v->returned = memory->returned > 0 ? memory->returned : 1;
    v->untouched_bytes = seen->resident_bytes ? less(seen->actual_bytes, seen->resident_bytes) : UINT64_MAX;
    if (is_stale(memory, seen)) {
        if (give_back(memory, seen, v) || !seen->excluded)
            v->rule = BALLOON_RULE_STALE;
        return;
    }
    if (give(memory, seen, state, v))
        return;
    if (seen->has_room && state == BUDGET_HIGH && give_back(memory, seen, v)) {
        v->rule = BALLOON_RULE_ROOM;
        return;
    }
    if (!seen->excluded)
        v->rule = offer(memory, seen, state, v);
}

uint64_t balloon_policy_yield(const struct balloon_verdict *v, uint64_t bytes)
{
    uint64_t as_last = (uint64_t)((double)bytes * v->returned), at_worst = less(bytes, v->untouched_bytes);

    return as_last > at_worst ? as_last : at_worst;
}

uint64_t balloon_policy_asks(const struct balloon_verdict *v, uint64_t bytes)
{
    double as_last = (double)bytes / v->returned;
    uint64_t at_worst = bytes > UINT64_MAX - v->untouched_bytes ? UINT64_MAX : bytes + v->untouched_bytes;

    return as_last < (double)at_worst ? (uint64_t)as_last : at_worst;
}

uint64_t balloon_policy_step(struct balloon_memory *memory, const struct balloon_seen *seen, uint64_t bytes)
{
    bytes -= bytes % PAGE_BYTES;
    memory->step_ns = memory->moved_ns = seen->now_ns;
    memory->step_bytes = bytes;
    memory->step_resident = seen->resident_bytes;
    memory->reached_ns = 0;
    memory->is_step = true;
    return less(seen->actual_bytes, bytes);
}

void balloon_policy_refused(struct balloon_memory *memory, uint64_t now_ns)
{
    memory->is_step = false;
    back_off(memory, now_ns);
}

bool balloon_policy_is_first(double returned, double paged)
{
    returned = returned < BALLOON_RETURNED_MIN ? BALLOON_RETURNED_MIN : returned;
    paged = paged < BALLOON_RETURNED_MIN ? BALLOON_RETURNED_MIN : paged;
    return BALLOON_US_PAGE / returned <= BALLOON_US_PAGE_PAGED / paged;
}

bool balloon_policy_has_room(const struct budget_scope *scope, uint64_t hidden_bytes)
{
    struct budget_scope all = *scope;

    all.used_bytes += hidden_bytes;
    all.state = BUDGET_SOFT; /* below where it ends: no going back and forth */
    return !scope->budget_bytes || budget_next_state(&all) == BUDGET_HIGH;
}
