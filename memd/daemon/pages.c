/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see pages.h. First fit over an array of units: regions come and go rarely. */
#include "memd/daemon/pages.h"

#include <stdlib.h>
#include <string.h>

static uint32_t units_of(uint64_t npages)
{
    return (uint32_t)((npages + (1u << PAGES_UNIT_SHIFT) - 1) >> PAGES_UNIT_SHIFT);
}

/* The first unit of a free stretch of `want`; it may end beyond what is allocated. */
static uint32_t find_stretch(const struct pages *pages, uint32_t want)
{
    uint32_t start = 1;
    for (uint32_t at = 1; at < pages->nunits && at - start < want; at++)
        if (pages->unit[at])
            start = at + 1;
    return start;
}

static int make_room(struct pages *pages, uint32_t units)
{
    if (units <= pages->nunits)
        return 0;
    struct region **grown = realloc(pages->unit, units * sizeof *grown);
    if (!grown)
        return -1;
    memset(grown + pages->nunits, 0, (units - pages->nunits) * sizeof *grown);
    pages->unit = grown;
    pages->nunits = units;
    return 0;
}

uint64_t pages_number(struct pages *pages, struct region *region, uint64_t npages)
{
    if (!npages || npages >> PAGES_ID_BITS)
        return 0;

    uint32_t want = units_of(npages);
    uint32_t start = find_stretch(pages, want);
    if (start + want > PAGES_UNITS_MAX || make_room(pages, start + want))
        return 0;
    for (uint32_t i = 0; i < want; i++)
        pages->unit[start + i] = region;
    return (uint64_t)start << PAGES_UNIT_SHIFT;
}

void pages_release(struct pages *pages, uint64_t first_id, uint64_t npages)
{
    uint32_t start = (uint32_t)(first_id >> PAGES_UNIT_SHIFT);
    for (uint32_t i = 0; i < units_of(npages); i++)
        pages->unit[start + i] = NULL;
}

void pages_close(struct pages *pages)
{
    free(pages->unit);
    *pages = (struct pages){0};
}

size_t pages_bytes(const struct pages *pages)
{
    return pages->nunits * sizeof *pages->unit;
}
