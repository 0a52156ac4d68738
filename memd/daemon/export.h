/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* export: one frame in the making, for exports.c and publish.c. */
#ifndef MEMD_DAEMON_EXPORT_H
#define MEMD_DAEMON_EXPORT_H

#include "memd/daemon/exports.h"

#define EXPORT_FEW 2u

/* Waiters are page numbers (pages.h); the first is the page that is copied. */
struct export
{
    struct domain *domain;
    uint64_t hash;
    uint32_t frame, next; /* in the session's queue, or in the free list */
    uint64_t *waiter;     /* more than a few; else in `few` */
    uint32_t nwaiters, room;
    uint64_t few[EXPORT_FEW];
};

static inline const uint64_t *export_waiters(const struct export *e)
{
    return e->waiter ? e->waiter : e->few;
}

/* The region and page of a number, if it is still of this domain, connected, merging, and by its map
 * unchanged. */
struct region *export_region(const struct export *e, uint64_t id, uint32_t *ret_page);

/* Its page can't be had. */
void export_fail_over(struct core *core, uint32_t number);
void export_free(struct exports *exports, uint32_t number);

#endif
