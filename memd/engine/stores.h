/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stores: the frame stores as the engine reads them; see stores.c. */
#ifndef MEMD_ENGINE_STORES_H
#define MEMD_ENGINE_STORES_H

#include "memd/engine/engine.h"

/* All but stores_frame(): engine.work held. */

/* Maps what there is behind `fd`, which stays the caller's, as the store of a node; or keeps what is mapped
 * of it. -EXDEV: it is another file, and pages are SHARED or REMOTE in the one before. */
int stores_map(struct memd *m, unsigned node, int fd, uint64_t bytes);
/* Without a session, and without REMOTE pages, none is needed. */
void stores_release(struct memd *m);
void stores_close(struct memd *m);
/* The fault server, too, for the frame of a page that is REMOTE. */
const uint8_t *stores_frame(const struct memd *m, uint32_t frame);

#endif
