/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vm: a VMM process with an engine, its regions, and what they hold.
 *
 * A VM outlives its session: references end with the process (pidfd), not with the socket. While it has no
 * session its holdings stay, its page maps are unmapped, and nothing is proposed to it.
 *
 * Page maps belong to the engine: the daemon reads single words of them to see whether a page is still what
 * it was, and never acts for another VM on what they say.
 */
#ifndef MEMD_DAEMON_VM_H
#define MEMD_DAEMON_VM_H

#include "memd/daemon/advice.h"
#include "memd/daemon/domain.h"
#include "memd/daemon/embed.h"
#include "memd/daemon/holdings.h"
#include "memd/daemon/paging.h"
#include "memd/daemon/reclaim.h"
#include "memd/daemon/writes.h"

struct session;

struct region {
    struct vm *vm;
    uint32_t id;
    int node;
    uint64_t npages;
    uint64_t
        answer_pages; /* at least npages: those of a region withdrawn before that are still to be answered */
    const struct wire_map *map; /* NULL: gone, or its session is */
    size_t map_bytes;
    int map_fd;          /* until adopted; then -1 */
    uint64_t first_id;   /* pages.h; 0 without a map */
    uint32_t unanswered; /* MERGEs without a RESULT */
    uint16_t *huge;      /* per chunk, see matcher.c; NULL until the first SURVEY */
    struct holdings holdings;
};

/* What the engine last said about itself, clamped (struct wire_stats). */
struct vm_stats {
    uint64_t zero_pages, broken_pages, unshared_pages, volatile_pages, skipped_pages;
    uint64_t full_scans, merges, zero_drops, cow_breaks, heals, faults, rejected, huge_broken;
    uint64_t ineligible_bytes[WIRE_INELIGIBLE_COUNT];
    uint64_t vmas_used, vmas_limit, metadata_bytes, cpu_ns;
    uint64_t hashed_pages, written_pages, round_started_ns, prev_started_ns, would_save_pages, state,
        backlog_pages;
    uint64_t parked_pages, packed_pages, packed_bytes, pool_bytes;
    uint64_t page_outs, page_ins, parked_faults, packed_faults;
    uint64_t swapped_pages, swap_bytes, swap_written_bytes, swap_errors, swapped_faults, lost_pages;
    uint64_t sample_periods, sample_ms, samplable_pages, unsampled_pages, working_set_pages,
        working_set_error_pages, idle_ages, idle_pages[WIRE_AGES], round_written_pages, sampled_pages,
        sampled_faults, merged_outs, swap_reads, prefetched_pages, prefetch_used, prefetch_wasted;
    uint64_t remote_pages, remote_outs, remote_faults;
    uint64_t held_faults, held_ns;
    uint64_t latency[WIRE_TIERS][WIRE_LATENCY_BUCKETS], latency_ns[WIRE_TIERS];
};

/* A pass over the VM: two rounds, so that everything quiet at its start has been hashed at its end (tick.c).
 */
struct vm_pass {
    uint64_t started_ns;
    uint64_t found_before; /* vm_found_ever() when it began */
    bool asked;            /* for its second round */
};

struct vm {
    struct cds_list_head link;        /* core->vms */
    struct cds_list_head domain_link; /* domain->vms */
    struct core *core;
    struct domain *domain;
    struct session *session; /* NULL: not connected */
    uint32_t id;
    struct registry_entry engine;
    char release[16];
    struct loop_source pidfd;
    struct region *region[WIRE_REGIONS_MAX];
    bool adopted; /* once by this daemon: what it may hold is known */
    bool merge_on;
    bool settled;             /* the last pass found next to nothing */
    uint64_t settled_from_ns; /* when that pass began; 0: not settled */
    bool short_of_maps;       /* short runs were refused for want of mappings */
    bool maps_warned;
    uint64_t unmerge_job;
    uint64_t estimate_job;
    struct paging paging;
    struct reclaim_vm reclaim;
    struct writes_vm writes;
    struct embed_vm embed;
    uint64_t held_pages; /* references by the daemon's account */
    uint64_t fence;      /* number of the last fence answered */
    uint64_t forks;      /* without a session: what it said last (struct wire_stats); 0: not known */
    uint64_t forks_cleared, forks_asked; /* no heir was found when it said this; a search began when it did */
    uint64_t merged_ever, dropped_proposals;
    struct vm_stats stats;
    struct vm_pass pass;
    struct advice advice;
    double frame_share; /* sum over its references of 1/users, see snapshot.c */
    uint64_t share_change, share_ns, share_cost_ns;
};

/* Make a VM; its engine is registered in the domain's directory. Returns 0 or -errno. */
int vm_new(struct core *core, struct domain *domain, const struct registry_entry *engine, int pidfd,
           struct vm **ret_vm);
/* The process is dead, or holds nothing any more. Ends its session if it has one. */
void vm_gone(struct vm *vm);
/* The daemon ends, the VM does not: forget it, and leave its entry in the registry. */
void vm_forget(struct vm *vm);
/* There is something to do in it: it is digested at full speed, and a new pass begins. */
void vm_unsettle(struct vm *vm);
struct vm *vm_find(struct core *core, const char *name_or_id);
/* Switch merging and remember it for later daemons. */
void vm_set_merge(struct vm *vm, bool on);

/* Make a region from a page map the engine sent. Takes `map_fd`. `others`: pages the same user has enrolled.
 * Returns 0 or -errno: -EINVAL (nonsense), -EPERM (not sealed), -ENOSPC (no page numbers), -ENOMEM. */
int region_new(struct vm *vm, const struct wire_msg_region_add *msg, int map_fd, uint64_t others,
               struct region **ret_region);
/* Next stretch of map entries that may name a frame, from entry `at` on: [*ret_from, *ret_to). False: none.
 */
bool region_next_entries(const struct region *region, uint64_t at, uint64_t *ret_from, uint64_t *ret_to);
/* What `old` holds now belongs to `region`, which has taken its place; `old` is freed. */
void region_succeed(struct region *region, struct region *old);
/* A region without a map goes when no proposal for it is unanswered. */
void region_settle_deleted(struct region *region);
/* Its page map is gone: unmap it. Holdings stay. */
void region_detach(struct region *region);
/* Drop what it holds and free it. */
void region_free(struct region *region);

static inline uint64_t region_entry(const struct region *region, uint64_t page)
{
    return __atomic_load_n((const uint64_t *)&region->map->entry[page], __ATOMIC_RELAXED);
}

/* Whether the page map says: the VM's own memory, holds no frame, last hashed with this tag. Written
 * pages in store mappings are meant, too: the engine brings them home before it merges them. */
static inline bool region_page_is(const struct region *region, uint64_t page, uint32_t tag)
{
    uint64_t entry = region_entry(region, page);
    unsigned state = entry & WIRE_PAGE_STATE_MASK;
    return (state == WIRE_PAGE_PRIVATE || state == WIRE_PAGE_BROKEN) && !(entry >> WIRE_PAGE_FRAME_SHIFT) &&
           (entry >> WIRE_PAGE_TAG_SHIFT & WIRE_PAGE_TAG_MASK) == tag;
}

/* Add or remove references of pages [page, page+count) to frames from `frame` on: holdings and counts
 * together. Returns as holdings_add() and holdings_remove(). */
int region_hold(struct region *region, uint32_t page, uint32_t count, uint32_t frame);
int region_drop(struct region *region, uint32_t page, uint32_t count, uint32_t frame);

void vm_read_stats(struct vm *vm);
/* Begin the pass anew; the VM counts as not settled until it ends. */
void vm_restart_pass(struct vm *vm, uint64_t now_ns);
/* Merging is held back by the limit on mappings. */
bool vm_is_short_of_maps(const struct vm *vm);
/* Pages merged or dropped as zero, ever. */
static inline uint64_t vm_found_ever(const struct vm *vm)
{
    return vm->merged_ever + vm->stats.zero_drops;
}
uint64_t vm_guest_pages(const struct vm *vm);
/* Pages of the VM's own memory that are in use, as far as is known: what samples say was touched within a
 * period, and all of what cannot be sampled (huge, pinned, written since merged). Merged and zero pages, and
 * pages that are out, are in it only if they came home in that period. 0: not known. */
uint64_t vm_working_set_pages(const struct vm *vm);
/* References that are more than proposed. */
uint64_t vm_merged_pages(const struct vm *vm);
size_t vm_metadata_bytes(const struct vm *vm);

#endif
