/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * state: the core's state, for the core's own files. Everything in it belongs to the thread in core_run(),
 * but `calls` (call.h) and `stop`.
 *
 *   loop      epoll with callbacks               session   socket: hand-shake, regions, its end
 *   call      requests from other threads        channel   rings: records in and out
 *   domain    trust domains and their frames     matcher   hashes in, equal pages found
 *   store     frame files                        exports   bytes of new frames fetched and published
 *   index     frames and pages by hash           proposals pages told to merge
 *   holdings  who refers to what                 advisor   scan budgets (pure)
 *   vm        processes, regions, page maps      jobs      unmerge, settle, estimate
 *   place     where sockets and stores are       snapshot  everything, for users
 *   tick      what is done from time to time     ask       requests of users
 *   heirs     children of VMMs that map frames   mappers   processes that map a file
 *   budget    who gives memory back (pure)       reclaim   budgets watched, pageouts ordered
 *   policy    what it goes by from look to look  why       the last decisions, in words
 *   usage     what VMs and memd take of RAM      terms     reservations, limits, shares
 *                                                terms_file what users set of these, kept
 *   agents    memd-agent in guests                 agent_peer what one of them says
 *   inflate   balloons moved by the policy         balloon_policy what they may be asked for (pure)
 *   embed     balloons engines speak of
 */
#ifndef MEMD_DAEMON_STATE_H
#define MEMD_DAEMON_STATE_H

#include "memd/common/log.h"
#include "memd/daemon/advice.h"
#include "memd/daemon/agents.h"
#include "memd/daemon/call.h"
#include "memd/daemon/core.h"
#include "memd/daemon/exports.h"
#include "memd/daemon/inflate.h"
#include "memd/daemon/jobs.h"
#include "memd/daemon/loop.h"
#include "memd/daemon/pages.h"
#include "memd/daemon/proc.h"
#include "memd/daemon/reclaim.h"
#include "memd/daemon/session.h"
#include "memd/daemon/vm.h"
#include "memd/daemon/writes.h"

#include <urcu/list.h>

#define CORE_TICK_MS      100u
#define CORE_REST_TICK_MS 500u
#define CORE_FAST_TICK_MS 2u /* while a session waits for ring room */

struct core {
    struct core_config config;
    struct loop loop;
    struct calls calls;
    struct loop_source stop; /* eventfd */
    bool stopping;

    int lock_fd;                             /* run directory, locked while a daemon uses it */
    unsigned made_run_dirs, made_state_dirs; /* until the core is open: they go again if it fails */
    int store_fd;                            /* directory of the domains' directories */
    char store_path[512];
    char socket_path[300];
    struct loop_source listener;
    int uffd_fd;  /* /dev/userfaultfd, or -1 */
    int spare_fd; /* given up to turn away connections when there are no more fds */
    unsigned nnodes;
    uint64_t incarnation, started_ns, restarts;
    uint64_t store_file_bytes;
    uint64_t max_map_count;
    struct proc_memory memory;

    struct pages pages;
    struct store_quota quota;
    struct exports exports;
    struct jobs jobs;
    struct advice_shares advice;
    struct heirs_searches heirs;
    struct reclaim reclaim;
    struct inflate inflate;
    struct agents agents;
    struct writes writes;
    struct cds_list_head domains, vms, sessions;
    struct cds_list_head busy;    /* sessions with work left, session.busy_link */
    struct cds_list_head written; /* sessions whose down ring has unpublished records, session.written_link */
    struct cds_list_head ended;   /* sessions to free at the end of the turn, session.link */
    uint32_t nvms, nsessions, next_vm_id;
    uint64_t nawaited;
    unsigned nkept; /* domains whose files stay for the next daemon */
    bool merge_on;

    struct core_policy policy;
    struct core_counters departed; /* cumulative counters of VMs that have left */
    struct log_limit peer_log;     /* for what peers cause */
    struct log_limit warn_log;
    uint64_t tick_ns, slow_tick_ns, trimmed_ns;
    bool heap_trim_due; /* a VM has settled since the heap was trimmed */
    char warning[CORE_REASON_BYTES];
    uint64_t warned_ns;
};

/* A shortage to show until it has not been seen for a while; logged when it is new. */
void core_warn(struct core *core, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
