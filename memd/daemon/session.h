/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * session: one connection of an engine.
 *
 *   GREETING   connected; HELLO is awaited (SESSION_GREETING_MS)
 *   JOINING    WELCOME sent; page maps arrive, then READY (SESSION_JOINING_MS)
 *   ADOPTING   references of the page maps are being counted, some at a time
 *   LIVE       ADOPTED sent; rings in use
 *
 * Everything that arrives is hostile until checked: lengths, counts, indices, rates. A mistake ends the
 * session with a line in the log and, where the socket still takes it, WIRE_REFUSED; the VM and what it holds
 * remain until its process dies.
 */
#ifndef MEMD_DAEMON_SESSION_H
#define MEMD_DAEMON_SESSION_H

#include "memd/common/ring.h"
#include "memd/daemon/exports.h"
#include "memd/daemon/loop.h"
#include "memd/daemon/proposals.h"
#include "memd/daemon/registry.h"
#include "memd/daemon/store.h"
#include "memd/wire.h"

#include <urcu/list.h>

#define SESSIONS_MAX          (CORE_VMS_MAX + 128)
#define SESSION_GREETING_MS   3000u
#define SESSION_JOINING_MS    30000u
#define SESSION_GREETINGS_MAX 64u                /* connections that have not said HELLO, at a time */
#define SESSION_GREETINGS_UID 16u                /* of one uid other than root */
#define SESSION_VMS_PROCESS   16u                /* engines in one process */
#define SESSION_VMS_UID       (CORE_VMS_MAX / 2) /* of one uid other than root and memd's own */
#define SESSION_ADOPT_ENTRIES (1u << 18)         /* page map entries looked at in a turn */
#define SESSION_BACKLOG_HIGH  8192u              /* proposals waiting for room: stop reading hashes */
#define SESSION_STUCK_MS      100u               /* but not longer than this without a record taken */

struct core;
struct vm;
struct region;

enum session_state { SESSION_GREETING, SESSION_JOINING, SESSION_ADOPTING, SESSION_LIVE };

struct session {
    struct cds_list_head link;         /* core->sessions, or core->ended */
    struct cds_list_head busy_link;    /* core->busy, or itself */
    struct cds_list_head written_link; /* core->written, or itself */
    struct core *core;
    struct vm *vm; /* NULL while GREETING */
    enum session_state state;
    bool ended;
    bool hung_up;      /* by the peer */
    uint64_t since_ns; /* in this state */

    struct loop_source sock, up;
    int down_fd, shm_fd;
    int peer_up_fd, peer_down_fd; /* the engine's ends of what wakes the two */
    struct wire_shm *shm;
    struct ring up_ring, down_ring;
    pid_t pid; /* of the peer, by the kernel's word */
    uid_t uid;
    int pidfd; /* until the VM takes it */

    struct region *joining[WIRE_REGIONS_MAX]; /* regions of this session before it is LIVE */
    uint64_t ids_seen;                        /* region ids ever used in this session */
    bool draining;                            /* see channel_drain() */
    unsigned adopt_region;
    uint64_t adopt_page;

    struct exports_queue exports;
    struct proposals proposals;
    struct store_lease lease[WIRE_NODES_MAX];
    uint32_t next_merge_id;
    uint32_t unanswered;    /* MERGEs */
    uint64_t pending_pages; /* pages of proposals that wait or are unanswered */

    /* to be sent as soon as there is room, ahead of proposals */
    bool budget_due, round_due, unmerge_due, rescan_due, page_due;
    struct wire_rec_page page;         /* paging.c */
    uint64_t page_sent, page_answered; /* ids of its orders */
    uint64_t fence_due, fence_sent;    /* 0: none */
    uint64_t unmerge_id;               /* of the UNMERGE not answered, 0: none */

    uint64_t stuck_ns; /* since when its proposals wait for room */
    uint64_t last_ns;  /* last record */
    bool wants_swap;   /* its engine has no swap file */
    bool balloons;     /* its engine knows of them, and was told that they are known here */
    bool trimmed;      /* idle, and its rings' memory given back */
};

/* Its user is root or memd's own: limits that keep users from each other do not apply. */
bool session_is_trusted(const struct session *session);
/* Whether a line that the peer can cause as often as it likes may be logged now. */
bool session_may_log(struct session *session);
/* NULL is not. */
static inline bool session_is_live(const struct session *session)
{
    return session && session->state == SESSION_LIVE;
}

/* Accept what waits on the listening socket. */
void session_accept(struct core *core);

/* End a session: REFUSED with `error` (positive) and the reason, a line in the log. What is unfinished is
 * undone; memory is freed at the end of the turn. */
void session_end(struct session *session, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Its process is dead, or it has closed: no REFUSED. */
void session_drop(struct session *session);
/* Free what has ended. */
void session_reap(struct core *core);

/* Take messages from the socket now. The rings and the socket are two channels: a record may speak of a
 * region whose message has not been read yet. */
void session_read(struct session *session);
/* One turn of adopting: true while there is more. */
bool session_adopt(struct session *session);
/* Time-outs. */
void session_tend(struct session *session, uint64_t now_ns);

#endif
