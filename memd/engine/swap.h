/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* swap: pages between the pool and the swap file; see swap.c. */
#ifndef MEMD_ENGINE_SWAP_H
#define MEMD_ENGINE_SWAP_H

#include "memd/engine/engine.h"
#include "memd/engine/swapfile.h"

/* All but the last four: engine.work held. */

int swap_begin(struct memd *m); /* if there is one; when the first page goes out */
int swap_attach(struct memd *m, int fd, uint64_t max_bytes); /* takes `fd` */
/* Begins to write those of the range that are packed or parked; *ret_next: where to go on. Returns how many
 * were taken; if not all, there is no room at the moment. */
uint32_t swap_out(struct memd *m, struct region *r, uint32_t page, uint32_t npages, uint32_t *ret_next);
/* Enters what has been written. Returns how many clusters are still under way. */
unsigned swap_reap(struct memd *m);
int swap_home(struct memd *m, struct region *r, uint32_t page, bool *ret_homed); /* if it is SWAPPED */
void swap_home_many(struct memd *m, bool many); /* several are about to, one after the other; or they have */
/* The page's record, if it has one, is of no use any more; its place says nothing any more. Chunk locked. */
void swap_drop(struct memd *m, struct region *r, uint32_t page);
void swap_forget_home(struct memd *m, struct region *r,
                      uint32_t chunk);              /* records of its pages that are home */
void swap_forget(struct memd *m, struct region *r); /* the same for all of the region's pages that are home */
void swap_report(struct memd *m);                   /* tells the VMM of pages that were lost */

/* The fault server: a SWAPPED page; as out_serve(). */
int swap_serve(struct memd *m, struct region *r, uint32_t page, uint64_t since_ns, enum wire_tier *tier);
/* Brings home what has been read. True: some could not be, and are to be tried again. */
bool swap_complete(struct memd *m);
bool swap_waits(struct memd *m); /* there is something for it to do */
bool swap_reads(struct memd *m); /* or there will be: something is being read */

#endif
