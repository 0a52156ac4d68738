/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inflate: the balloons as a rung of the memory policy. What is known of each balloon and its guest
 * (balloons.h, agents.h, the kernel) goes to balloon_rung.h; what that says may be asked for goes into the
 * look of policy.h, and what the plan asks for, to the balloons' threads. Of the loop; waits for nobody.
 *
 * Only balloons that are on take part (`memctl balloon auto`, balloon-auto in memd.conf). The VM of a balloon
 * is the one of its name that has an engine; if there is none, it takes part by its balloon alone: what it
 * takes is then the anonymous memory of the process that listens at its VMM's socket, or, if that is not
 * known, what is left to the guest; and it counts for the host's budget.
 *
 * An agent that says that its guest needs memory is not kept waiting for the next look: inflate_heard().
 */
#ifndef MEMD_DAEMON_INFLATE_H
#define MEMD_DAEMON_INFLATE_H

#include "balloon-driver/backends/balloons.h"
#include "memd/daemon/balloon_rung.h"
#include "memd/daemon/loop.h"
#include "memd/daemon/policy.h"
#include "memd/daemon/why.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct core;
struct core_why;
struct vm;

struct inflate_one {
    bool there;  /* else nothing below says anything */
    int balloon; /* its number; balloons.h */
    bool on;
    const struct vm *vm; /* during a look: its engine; NULL: none */
    struct balloons_view view;
    struct budget_terms terms;
    uint64_t resident_bytes;
    uint64_t order_serial;   /* of view, when its answers were last looked at */
    uint64_t locked_look_ns; /* when it was last looked whether its memory is locked */
    bool locked;
    struct {
        uint64_t ns, process_ns, engine_ns;
    } cpu; /* what its process, and memd's threads in it, had taken when that was last looked at */
    enum balloon_activity activity;
    struct balloon_rung rung;
    struct why_ring why;
    struct policy_vm policy; /* empty: no orders for its pages */
};

/* What a user has said of the balloon of a VM: kept for the next daemon, and for a VM that comes again. */
struct inflate_kept {
    char vm[BALLOONS_VM_BYTES];
    bool has_auto, on;
    bool has_limits;
    uint64_t min_bytes, max_bytes; /* 0: none, whatever the configuration says */
};

#define INFLATE_KEPT_MAX (2 * BALLOONS_SLOTS)

struct inflate {
    struct balloons *balloons; /* NULL: there are none, nor will be */
    size_t n;
    uint64_t hidden_bytes;             /* of all balloons, as of the last look */
    struct inflate_one *one;           /* BALLOONS_SLOTS; by balloons_slot() */
    const struct balloons_spec *rules; /* what the configuration says of balloons, by name or pattern */
    size_t nrules;
    struct inflate_kept *kept; /* the oldest first */
    size_t nkept;
    struct loop_source asks; /* embed.h */
};

/* Before the loop runs. 0 or -errno. */
int inflate_open(struct core *core, struct balloons *balloons, const struct balloons_spec *rules,
                 size_t nrules);
/* The balloons are about to be closed: none is touched any more. */
void inflate_close(struct core *core);

/* The VM has a balloon that its engine speaks of: its number and port; as balloons_embed(). And no more. */
int inflate_embed(struct core *core, const char *vm, struct embedded **ret_port);
void inflate_leave(struct core *core, int balloon);

/* With every look: what is known of all of them. */
void inflate_measure(struct core *core, uint64_t now_ns);
/* What VMs take that have no engine. */
uint64_t inflate_used(const struct core *core);
/* Guests have less than they could: there is something to watch. */
bool inflate_is_out(const struct core *core);

/* Of a look: into what is known of a VM with an engine; VMs without one, after those. */
void inflate_describe(struct core *core, const struct vm *vm, struct budget_vm *vm_inout);
void inflate_fill(struct core *core, struct policy_look *look);
/* Carry out the plan of a VM with an engine, and say so in its entry; of those without. */
void inflate_carry_out_vm(struct core *core, const struct vm *vm, const struct budget_plan *plan,
                          struct why_entry *entry);
void inflate_carry_out(struct core *core, const struct policy_look *look, size_t from);

/* The agent of this VM has spoken. */
void inflate_heard(struct core *core, const char *vm);

/* Of the loop: see core_balloon_auto_set(). NULL: all. 0 or -ENOENT. */
int inflate_set(struct core *core, const char *vm, bool on);
/* The same: see core_balloon_limits_set(). */
int inflate_limit(struct core *core, const char *vm, const uint64_t *min_bytes, const uint64_t *max_bytes,
                  struct balloon_error *error);
/* The last decisions about a VM without an engine. 0, -ENOENT. */
int inflate_explain(const struct core *core, const char *vm, const struct why_ring **ret_why);

#endif
