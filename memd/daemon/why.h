/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * why: the last decisions about a VM, as budget.h explains them, and in words.
 *
 * A look that decides as the one before it adds to that one's entry; an order that is still being carried out
 * is part of the decision that gave it. So an entry is a stretch of time in which one rule decided. Its
 * numbers are those of its latest decision. The oldest of WHY_KEPT entries goes first.
 */
#ifndef MEMD_DAEMON_WHY_H
#define MEMD_DAEMON_WHY_H

#include "memd/daemon/balloon_policy.h"
#include "memd/daemon/budget.h"
#include "memd/daemon/policy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WHY_KEPT       32u
#define WHY_TEXT_BYTES 640

struct why_entry {
    uint64_t first_ns, last_ns, looks;
    uint64_t orders, ordered_bytes; /* in that time */
    bool dry_run;                   /* decided, and not ordered */
    struct budget_why why;
    struct budget_order order; /* the last one; pages 0: none */
    struct budget_vm vm;       /* what was known of it */
    uint64_t target_bytes;
    bool has_balloon; /* that is moved by the policy: */
    struct balloon_verdict balloon;
    uint64_t balloon_bytes; /* it is asked for */
    double tax, stall_some, stall_full, refault_percent, stall_percent;
    uint64_t dry_until_ns, no_swap_ns;
    struct policy_answer answer; /* to the last order before */
};

/* Of a VM; all zero is empty. */
struct why_ring {
    struct why_entry *entry;
    unsigned capacity, n, at; /* at: the oldest */
};

/* Note a decision; without memory for one more entry it is not. */
void why_note(struct why_ring *ring, const struct why_entry *entry);
/* 0: the latest; up to n - 1. */
const struct why_entry *why_entry_at(const struct why_ring *ring, unsigned back);
void why_free(struct why_ring *ring);
size_t why_bytes(const struct why_ring *ring);

/* The entry of one look: plan `i` of it. */
struct why_entry why_of(const struct policy_look *look, size_t i, const struct policy_vm *vm, bool dry_run,
                        uint64_t now_ns);

/* The decision in plain words, the rule first. Returns `text`. */
const char *why_text(const struct why_entry *entry, uint64_t now_ns, char text[WHY_TEXT_BYTES]);

#endif
