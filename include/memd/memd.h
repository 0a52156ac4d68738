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
 * access to /dev/userfaultfd, or start memd first); -ENOMEM, -EMFILE.
 */
int memd_open(const struct memd_options *options, struct memd **ret_memd);

struct memd_region_desc {
    size_t size;      /* sizeof(struct memd_region_desc) */
    void *hva;        /* start of the mapping, 4096-aligned; 2 MiB alignment keeps huge pages whole */
    uint64_t bytes;   /* multiple of 4096, at least one page */
    uint64_t gpa;     /* guest-physical address of the first byte; only reported */
    int node;         /* NUMA node of this memory; -1: ask the kernel */
    uint32_t flags;   /* 0 */
    const char *name; /* shown in messages; NULL: none */
};

/*
 * Enrol guest RAM. From here until memd_region_del() returns, the VMM must not unmap, remap, mprotect or
 * discard any of it except through this API (memd_discard() in place of MADV_DONTNEED). The memory must be
 * mapped readable and writable; parts that cannot take part are left alone, counted by reason in
 * memd_stats(). A region is unaffected for the guest: its bytes, protections and registrations with KVM stay
 * valid. Returns 0 and the region's id (0..MEMD_REGIONS_MAX-1); -EINVAL; -EEXIST (overlaps a region); -ENOSPC
 * (too many regions); -ENOTSUP (no byte of it is eligible; the reason is logged); -ENOMEM.
 */
int memd_region_add(struct memd *memd, const struct memd_region_desc *desc, uint32_t *ret_region);

/*
 * Take a region back: everything is restored to plain private memory of the process, as memd_close() does for
 * all. Returns 0; -ENOENT; -ENOMEM (restoring does not fit in the host's available memory: nothing was
 * changed); -EBUSY (pages pinned for device I/O did not come free within `timeout_ms`; those stay in place
 * and the region stays enrolled but paused; call again).
 */
int memd_region_del(struct memd *memd, uint32_t region, unsigned timeout_ms);

/*
 * The guest (or VMM) gives up the content of [offset, offset+bytes): it reads as zeros afterwards, and the
 * memory goes back to the host. Takes the place of madvise(MADV_DONTNEED) for balloons and free-page reports.
 * Returns 0; -EINVAL (out of the region, not page-aligned); -ENOENT; -EBUSY (a page is pinned with
 * memd_pin(); nothing was discarded); -ENOMEM (map count exhausted: nothing lost, the rest of the range is
 * zero-filled in place instead, so the range does read as zeros).
 */
int memd_discard(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);

/*
 * Make [offset, offset+bytes) plain private resident memory and leave it alone until memd_unpin(): for ranges
 * a device will address directly (VFIO, RDMA). Calls nest up to 255 deep per chunk of 2 MiB; the whole of
 * every chunk touched is left alone. Returns 0; -EINVAL; -ENOENT; -ENOMEM; -EBUSY (I/O in flight did not end
 * in 1 s).
 */
int memd_pin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);
int memd_unpin(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes);

/*
 * Stop all background work (scanning, merging, healing); returns when nothing is being moved. Faults are
 * still served and merged pages stay merged. For the critical phases of migration and snapshots. Calls nest.
 */
int memd_pause(struct memd *memd);
int memd_resume(struct memd *memd);

/* A snapshot; counters are since memd_open(), page counts are current. KSM's names where KSM has one. */
struct memd_stats {
    size_t size; /* sizeof(struct memd_stats) */
    uint64_t guest_bytes;
    uint64_t zero_pages;     /* known all-zero and dropped */
    uint64_t merged_pages;   /* mapped from frames of the store */
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
    uint64_t vmas_used;      /* mappings this engine added to the process */
    uint64_t vmas_limit;     /* and how many it may */
    uint64_t metadata_bytes; /* memory of the engine itself */
    uint64_t cpu_ns;         /* CPU time of the engine's threads */
    uint32_t connected;      /* 1 while a daemon is attached */
    uint32_t paused;
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
