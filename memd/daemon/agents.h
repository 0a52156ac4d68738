/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * agents: connections to memd-agent in guests.
 *
 * The daemon connects, whatever the VMM: to the socket of a virtio-serial port's chardev, to the socket of a
 * VMM's own vsock ("CONNECT 977"), or to a CID. Where they are is in the configuration, or found in
 * RUN_DIR/agents: NAME.sock is a chardev's, NAME.vsock a VMM's vsock. An agent belongs to the VM of its name.
 * If that VM has an engine, who listens at the socket must be root, memd's own user or the VM's.
 *
 * Nothing here waits: connections that fail are tried again later, with a growing pause, and what an agent
 * sends is read as fast as agent_peer.h allows.
 */
#ifndef MEMD_DAEMON_AGENTS_H
#define MEMD_DAEMON_AGENTS_H

#include "memd/daemon/agent_peer.h"
#include "memd/daemon/loop.h"

#include <time.h>
#include <urcu/list.h>

#define AGENTS_DIR_NAME     "agents"
#define AGENTS_RETRY_NS_MIN CLOCK_S
#define AGENTS_RETRY_NS_MAX (8 * CLOCK_S)
#define AGENTS_OPEN_NS      (5 * CLOCK_S) /* for a connection to come about */

struct core;
struct core_snapshot;

/* How to get to an agent. */
enum agent_route {
    AGENT_CHARDEV,   /* path: the bytes are the agent's */
    AGENT_VMM_VSOCK, /* path: ask for the port first */
    AGENT_VSOCK,     /* cid */
};

/* Of a connection. */
enum agent_phase {
    AGENT_CLOSED, /* until retry_ns */
    AGENT_OPENS,  /* connect() is under way */
    AGENT_ASKS,   /* the VMM was told the port and has not answered */
    AGENT_OPEN,   /* frames */
};

struct agent {
    struct cds_list_head link;
    struct core *core;
    char name[CORE_NAME_BYTES];
    enum agent_route route;
    char path[CORE_AGENT_PATH_MAX + 1];
    uint32_t cid;
    bool configured, seen; /* seen: in RUN_DIR/agents, by the scan under way */
    enum agent_phase phase;
    struct loop_source sock; /* fd -1: closed */
    bool watched;            /* in the loop; not while it may not be read */
    uint64_t since_ns, retry_ns, pause_ns;
    char answer[32]; /* of the VMM */
    unsigned nanswer;
    char why[CORE_REASON_BYTES]; /* it is refused */
    uint64_t job;
    struct agent_peer peer;
};

struct agents {
    struct cds_list_head list;
    unsigned n;
    bool full_warned;
    struct timespec dir_changed;
    uint64_t scanned_ns, looked_ns;
};

/* The configured ones, and the directory. */
void agents_open(struct core *core);
void agents_close(struct core *core);
/* Once a tick. */
void agents_tick(struct core *core, uint64_t now_ns);

/* What the agent of this VM has said; NULL: there is none. */
const struct agent_peer *agents_peer(const struct core *core, const char *vm);
/* Of the loop: see core_reclaim_start(). */
int agents_reclaim(struct core *core, const char *vm, uint64_t bytes, uint32_t timeout_ms, uint64_t *ret_job);
/* Nobody waits for this job any more. */
void agents_leave(struct core *core, uint64_t job);
/* Fill snapshot->agents. 0 or -ENOMEM. */
int agents_show(struct core *core, struct core_snapshot *snapshot, uint64_t now_ns);

/* ---- between agents.c and agents_find.c */

/* NULL: no more are taken, or memory is short. */
struct agent *agent_new(struct core *core, const char *name);
void agent_free(struct agent *agent);
/* Try to connect at the next tick. */
void agent_retry(struct agent *agent);

void agents_find_configured(struct core *core);
void agents_find_in_dir(struct core *core, uint64_t now_ns);
/* Remove the directory if nobody but memd has done anything to it. */
void agents_forget_dir(struct core *core);

#endif
