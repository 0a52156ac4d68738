/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* remote: pages whose bytes are in a frame that is not mapped; see remote.c. */
#ifndef MEMD_ENGINE_REMOTE_H
#define MEMD_ENGINE_REMOTE_H

#include "memd/engine/engine.h"

uint64_t remote_count(const struct memd *m); /* pages that are REMOTE now; work held */
bool remote_on(const struct memd *m);        /* there is a daemon that knows of them; work held */

/* The chunk is locked, all of them. */
void remote_enter(struct region *r, uint32_t page, uint64_t tag, uint32_t frame); /* from SHARED */
/* It is there again, as a copy: the reference is given back by whoever has engine.work. */
void remote_homed(struct memd *m, struct region *r, uint32_t page, bool unchanged);
/* The fault server, as out_serve(). */
int remote_serve(struct memd *m, struct region *r, uint32_t page, enum wire_tier *tier);

/* One that does not come home is LOST, if it is because its frame cannot be read. False: it is not. */
bool remote_gone(struct memd *m, struct region *r, uint32_t page);

/* engine.work held. Those of a chunk come home: 0 or -ENOMEM. */
int remote_home(struct memd *m, struct region *r, uint32_t chunk);
/* engine.work held. Some of all of them come home, for pager.remote_back, which is cleared when all have, or
 * when there is no memory for more: false. */
bool remote_step_back(struct memd *m);
bool remote_room(const struct memd *m); /* engine.work held. There is memory for all of them. */
/* engine.work held. Copies of REMOTE pages of a chunk, at most `most`, are PARKED instead, on their way to
 * the swap file. Returns how many. */
uint32_t remote_park(struct memd *m, struct region *r, uint32_t chunk, uint32_t most);

#endif
