/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The protocol between an engine (in a VMM) and the daemon: session messages, shared-memory rings, the page
 * map. Everything the two share is here; neither includes the other's headers.
 *
 * Three channels
 *  1. The socket: AF_UNIX SOCK_SEQPACKET at RUN_DIR/memd.sock. One message per packet, a struct wire_msg_*.
 * Set-up, regions, and everything that carries file descriptors. Either side's close ends the session.
 *  2. Two rings in one memfd the daemon makes (sealed F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_SEAL): struct
 * wire_shm. Single producer, single consumer each: `up` engine to daemon, `down` daemon to engine. Records
 * start with struct wire_rec. Behind the rings lie the engine's statistics and the export slots.
 *  3. One page map per region: a memfd the engine makes (sealed F_SEAL_SHRINK), struct wire_map. The engine
 * is its only writer; the daemon maps it read-only and never trusts a bit of it for another VM's sake.
 *
 * Life of a session
 *    engine                                daemon
 *    HELLO (versions, name, domain) ---->
 *                                   <----  WELCOME (version, shm, kick fds, store fds[, /dev/userfaultfd]) or
 * REFUSED REGION_ADD (page map fd) ... ------>  one per region held now; refused ones are answered
 * REGION_REFUSED READY ----------------------------->  from here until ADOPTED the engine changes no frame
 * field of any map
 *                                   <----  ADOPTED: references of the maps are counted; rings are live
 *    later: REGION_ADD / REGION_DEL ---->
 * Proposals of an earlier incarnation are finished or dropped by the engine before it sends READY. Ring
 * positions start at zero with every WELCOME (the shm is new).
 *
 * Versions. HELLO says what the engine can, WELCOME names the highest that both can: of the protocol, and of
 * the page maps, whose headers say so from then on. A page is REMOTE only in maps of version 2; before an
 * engine joins a daemon that knows none of these, it brings them home.
 *
 * References. A page map entry whose frame field is not 0 holds one reference to that frame. The daemon keeps
 * its own account (the "holdings" of each VM): a MERGE proposal adds one reference per page when it is sent;
 * RESULT takes back those that were not merged; DROPPED takes back those no longer needed. A claim that is
 * not in the VM's own holdings is a protocol error and ends that session: a lying engine can only hurt
 * itself. When the VM's process is dead (pidfd), all it held is dropped. A forked child that maps frames is
 * nobody's engine: while there can be one (struct wire_stats, `forks`), no frame is freed before the daemon
 * has seen that no such process maps a store.
 *
 * Untrusted: the daemon copies a record out of the ring before it looks at it and checks every field; the
 * engine does the same and treats whatever it is told as a proposal that may be stale or wrong.
 */
#ifndef MEMD_WIRE_H
#define MEMD_WIRE_H

#include <assert.h>
#include <stdint.h>

#define WIRE_MAGIC              0x444d454du /* "MEMD" */
#define WIRE_VERSION_MIN        1
#define WIRE_VERSION_MAX        1
#define WIRE_MAP_VERSION_MIN    1
#define WIRE_MAP_VERSION_MAX    2
#define WIRE_MAP_VERSION_REMOTE 2 /* from this one on, pages may be REMOTE */

#define WIRE_NAME_BYTES       64 /* NUL-terminated */
#define WIRE_REASON_BYTES     160
#define WIRE_REGIONS_MAX      64
#define WIRE_NODES_MAX        8
#define WIRE_PAGE_SHIFT       12
#define WIRE_PAGE_BYTES       4096u
#define WIRE_CHUNK_PAGES      512u
#define WIRE_REGION_PAGES_MAX (1ull << 28) /* 1 TiB */
#define WIRE_RUN_DIR          "/run/memd"
#define WIRE_SOCKET_NAME      "memd.sock"
#define WIRE_CONTROL_NAME     "control.sock"

/* ---------------------------------------------------------------- socket messages */

enum wire_msg_type {
    WIRE_HELLO = 1,          /* E->D */
    WIRE_WELCOME = 2,        /* D->E, fds */
    WIRE_REFUSED = 3,        /* D->E; the daemon closes after it */
    WIRE_REGION_ADD = 4,     /* E->D, fd: page map */
    WIRE_REGION_REFUSED = 5, /* D->E */
    WIRE_REGION_DEL = 6,     /* E->D; all its references were dropped before */
    WIRE_READY = 7,          /* E->D, header only */
    WIRE_ADOPTED = 8,        /* D->E, header only */
    WIRE_SWAP = 10,          /* D->E, fd: the VM's swap file */
    WIRE_BYE = 9,            /* E->D, header only: the engine closes; it holds nothing any more */
    WIRE_BALLOON_ASK = 11,   /* D->E; answered by a BALLOON record */
};

struct wire_msg {
    uint32_t magic;
    uint16_t type;
    uint16_t bytes; /* of the whole message, header included; equals the packet's length */
};
static_assert(sizeof(struct wire_msg) == 8, "wire_msg");

struct wire_msg_hello {
    struct wire_msg h;
    uint16_t version_min, version_max;         /* of the protocol */
    uint16_t map_version_min, map_version_max; /* of the page map */
    uint32_t flags;                            /* WIRE_HELLO_* */
    uint32_t pid;                              /* as the engine sees itself; SO_PEERCRED decides */
    char name[WIRE_NAME_BYTES];
    char domain[WIRE_NAME_BYTES]; /* "" = its own */
    char release[16];             /* MEMD_VERSION of the engine */
};
#define WIRE_HELLO_WANT_UFFD 1u /* the engine could not open /dev/userfaultfd */
#define WIRE_HELLO_WANT_SWAP 2u /* it has no swap file yet: SWAP may come after ADOPTED */
#define WIRE_HELLO_BALLOON   4u /* it knows BALLOON_ASK, and has BALLOON records for who takes them */
static_assert(sizeof(struct wire_msg_hello) == 168, "wire_msg_hello");

/* fds, in this order: shm, kick `up` (the engine writes), kick `down` (the engine reads), `nstores` store
 * files opened O_RDONLY, then /dev/userfaultfd if WIRE_WELCOME_UFFD. */
struct wire_msg_welcome {
    struct wire_msg h;
    uint16_t version, map_version;
    uint16_t nstores, flags;
    uint32_t vm_id;
    uint32_t reserved;
    uint64_t incarnation; /* of the daemon: random, not 0 */
    uint64_t store_bytes; /* size to map of each store file (sparse) */
    char domain[WIRE_NAME_BYTES];
};
#define WIRE_WELCOME_UFFD    1u
#define WIRE_WELCOME_BALLOON 2u /* BALLOON records may be sent; only to an engine whose HELLO knows them */
static_assert(sizeof(struct wire_msg_welcome) == 104, "wire_msg_welcome");

/* A file of the VM's own, open for reading and writing, without a name: it ends with the last who has it
 * open. Only the engine reads and writes it. */
struct wire_msg_swap {
    struct wire_msg h;
    uint64_t max_bytes; /* it may become */
};
static_assert(sizeof(struct wire_msg_swap) == 16, "wire_msg_swap");

/* The VM's balloon is to be `bytes` large, or its guest to be asked for statistics, or neither: the engine
 * says how it is. One at a time; a later one takes the place of one not carried out. It comes by the socket,
 * which an engine reads while it is paused, too. */
struct wire_msg_balloon_ask {
    struct wire_msg h;
    uint32_t flags; /* WIRE_BALLOON_SET, WIRE_BALLOON_STATS_WANTED */
    uint32_t reserved;
    uint64_t id; /* not 0; wire_rec_balloon.answered */
    uint64_t bytes;
};
#define WIRE_BALLOON_SET          1u
#define WIRE_BALLOON_STATS_WANTED 2u
static_assert(sizeof(struct wire_msg_balloon_ask) == 32, "wire_msg_balloon_ask");

struct wire_msg_refused {
    struct wire_msg h;
    int32_t error; /* errno, positive */
    uint32_t reserved;
    char reason[WIRE_REASON_BYTES];
};
static_assert(sizeof(struct wire_msg_refused) == 176, "wire_msg_refused");

struct wire_msg_region_add {
    struct wire_msg h;
    uint32_t region;
    int32_t node; /* NUMA node; -1 unknown or mixed (each hash record then names its own) */
    uint64_t hva, npages, gpa;
};
static_assert(sizeof(struct wire_msg_region_add) == 40, "wire_msg_region_add");

/* REGION_DEL and REGION_REFUSED */
struct wire_msg_region {
    struct wire_msg h;
    uint32_t region;
    int32_t error; /* errno, positive, in REGION_REFUSED; 0 in REGION_DEL */
};
static_assert(sizeof(struct wire_msg_region) == 16, "wire_msg_region");

/* ---------------------------------------------------------------- shared memory of a session */

#define WIRE_RING_BYTES   (64u * 1024u) /* of each ring; a power of two */
#define WIRE_EXPORT_SLOTS 32u           /* pages the engine can show the daemon at a time */

/* head: bytes ever written, stored (release) by the producer after the record is complete. tail: bytes ever
 * consumed, stored (release) by the consumer after it copied the record out. Both wrap at 2^32; head - tail
 * <= WIRE_RING_BYTES. Records are 8-byte aligned and never straddle the end: a WIRE_REC_PAD record fills the
 * rest. waiting: the consumer sets it (seq_cst) before its last look at head and sleep; a producer that has
 * published and reads 1 (seq_cst) clears it and kicks: it writes a uint64_t 1 to the
 * kick fd (pipes, or eventfds: readers take 8 bytes or more, and look at the ring, not at what they read). */
struct wire_ring {
    _Atomic uint32_t head;
    uint8_t pad0[60];
    _Atomic uint32_t tail;
    uint8_t pad1[60];
    _Atomic uint32_t waiting;
    uint8_t pad2[60];
};
static_assert(sizeof(struct wire_ring) == 192, "wire_ring");

#define WIRE_INELIGIBLE_COUNT 6 /* in the order of enum memd_ineligible */

/* Where a page was when an access waited for the fault server. */
enum wire_tier {
    WIRE_TIER_PARKED,
    WIRE_TIER_PACKED,
    WIRE_TIER_SWAPPED,
    WIRE_TIER_ZERO,
    WIRE_TIER_REMOTE,
    WIRE_TIERS
};
#define WIRE_TIERS_FIRST 4u /* that the first release had: see wire_stats_latency() */

/* How long it waited: bucket i counts what took less than wire_latency_bound(i), and not less than the bound
 * before; the last one, all that took longer. */
#define WIRE_LATENCY_BUCKETS 24u
#define WIRE_LATENCY_SHIFT   10u /* the first bucket ends at 2^10 ns */

static inline uint64_t wire_latency_bound(unsigned bucket)
{
    return bucket < WIRE_LATENCY_BUCKETS - 1 ? 1ull << (WIRE_LATENCY_SHIFT + bucket) : UINT64_MAX;
}

static inline unsigned wire_latency_bucket(uint64_t ns)
{
    unsigned bucket =
        ns >> WIRE_LATENCY_SHIFT ? 64u - (unsigned)__builtin_clzll(ns >> WIRE_LATENCY_SHIFT) : 0;
    return bucket < WIRE_LATENCY_BUCKETS ? bucket : WIRE_LATENCY_BUCKETS - 1;
}

/* Ages at which it is known how much has not been touched for so long: 1, 2, 4, ... 64 periods. */
#define WIRE_AGES             7u
#define WIRE_SAMPLE_PAGES_MAX 4096u

/* Written by the engine only, each field atomically but not all together; the daemon clamps what it reads. */
struct wire_stats {
    _Atomic uint64_t zero_pages, merged_pages, broken_pages, unshared_pages, volatile_pages, skipped_pages;
    _Atomic uint64_t full_scans; /* rounds completed over all regions, see `round_started_ns` */
    _Atomic uint64_t merges, zero_drops, cow_breaks, heals, faults, rejected, huge_broken;
    _Atomic uint64_t ineligible_bytes[WIRE_INELIGIBLE_COUNT];
    _Atomic uint64_t vmas_used, vmas_limit, metadata_bytes, cpu_ns;
    _Atomic uint64_t hashed_pages;     /* pages hashed since the session began: what the budget pays for */
    _Atomic uint64_t written_pages;    /* pages seen written since the session began */
    _Atomic uint64_t round_started_ns; /* CLOCK_MONOTONIC: start of the last completed round */
    _Atomic uint64_t
        prev_started_ns; /* and of the one before it. A page written before prev_started_ns and quiet
                            since has been hashed by the end of the last completed round. */
    _Atomic uint64_t would_save_pages; /* estimate mode: zero pages seen, not dropped */
    _Atomic uint64_t state;            /* enum wire_vm_state */
    _Atomic uint64_t backlog_pages;    /* quiet pages waiting for budget or ring space */
    /* 1, and one more for each fork that let guest memory into a child, stored before the fork: such a child
     * maps frames no page map speaks for. 0: the engine has not said, or takes it back: it closes the
     * session. WIRE_FORKS_HEIR: the engine's process is such a child itself. */
    _Atomic uint64_t forks;
    /* Where pages are now, and what the pool takes from the host for the packed ones, as little of it as
     * their compressed bytes can be kept in. */
    _Atomic uint64_t parked_pages, packed_pages, pool_bytes, packed_bytes;
    _Atomic uint64_t page_outs;                    /* pages packed, since the engine was opened */
    _Atomic uint64_t parked_faults, packed_faults; /* pages that came home because somebody touched them */
    _Atomic uint64_t page_ins;                     /* and that came home for any reason */
    _Atomic uint64_t swapped_pages, swap_bytes;    /* in the swap file; what it takes of the device */
    _Atomic uint64_t swap_written_bytes, swap_errors, swapped_faults, lost_pages; /* since it was opened */
    /* The working set, found by samples: pages that are parked only to see whether somebody touches them
     * (docs/architecture.md). sample_periods: periods it rests on, 0: nothing is known yet. sample_ms: how
     * long pages were watched, as measured. */
    _Atomic uint64_t sample_periods, sample_ms;
    _Atomic uint64_t samplable_pages; /* the VM's own pages of which samples are taken, an estimate */
    _Atomic uint64_t unsampled_pages; /* own pages of which none are: huge, pinned, written since merged */
    _Atomic uint64_t working_set_pages, working_set_error_pages; /* touched in a period; 95% are as near */
    _Atomic uint64_t idle_ages;                                  /* so many of the next are known */
    _Atomic uint64_t idle_pages[WIRE_AGES]; /* samplable, not touched for 2^i periods or longer */
    _Atomic uint64_t round_written_pages;   /* seen written by the last round */
    _Atomic uint64_t sampled_pages;         /* aside as samples now; in none of the numbers above this */
    _Atomic uint64_t sampled_faults;        /* that came home because somebody touched them; the same */
    _Atomic uint64_t latency[WIRE_TIERS_FIRST][WIRE_LATENCY_BUCKETS],
        latency_ns[WIRE_TIERS_FIRST]; /* samples, too */
    _Atomic uint64_t merged_outs;     /* merged pages that left RAM, since it was opened */
    _Atomic uint64_t swap_reads; /* of the swap file, whatever their size; these four since it was opened */
    /* pages whose records were read with another's; that somebody then came for; that nobody came for */
    _Atomic uint64_t prefetched_pages, prefetch_used, prefetch_wasted;
    /* REMOTE pages: now; that became so, and that came home because somebody touched them, since it was
     * opened. They are in none of the numbers above but page_ins. */
    _Atomic uint64_t remote_pages, remote_outs, remote_faults;
    _Atomic uint64_t latency_more[WIRE_TIERS - WIRE_TIERS_FIRST][WIRE_LATENCY_BUCKETS],
        latency_more_ns[WIRE_TIERS - WIRE_TIERS_FIRST];
    /* faults that were made to wait because the VM brings its pages home faster than they can leave while
     * memory is short; and for how long, all together. It is in the latency of those faults. */
    _Atomic uint64_t held_faults, held_ns;
};

/* The buckets of a tier; *ret_ns: the sum of all waits in it. Tiers that came later lie behind what was
 * there: engines and daemons of different releases agree about the rest. */
static inline _Atomic uint64_t *wire_stats_latency(struct wire_stats *stats, unsigned tier,
                                                   _Atomic uint64_t **ret_ns)
{
    if (tier < WIRE_TIERS_FIRST) {
        *ret_ns = &stats->latency_ns[tier];
        return stats->latency[tier];
    }
    *ret_ns = &stats->latency_more_ns[tier - WIRE_TIERS_FIRST];
    return stats->latency_more[tier - WIRE_TIERS_FIRST];
}
static_assert(sizeof(struct wire_stats) <= 3072, "before the rings' data");
#define WIRE_FORKS_HEIR UINT64_MAX
enum wire_vm_state { WIRE_VM_RUNNING = 0, WIRE_VM_PAUSED = 1, WIRE_VM_MAP_COUNT = 2, WIRE_VM_CLOSING = 3 };

struct wire_shm {
    uint32_t magic;
    uint32_t version;
    uint32_t ring_bytes;   /* WIRE_RING_BYTES */
    uint32_t export_slots; /* WIRE_EXPORT_SLOTS */
    uint8_t pad0[48];
    struct wire_ring up, down;
    struct wire_stats stats __attribute__((aligned(64)));
    uint8_t up_data[WIRE_RING_BYTES] __attribute__((aligned(4096)));
    uint8_t down_data[WIRE_RING_BYTES];
    uint8_t exports[WIRE_EXPORT_SLOTS][WIRE_PAGE_BYTES];
};
static_assert(sizeof(struct wire_shm) == 4096 + 2 * WIRE_RING_BYTES + WIRE_EXPORT_SLOTS * WIRE_PAGE_BYTES,
              "wire_shm");

/* ---------------------------------------------------------------- ring records */

enum wire_rec_type {
    WIRE_REC_PAD = 0,
    /* engine to daemon */
    WIRE_REC_HASHES = 1,   /* pages that have been quiet, and their hashes */
    WIRE_REC_SURVEY = 2,   /* the same for a huge page kept whole: nothing may be merged before BREAK */
    WIRE_REC_EXPORTED = 3, /* answer to EXPORT */
    WIRE_REC_RESULT = 4,   /* answer to MERGE */
    WIRE_REC_DROPPED = 5,  /* references given up: the pages were written, discarded or unmerged */
    WIRE_REC_FENCED = 6,   /* answer to FENCE */
    WIRE_REC_DONE = 7,     /* answer to UNMERGE */
    WIRE_REC_PAGED = 8,    /* answer to PAGEOUT and PAGEIN */
    WIRE_REC_BALLOON = 12, /* how the VM's balloon is */
    /* daemon to engine */
    WIRE_REC_BUDGET = 16,
    WIRE_REC_EXPORT = 17,
    WIRE_REC_MERGE = 18,
    WIRE_REC_BREAK = 19,
    WIRE_REC_UNMERGE = 20,
    WIRE_REC_FENCE = 21,
    WIRE_REC_ROUND = 22, /* start a round now (settle, estimate): header only */
    WIRE_REC_PAGEOUT = 23,
    WIRE_REC_PAGEIN = 24,
};

struct wire_rec {
    uint16_t type;
    uint16_t bytes;  /* of the record, header included; multiple of 8; PAD may be just the header */
    uint32_t region; /* where one is meant, else 0 */
};
static_assert(sizeof(struct wire_rec) == 8, "wire_rec");

#define WIRE_HASHES_MAX 256u /* pages in one HASHES or RESULT record; SURVEY has 512 */

/* Consecutive pages of one region, inside one chunk. hash: XXH3_64bits of the 4096 bytes; 0 stands for "all
 * zero" in SURVEY and never appears in HASHES (a page that really hashes to 0 is sent as 1: a hash is only a
 * hint). */
struct wire_rec_hashes {
    struct wire_rec r;
    uint32_t page; /* index in the region */
    uint16_t count;
    int16_t node; /* NUMA node the pages lie on; -1 unknown */
    uint64_t hash[];
};
static_assert(sizeof(struct wire_rec_hashes) == 16, "wire_rec_hashes");

/* EXPORT: copy pages [page, page+count) to slots [slot, slot+count). EXPORTED: done (count as asked) or
 * impossible (count 0). What the engine copied may be newer than what it hashed: the daemon hashes what it
 * got. */
struct wire_rec_export {
    struct wire_rec r;
    uint32_t page;
    uint16_t count, slot;
};
static_assert(sizeof(struct wire_rec_export) == 16, "wire_rec_export");

/* MERGE: pages [page, page+count) are believed equal to frames [frame, frame+count), all in one chunk and one
 * store. count <= WIRE_CHUNK_PAGES. Every MERGE gets exactly one RESULT, in any order. */
struct wire_rec_merge {
    struct wire_rec r;
    uint32_t page;
    uint32_t frame; /* struct wire_frame */
    uint16_t count;
    uint16_t reserved;
    uint32_t id; /* echoed in RESULT */
};
static_assert(sizeof(struct wire_rec_merge) == 24, "wire_rec_merge");

struct wire_rec_result {
    struct wire_rec r;
    uint32_t page;
    uint32_t frame;
    uint16_t count;
    uint16_t why; /* enum wire_why of those not merged; 0 if all were */
    uint32_t id;
    uint64_t merged[WIRE_CHUNK_PAGES / 64]; /* bit i: page+i now maps frame+i */
};
static_assert(sizeof(struct wire_rec_result) == 88, "wire_rec_result");

enum wire_why {
    WIRE_WHY_NONE = 0,
    WIRE_WHY_DIFFERS = 1,   /* the bytes differ: changed since, or a hash collision */
    WIRE_WHY_PINNED = 2,    /* a device may be writing it */
    WIRE_WHY_STATE = 3,     /* not a private page any more: already merged, dropped, discarded */
    WIRE_WHY_MAP_COUNT = 4, /* no mappings left within the limit */
    WIRE_WHY_HUGE = 5,      /* in a huge page that is kept */
    WIRE_WHY_OFF = 6,       /* merging is off, paused, pinned by the VMM, or shutting down */
    WIRE_WHY_NOMEM = 7,
};

/* Pages [page, page+count) no longer hold frames [frame, frame+count). */
struct wire_rec_dropped {
    struct wire_rec r;
    uint32_t page;
    uint32_t frame;
    uint16_t count;
    uint16_t why; /* enum wire_drop */
    uint32_t reserved;
};
static_assert(sizeof(struct wire_rec_dropped) == 24, "wire_rec_dropped");
enum wire_drop { WIRE_DROP_WRITTEN = 0, WIRE_DROP_DISCARDED = 1, WIRE_DROP_UNMERGED = 2 };

/* Scan parameters, in force until the next BUDGET. */
struct wire_rec_budget {
    struct wire_rec r;
    uint32_t flags;            /* WIRE_BUDGET_* */
    uint32_t scan_pages_per_s; /* pages hashed per second; 0: none; UINT32_MAX: as fast as it can */
    uint32_t quiet_ms;         /* a page must have been left unwritten for this long to be hashed */
    uint32_t round_ms_max;     /* longest time between two rounds of a quiet VM */
    uint32_t vmas_max;         /* mappings the engine may add to its process */
    uint32_t heal_pages_per_s;
    uint32_t sample_pages; /* set aside as samples each period; 0: none, and those there are come home */
    uint32_t sample_ms;    /* the period */
};
#define WIRE_BUDGET_MERGE    1u /* merging and zero dropping on; else off (pages merged stay so) */
#define WIRE_BUDGET_ESTIMATE 2u /* hash and report, count zero pages, change nothing */
static_assert(sizeof(struct wire_rec_budget) == 40, "wire_rec_budget");

/* BREAK: the huge page at `page` (its first page) is worth splitting. */
struct wire_rec_break {
    struct wire_rec r;
    uint32_t page;
    uint32_t reserved;
};
static_assert(sizeof(struct wire_rec_break) == 16, "wire_rec_break");

/* UNMERGE: bring every page of the VM back into plain private memory, zero pages excepted. DONE answers with
 * the id and 0 or an errno (ENOMEM: does not fit in memory, nothing or part was done; EBUSY: pinned pages
 * stay). */
struct wire_rec_token {
    struct wire_rec r; /* UNMERGE, DONE, FENCE, FENCED */
    uint64_t id;
    int32_t error; /* DONE: 0 or a positive errno */
    uint32_t reserved;
};
static_assert(sizeof(struct wire_rec_token) == 24, "wire_rec_token");
/* FENCE: the engine answers FENCED with the same id after it has dealt with every record before it, MERGE
 * included. The daemon reuses a frame nobody references only after all engines of the domain have answered a
 * fence. */

/* PAGEOUT: take up to `pages` pages out of RAM, beginning where the last PAGEOUT ended: they are parked, and
 * those nobody has touched after park_ms are packed. PAGEIN: bring up to `pages` home. Both are carried out
 * piece by piece, beside everything else (a FENCE does not wait for them), and are answered by PAGED with
 * their id. A second one ends the first, whose PAGED then says ECANCELED. */
struct wire_rec_page {
    struct wire_rec r; /* PAGEOUT, PAGEIN */
    uint64_t id;
    uint64_t pages; /* UINT64_MAX: all */
    uint32_t park_ms;
    uint32_t flags;      /* WIRE_PAGEOUT_*; 0 in PAGEIN */
    uint64_t swap_bytes; /* WIRE_PAGEOUT_LIMIT: at most so much is written to the swap file */
};
#define WIRE_PAGEOUT_ALL  1u /* pages written lately and huge pages, too */
#define WIRE_PAGEOUT_PARK 2u /* they stay parked */
#define WIRE_PAGEOUT_SWAP                                                                  \
    4u /* and from the pool to the swap file, incompressible pages, too; PAGED says ENOSPC \
          if not all of it could be written */
/* With SWAP: merged pages go, too, that are touched; without MERGED, those that are not. Without SWAP, and
 * with maps of version 2, these pages become REMOTE; they count for nothing then. */
#define WIRE_PAGEOUT_MERGED 16u
#define WIRE_PAGEOUT_LIMIT  8u /* swap_bytes counts; PAGED says EDQUOT if more was to be written */
static_assert(sizeof(struct wire_rec_page) == 40, "wire_rec_page");

struct wire_rec_paged {
    struct wire_rec r;
    uint64_t id;
    uint64_t pages; /* that are out, or home, because of it */
    int32_t error;  /* 0 or a positive errno: ENOMEM, ECANCELED, ENOSPC, EDQUOT */
    uint32_t reserved;
};
static_assert(sizeof(struct wire_rec_paged) == 32, "wire_rec_paged");

/* The VM's balloon, of which the engine speaks when it has one, when anything of this has changed, and when
 * it was asked. Sizes are of the balloon, what it takes from the guest, and no larger than RAM. */
#define WIRE_BALLOON_TAGS 16u /* in the order of enum memd_balloon_tag */
struct wire_rec_balloon {
    struct wire_rec r;
    uint32_t flags;    /* WIRE_BALLOON_*; without ATTACHED there is none (any more), and the rest is 0 */
    int32_t error;     /* what became of `answered`: 0 or a positive errno */
    uint64_t answered; /* id of the last BALLOON_ASK of this session; 0: none */
    uint64_t ram_bytes, target_bytes, actual_bytes;
    uint64_t stats_serial;             /* another number whenever the guest has sent statistics; 0: none */
    uint64_t stats[WIRE_BALLOON_TAGS]; /* UINT64_MAX: not said */
};
#define WIRE_BALLOON_ATTACHED       1u
#define WIRE_BALLOON_DRIVER         2u  /* the guest has a driver bound */
#define WIRE_BALLOON_STATS          4u  /* and it sends statistics, */
#define WIRE_BALLOON_REPORTING      8u  /* reports free pages, */
#define WIRE_BALLOON_DEFLATE_ON_OOM 16u /* takes pages back before it kills */
static_assert(sizeof(struct wire_rec_balloon) == 184, "wire_rec_balloon");

#define WIRE_REC_BYTES_MAX (16u + 8u * WIRE_CHUNK_PAGES) /* SURVEY */

/* ---------------------------------------------------------------- frames */

/* A frame number: the store (NUMA node) in the top 3 bits, the 4 KiB page in that store's file in the
 * other 29. 0 means none: page 0 of store 0 is never used. */
#define WIRE_FRAME_NODE_SHIFT 29
#define WIRE_FRAME_INDEX_MASK ((1u << WIRE_FRAME_NODE_SHIFT) - 1)

/* ---------------------------------------------------------------- the page map */

#define WIRE_MAP_MAGIC 0x50414d4du /* "MMAP" */

struct wire_map {
    uint32_t magic;
    uint16_t version;
    uint16_t reserved;
    uint64_t npages;
    uint64_t hva, gpa;
    uint8_t pad[4096 - 32];
    _Atomic uint64_t entry[]; /* npages, see below */
};
static_assert(sizeof(struct wire_map) == 4096, "wire_map");

/* An entry: bits 0-3 state, 4-7 flags, 8-31 tag, 32-63 frame. */
enum wire_page_state {
    WIRE_PAGE_PRIVATE = 0, /* the VMM's own anonymous memory, or never touched */
    WIRE_PAGE_ZERO = 1,    /* all zero and dropped; private again once written */
    WIRE_PAGE_SHARED = 2,  /* maps its frame copy-on-write */
    WIRE_PAGE_BROKEN = 3,  /* written after a merge: private bytes in a store mapping; holds no frame */
    WIRE_PAGE_GONE = 4,    /* discarded by the guest */
    WIRE_PAGE_PARKED = 5,  /* out: whole, moved aside in the VMM; home again once touched */
    WIRE_PAGE_PACKED = 6,  /* out: compressed in the engine's memory; the same */
    WIRE_PAGE_SWAPPED = 7, /* out: encrypted in the swap file; the same */
    WIRE_PAGE_LOST = 8, /* the swap file, or its frame, did not give it back: whoever touches it gets a memory
                           error, until it is discarded; it holds the reference, if it was REMOTE */
    WIRE_PAGE_REMOTE = 9, /* out: its bytes are its frame's, which is not mapped; home again, as a copy, once
                             touched. It holds the reference. Maps of version 2 */
};
#define WIRE_PAGE_STATE_MASK 0xfu
#define WIRE_PAGE_F_PENDING                                                                                \
    0x10u /* a merge is being carried out: the frame is named, the state not yet changed; PARKED: is being \
             packed */
#define WIRE_PAGE_F_DROPPING \
    0x20u /* the frame is no longer used; DROPPED will be sent and the field cleared */
#define WIRE_PAGE_F_HUGE    0x40u /* in a huge page that is kept whole */
#define WIRE_PAGE_F_SAMPLE  0x40u /* PARKED: only to see whether it is touched; it is never packed */
#define WIRE_PAGE_F_PINNED  0x80u /* refused as pinned lately */
#define WIRE_PAGE_TAG_SHIFT 8
#define WIRE_PAGE_TAG_MASK \
    0xffffffu /* top 24 bits of the page's last hash, 0: not hashed since last written */
#define WIRE_PAGE_FRAME_SHIFT 32

static inline uint32_t wire_tag_of_hash(uint64_t hash)
{
    uint32_t tag = (uint32_t)(hash >> 40);
    return tag ? tag : 1;
}

#endif
