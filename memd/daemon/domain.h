/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * domain: a trust domain: the VMs that may share frames, their stores, and their index.
 *
 * A VM that asks for nothing gets a domain of its own, "vm:NAME", which lives as long as its process: another
 * process never inherits it, not even under the same name. Wider domains are those of the configuration.
 * Nothing is ever looked up across domains.
 *
 * A frame's reference count is the number of pages of the domain's VMs that hold it by the daemon's own
 * account (holdings.h). At zero it is retired: out of the index, into limbo, and after a fence (below) free.
 *
 * Fence: frames retired together wait until every engine of the domain has answered a WIRE_REC_FENCE sent
 * after they were retired. An engine that is stopped delays them for ever; one whose process is dead does not
 * count. While an engine of an earlier daemon has not come back (`awaited`), nothing is retired at all,
 * because nobody knows what it holds; when the last is back or dead, all frames without references are.
 * Children that VMMs have forked do not answer fences: heirs.h sees to them.
 */
#ifndef MEMD_DAEMON_DOMAIN_H
#define MEMD_DAEMON_DOMAIN_H

#include "memd/daemon/heirs.h"
#include "memd/daemon/index.h"
#include "memd/daemon/loop.h"
#include "memd/daemon/registry.h"
#include "memd/daemon/store.h"

#include <urcu/list.h>

#define DOMAIN_DIR_BYTES (CORE_NAME_BYTES + 40)

struct core;
struct vm;

/* Frames retired together. */
struct domain_limbo {
    uint32_t *frame;
    uint32_t n, room;
};

struct domain {
    struct cds_list_head link; /* core->domains */
    struct core *core;
    char name[CORE_NAME_BYTES];
    char dir[DOMAIN_DIR_BYTES]; /* of its directory in the store directory */
    int dir_fd;
    bool configured; /* else private */
    bool kept;       /* its files stay for the next daemon */

    unsigned nstores, nindexes; /* one index, or one per store if nodes do not share */
    struct store stores[WIRE_NODES_MAX];
    struct index indexes[WIRE_NODES_MAX];
    struct cds_list_head vms; /* struct vm.domain_link */
    uint32_t nvms;
    uint64_t numbered;            /* pages of its VMs that have a number (pages.h) */
    struct cds_list_head awaited; /* struct awaited.link */

    uint64_t frames_shared; /* frames with references */
    uint64_t refs;          /* the sum of their references */
    uint64_t change;        /* counts up with every change of a reference */

    struct domain_limbo retired, fenced; /* waiting for the next fence; for this one */
    uint64_t retired_ns;                 /* when the first of `retired` was */
    uint64_t fence;                      /* number of the last fence sent */

    struct heirs heirs;

    struct budget_scope memory; /* reclaim.c */
    size_t memory_index;        /* of it among those that have a budget, during a look */
    struct budget_shown shown;

    uint64_t full_frames; /* in use when a store ran full; 0: none has, or all was hashed again since */
    uint64_t rescan_ns;   /* when that was asked for */

    unsigned rehash_store; /* next frame to hash after a restart; nstores: done */
    uint32_t rehash_index;
};

/* An engine that was with an earlier daemon and is neither back nor dead. */
struct awaited {
    struct cds_list_head link;
    struct domain *domain;
    struct registry_entry entry;
    struct loop_source pidfd;
};

/* Find or make the domain an engine asks for: `want` is "" or "vm:NAME" for its own, else a configured name.
 * Returns 0; -ENOENT (no such domain), -EACCES (this uid may not join), or what making it failed with. */
int domain_join(struct core *core, const char *want, const struct registry_entry *engine,
                struct domain **ret_domain);
/* A VM has left, or an awaited engine has come back or died: free what nobody can need any more. May destroy
 * the domain with its files, if nobody is left in it. */
void domain_left(struct domain *domain);

/* At start: every domain directory with a live engine is opened, others are removed. */
int domain_reopen_all(struct core *core);
/* At the end: release memory. Directories stay if a VM or awaited engine is left, else they go. */
void domain_close(struct domain *domain);

struct awaited *domain_find_awaited(struct core *core, const struct registry_entry *engine);
struct awaited *domain_find_awaited_name(struct core *core, const char *name);
/* The engine is back (adopted) or dead. */
void domain_forget_awaited(struct awaited *awaited);

/* ---- frames */

/* The frame of this number, or NULL if it is none that could exist. */
struct frame *domain_frame(struct domain *domain, uint32_t number);
struct store *domain_store(struct domain *domain, uint32_t number);
/* The index for pages on a NUMA node, and the store their frames go to. -1: unknown. */
unsigned domain_node(const struct domain *domain, int node);
struct index *domain_index(struct domain *domain, unsigned node);

/* Count references of `count` frames from number `first` on up or down by one each. They exist. */
void domain_ref(struct domain *domain, uint32_t first, uint32_t count);
void domain_unref(struct domain *domain, uint32_t first, uint32_t count);
/* Retire all frames nobody refers to. */
void domain_retire_unused(struct domain *domain);
/* A frame no engine was ever told of goes back at once. */
void domain_drop_unseen(struct domain *domain, uint32_t number);

/* ---- time */

/* Hash some frames found at a restart into the index; true while there are more. */
bool domain_rehash(struct domain *domain, unsigned count);
static inline bool domain_is_ready(const struct domain *domain)
{
    return domain->rehash_store >= domain->nstores;
}
/* Some store found no room: pages passed over now are looked at again when there is some (tick.c). */
void domain_ran_full(struct domain *domain);
uint64_t domain_used_frames(const struct domain *domain);
/* Send a fence if one is due; free frames whose fence everybody answered. */
void domain_tend_fence(struct domain *domain, uint64_t now_ns);

size_t domain_metadata_bytes(const struct domain *domain);

#endif
