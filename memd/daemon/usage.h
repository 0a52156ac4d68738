/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * usage: what VMs and memd take of the host's RAM, as the kernel counts it.
 *
 * Used is the sum of
 *   - the anonymous memory of every VMM: guest RAM of its own, parked and packed pages, and all else the
 *     program has allocated (its file pages, which it shares with others and the kernel can drop, are not
 *     counted);
 *   - the anonymous memory of memd;
 *   - the blocks of the frame stores, mapped or not;
 *   - page maps and rings, which engine and daemon share.
 * That is the PSS of all these processes together, but for their file pages, and the store blocks nobody
 * maps. It is read from /proc/PID/statm: smaps would tell each page's owner, and walk all of them.
 *
 * Several engines of one process share its anonymous memory by the guest pages they have. Of a process that
 * cannot be read (hidepid), what its engines say is taken instead.
 */
#ifndef MEMD_DAEMON_USAGE_H
#define MEMD_DAEMON_USAGE_H

#include <stdint.h>

struct core;
struct domain;
struct vm;

/* Of one VM. */
struct usage {
    uint64_t own_bytes;         /* without its part of the frames */
    uint64_t resident_bytes;    /* with it */
    uint64_t reclaimable_bytes; /* guest pages among them that could leave */
    uint64_t merged_bytes;      /* its part of the frames */
    uint64_t ineligible_bytes;  /* guest pages that may not: locked, pinned, shared, ... */
};

/* Look anew at all VMs. Returns what all of it takes. */
uint64_t usage_measure(struct core *core);
/* Of a domain's VMs and stores, as of the last look at them. */
uint64_t usage_of_domain(const struct domain *domain);

#endif
