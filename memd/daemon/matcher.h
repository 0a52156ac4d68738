/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * matcher: hashes in; frames and pages that equal them found; proposals and exports started.
 *
 * For each page: a frame with its hash is proposed to it; a frame being made is joined; a page last seen with
 * that hash, and by its page map unchanged since, is what a new frame will be made for; else the page itself
 * is remembered as a candidate.
 *
 * Pages of a huge page that is kept whole take part as candidates only. How many of its pages would go is
 * counted; beyond the configured share the engine is told to break it.
 */
#ifndef MEMD_DAEMON_MATCHER_H
#define MEMD_DAEMON_MATCHER_H

#include "memd/daemon/session.h"

/* The records are checked: type, length, region and range. */
void matcher_hashes(struct session *session, struct region *region, const struct wire_rec_hashes *rec);
void matcher_survey(struct session *session, struct region *region, const struct wire_rec_hashes *rec);

/* For sweeping candidates (candidates_check); ctx: the domain. */
bool matcher_check(void *ctx, uint64_t page_id, uint32_t tag);

#endif
