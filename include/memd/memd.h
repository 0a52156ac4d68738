/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libmemd: embed memd's memory engine into a VMM.
 *
 * A VMM opens one engine, hands over its guest RAM as regions, and goes on as before. The engine runs two
 * threads of its own: a background worker that finds and merges zero and duplicate pages, and a fault server
 * that answers accesses to pages the worker is holding. The engine connects to the memd daemon when it finds
 * one, and goes on alone, serving every fault, when the daemon dies.
 *
 * Thread rules, unless a function says otherwise:
 *  - every function may be called from any thread, at any time between memd_open() and memd_close();
 *  - no function ever waits for the daemon;
 *  - no function is a cancellation point (pthread_cancel());
 *  - none may be called from a signal handler, nor from a callback of the engine.
 *
 * Errors are negative errno values. Sizes and offsets are in bytes and multiples of 4096 where a range of
 * guest memory is named. Structures start with their own size: set `.size = sizeof x`; later releases append
 * fields.
 */
#ifndef MEMD_MEMD_H
#define MEMD_MEMD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MEMD_VERSION     "0.1.0"
#define MEMD_NAME_MAX    63 /* longest VM and domain name, in bytes without the NUL */
#define MEMD_REGIONS_MAX 64 /* regions of one engine */
#define MEMD_PAGE_BYTES  4096u
#define MEMD_CHUNK_BYTES (2u << 20)

struct memd; /* an engine; opaque */

enum memd_log_level { MEMD_LOG_ERROR = 0, MEMD_LOG_WARN = 1, MEMD_LOG_INFO = 2, MEMD_LOG_DEBUG = 3 };

/* Why bytes of a region do not take part. */
enum memd_ineligible {
    MEMD_INELIGIBLE_PINNED,  /* long-term pinned (RDMA, io_uring buffer, VFIO), or pinned with memd_pin() */
    MEMD_INELIGIBLE_LOCKED,  /* mlock()ed: its owner wants it resident */
    MEMD_INELIGIBLE_HUGETLB, /* hugetlbfs pages cannot be merged at 4 KiB */
    MEMD_INELIGIBLE_SHARED, /* MAP_SHARED or file-backed: a private copy would part it from its other users */
    MEMD_INELIGIBLE_UFFD,   /* registered with somebody else's userfaultfd */
    MEMD_INELIGIBLE_OTHER,  /* device memory, not writable, or not mapped */
    MEMD_INELIGIBLE_COUNT
};

struct memd_options {
    size_t size;         /* sizeof(struct memd_options) */
    const char *name;    /* the VM's name; required; 1..MEMD_NAME_MAX bytes of [A-Za-z0-9._-] */
    const char *domain;  /* trust domain to ask for; NULL: the VM's own (sharing within the VM only) */
    const char *run_dir; /* the daemon's run directory; NULL: $MEMD_RUN_DIR, else /run/memd */

    /* Called on one of the engine's threads or on the calling thread of an API function; must not call back
     * into the engine and must not touch guest memory. NULL log: warnings and errors go to stderr. */
    void (*log)(void *ctx, enum memd_log_level level, const char *message);
    /* A range of guest memory was lost to a hardware or storage error and now raises SIGBUS. May be NULL. */
    void (*poison)(void *ctx, uint64_t gpa, uint64_t bytes);
    void *ctx;

    const char *
        thread_prefix; /* engine threads are named PREFIX-work, PREFIX-fault; NULL: "memd"; at most 8 bytes */
    const void *cpu_set; /* cpu_set_t the engine's threads are bound to; NULL: inherited */
    size_t cpu_set_bytes;
    int worker_nice; /* niceness added to the worker thread, 0..19; 0: the default, 5 */
    uint32_t flags;  /* MEMD_OPEN_* */
};

#define MEMD_OPEN_NO_DAEMON 1u /* never connect: zero pages are still dropped, duplicates need the daemon */

/*
 * Open an engine and start its threads. Does not wait for the daemon; the engine connects in the background
 * and reconnects whenever the daemon comes back. Returns 0; -EINVAL (a bad option); -ENOSYS (the kernel lacks
 * UFFDIO_MOVE, WP_ASYNC or PAGEMAP_SCAN: Linux 6.8); -EPERM (no userfaultfd for kernel faults: give the user
 * access to /dev/userfaultfd, or start memd first, if it is not memd that refused it: see the log); -ENOMEM,
 * -EMFILE.
 */
int memd_open(const struct memd_options *options, struct memd **ret_memd);

struct memd_region_desc {
    size_t size;      /* sizeof(struct memd_region_desc) */
    void *hva;        /* start of the mapping, 4096-aligned; 2 MiB alignment keeps huge pages whole */
    uint64_t bytes;   /* multiple of 4096, at least one page */
    uint64_t gpa;     /* guest-physical address of the first byte; only reported */
    int node;         /* NUMA node of this memory; -1: ask the kernel */
    uint32_t flags;   /* MEMD_REGION_* */
    const char *name; /* shown in messages; NULL: none */
};

/* Enrol it even if no byte of it can take part, so that its size and the reasons are reported; they
 * are then no warning. */
#define MEMD_REGION_KEEP 1u

/*
 * Enrol guest RAM. From here until memd_region_del() returns, the VMM must not unmap, remap, mprotect, lock,
 * madvise or discard any of it except through this API (memd_discard() in place of MADV_DONTNEED,
 * memd_region_advise(), memd_unmap(), or after memd_region_cut()). The memory must be mapped readable
 * and writable; parts that cannot take part are left alone, counted by reason in memd_stats(). A region is
 * unaffected for the guest: its bytes, protections and registrations with KVM stay valid. Returns 0 and the
 * region's id (0..MEMD_REGIONS_MAX-1); -EINVAL; -EEXIST (overlaps a region); -ENOSPC (too many regions);
 * -ENOTSUP (no byte of it is eligible; the reason is logged); -ENOMEM.
 */
int memd_region_add(struct memd *memd, const struct memd_region_desc *desc, uint32_t *ret_region);

/*
 * Take a region back: everything is restored to plain private memory of the process, as memd_close() does for
 * all. Takes as long as reading its swap file takes. Returns 0; -ENOENT; -ENOMEM (restoring does not fit in
 * what the host and the process's memory cgroup have available: nothing was changed); -EBUSY (pages pinned
 * for device I/O did not come free within `timeout_ms` after the rest had come home; those stay in place and
 * the region stays enrolled but paused; call again).
 */
int memd_region_del(struct memd *memd, uint32_t region, unsigned timeout_ms);

/*
 * Part of a region stops taking part, with its content: [offset, offset+bytes) is brought home to plain
 * private memory, with no registration of the engine on it, and counted as ineligible for the reason `why`.
 * Before the VMM does something to it that the engine cannot follow: mprotect(), mlock(), mremap(), a
 * userfaultfd of its own. Returns 0; -EINVAL; -ENOENT; -ENOMEM (it does not fit, as in memd_region_del():
 * nothing was changed; or the map count is exhausted); -EBUSY (pages pinned for device I/O did not come free
 * within `timeout_ms`, or memd_pin() holds some: the range goes on taking part).
 */
int memd_region_cut(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes,
                    enum memd_ineligible why, unsigned timeout_ms);

/*
 * Memory is unmapped, or mapped over. Calls `call` once, on this thread, while the engine stands still; it
 * makes the system call that replaces the mappings of exactly [hva, hva+bytes), whatever of it lies in
 * regions; takes no lock and calls no function of this API. If it returns 0, what lay in regions no longer
 * takes part; if it returns a negative errno value nothing has changed, and that is returned. Else 0;
 * -EINVAL; -ENOMEM; -EBUSY (pinned with memd_pin()); with these, `call` was not called.
 */
int memd_unmap(struct memd *memd, void *hva, uint64_t bytes, int (*call)(void *ctx), void *ctx);

/*
 * What does not take part of [offset, offset+bytes) is looked at again: what now can, does. For memory that
 * was cut out and has become plain again, or that was mapped since. Returns 0; -EINVAL; -ENOENT; -ENOMEM.
 */
int memd_region_refresh(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);

/*
 * madvise() for a range of a region. MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP,
 * MADV_DONTFORK, MADV_DOFORK: pages that are merged or come back get the same. MADV_DONTNEED,
 * MADV_DONTNEED_LOCKED, MADV_FREE: what takes part is discarded as by memd_discard(); MADV_REMOVE: refused
 * there, -EINVAL, as by the kernel, which knows it for shared memory and files. What does not take part gets
 * the kernel's madvise(). Returns 0; -EINVAL (another advice, too); -ENOENT; -ENOMEM; -EBUSY as
 * memd_discard(); or what the kernel says of parts of it: the others were advised.
 */
int memd_region_advise(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes, int advice);

/*
 * The guest (or VMM) gives up the content of [offset, offset+bytes): it reads as zeros afterwards, and the
 * memory goes back to the host (except where the map count is exhausted: it is zeroed in place). Takes the
 * place of madvise(MADV_DONTNEED) for balloons and free-page reports. Memory that does not take part is
 * discarded too: private memory as by MADV_DONTNEED, shared memory as by MADV_REMOVE, for all who share it.
 * Returns 0; -EINVAL (out of the region, not page-aligned); -ENOENT; -EBUSY (a page is pinned with
 * memd_pin(); nothing was discarded); or, when something that does not take part cannot be discarded (not
 * mapped, read-only, device memory), what the kernel says: the rest was discarded.
 */
int memd_discard(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);

/* Of a region, in bytes from its start. */
struct memd_range {
    uint64_t offset, bytes;
};

/*
 * memd_discard() for each of `n` ranges, in fewer system calls where they are small (process_madvise(), Linux
 * 6.13). All are tried, whatever becomes of the others. Returns 0; or the first error of those of
 * memd_discard().
 */
int memd_discard_ranges(struct memd *memd, uint32_t region, const struct memd_range *ranges, unsigned n);

/*
 * Make [offset, offset+bytes) plain private resident memory and leave it alone until memd_unpin(): for ranges
 * a device will address directly (VFIO, RDMA). Calls nest up to 255 deep per chunk of 2 MiB; the whole of
 * every chunk touched is left alone. Returns 0; -EINVAL; -ENOENT; -ENOMEM (it does not fit, as in
 * memd_region_del()); -EBUSY (I/O in flight did not end in 1 s).
 */
int memd_pin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);
int memd_unpin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);

/*
 * Stop all background work (scanning, merging, healing); returns when nothing is being moved. Faults are
 * still served and merged pages stay merged. For the critical phases of migration and snapshots. Calls nest.
 */
int memd_pause(struct memd *memd);
int memd_resume(struct memd *memd);

/*
 * The VM's virtio-balloon device, for a VMM that has one (memd/balloon.h, or its own): from
 * memd_balloon_attach() on the daemon knows it, as long as there is a daemon and the engine lives; no
 * configuration names it. `memctl balloon` and the memory policy then move it: a target of the daemon's
 * reaches the VMM in set_target(), and what becomes of it the VMM says with memd_balloon_update(). A balloon
 * keeps its size when the daemon ends; the next one finds it as it is.
 *
 * Callbacks run on the engine's worker thread, one at a time, with no lock of the engine's held. They may
 * call memd_balloon_update(), and no other function of this API. They are to return soon: background work
 * waits for them (faults, discards and the daemon do not). They must not wait for a lock that a thread of the
 * VMM holds while it calls memd_balloon_detach() or memd_close().
 */
struct memd_balloon_info; /* memd/balloon.h */

struct memd_balloon_ops {
    size_t size;        /* sizeof(struct memd_balloon_ops) */
    uint64_t ram_bytes; /* of the guest, the balloon included: a multiple of 4096, at most 2^50 */
    /* The balloon is to be `bytes` large: 0 to ram_bytes, a multiple of 4096; as memd_balloon_set_target().
     * Returns 0, or a negative errno value that users are shown. Required. */
    int (*set_target)(void *ctx, uint64_t bytes);
    /* Statistics are wanted, as by memd_balloon_ask_stats(); what is returned does not matter. NULL: there
     * are none. */
    int (*ask_stats)(void *ctx);
    void *ctx;
};

/*
 * The VM has this balloon, empty and without a driver until memd_balloon_update() says otherwise. `ops` is
 * copied. Returns 0; -EINVAL (a bad member); -EEXIST (it has one).
 */
int memd_balloon_attach(struct memd *memd, const struct memd_balloon_ops *ops);

/*
 * How the balloon is: to be called when target, actual size, negotiated features or `running` change, as
 * often as they do (the daemon is told at most a hundred times a second), and, with the statistics of enum
 * memd_balloon_tag, when the guest has sent some; NULL: as they were. Of `info` these four members are looked
 * at; sizes above RAM are taken for RAM. Never waits. Returns 0; -EINVAL; -ENOENT (no balloon is attached).
 */
int memd_balloon_update(struct memd *memd, const struct memd_balloon_info *info, const uint64_t *stats);

/* The VM has no balloon any more. Waits for a callback that runs; afterwards none is called. Returns 0;
 * -ENOENT. */
int memd_balloon_detach(struct memd *memd);

/* A snapshot; counters are since memd_open(), page counts are current. KSM's names where KSM has one. */
struct memd_stats {
    size_t size; /* sizeof(struct memd_stats) */
    uint64_t guest_bytes;
    uint64_t zero_pages;     /* known all-zero and dropped */
    uint64_t merged_pages;   /* mapped from frames of the store; see also remote_pages */
    uint64_t broken_pages;   /* written again since, not yet healed */
    uint64_t unshared_pages; /* hashed, no equal page known */
    uint64_t volatile_pages; /* written too often to be worth hashing */
    uint64_t skipped_pages;  /* in huge pages kept whole, or passed over */
    uint64_t full_scans;
    uint64_t merges;     /* pages merged, zero pages not counted */
    uint64_t zero_drops; /* zero pages dropped */
    uint64_t cow_breaks; /* merged pages written since */
    uint64_t heals;      /* pages brought back into plain memory */
    uint64_t faults;     /* accesses that waited for the fault server */
    uint64_t rejected;   /* proposals refused because the bytes differed */
    uint64_t huge_broken;
    uint64_t ineligible_bytes[MEMD_INELIGIBLE_COUNT];
    uint64_t vmas_used;          /* mappings this engine added to the process */
    uint64_t vmas_limit;         /* and how many it may */
    uint64_t metadata_bytes;     /* memory of the engine itself */
    uint64_t cpu_ns;             /* CPU time of the engine's threads */
    uint64_t parked_pages;       /* out of guest RAM: moved aside, still whole */
    uint64_t packed_pages;       /* and compressed in the engine's own memory */
    uint64_t packed_bytes;       /* what these take, rounded up to the sizes that are kept */
    uint64_t pool_bytes;         /* and what is taken from the host for it */
    uint64_t swapped_pages;      /* in the swap file */
    uint64_t swap_bytes;         /* what they take there */
    uint64_t swap_written_bytes; /* ever written to it */
    uint64_t swap_errors;        /* writes that failed: the pages stayed in memory */
    uint64_t lost_pages;         /* that it did not give back: see memd_options.poison */
    uint64_t swapped_faults;     /* accesses that found their page there */
    uint64_t page_outs;          /* pages packed */
    uint64_t page_ins;           /* pages that came home */
    uint64_t parked_faults;      /* because somebody touched them while parked */
    uint64_t packed_faults;      /* while packed */
    uint64_t merged_outs;        /* merged pages that left RAM */
    uint32_t connected;          /* 1 while a daemon is attached */
    uint32_t paused;
    uint64_t swap_reads;       /* of the swap file, whatever their size */
    uint64_t prefetched_pages; /* read from it with another page that left with them; they are still out */
    uint64_t prefetch_used;    /* of these: somebody then touched them */
    uint64_t prefetch_wasted;  /* and nobody did while what was read was kept */
    uint64_t remote_pages;     /* merged, and not mapped any more: out, but for the frame */
    uint64_t remote_outs;      /* merged pages that became so */
    uint64_t remote_faults;    /* accesses that found their page so */
    uint64_t held_faults; /* accesses made to wait longer, because pages leave more slowly than they come */
    uint64_t held_ns;     /* for so long together */
};
int memd_stats(struct memd *memd, struct memd_stats *ret_stats);

/*
 * Bring everything home, stop the threads and free the engine. On success `memd` is gone and every region is
 * plain private memory. Returns 0; -ENOMEM or -EBUSY as memd_region_del(), with the engine still open and
 * serving: call again, or exit the process, which needs no close.
 */
int memd_close(struct memd *memd, unsigned timeout_ms);

/* The version of the library at run time, "major.minor.patch". */
const char *memd_version(void);

#ifdef __cplusplus
}
#endif
#endif
