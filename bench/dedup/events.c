/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see events.h. */
#include "bench/dedup/events.h"

#include "bench/memvm/mkimage/recipe.h"

#define SALT_CONTENT 0x6576656e74ull

static const unsigned run_pages[] = {1, 3, 9, 5, EVENTS_RUN_MAX}; /* 9 on average */
#define NRUNS (sizeof run_pages / sizeof run_pages[0])

unsigned events_pages(uint64_t event)
{
    return run_pages[event % NRUNS];
}

static double per_second(size_t guest_pages)
{
    return (double)guest_pages * EVENTS_PER_MILLE / 1000 / EVENTS_RUN_PAGES;
}

struct events_plan events_plan(size_t guest_pages, uint64_t first, double start_s, double end_s)
{
    return (struct events_plan){
        .start_s = start_s,
        .end_s = end_s,
        .first = first,
        .n = (uint64_t)((end_s - start_s) * per_second(guest_pages)),
    };
}

double events_time_s(const struct events_plan *plan, size_t guest_pages, uint64_t event)
{
    return plan->start_s + (double)(event - plan->first) / per_second(guest_pages);
}

/* Slots are taken in steps that have no common divisor with their number, from a start of the guest's own. */
static size_t slot_step(size_t slots)
{
    static const size_t primes[] = {1009, 1013, 1019};

    for (size_t i = 0; i < sizeof primes / sizeof primes[0]; i++)
        if (slots % primes[i])
            return primes[i];
    return 1;
}

size_t events_place(uint64_t event, unsigned guest, size_t guest_pages)
{
    size_t groups = guest_pages / EVENTS_SLOT_PAGES / EVENTS_HOT_EVERY;
    size_t slots = groups * (EVENTS_HOT_EVERY - 1);
    size_t slot = (recipe_mix(guest, SALT_CONTENT) + event * slot_step(slots)) % slots;

    slot = slot / (EVENTS_HOT_EVERY - 1) * EVENTS_HOT_EVERY + 1 + slot % (EVENTS_HOT_EVERY - 1);
    /* not always at the start of the slot */
    return slot * EVENTS_SLOT_PAGES +
           recipe_mix(event, guest) % (EVENTS_SLOT_PAGES - events_pages(event) + 1);
}

uint64_t events_content(uint64_t event, unsigned i)
{
    return recipe_mix(event, SALT_CONTENT + i) | 1;
}
