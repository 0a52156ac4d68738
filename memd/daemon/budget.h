/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * budget: who gives memory back, and how much, when it becomes short. Pure functions: what is known in, a
 * plan out.
 *
 * A scope is what a budget is set for: all VMs, or those of a trust domain. How much of its budget is in use,
 * with the head-room below, decides its state; the names are ESXi's:
 *
 *   high  nothing is done but merging in the background
 *   soft  cold pages are packed, from those who have the most by their shares, gently: a VM that needs its
 *         pages back, or a host that waits for memory, is left alone
 *   hard  cold pages are packed and swapped as fast as the device takes them, whoever needs them back; what
 *         has been written lately goes, too, where there is nothing cold
 *   low   anything goes, at once; new VMs are refused, and an alarm is raised
 *
 * A state begins at its threshold and ends `back` per cent below, which is as far as its reclaim goes: from
 * there on the gentler one goes on. VMs that use far more than there is bring their pages back meanwhile, so
 * how memory is reclaimed may change several times a second. What users are told, and whether new VMs are let
 * in, does not: it goes up at once, and down when there has been less for BUDGET_CALM_NS.
 *
 * Who gives is decided by min-funding revocation with an idle-memory tax (C. A. Waldspurger, "Memory Resource
 * Management in VMware ESX Server", OSDI 2002, section 5): memory is taken from the VM that pays the fewest
 * shares for what it has,
 *
 *     rho = S / (P * (f + k * (1 - f))),   k = 1 / (1 - tau)
 *
 * where S are its shares, P the memory it has, f the part of it that is in use, and tau the tax on what is
 * idle. What is in use is the working set: while that is not known, or a search has just found nothing cold,
 * everything is taken to be (f = 1). Taking
 * page by page from the lowest rho ends when all rho are equal; budget_plan() computes that end.
 *
 * In hard and low as much more is taken as will have been needed back before the next look: a plan that only
 * made up for what is too much already would stay behind for ever.
 *
 * A VM with a balloon gives what its guest can spare by that (balloon_policy.h), and the rest by pages, or
 * the other way round where its balloon has returned too little; in low both give all of it at once.
 *
 * No order brings a VM below its reservation; merging may, which costs it nothing. One above its limit is
 * brought back to it in any state, as in hard, or if it is far above, as in low.
 *
 * Every plan says why it is as it is (struct budget_why): which rule decided, with the numbers it was decided
 * by. The rules are the code that plans; there is no second copy of them to explain the first.
 */
#ifndef MEMD_DAEMON_BUDGET_H
#define MEMD_DAEMON_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUDGET_SHARES_PER_MIB 10u /* of guest memory, unless a VM's shares are set: ESXi's "normal" */
#define BUDGET_SHARES_MAX     10000000u
/* Half and twice as many by its size: ESXi's "low" and "high", as struct budget_terms has them. */
#define BUDGET_SHARES_LOW     (UINT32_MAX - 1)
#define BUDGET_SHARES_HIGH    UINT32_MAX
#define BUDGET_REFAULTS_FLOOR 32.0 /* a second: so many are fine in the smallest VM */
#define BUDGET_SWAPPED_WEIGHT 8.0  /* faults on packed pages that one on a swapped page counts for */
#define BUDGET_RATE_TAU_S     10.0 /* a rate that falls is believed over this time; one that rises, at once */
#define BUDGET_HOME_TAU_S     1.0
#define BUDGET_HEADROOM_MOST  4u  /* one part in so many of the budget */
#define BUDGET_LIMIT_FAR      8u  /* one part in so many above its limit, a VM is brought back as in low */
#define BUDGET_ORDER_LEAST    16u /* pages: below that it is not worth waking an engine */
#define BUDGET_CALM_NS        10000000000ull

enum budget_state { BUDGET_HIGH, BUDGET_SOFT, BUDGET_HARD, BUDGET_LOW, BUDGET_STATES };
const char *budget_state_name(enum budget_state state);

/* Per cent of the budget that are in use where soft, hard and low begin; ends so many points below. */
struct budget_thresholds {
    double soft, hard, low, back;
};

struct budget_scope {
    uint64_t budget_bytes; /* 0: none, the state is high */
    uint64_t used_bytes, headroom_bytes;
    struct budget_thresholds thresholds;
    enum budget_state state; /* as of the last look */
};

/* The state for users. */
struct budget_shown {
    enum budget_state state;
    uint64_t below_ns;      /* since when it has been less; 0: it is not */
    enum budget_state most; /* in that time */
};

/* What a VM may count on, and must not exceed. */
struct budget_terms {
    uint64_t reservation_bytes;
    uint64_t limit_bytes; /* 0: none */
    uint32_t shares;      /* 0: by its size; up to BUDGET_SHARES_MAX, or a class's */
    bool swap_never;
    uint64_t writes_bytes; /* to its swap file in a day; 0: no limit of its own */
};

/* "low", "normal" (by its size), "high"; "custom": a number of its own. */
const char *budget_class_name(uint32_t shares);
bool budget_class_shares(const char *name, uint32_t *ret_shares); /* of the first three */

struct budget_policy {
    double tax;                    /* tau, below 1 */
    double refault_percent;        /* of the working set a minute that may be needed back in soft */
    double stall_percent;          /* of the time somebody may wait for memory in soft; 0: any */
    double look_s;                 /* until the next plan */
    double stall_some, stall_full; /* of the last 10 s, in per cent, as the kernel's PSI says */
};

/* Pages needed back, by what it takes to serve them; smoothed. Those that were parked cost next to nothing:
 * being asked for is what they are parked for. */
struct budget_rates {
    double packed_per_s, swapped_per_s;
    double home_per_s; /* both, smoothed over BUDGET_HOME_TAU_S whether they rise or fall */
};
struct budget_faults {
    uint64_t at_ns, packed, swapped;
};

/* Why a VM is not asked for anything, whatever its scopes want. What it was at is not counted on either, but
 * for a user's job, which has ended it. */
enum budget_excluded {
    BUDGET_INCLUDED,
    BUDGET_JOB,     /* a user's pageout or pagein has precedence */
    BUDGET_LOST,    /* its engine is not connected */
    BUDGET_JOINING, /* it is not known yet what it holds */
    BUDGET_PAUSED,  /* by its VMM, or because a forked child shares its pages: nothing may be moved */
    BUDGET_CLOSING, /* it is leaving */
    BUDGET_SILENT,  /* it is at an order, and nothing has moved for long */
    BUDGET_EXCLUDED_COUNT
};
const char *budget_excluded_name(enum budget_excluded excluded);

struct budget_vm {
    uint64_t guest_bytes;
    uint64_t resident_bytes;    /* what it costs: its own pages, its pool, its part of frames */
    uint64_t reclaimable_bytes; /* of that, guest pages of its own */
    uint64_t merged_bytes;      /* and its part of frames: these leave only for the swap file */
    uint64_t loose_bytes;       /* that may leave with any order, uncounted: parked pages, the pool */
    uint64_t working_set_bytes; /* 0: not known */
    struct budget_rates rates;
    struct budget_terms terms;
    bool can_swap; /* it has a swap file with room */
    uint64_t
        ineligible_bytes; /* guest pages that may not leave: locked, pinned, shared, ...; not reclaimable */
    enum budget_excluded excluded;
    uint64_t pending_bytes;    /* of an order it is at */
    enum budget_state pending; /* the state that order was given in */
    enum budget_state dry;     /* a search of this depth has found too little lately (budget_order) */
    uint64_t balloon_bytes;    /* its balloon may be asked for now, as the host would get it */
    uint64_t spare_bytes;      /* and within some seconds, by steps; with balloon_bytes */
    uint64_t inflating_bytes;  /* on its way from there */
    bool balloon_first; /* the balloon is the cheaper one; else it is asked for what pages do not give */
};

/* How deep an order searches: soft for cold pages to pack, hard for cold pages to pack and swap, low for
 * any. */
struct budget_order {
    uint64_t pages; /* 0: none */
    enum budget_state state, depth;
    bool all, swap;
    uint32_t park_ms;
};

/* Who asks. */
enum budget_by { BUDGET_BY_LIMIT, BUDGET_BY_DOMAIN, BUDGET_BY_HOST, BUDGET_BYS };
const char *budget_by_name(enum budget_by by);

/* The rule that decided. */
enum budget_reason {
    BUDGET_UNASKED,      /* none of its scopes is short, and it is within its limit */
    BUDGET_ENOUGH,       /* what is under way already is all that is wanted */
    BUDGET_EXCLUDED,     /* budget_vm.excluded says why */
    BUDGET_AT_IT,        /* its last order is as urgent, and not answered yet */
    BUDGET_INELIGIBLE,   /* what it has is locked, pinned, shared, ... */
    BUDGET_NOTHING_LEFT, /* it has no pages of its own that could leave */
    BUDGET_DRY,          /* searches have found too little lately */
    BUDGET_REFAULTS,     /* soft: it needs back what has gone */
    BUDGET_STALLS,       /* soft: the host waits for memory */
    BUDGET_RESERVED,     /* it has no more than its reservation */
    BUDGET_PRICE,        /* others have more for their shares, taxed */
    BUDGET_SMALL,        /* it is less than an order is worth */
    BUDGET_ORDERED,
    BUDGET_GIVEN_BACK, /* by no budget: its guest needs memory, and its balloon was let go (inflate.h) */
    BUDGET_REASONS
};
const char *budget_reason_name(enum budget_reason reason);

/* The decision, and what it was made of. Of a limit, `budget_bytes` is the limit, and there is no price. */
struct budget_why {
    enum budget_by by;
    enum budget_reason reason;
    enum budget_state state;              /* of the scope that asks; of a limit, as in which it is kept */
    uint64_t budget_bytes, charged_bytes; /* of the scope; charged: used, and head-room */
    uint64_t wanted_bytes;                /* from all of its VMs, without what is under way */
    uint64_t has_bytes, floor_bytes;      /* of the VM: less what is under way; cannot be brought below now */
    double shares, taxed_bytes;           /* what it is charged for, idle memory at k times */
    double price;                         /* taxed bytes a share may have */
    double ease;                          /* budget_ease() */
    bool paced;                           /* the order is as large as one may be in this state */
};

struct budget_plan {
    uint64_t target_bytes; /* what it is to come down to; what it has, if nothing is asked of it */
    struct budget_order order;
    uint64_t balloon_bytes; /* of its balloon; below budget_vm.balloon_bytes */
    struct budget_why why;
    struct budget_seller { /* of budget_plan() */
        double shares, active, floor, has, ease;
        enum budget_reason spared;
    } seller;
};

/* The state a scope is in now. */
enum budget_state budget_next_state(const struct budget_scope *scope);
void budget_show(struct budget_shown *shown, enum budget_state state, uint64_t now_ns);
/* Bytes in use above what its state ends at. */
uint64_t budget_excess(const struct budget_scope *scope);
/* What is kept free because merged pages may be written all at once: this share of what sharing saves. */
uint64_t budget_headroom(uint64_t sharing_bytes, uint64_t budget_bytes, unsigned percent);

/* Move the rates on from `before` to `now`. Counters that went back (a new engine) change nothing. */
void budget_measure(struct budget_rates *rates, const struct budget_faults *before,
                    const struct budget_faults *now);
/* How hard a VM may be pressed in soft: 1 as planned, 0 not at all. */
double budget_ease(const struct budget_policy *policy, const struct budget_vm *vm);

/* Plans for VMs above their limits; the others' begin with no order. */
void budget_plan_limits(const struct budget_policy *policy, size_t n, const struct budget_vm *vms,
                        struct budget_plan *ret_plans);
/* Add what a scope asks of its VMs: those whose bit in `member` is set. Of two orders the more urgent counts,
 * of equal ones the larger; without one, what the more urgent scope was refused for. */
void budget_plan(const struct budget_scope *scope, enum budget_by by, const struct budget_policy *policy,
                 size_t n, const struct budget_vm *vms, const bool *member, struct budget_plan *plans);

#endif
