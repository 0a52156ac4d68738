/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine's own types, and who may do what with them.
 *
 * Threads
 *   worker        scans, hashes, drops zero pages, merges, heals; talks to the daemon. Background priority.
 *   fault server  reads userfaultfd A, between fault_attend() and fault_release() B, too. Answers accesses to
 * pages that are being held aside. Takes no lock: it tries a chunk once and moves on. Never touches guest
 * memory, never allocates. API callers   any thread of the VMM.
 *
 * Locks, in the order they may be taken
 *   1. engine.work   every change of the VMM's mappings, of page map entries and of the region table is made
 * by its holder. The worker holds it for one batch at a time (at most a chunk's pages aside); an API caller
 * is let in between batches (work_lock_api).
 *   2. chunk.busy    one flag per 2 MiB. Entries of pages that are out (entry_out()) become others only
 * under it. Set by the holder of engine.work around the time pages of the chunk
 * are out of place; set by the fault server, with one try and never a wait, around its answer. Whoever clears
 * it after pages were out wakes the whole range, so a fault message that found the chunk busy may be
 * forgotten.
 *
 * Guarded by       field
 *   work           region table, page map entries, pending bitmaps, chunk fields but `busy`, parking area,
 * session rings atomics        statistics; region table slots are also read by the fault server (regions are
 * freed only after it acknowledged, fault_quiesce())
 *
 * Invariants kept here: I3 (only this code changes mappings), I4 (compare while moved aside), I6 (fault
 * server), I9.
 */
#ifndef MEMD_ENGINE_ENGINE_H
#define MEMD_ENGINE_ENGINE_H

#include "memd/common/ring.h"
#include "memd/common/uapi.h"
#include "memd/engine/plan.h"
#include "memd/engine/segments.h"
#include "memd/memd.h"
#include "memd/wire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE_BYTES       ((uint64_t)WIRE_PAGE_BYTES)
#define PAGE_SHIFT       WIRE_PAGE_SHIFT
#define CHUNK_PAGES      WIRE_CHUNK_PAGES
#define CHUNK_WORDS      (CHUNK_PAGES / 64)
#define GROUP_PAGES      32u /* armed together, or not */
#define CHUNK_GROUPS     (CHUNK_PAGES / GROUP_PAGES)
#define PARKING_PAGES    (2 * CHUNK_PAGES)
#define APPLY_WISHES_MAX 16384u /* proposals waiting in memory */
#define SEGMENTS_MAX     4096u  /* differently mapped parts of one region that take part, when surveyed */
#define VMAS_SLACK       1024u  /* mappings always left to the VMM and to ourselves */
#define PIN_RETRY_MS     5000u
#define QUIET_MS_DEFAULT 100u
#define ROUND_MS_DEFAULT 4000u
#define HUGE_LOOK_ROUNDS 16u
#define HEAL_PROBE_PAGES 32u /* a probe costs as much as this many pages, however few come back: a clone */
#define HEAL_CHUNKS_MAX  16u /* healed with one probe */

/* Mapping attributes a replacement must copy, so that neighbours join again (VmFlags in /proc/PID/smaps). */
enum {
    VMA_DONTDUMP = 1 << 0,
    VMA_DONTFORK = 1 << 1, /* excluded from fork by the program itself */
    VMA_NOHUGE = 1 << 2,
    VMA_HUGE = 1 << 3,
    VMA_MERGEABLE = 1 << 4,
    VMA_NORESERVE = 1 << 5,
};

struct chunk {
    _Atomic uint8_t busy;
    _Atomic uint8_t missing; /* MISSING is on in it: the fault server fills what is absent (out.c); changed
                                under busy and work */
    uint16_t vmas;           /* mapping boundaries inside, see chunk_count_vmas() */
    _Atomic uint16_t out;    /* pages that are out, see entry_out(); changed under busy */
    uint8_t pins;            /* memd_pin() nesting */
    _Atomic uint8_t
        drops;         /* has entries with F_DROPPING still to be reported; the fault server sets it, too */
    bool huge : 1;     /* a huge page, not armed and kept whole */
    bool seen : 1;     /* a round has looked at it */
    bool surveyed : 1; /* its hashes were sent */
    bool store : 1;    /* has, or had, store mappings */
    bool islands : 1;  /* fresh memory was put between store mappings, see rejoin.c */
    bool sparse : 1;   /* has pages that only seemed to be zero: they are looked at in full */
    bool todo : 1;     /* has zero pages to be dropped, see apply.c */
    /* how often each group of pages is rewritten, see scan.c: the exponent, and rounds left without arming */
    struct {
        uint8_t level : 4, wait : 4;
    } hot[CHUNK_GROUPS];
};
static_assert(sizeof(struct chunk) <= 26, "26 bytes per 2 MiB");

/* Current page counts of a region, kept by page_set(). */
struct region_counts {
    uint64_t zero, shared, broken, tagged, pinned, pending, huge_pages;
};

/* Where the region's out pages are, see out.c. */
struct out {
    char *_Atomic shadow;    /* page i of the region is parked at page i of it; NULL: nothing was ever out */
    _Atomic uint64_t *place; /* by slot of the chunk, a page of 8 bytes each for every chunk */
    void *shadow_map;
    _Atomic uint64_t parked, sampled, packed, swapped, lost; /* parked: samples are apart */
    _Atomic uint64_t remote;
    _Atomic uint64_t tagged; /* to be added to region_counts.tagged, modulo 2^64 */
};

struct region {
    uint32_t id;
    uint32_t serial; /* tells it from the next region of the same id */
    char *base;      /* hva of page 0 */
    uint32_t npages, nchunks;
    uint64_t gpa;
    int node;
    uint32_t
        first_bit; /* page index within its (2 MiB aligned) chunk of page 0; chunks follow hva alignment */
    struct wire_map *map;
    int map_fd;
    size_t map_bytes;
    struct chunk *chunks;
    uint64_t *pending;     /* bit per chunk slot: written and not hashed since */
    struct segments parts; /* which of it takes part, and why the rest does not; pinned pages are apart */
    struct region_counts n;
    struct out out;
    bool announced;    /* REGION_ADD was sent in this session */
    bool stuck;        /* memd_region_del() failed with -EBUSY: left alone until it is called again */
    unsigned changing; /* API callers that bring pages of it home: left alone, and not removed, meanwhile */
    char name[MEMD_NAME_MAX + 1];
};

struct budget {
    uint32_t flags, scan_pages_per_s, quiet_ms, round_ms_max, vmas_max, heal_pages_per_s;
    uint32_t sample_pages, sample_ms;
};

enum session_state {
    SESSION_NONE,  /* not connected; next try at session.retry_ns */
    SESSION_HELLO, /* HELLO sent, waiting for WELCOME or REFUSED */
    SESSION_READY, /* READY sent: no frame field of any page map changes until ADOPTED */
    SESSION_LIVE,  /* rings in use, proposals accepted */
};

/* How far an UNMERGE has come. It takes as long as there is merged memory: a piece at a time. */
struct unmerge {
    uint32_t region, chunk; /* the next */
    uint32_t left;          /* pages that stay merged */
};

struct session {
    enum session_state state;
    int sock, kick_up, kick_down;
    struct wire_shm *shm;
    struct ring up, down;
    uint64_t incarnation, retry_ns, hello_ns;
    int store_fd[WIRE_NODES_MAX];
    uint64_t store_bytes;
    uint16_t map_version;
    uint32_t trimmed_pos; /* of the up ring, when its memory was given back */
    unsigned nstores;
    bool warned;                   /* "no daemon" was logged */
    bool balloons;                 /* the daemon takes BALLOON records */
    bool broken;                   /* the ring makes no sense; ended in the next turn */
    struct wire_rec_token barrier; /* FENCE or UNMERGE that waits for the proposals before it; type 0: none */
    struct unmerge unmerge;        /* its */
};

/* A frame store, see stores.c. */
struct store {
    const uint8_t *_Atomic at; /* mapped shared, read-only; NULL: it is not */
    uint64_t bytes;
    uint64_t dev, ino; /* of the file that is, or was last, mapped */
    bool known;        /* there was one */
};

struct round {
    bool running;
    bool asked;             /* start one now */
    bool digested;          /* there has been one with little that had not been looked at before */
    uint32_t region, chunk; /* where it stands */
    uint64_t started_ns, last_started_ns, due_ns;
    uint64_t interval_ms, number;
    uint64_t hashed, written, fresh, left; /* pages, this round; fresh: written, and quiet before */
    bool look_huge, look_broken;
};

/* A proposal waiting for its chunk's turn. */
struct wish {
    uint32_t id, page, frame, serial; /* of the region */
    uint16_t region, count;
};

struct apply {
    struct wish *wish; /* [0, sorted) of the pass under way, by place; the others as they came */
    uint32_t n, room, sorted, at;
    uint32_t healed;        /* wishes before this one had their pages healed that need it */
    uint32_t todo;          /* chunks marked */
    uint32_t region, chunk; /* where the pass stands */
    bool running;
    uint64_t first_ns, last_ns; /* when the first and the last came that wait for a pass */
};

/* Pages of one chunk that are to be healed with the next probe; bits from the chunk's first page. */
struct heal_wanted {
    uint32_t region, serial, chunk;
    uint64_t only[CHUNK_WORDS];
};

struct heal_queue {
    unsigned n;
    uint64_t round; /* in which the first came */
    struct heal_wanted wanted[HEAL_CHUNKS_MAX];
};

struct stats {
    _Atomic uint64_t page_outs, page_ins, parked_faults, packed_faults, swapped_faults;
    _Atomic uint64_t remote_outs, remote_faults;
    _Atomic uint64_t held_faults, held_ns;
    _Atomic uint64_t full_scans, merges, zero_drops, cow_breaks, heals, faults, rejected, huge_broken,
        hashed_pages, written_pages, would_save_pages, round_written_pages;
    _Atomic uint64_t merged_outs;
    _Atomic uint64_t sampled_faults; /* not in page_ins and parked_faults */
    _Atomic uint64_t latency[WIRE_TIERS][WIRE_LATENCY_BUCKETS], latency_ns[WIRE_TIERS]; /* latency.h */
};

struct memd {
    /* fixed after memd_open() */
    char name[MEMD_NAME_MAX + 1], domain[MEMD_NAME_MAX + 1], run_dir[108 - sizeof WIRE_SOCKET_NAME];
    void (*log)(void *ctx, enum memd_log_level level, const char *message);
    void (*poison)(void *ctx, uint64_t gpa, uint64_t bytes);
    void *ctx;
    uint32_t flags;
    int uffd_a; /* guest RAM: WP_ASYNC | WP_UNPOPULATED | MOVE | EVENT_REMAP */
    int uffd_b; /* store mappings while they are healed: synchronous write-protection */
    int pagemap;
    uint64_t guards;       /* PAGE_IS_GUARD, or 0: the kernel cannot tell (before 6.15) */
    bool reads_take_pages; /* who reads what is not there gets a page, not the kernel's shared zero page */
    int wake_worker, wake_fault; /* eventfds */
    char *parking;               /* PARKING_PAGES, registered with A, never forked */
    char *parking_map;           /* with its guards */
    char *bell;                  /* a page registered with A, empty: wakes the fault server */
    char *window;     /* CHUNK_PAGES of unpopulated memory registered with A, to move over a range */
    char *window_map; /* with its guards */
    uint32_t window_flags;
    bool strict;             /* vm.overcommit_memory is 2, */
    uint64_t strict_look_ns; /* as last looked at */
    pthread_t worker, fault;
    bool worker_started, fault_started;

    pthread_mutex_t work;
    pthread_cond_t work_free; /* the API callers are through */
    int cancel_before;        /* of the API caller that has `work`: pthread_setcancelstate() */
    _Atomic unsigned api_waiting;
    _Atomic bool stopping, fault_stop;
    _Atomic bool fault_waits;     /* the fault server has found a chunk locked, see out_unlock() */
    _Atomic uint64_t fault_turns; /* times the fault server has looked at all it has, see fault_quiesce() */
    _Atomic bool fault_blocks;    /* the fault server sees nothing but userfaultfd A */
    _Atomic unsigned fault_attends;
    _Atomic unsigned paused;

    struct region *_Atomic regions[MEMD_REGIONS_MAX];
    uint32_t parked; /* parking pages in use or dirty since the last release */
    uint32_t region_serial;
    bool let_in;       /* the fork under way lets memory in */
    bool forked;       /* memory was shared with a child: its pages may need a write to be movable again */
    bool locks_future; /* mlockall(MCL_FUTURE): every new mapping is filled at once */
    _Atomic bool drops_left; /* some chunk has F_DROPPING entries */
    struct plan_costs costs;
    struct apply apply;
    struct session session;
    struct store store[WIRE_NODES_MAX];
    struct pager *pager;
    struct vmballoon *balloon; /* vmballoon.h */
    struct sampler *sampler;   /* NULL: none was ever wanted */
    struct budget budget;
    struct round round;
    double tokens; /* pages that may be hashed now */
    uint64_t tokens_ns;
    double heal_tokens;
    struct heal_queue heal_queue;
    bool unmerged;        /* merging stays off until the next BUDGET with MERGE after one without */
    bool filtered;        /* a seccomp filter was there before the engine: it may kill who clones */
    bool probe_warned;    /* that clone() is refused */
    bool map_count_short; /* a mapping was refused for want of map count; cleared by time */
    uint64_t map_count_retry_ns, pin_retry_ns, cpu_sampled_ns;
    uint64_t vmas_used, max_map_count;
    _Atomic uint64_t cpu_ns, vmas_now, metadata_bytes;
    struct stats stats;
    struct memd *next; /* of all engines, for fork */
    uint64_t forks;    /* struct wire_stats */
    pid_t pid;         /* of the process the engine works for: a forked child's copy is inert */
    int nodes;         /* NUMA nodes of the machine */
    int worker_nice;
};

/* ---- log.c */
void log_msg(struct memd *m, enum memd_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- small helpers */
uint64_t now_ns(void);

static inline char *page_hva(const struct region *r, uint32_t page)
{
    return r->base + (uint64_t)page * PAGE_BYTES;
}

/* Chunks follow the alignment of the host address, because huge pages do. */
static inline uint32_t chunk_of(const struct region *r, uint32_t page)
{
    return (page + r->first_bit) / CHUNK_PAGES;
}
static inline uint32_t chunk_first(const struct region *r, uint32_t chunk)
{
    uint32_t slot = chunk * CHUNK_PAGES;
    return slot < r->first_bit ? 0 : slot - r->first_bit;
}
static inline uint32_t chunk_end(const struct region *r, uint32_t chunk)
{
    uint32_t end = (chunk + 1) * CHUNK_PAGES - r->first_bit;
    return end < r->npages ? end : r->npages;
}

static inline unsigned entry_state(uint64_t e)
{
    return e & WIRE_PAGE_STATE_MASK;
}
static inline uint32_t entry_frame(uint64_t e)
{
    return (uint32_t)(e >> WIRE_PAGE_FRAME_SHIFT);
}
static inline uint32_t entry_tag(uint64_t e)
{
    return (e >> WIRE_PAGE_TAG_SHIFT) & WIRE_PAGE_TAG_MASK;
}
static inline uint64_t entry_make(unsigned state, uint32_t flags, uint32_t tag, uint32_t frame)
{
    return state | flags | (uint64_t)tag << WIRE_PAGE_TAG_SHIFT | (uint64_t)frame << WIRE_PAGE_FRAME_SHIFT;
}
static inline bool entry_out(uint64_t e)
{
    return entry_state(e) >= WIRE_PAGE_PARKED && entry_state(e) <= WIRE_PAGE_REMOTE;
}
static inline bool entry_sample(uint64_t e)
{
    return entry_state(e) == WIRE_PAGE_PARKED && e & WIRE_PAGE_F_SAMPLE;
}
static inline bool entry_in_store(uint64_t e)
{
    return entry_state(e) == WIRE_PAGE_SHARED || entry_state(e) == WIRE_PAGE_BROKEN;
}

/* ---- region.c: the region table, eligibility, the page map */
uint64_t page_get(const struct region *r, uint32_t page);
/* work held. Pages that are out are out.c's business: nothing is done if the entry is, or was to become, one
 * of those. */
void page_set(struct region *r, uint32_t page, uint64_t entry);
void pending_set(struct region *r, uint32_t page);
void pending_clear(struct region *r, uint32_t page);
bool pending_test(const struct region *r, uint32_t page);
const struct segment *region_segment(const struct region *r, uint32_t page); /* NULL: not eligible */
/* Looks again at [first, end), of which nothing takes part: what can take part does so from now on. */
int region_survey(struct memd *m, struct region *r, uint32_t first, uint32_t end);
/* It is dropped: its chunk is locked. Its memory is registered with uffd A. */
void region_dropped(struct memd *m, struct region *r, uint32_t page);
void region_show_zeros(const struct region *r, uint32_t page, uint32_t end); /* not registered any more */
bool region_takes_part(const struct region *r);                              /* any of it */
void region_ineligible(const struct region *r, uint64_t *bytes); /* adds to bytes[MEMD_INELIGIBLE_COUNT] */
struct region *region_at(struct memd *m, uint64_t hva);
struct region *region_get(struct memd *m, uint32_t id); /* NULL: there is none */
int region_range(struct memd *m, uint32_t region, uint64_t offset, uint64_t bytes,
                 struct region **ret_region); /* checks what an API caller names: 0, -ENOENT, -EINVAL */

void region_remove(struct memd *m, struct region *r); /* everything is home; work held */
void engine_kick(struct memd *m);                     /* wake the worker; any thread */
void engine_count(struct memd *m, struct region_counts *ret_n, uint64_t ret_ineligible[MEMD_INELIGIBLE_COUNT],
                  uint64_t *ret_skipped); /* work held */

/* Enter and leave engine.work; the API side has priority over the worker. */
void work_lock_api(struct memd *m);
void work_unlock_api(struct memd *m);
void work_breathe(struct memd *m, unsigned us); /* an API caller lets others in for a while */
void work_lock_worker(struct memd *m);
void work_unlock_worker(struct memd *m);

/* ---- uffd.c: kernel shims; 0 or -errno */
int uffd_open(struct memd *m, int dev_fd); /* dev_fd: /dev/userfaultfd or -1 to find one */
int uffd_register(int uffd, const void *hva, uint64_t bytes, uint64_t mode);
int uffd_unregister(int uffd, const void *hva, uint64_t bytes);
int uffd_wake(int uffd, const void *hva, uint64_t bytes);
int uffd_write_protect(int uffd, const void *hva, uint64_t bytes, bool on);
int uffd_copy(int uffd, void *dst, const void *src, uint64_t bytes, uint64_t *ret_copied);
int uffd_copy_armed(int uffd, void *dst, const void *src, uint64_t bytes, uint64_t *ret_copied);
int uffd_zero(int uffd, void *dst, uint64_t bytes);
/* The same for whoever must not wait, and all or nothing; -EAGAIN: later. `armed`: a write will be noticed.
 */
int uffd_copy_once(int uffd, void *dst, const void *src, uint64_t bytes, bool armed);
int uffd_unprotect_once(int uffd, const void *hva, uint64_t bytes);
int uffd_poison_once(struct memd *m, void *hva); /* a page */
/* Nothing is there but a marker for write tracking, which whoever looks at the page map with
 * PM_SCAN_WP_MATCHING may leave: zeros and poison cannot be put there before it is taken away. */
bool uffd_marker_at(struct memd *m, const void *hva);
int uffd_move_once(struct memd *m, void *dst, const void *src); /* a page */
/* Moves what it can: *ret_moved bytes from the start; 0 if all, else why it stopped. Between uffd A's ranges;
 * while it runs nobody else fills `dst` or takes pages from `src`. */
int uffd_move(struct memd *m, void *dst, const void *src, uint64_t bytes, uint64_t mode, uint64_t *ret_moved);
/* PAGEMAP_SCAN; returns the number of ranges or -errno. */
struct scan_query {
    uint64_t flags, inverted, mask, anyof, ret;
};
/* Never of guard pages (MADV_GUARD_INSTALL), where the kernel can tell: reading them is a SIGSEGV. */
int pagemap_scan(struct memd *m, const void *hva, uint64_t bytes, const struct scan_query *q,
                 struct page_region *vec, unsigned nvec, uint64_t *ret_end);

/* ---- place.c: replacing mappings; work held */
int place_init(struct memd *m);
bool place_locks_future(void);      /* would a new mapping be filled at once? */
void place_measure(struct memd *m); /* fills m->costs */
void place_fini(struct memd *m);
void *place_hint(uint64_t bytes);             /* for mmap() of the engine's own; NULL: anywhere */
void *place_reserve(uint64_t bytes);          /* NULL: no memory */
void place_empty(char *area, uint64_t bytes); /* of the engine's own */
int place_anon(struct memd *m, struct region *r, uint32_t page, uint32_t npages); /* fresh, empty, tracked */
int place_window(struct memd *m, struct region *r, uint32_t page,
                 uint32_t npages); /* the same, MISSING on, atomically */
int place_store(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t frame);
void place_store_flags(struct region *r, uint32_t page, uint32_t npages); /* once per batch of place_store */
void chunk_count_vmas(struct memd *m, struct region *r, uint32_t chunk);

/* ---- hold.c: taking pages aside and giving them back; work held */
void chunk_lock(struct chunk *c);
void chunk_unlock(struct chunk *c);
bool chunk_trylock(struct chunk *c);
struct hold_run { /* pages [page, page+npages) aside at parking + park pages */
    uint32_t page, npages, park;
};
int hold_take(struct memd *m, struct region *r, uint32_t page, uint32_t npages, struct hold_run *ret_run);
void hold_return(struct memd *m, struct region *r, const struct hold_run *run, uint32_t skip,
                 uint32_t npages);
char *hold_page(struct memd *m, const struct hold_run *run, uint32_t i);
struct hold_fill { /* what is to come back to the guest */
    char *hva;
    const char *src;
    uint64_t left, piece;    /* bytes; to be tried at once: as `left` at first */
    bool move, armed, stays; /* by moving, not copying; copies count as unchanged; `src` may not be moved */
};
int hold_fill(struct memd *m, struct hold_fill *f); /* one step; 0: go on, else why it failed: try again */
void hold_end(struct memd *m, struct region *r, uint32_t page,
              uint32_t npages);                      /* MISSING off where nothing is out */
void hold_release(struct memd *m, bool force);       /* give the parking pages back to the host */
uint32_t hold_room(struct memd *m, uint32_t npages); /* parking pages for that many; the caller fills them */
/* Pages to `dst`, as far as one mapping goes; 0: go on after *ret_npages, else why it stopped there. */
int hold_move(struct memd *m, char *dst, char *hva, uint32_t npages, uint64_t mode, uint32_t *ret_npages);
/* Calls fn for each range of parking pages with something in it; i counts from `park`. */
typedef void hold_fn(void *ctx, uint32_t i, uint32_t npages);
void hold_each(struct memd *m, uint32_t park, uint32_t npages, hold_fn *fn, void *ctx);
void hold_back(struct memd *m, char *hva, uint32_t park, uint32_t npages);
void map_count_hit(struct memd *m); /* a mapping was refused: no merges for a while, and it is said so */
void hold_missing_on(struct memd *m, struct chunk *c); /* somewhere in the chunk, from now on */
void hold_stays_missing(struct memd *m, struct chunk *c, uint32_t npages, int err);

/* ---- apply.c; work held */
void apply_wish(struct memd *m, const struct wire_rec_merge *rec); /* queue a proposal, or answer it */
void apply_zero(struct memd *m, struct region *r, uint32_t page);  /* this page is to be dropped */
void apply_forget(struct memd *m);                                 /* the session is gone */
uint64_t apply_due_ns(const struct memd *m);                       /* 0: now, UINT64_MAX: nothing waits */
bool apply_step(struct memd *m);                                   /* one chunk; false: nothing to do now */
bool apply_goes_on(struct memd *m); /* a pass over the queue is under way, and nothing holds it up */

/* ---- refs.c; work held */
void refs_drop(struct memd *m, struct region *r, uint32_t page, uint32_t npages, enum wire_drop why);
/* The same of pages that are out, whose entries the caller changes; false: not now. */
bool refs_give(struct memd *m, const struct region *r, uint32_t page, uint32_t npages, uint32_t frame,
               enum wire_drop why);
/* Entries of the chunk were marked F_DROPPING. Any thread. */
void refs_later(struct memd *m, struct chunk *c);
bool refs_flush(struct memd *m, struct region *r, uint32_t chunk); /* false: the ring is full */
bool refs_flush_region(struct memd *m, struct region *r);          /* the same */
bool refs_flush_all(struct memd *m);                               /* false: some are left to be told of */

/* ---- change.c; work held, let go where reading takes long: region.changing must be up */
int home_from_swap(struct memd *m, struct region *r, uint32_t page, uint32_t end); /* 0, -ENOMEM */

/* ---- discard.c; work held */
int discard_pages(struct memd *m, struct region *r, uint32_t page, uint32_t end);

/* ---- scan.c; work held */
bool scan_step(struct memd *m); /* one chunk of the current round; false: nothing to do now */
uint64_t scan_due_ns(struct memd *m);
void scan_look_broken(struct memd *m, struct region *r, uint32_t chunk);
/* -EBUSY: there are private pages in these store mappings, or what looks like one. */
int scan_any_private(struct memd *m, struct region *r, uint32_t first, uint32_t end);
void scan_forget(struct memd *m, struct region *r, uint32_t chunk); /* all its pages are to be hashed again */
typedef void found_fn(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint64_t categories,
                      void *arg);
/* Calls fn for every range of [first, end) that matches and takes part; -errno if the kernel refuses. */
int scan_pages(struct memd *m, struct region *r, uint32_t first, uint32_t end, const struct scan_query *q,
               found_fn *fn, void *arg);

/* ---- huge.c; work held */
void huge_look(struct memd *m, struct region *r, uint32_t chunk);   /* is it one now? */
void huge_survey(struct memd *m, struct region *r, uint32_t chunk); /* tell the daemon what is in it */
int scan_break_huge(struct memd *m, struct region *r, uint32_t page);
void scan_huge_gone(struct region *r, uint32_t chunk); /* no longer one huge page */

/* ---- bytes.c; pages the guest may be writing, any thread */
bool page_is_zero(const void *page);
bool page_equals(const void *page, const void *other);
void page_copy(void *to, const void *page);
bool page_seems_zero(const void *page); /* by a few of its words: a hint, cheaper than looking at all */
void page_expect(const void *page);     /* these words will be looked at in a moment; it need not be there */
uint64_t zero_page_hash(void);

/* ---- rejoin.c; work held */
void rejoin_widen(const struct region *r, uint32_t *page, uint32_t *end);
void rejoin_chunk(struct memd *m, struct region *r, uint32_t chunk); /* one mapping again, if it can be */

/* ---- heal.c; work held */
int heal_range(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t *ret_left);
/* Pages of one chunk, with the next heal_flush(). False: not now; there is no room or no budget. */
bool heal_want(struct memd *m, struct region *r, uint32_t page, uint32_t npages);
void heal_flush(struct memd *m);
void heal_chunk(struct memd *m, struct region *r, uint32_t chunk); /* wants what is worth it */
/* Some of what is merged comes home, and nothing is merged from here on. True: no more is to be done, and
 * *ret_error what UNMERGE is answered with. */
bool unmerge_step(struct memd *m, struct unmerge *u, int32_t *ret_error);
int heal_room(struct memd *m, const struct region *r, uint32_t page, uint32_t end); /* 0, -ENOMEM: said so */
/* What is merged in this part of one chunk comes home, and the chunk is one mapping again, if it can be. */
int heal_home(struct memd *m, struct region *r, uint32_t page, uint32_t end, uint32_t *ret_left);

/* ---- session.c; work held, worker thread (session_open_uffd: memd_open) */
void session_turn(struct memd *m, uint64_t now); /* connect, handshake, messages */
int session_drain(struct memd *m, unsigned max); /* ring records; returns how many */
void session_kick(struct memd *m);
void session_close(struct memd *m);
void session_bye(struct memd *m); /* nothing is held any more */
int session_fetch_uffd(struct memd *m);
bool session_can_report(const struct memd *m);
void session_announce(struct memd *m, struct region *r);
void session_retire(struct memd *m, struct region *r);
void session_stats(struct memd *m);
void session_round_done(struct memd *m);
void session_trim(struct memd *m); /* nothing was found in a while */
bool merging_on(const struct memd *m);
bool scanning_on(struct memd *m);

/* ---- out.c, pager.c, sample.c, latency.c: see there */

/* ---- fault.c, worker.c, fork.c */
void *fault_main(void *arg);
/* From here to fault_release() the fault server looks at all it has, not only at userfaultfd A. Work held. */
void fault_attend(struct memd *m);
void fault_release(struct memd *m);
void fault_quiesce(struct memd *m); /* all that had come has been answered; work held */
void *worker_main(void *arg);
int fork_fits(void);            /* brings home what must be in a child; -ENOMEM: it does not fit */
int fork_watch(void);           /* fork() calls the engines' handlers from now on */
void fork_home(struct memd *m); /* pauses it, and brings home what a child would need: all of fork that pages
                                   are locked for. A thread that is going to fork, or another in its place */
/* What fork() calls, for those who fork otherwise. The child: no handler of the allocator has run. */
void fork_prepare(void);
void fork_parent(void);
void fork_child(void);
int fork_enlist(struct memd *m); /* 0, -EMFILE, -ENOMEM */
void fork_delist(struct memd *m);
bool fork_pending(struct memd *m);       /* a child may still share our pages */
bool fork_is_heir(void);                 /* this process was forked with memory of an engine in it */
bool fork_is_ours(const struct memd *m); /* this memory is the engine's, and not a forked child's copy */
bool fork_is_vforked(void);              /* we are a child that works on its parent's memory */
bool fork_is_stray(void);                /* we are a forked child that no handler has seen */

#endif
