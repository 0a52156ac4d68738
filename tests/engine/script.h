/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * script: the daemon's side of include/memd/wire.h, under the control of a test.
 *
 * A script listens at RUN_DIR/memd.sock and serves any number of engines, of this process and of others. One
 * service thread does the handshakes, reads the rings and keeps the accounts; the test sends what it likes
 * and waits for what it expects. What an engine says is held against the protocol: records out of bounds,
 * claims to references it does not hold, fences answered too early, page maps that change while they must
 * not. Each breach is a violation; script_close() fails the test if there was one.
 *
 * Frames nobody refers to, once every engine has answered a fence, are overwritten with garbage before they
 * are used again: an engine that gave a reference back too early shows wrong bytes to its guest.
 *
 *   script.c   sessions, handshake, adoption, the service thread
 *   records.c  what engines say: checks and accounts
 *   frames.c   the store
 *   orders.c   what the test says
 *   match.c    a matcher for tests that want merging to happen by itself
 *
 * Locking: everything is guarded by script.lock. Functions named script_*() take it; the few called under it
 * say so. `changed` is signalled after every batch of records.
 */
#ifndef TESTS_ENGINE_SCRIPT_H
#define TESTS_ENGINE_SCRIPT_H

#include "memd/common/ring.h"
#include "memd/wire.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SCRIPT_VMS_MAX       16u
#define SCRIPT_PROPOSALS_MAX 16384u /* MERGEs of one engine without an answer; a power of two */
#define SCRIPT_BLOCK_FRAMES  512u   /* the store is given out in blocks */
#define SCRIPT_TOKENS        64     /* FENCE and UNMERGE under way at a time, at most */
#define SCRIPT_WAIT_MS       20000u

/* What the script does by itself with hashes. */
enum script_match {
    SCRIPT_MATCH_NONE,
    SCRIPT_MATCH_EQUAL, /* as KSM: the second page with a content makes it a frame */
    SCRIPT_MATCH_ALL,   /* every page becomes a frame */
};

struct script_options {
    enum script_match match;
    uint32_t store_blocks;                /* 0: 64 */
    const struct wire_rec_budget *budget; /* sent to every engine that joins; NULL: none */
    const char *swap;                     /* file that engines get as their swap file; NULL: none */
    uint64_t swap_max;                    /* bytes it may become; 0: no limit */
    bool balloons;                        /* BALLOON records are taken; else they are a violation */
    uint16_t map_version;                 /* the highest it knows of, as a daemon of then; 0: as today */
};

struct script_region {
    bool used;
    uint32_t npages;
    uint32_t serial; /* which use of this id it is */
    uint64_t hva;
    const struct wire_map *map;
    size_t map_bytes;
    uint32_t *held; /* frame each page refers to, by RESULT and DROPPED */
};

struct script_proposal {
    bool open;
    uint32_t id, region, serial, page, frame, count;
};

/* One engine. Kept until script_close(), also when its session is over. Read under script.lock. */
struct script_vm {
    struct script *script;
    enum { VM_FREE, VM_HELLO, VM_JOINING, VM_READY, VM_LIVE, VM_OVER } state;
    char name[WIRE_NAME_BYTES];
    pid_t pid;
    int sock, kick_up, kick_down, shm_fd;
    struct wire_shm *shm;
    struct ring up, down;
    bool said_bye, wants_swap;
    uint16_t map_version; /* of this session */
    struct script_region region[WIRE_REGIONS_MAX];

    struct script_proposal proposal[SCRIPT_PROPOSALS_MAX];
    uint32_t next_id, oldest_id;         /* proposals [oldest, next) may be open */
    uint32_t fence_bound[SCRIPT_TOKENS]; /* next_id when a FENCE or UNMERGE was sent, by its id */
    uint64_t next_token, fenced, done;
    int done_error;
    uint64_t next_page_id;
    struct wire_rec_paged paged;     /* the last PAGED */
    bool speaks_balloon;             /* by its HELLO */
    struct wire_rec_balloon balloon; /* the last BALLOON ... */
    uint64_t balloons;               /* ... of so many */
    uint32_t exports_asked;          /* EXPORTs without EXPORTED */
    uint64_t ready_sum;              /* of all frame fields at READY */

    /* counted since the script began */
    uint64_t hashes, surveyed, results, nonsense, merged, refused[8], dropped, exported, not_exported;
    uint64_t sessions_seen;
};

typedef void script_tap(struct script_vm *vm, const struct wire_rec *rec, void *ctx);
struct matcher;

struct script {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    struct script_options options;
    struct wire_rec_budget budget;
    char run_dir[96];
    bool stopping, hold_adopted;
    int listen_fd, wake_fd;
    uint64_t incarnation, violations, serial;
    struct script_vm *vm[SCRIPT_VMS_MAX];
    script_tap *tap; /* called under the lock for every record of an engine */
    void *tap_ctx;

    int store_fd;
    uint8_t *store; /* writable */
    uint32_t nblocks;
    uint32_t *refs; /* by frame: named by page maps or in proposals under way */
    struct block {
        enum { BLOCK_FREE, BLOCK_USED, BLOCK_RETIRED } state;
        uint32_t refs, used;
    } * block;
    uint32_t open_block; /* singles come from here; 0: none */
    struct matcher *matcher;
};

/* ---- life */

struct script *script_open(const struct script_options *options);
/* Ends the sessions and frees everything. Fails the test if there were violations. */
void script_close(struct script *s);
/* The daemon dies: socket gone, sessions cut. The store and the accounts of frames stay. */
void script_vanish(struct script *s);
/* A new daemon at the same place, another incarnation. */
void script_appear(struct script *s);

/* One message of the handshake with descriptors; 0 or -errno. */
int script_send_fds(int sock, void *msg, uint16_t type, uint16_t bytes, const int *fds, unsigned nfds);

/* The script's budget for "as fast as possible". */
struct wire_rec_budget script_budget_full(void);

/* The engine's process is dead: its references are dropped. */
void script_dead(struct script_vm *vm);

/* ---- waiting; each fails the test after SCRIPT_WAIT_MS unless it says otherwise */

struct script_vm *script_wait_vm(struct script *s, const char *name);
/* Until the region is announced: before, nothing may be proposed for it. */
void script_wait_region(struct script_vm *vm, uint32_t region);
void script_wait_no_region(struct script_vm *vm, uint32_t region);
typedef bool script_until(struct script_vm *vm, void *arg); /* under the lock */
bool script_wait(struct script_vm *vm, script_until *until, void *arg, unsigned timeout_ms);
/* A live engine again, with a higher sessions_seen; returns the milliseconds it took. */
unsigned script_wait_back(struct script_vm *vm, uint64_t sessions_before);
/* Page map entry as it is now. */
uint64_t script_entry(struct script_vm *vm, uint32_t region, uint32_t page);
uint32_t script_count_state(struct script_vm *vm, uint32_t region, enum wire_page_state state);
/* References to a frame, by the accounts. */
uint32_t script_refs(struct script *s, uint32_t frame);
/* KSM's pages_shared: frames somebody refers to; and pages_sharing: further references to them. */
struct script_counts {
    uint64_t shared, sharing;
};
struct script_counts script_count(struct script *s);

/* ---- orders (orders.c) */

/* A record as it stands; header filled in. False: the session is over or the ring stayed full. */
bool script_send(struct script_vm *vm, uint16_t type, uint32_t region, void *rec, uint32_t bytes);
/* A MERGE outside the accounts, for proposals that must be refused: an id from here on. A RESULT that merges
 * any of it is a violation. */
#define SCRIPT_ID_NONSENSE 0x80000000u
void script_budget(struct script_vm *vm, const struct wire_rec_budget *budget);
/* Takes one reference per page; returns the id, 0 if it could not be sent. */
uint32_t script_merge(struct script_vm *vm, uint32_t region, uint32_t page, uint32_t frame, uint32_t count);
/* FENCE, and wait for FENCED. False: the session ended first. */
bool script_fence(struct script_vm *vm);
/* UNMERGE, and wait for DONE: 0 or the positive errno; -1: the session ended first. */
int script_unmerge(struct script_vm *vm);
/* PAGEOUT or PAGEIN; returns its id, 0 if it could not be sent. */
uint64_t script_page(struct script_vm *vm, uint16_t type, uint64_t pages, uint32_t park_ms, uint32_t flags);
/* PAGEOUT of everything that may write `bytes` to the swap file. */
uint64_t script_pageout_limited(struct script_vm *vm, uint32_t flags, uint64_t bytes);
/* Waits for the PAGED of this order, which must be the last one given. */
struct wire_rec_paged script_paged(struct script_vm *vm, uint64_t id);
/* BALLOON_ASK. False: it could not be sent. */
bool script_balloon_ask(struct script_vm *vm, uint64_t id, uint32_t flags, uint64_t bytes);
/* Merging off and on again, which also ends the effect of UNMERGE. */
void script_merging(struct script_vm *vm, bool on);
void script_break(struct script_vm *vm, uint32_t region, uint32_t page);
void script_round(struct script_vm *vm);
bool script_export(struct script_vm *vm, uint32_t region, uint32_t page, uint16_t count, uint16_t slot);
/* Wait until `n` more rounds have been completed. */
void script_wait_rounds(struct script_vm *vm, unsigned n);

/* ---- frames (frames.c) */

/* Copies `n` pages (at most SCRIPT_BLOCK_FRAMES) into fresh consecutive frames; returns the first, 0 if the
 * store is full. A block of its own, retired by script_retire(). */
uint32_t script_frames(struct script *s, const void *pages, uint32_t n);
/* One frame, kept for good. */
uint32_t script_frame(struct script *s, const void *page);
void script_retire(struct script *s, uint32_t frame);
/* Fences all engines, and scribbles over and frees the retired blocks nobody refers to. Returns how many. */
uint32_t script_recycle(struct script *s);

/* ---- between the files; all under script.lock */

void script_violation(struct script_vm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
void script_take_messages(struct script_vm *vm); /* all there are; the session may be over then */
int records_take(struct script_vm *vm);          /* all there is; -errno: the ring is broken */
void records_ready(struct script_vm *vm);        /* from here on no frame field may change */
void records_adopt(struct script_vm *vm);        /* counts what the page maps name */
void records_region_gone(struct script_vm *vm, uint32_t region);
void records_forget(struct script_vm *vm); /* all references of an engine that is dead */
void *orders_reserve(struct script_vm *vm, uint16_t type, uint32_t region, uint32_t bytes);
void orders_publish(struct script_vm *vm);
uint32_t orders_merge(struct script_vm *vm, uint32_t region, uint32_t page, uint32_t frame, uint32_t count);
int frames_open(struct script *s);
void frames_close(struct script *s);
void frames_ref(struct script *s, uint32_t frame, uint32_t count);
void frames_unref(struct script *s, uint32_t frame, uint32_t count);
bool frames_valid(const struct script *s, uint32_t frame, uint32_t count);
uint32_t frames_one(struct script *s, const void *page);
struct matcher *matcher_new(void);
void matcher_free(struct matcher *m);
void matcher_hashes(struct script_vm *vm, const struct wire_rec_hashes *rec);
void matcher_exported(struct script_vm *vm, const struct wire_rec_export *rec);
void matcher_turn(struct script *s);
void matcher_forget(struct script_vm *vm);

#endif
