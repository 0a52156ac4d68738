/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * balloon_policy: what the balloon of a VM may be asked for, and when it has to give back. Pure: what is
 * known in, a verdict out; no I/O, no clock, no threads.
 *
 * budget.h decides how much a VM is to give. Here is how much of that its guest can spare:
 *
 *   what it can spare   the guest's MemAvailable less a reserve: 1/8 of what it has, from 32 MiB to 1 GiB,
 *                       twice that without an agent; more after it has been asked for too much. Never more
 *                       than what the host sees of it, never below its floor: what a guest says is a hint,
 *                       believed at once when it falls, over BALLOON_RISE_S when it rises: a guest that is
 *                       given memory is about to use it
 *   slowly in           at most half of what it can spare in a step, an eighth of what it has in soft; the
 *                       next when that one is there, for long enough that the guest can have said how it
 *                       feels without: what it waited for memory while the balloon filled is no need
 *   out at once         a guest that needs memory gets all of it, whatever the host's state: what it does
 *                       not touch costs the host nothing. It needs some when it has less than half of its
 *                       reserve available, or soon will, as fast as what it uses grows; waits for memory; or
 *                       has had to kill
 *   some out at once    a guest that reads again what it had to drop (an agent says so; what is available is
 *                       page cache, too, and in use) gets as much more as it reads again in 2 s, an eighth of
 *                       what it has at least, and twice as much each time until it reads nothing again, but
 *                       in low. It spares nothing for 5 s, twice as long each time that the last step is why,
 *                       or until it hardly runs any more, unless that is how it reads. What it goes on to
 *                       read with all its memory it reads in vain: no reason for more, until it becomes twice
 *                       as much. One that begins to use more, and will have less than twice its reserve, gets
 *                       some while memory is not short
 *   in time             a guest without an agent is heard every few seconds only: nothing is taken from it
 *                       unless it deflates its balloon before it kills
 *   dead band           1/64 of what it has, from 4 to 64 MiB, is not worth a step
 *   back-off            a guest that needed memory is left alone for 5 s; one that needs it soon after it was
 *                       asked for some, or does not come to its target, longer: twice as long each time,
 *                       128 s at most
 *   stalled             a target it does not come nearer to for 3 s is set to where it is
 *   let go              a guest that nobody has heard for 15 s, or nothing may be taken from, gets all of it:
 *                       nothing is decided by old numbers
 *
 * How much memory the host got for a step is remembered: pages the guest never touched give nothing, and a
 * guest that has only such ones is asked by other means first (balloon_policy_is_first()). The host sees how
 * many there are at most: what is asked for beyond these gives something (balloon_policy_yield()).
 */
#ifndef MEMD_DAEMON_BALLOON_POLICY_H
#define MEMD_DAEMON_BALLOON_POLICY_H

#include "memd/daemon/budget.h"

#include <stdbool.h>
#include <stdint.h>

#define BALLOON_STALE_NS      15000000000ull
#define BALLOON_STALLED_NS    3000000000ull
#define BALLOON_BACKOFF_NS    5000000000ull
#define BALLOON_RISE_S        5.0
#define BALLOON_BACKOFF_MAX   128000000000ull
#define BALLOON_BLAME_NS      10000000000ull /* so soon after a step a need is its doing */
#define BALLOON_BLAME_SOME_NS 2000000000ull  /* and so soon what is read again */
#define BALLOON_FORGIVE_NS    60000000000ull /* without a need: the back-off is halved */
#define BALLOON_REST_NS       600000000ull /* after a step: if the guest waits for memory then, it says so */
#define BALLOON_REST_HARD_NS \
    300000000ull                   /* where memory is short: what it waits for most it has said by then */
#define BALLOON_STALL_PERCENT 10.0 /* of the time some task of the guest waits for memory */
#define BALLOON_AHEAD_NS      200000000ull /* until the next report, and until the first memory is there */
/* Between two reports: over less, how fast a guest uses more says nothing. */
#define BALLOON_GROWS_NS_MIN 20000000ull
/* What is read again: so much in a second is a lack, one part in so many of what it has, between these. */
#define BALLOON_REREAD_PART   256u
#define BALLOON_REREAD_LEAST  (1ull << 20)
#define BALLOON_REREAD_MOST   (8ull << 20)
#define BALLOON_LACKS_NS      2000000000ull /* what it reads again in so long is what it lacks */
#define BALLOON_GIVEN_NS      1000000000ull /* so soon after that more is lacking: twice as much */
#define BALLOON_VAIN_NS       2000000000ull /* with all its memory, until what it reads again is read in vain */
#define BALLOON_NEAR          (1ull << 20) /* some VMMs count in MiB */
#define BALLOON_US_PAGE       2.2 /* of a step: 7 GiB in 4.1 s, lkml 2017-07 "virtio-balloon: optimization" */
#define BALLOON_US_PAGE_PAGED 10.3 /* to pack a page, docs/architecture.md */
#define BALLOON_RETURNED_MIN  0.05

/* Why a balloon is not moved by the policy, whatever is wanted. */
enum balloon_excluded {
    BALLOON_INCLUDED,
    BALLOON_OFF, /* `memctl balloon auto` is off for it */
    BALLOON_NOT_READY /* no VMM, no device, no driver, somebody else's monitor */,
    BALLOON_BLIND,     /* the VMM does not say how far the guest has got */
    BALLOON_MUTE,      /* neither statistics nor an agent: nobody knows what it can spare */
    BALLOON_RISKY,     /* no agent to say in time that it needs memory, and it kills before it deflates */
    BALLOON_MIGRATING, /* it is on its way to another host */
    BALLOON_LOCKED,    /* its memory is locked or pinned (mlock, VFIO): a balloon returns nothing */
    BALLOON_EXCLUDED_COUNT
};
const char *balloon_excluded_name(enum balloon_excluded excluded);
/* Nothing may be asked of it, but what it has lost it gets back. */
bool balloon_policy_returns(enum balloon_excluded excluded);

enum balloon_rule {
    BALLOON_RULE_EXCLUDED,
    BALLOON_RULE_STALE,   /* not heard for long: let go */
    BALLOON_RULE_NEED,    /* the guest needs memory: given back */
    BALLOON_RULE_REREADS, /* it reads again what it had to drop: some is given back */
    BALLOON_RULE_GROWS,   /* it begins to use more, and memory is not short: the same */
    BALLOON_RULE_ROOM,    /* there is room for all of it: given back */
    BALLOON_RULE_STALLED, /* does not get to its target: frozen where it is */
    BALLOON_RULE_MOVING,  /* on its way to a target */
    BALLOON_RULE_BACKOFF,
    BALLOON_RULE_WAITS, /* for the guest to say how it feels after the last step */
    BALLOON_RULE_SMALL, /* what it can spare is within the dead band */
    BALLOON_RULE_SPARE, /* it can give some */
    BALLOON_RULES
};
const char *balloon_rule_name(enum balloon_rule rule);

/* Whether the guest runs at all, by its CPU time as the host sees it. */
enum balloon_activity { BALLOON_ACTIVITY_UNKNOWN, BALLOON_IDLE, BALLOON_BUSY };

/* What is known of a balloon and its guest. Sizes are what is left to the guest, as everywhere. */
struct balloon_seen {
    uint64_t now_ns;
    enum balloon_excluded excluded;
    uint64_t ram_bytes, actual_bytes, target_bytes; /* target 0: none was set */
    uint64_t min_bytes, max_bytes;                  /* max 0: its RAM */
    uint64_t resident_bytes;                        /* what the host sees of it; 0: it does not */
    /* the guest's word */
    uint64_t heard_ns; /* 0: never */
    bool speaks_up;    /* when something has changed; else it is asked from time to time */
    uint64_t available_bytes;
    double stall_percent;  /* of the time some task waited for memory, lately */
    uint64_t reread_bytes; /* that it has ever read again because there was no room for them */
    uint64_t oom_kills, alloc_stalls;
    bool has_room; /* the budget has room for what all balloons hold */
    enum balloon_activity activity;
};

/* What is remembered of one. */
struct balloon_memory {
    uint64_t step_ns, step_bytes, step_resident; /* the last step: when, how much, what the host saw before */
    uint64_t reached_ns;                         /* 0: it is not there yet */
    uint64_t moved_ns, actual_bytes;             /* when it last got anywhere, and how far */
    uint64_t backoff_ns, hold_until_ns, needed_ns;
    uint64_t alone_ns; /* since when nothing may be asked of it; 0: something may */
    uint64_t oom_kills, alloc_stalls;
    uint64_t said_ns, said_bytes;            /* its last report: when, and what was available */
    uint64_t reread_bytes;                   /* and what it had read again */
    bool spoke_up;                           /* who said so: its agent, or the statistics of its balloon */
    uint64_t given_ns, given_bytes;          /* because of that: when, and how much */
    uint64_t some_backoff_ns, some_until_ns; /* and for how long it is left alone then */
    uint64_t kept_ns; /* since when it was only left alone, because there was nothing to give; 0: it is not */
    bool reads_idle;  /* a step made it read again though it hardly ran: that does not tell when its work is
                         over */
    uint64_t full_ns; /* since when it has all; 0: it does not */
    double vain_per_s; /* so much a second it reads again with all its memory, and more would not help */
    uint64_t vain_ns;
    double believed; /* bytes available, as they are gone by */
    uint64_t believed_ns;
    double returned; /* part of a step the host got back; 0: not known */
    bool is_step;    /* of the policy: a target of ours is what it goes for */
};

struct balloon_verdict {
    enum balloon_rule rule;
    enum balloon_excluded excluded;
    uint64_t set_bytes;     /* a target to set at once; 0: none */
    uint64_t offer_bytes;   /* what a step may take */
    uint64_t pending_bytes; /* on its way to the host */
    uint64_t spare_bytes, reserve_bytes, available_bytes;
    uint64_t actual_bytes, target_bytes, hold_ns; /* hold: of the back-off, that is left */
    double returned;                              /* part of the last step the host got back */
    uint64_t untouched_bytes; /* of what it has, that the host does not hold; UINT64_MAX: not known */
    uint64_t band_bytes;      /* less is not worth a step */
};

/* Look at it; what is given back, and where a target is frozen, is the verdict's to say. `state`: the most
 * urgent of what asks. */
void balloon_policy_look(struct balloon_memory *memory, const struct balloon_seen *seen,
                         enum budget_state state, struct balloon_verdict *ret_verdict);
/* Whether it will say that the guest needs memory; and that it reads again what it had to drop. */
bool balloon_policy_is_needed(const struct balloon_memory *memory, const struct balloon_seen *seen);
bool balloon_policy_rereads(const struct balloon_memory *memory, const struct balloon_seen *seen);
bool balloon_policy_grows(const struct balloon_memory *memory, const struct balloon_seen *seen);
/* What the host gets of `bytes` more in the balloon, by what it got of the last step. At worst the guest
 * gives everything first that it has never touched. */
uint64_t balloon_policy_yield(const struct balloon_verdict *v, uint64_t bytes);
/* And how much more it is to hold, for the host to get so much. */
uint64_t balloon_policy_asks(const struct balloon_verdict *v, uint64_t bytes);
/* What it is to be set to, to get `bytes` of it. */
uint64_t balloon_policy_step(struct balloon_memory *memory, const struct balloon_seen *seen, uint64_t bytes);
/* The target was not taken. */
void balloon_policy_refused(struct balloon_memory *memory, uint64_t now_ns);

/* Whether the balloon is asked before pages are packed: what a page costs either way, by what it returned
 * last time. `paged`: the part of the last order that came back, 1 if there was none. */
bool balloon_policy_is_first(double returned, double paged);

/* Whether a budget has room for `hidden_bytes` more. */
bool balloon_policy_has_room(const struct budget_scope *scope, uint64_t hidden_bytes);

#endif
