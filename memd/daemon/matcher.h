/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * matcher: hashes in; frames and pages that equal them found; proposals and exports started.
 *
 * For each page: a frame with its hash is proposed to it; a frame being made is joined; a page last seen with
 * that hash, and by its page map unchanged since, is what a new frame will be made for; else the page itself
 * is remembered as a candidate.
 *
 * Pages of a huge page that is kept whole take part as candidates only. How many of its pages would go is
 * counted (region.huge, by chunk): zero pages, pages with a frame, pages another page equals. Beyond the
 * configured share the engine is told to break it, once; a new SURVEY starts the count anew. A candidate in a
 * huge page that has been counted leaves the table, so that it is counted once; the page that equals it stays
 * there in its place.
 *
 * Nearly all hashes are of pages nobody equals. What such a page costs is two cache misses, in the index's
 * filter and in the candidates: they are asked for MATCHER_AHEAD pages in advance.
 */
#ifndef MEMD_DAEMON_MATCHER_H
#define MEMD_DAEMON_MATCHER_H

#include "memd/wire.h"

#include <stdbool.h>
#include <stdint.h>

struct region;

#define MATCHER_AHEAD     12u
#define MATCHER_EQUAL_MAX 16u /* candidates with one hash looked at for a page */

/* The records are checked: type, length, region and range. */
void matcher_hashes(struct region *region, const struct wire_rec_hashes *rec);
void matcher_survey(struct region *region, const struct wire_rec_hashes *rec);

/* For sweeping candidates (candidates_check); ctx: the domain. */
bool matcher_check(void *ctx, uint64_t page_id, uint32_t tag);

#endif
