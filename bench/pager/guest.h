/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest: a plain process with an image of guest memory in private 4 KiB pages, with or without memd's engine
 * in it. It does what it is ordered (bench/common/child.h) and answers each order; between orders it sleeps.
 */
#ifndef BENCH_PAGER_GUEST_H
#define BENCH_PAGER_GUEST_H

#include "bench/pager/floor.h"

#define GUEST_THREADS_MAX 8

enum guest_op {
    GUEST_LOAD,    /* the image into memory; answers its address, the process that has it, pages */
    GUEST_OPEN,    /* open memd's engine and wait until it is connected */
    GUEST_ENROL,   /* give the memory to memd if its engine is open, else to KSM */
    GUEST_STATS,   /* answers by enum guest_stat */
    GUEST_PAGEOUT, /* MADV_PAGEOUT; answers the thread's CPU s, pages that are in swap now */
    GUEST_READ,    /* every page in order; answers s, pages that were in swap */
    GUEST_FAULTS,  /* pages that are out, one by one; answers ns: p50, p99 */
    GUEST_FLOOR,   /* floor.h; the same */
    GUEST_JOB,     /* random accesses to the hot pages; answers wall s, CPU s, accesses */
    GUEST_QUIET,   /* a page that is out every QUIET_MS; answers ns late: p50, p99, how often */
    GUEST_THRASH,  /* random pages, as fast as it can; answers accesses that took as long as a fault */
    GUEST_BURN,    /* threads that take shares of a CPU */
    GUEST_CHECK,   /* answers the number of pages that hold what they should not */
    GUEST_END,
};

enum guest_stat {
    STAT_PARKED,
    STAT_PACKED,
    STAT_SWAPPED,
    STAT_POOL_BYTES,
    STAT_SWAP_BYTES,
    STAT_SWAP_WRITTEN_BYTES,
    STAT_PARKED_FAULTS,
    STAT_PACKED_FAULTS,
    STAT_SWAPPED_FAULTS,
    STAT_FAULTS,
    STAT_ENGINE_CPU_NS,
    GUEST_STATS_N,
};

struct guest_order {
    enum guest_op op;
    union {
        int engine_cpu;     /* GUEST_OPEN: CPU of the engine's threads, or JOIN_ANY_CPU (join.h) */
        bool cold_only;     /* GUEST_PAGEOUT */
        struct floor floor; /* GUEST_FLOOR; GUEST_FAULTS: toucher_cpu, npages, packed */
        double until_s;     /* GUEST_QUIET, GUEST_THRASH */
        struct {
            uint64_t accesses; /* 0: until until_s */
            double until_s;
            double cold_per_s; /* of cold pages */
        } job;
        struct {
            double until_s;
            unsigned nthreads;
            double share[GUEST_THREADS_MAX]; /* of a CPU */
            bool nice[GUEST_THREADS_MAX];
        } burn;
    };
};

struct guest_answer {
    int error; /* 0 or -errno; the guest has said why */
    double value[GUEST_STATS_N];
};

enum guest_kind { GUEST_BARE, GUEST_MEMD, GUEST_KSM };

struct guest_config {
    unsigned number;
    size_t npages;
    const char *image, *run_dir, *name; /* run_dir: of memd */
    const char *memvm;                  /* kvm.h: the program, and what it is to be */
    enum guest_kind kind;
};

#define GUEST_HOT_PERCENT 30

/* Serve orders until GUEST_END or the socket's end. `config`: a struct guest_config. */
void guest_main(const void *config, int socket) __attribute__((noreturn));

/* Three runs of 32 pages in ten are hot; of these, one in eight is written, too. */
static inline bool guest_page_hot(size_t page)
{
    return page / 32 * 0x9e3779b97f4a7c15ull % 1000003 % 10 < 3;
}
static inline bool guest_page_written(size_t page)
{
    return guest_page_hot(page) && page / 32 * 0xd6e8feb86659fd93ull % 1000003 % 8 == 0;
}

#endif
