/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pages: every page of every region has one number, so that a table can name any of them in 34 bits.
 *
 * Regions get whole units of 1 GiB of a number space of 64 TiB; a unit leads back to its region. Numbers of a
 * region that is gone lead nowhere, or later to another region: whoever kept one must look at the page map
 * before acting on it (and at the region's domain before acting for another VM).
 */
#ifndef MEMD_DAEMON_PAGES_H
#define MEMD_DAEMON_PAGES_H

#include <stddef.h>
#include <stdint.h>

#define PAGES_ID_BITS    34
#define PAGES_UNIT_SHIFT 18
#define PAGES_UNITS_MAX  (1u << (PAGES_ID_BITS - PAGES_UNIT_SHIFT))

struct region;

struct pages {
    struct region **unit; /* unit 0 is never given out: number 0 means none */
    uint32_t nunits;      /* allocated length of `unit` */
};

/* Numbers for a region of `npages`. Returns the first, or 0 if none are left or no memory. */
uint64_t pages_number(struct pages *pages, struct region *region, uint64_t npages);
void pages_release(struct pages *pages, uint64_t first_id, uint64_t npages);
void pages_close(struct pages *pages);
size_t pages_bytes(const struct pages *pages);

static inline struct region *pages_region(const struct pages *pages, uint64_t id)
{
    uint64_t unit = id >> PAGES_UNIT_SHIFT;
    return unit < pages->nunits ? pages->unit[unit] : NULL;
}

#endif
