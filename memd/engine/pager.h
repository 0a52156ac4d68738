/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* pager: which pages leave RAM, and when; see pager.c. */
#ifndef MEMD_ENGINE_PAGER_H
#define MEMD_ENGINE_PAGER_H

#include "memd/engine/engine.h"
#include "memd/engine/pool.h"
#include "memd/engine/swapfile.h"

#define PAGER_SWEEP_MS 500u /* between looks at which chunks have nothing out any more */

enum pager_phase {
    PAGER_IDLE,
    PAGER_PARK,   /* going round, parking */
    PAGER_WAIT,   /* for somebody to touch what was parked */
    PAGER_PACK,   /* going round, packing what is still parked */
    PAGER_SPILL,  /* the window's go to the swap file, before others are parked */
    PAGER_SWAP,   /* going round, writing what is packed, or parked for good, to the swap file */
    PAGER_FORGET, /* going round, because it is full: records of pages that are home are given up */
    PAGER_FLUSH,  /* the last of it is being written */
    PAGER_REMOTE, /* going round: cold merged pages give up their mappings */
    PAGER_HOME,   /* PAGEIN */
    PAGER_ANSWER, /* PAGED waits for room in the ring */
};

struct pager {
    /* for out.c; fixed once the first page goes out */
    struct pool *pool;
    char *area;                    /* locked in memory; the next two lie in it */
    struct swapfile *_Atomic swap; /* NULL: none yet */
    int swap_fd;                   /* what the daemon has sent for it; -1: nothing yet */
    uint64_t swap_max_bytes;
    char *serve;          /* two pages, the fault server's */
    char *batch;          /* OUT_BATCH_PAGES */
    void *lz4;            /* the compressor's state */
    uint32_t served;      /* the fault server's: pages dropped from the pool since the worker was told */
    _Atomic bool emptied; /* some chunk has nothing out any more */
    _Atomic bool lost;    /* there are LOST pages the VMM has not been told of */
    uint64_t lost_pages;  /* ever */
    uint64_t wholes;      /* pages that were swapped as they were, not packed */

    /* the order being carried out */
    enum pager_phase phase;
    struct wire_rec_page order;
    uint64_t done; /* pages */
    uint64_t parked;
    unsigned passes; /* over what was parked */
    uint64_t kept;   /* pages that could not be packed: on their way to the swap file as they are */
    uint64_t before; /* wholes, when it began */
    uint64_t errors; /* of the swap file, when it began to write */
    bool writes;     /* to it: what may be written is known */
    bool at_once;    /* not by windows: the file is full */
    bool forgot;     /* PAGER_FORGET was tried */
    uint64_t pack_ns;
    int error;
    uint32_t region, chunk;           /* where it stands */
    uint32_t page;                    /* in the chunk's pages, PAGER_PACK and PAGER_HOME */
    uint32_t left;                    /* chunks to go round */
    uint32_t home_step;               /* pages to bring home at a time */
    uint32_t from_region, from_chunk; /* where the window begins: chunks that are parked, packed and, */
    uint32_t chunks;                  /* perhaps, swapped before others are parked; so many */
    uint32_t window;                  /* of these, that are left */
    uint32_t hand_region, hand_chunk; /* where the next PAGEOUT begins */
    uint64_t swept_ns;
    uint32_t missing_chunks;

    /* pace.c */
    _Atomic uint32_t pace_us;
    _Atomic uint64_t pace_kept_ns;  /* since then it has been becoming less */
    uint64_t pace_homes, pace_outs; /* when it was last measured */

    /* merged pages, see merged.c */
    uint64_t aged_ns;   /* when it was begun to see which are touched; 0: never */
    bool ages, leaves;  /* this order: begins that, takes them */
    bool lets_go;       /* this order: those that do not leave become REMOTE */
    uint64_t let_go_ns; /* the aged_ns for which that was done last */
    bool remote_back;   /* those that are REMOTE come home, before a session begins */
    bool chunk_begun;   /* those of the chunk have been looked at */
};

int pager_open(struct memd *m);
void pager_close(struct memd *m);
int pager_ready(struct memd *m); /* what the first page to go out needs is there: 0 or -ENOMEM */

void pager_order(struct memd *m, const struct wire_rec_page *order);
void pager_forget(struct memd *m); /* the session is gone */
bool pager_step(struct memd *m);   /* some of what is to be done; false: nothing now */
uint64_t pager_due_ns(struct memd *m);
bool pager_keep(struct memd *m); /* pager_keep.c; true: there is more to do now */

/* What there is in a chunk. */
struct choice {
    uint32_t first; /* page of index 0 */
    bool huge;      /* it is, or has, a huge page */
    bool there[CHUNK_PAGES], written[CHUNK_PAGES];
};
int pager_look(struct memd *m, struct region *r, uint32_t chunk, struct choice *ret_choice);
/* Whether a page may go out; `all`: also if it was written lately. */
bool pager_may_go(const struct region *r, const struct choice *c, uint32_t page, bool all);

struct pager_counts {
    uint64_t parked, sampled, packed, swapped, remote, packed_bytes, host_bytes, metadata_bytes;
    struct swap_counts swap;
};
struct pager_counts pager_count(struct memd *m);

#endif
