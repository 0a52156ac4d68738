/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* hand: what of the engine cannot run on just any thread of the program; see hand.c. All functions of the
 * engine but hand_start() and hand_forget(): track.lock held. */
#ifndef MEMD_PRELOAD_HAND_H
#define MEMD_PRELOAD_HAND_H

#include "memd/memd.h"

#include <stdbool.h>
#include <stdint.h>

/* The helper thread, inside of nobody's allocator; 0 also if it runs already. -errno. */
int hand_start(void);
void hand_stop(void);   /* its thread ends */
void hand_forget(void); /* in a child: its thread is not here */

/* As memd_region_cut() and the like. */
int hand_cut(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes, enum memd_ineligible why,
             unsigned timeout_ms);
int hand_advise(struct memd *memd, uint32_t region, uint64_t offset, uint64_t bytes, int advice);
int hand_del(struct memd *memd, uint32_t region, unsigned timeout_ms);
int hand_unmap(struct memd *memd, void *hva, uint64_t bytes, int (*call)(void *ctx), void *ctx);
int hand_close(struct memd *memd, unsigned timeout_ms);
int hand_fits(void); /* fork_fits() */
/* Before this thread forks. True: everything is home and stays there until memd_resume(). */
bool hand_fork(struct memd *memd);

#endif
