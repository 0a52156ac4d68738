/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* merged: cold merged pages leave RAM; see merged.c. */
#ifndef MEMD_ENGINE_MERGED_H
#define MEMD_ENGINE_MERGED_H

#include "memd/engine/engine.h"

/* engine.work held. Parks merged pages of a chunk, whole mappings or ends of such, until it is `most` pages
 * or more; `all`: also those that were touched since merged_age(). Returns how many. */
uint32_t merged_park(struct memd *m, struct region *r, uint32_t chunk, uint32_t most, bool all);
/* The same for all that are, or all that are cold; they become REMOTE. Only if there are fewer mappings then.
 */
void merged_remote(struct memd *m, struct region *r, uint32_t chunk, bool all);
/* From now on it is seen which merged pages of the chunk are touched. */
void merged_age(struct memd *m, struct region *r, uint32_t chunk);

#endif
