/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see writer.h. The work is cut into ticks; a guest that is late catches up. */
#include "bench/dedup/writer.h"

#include "bench/memvm/mkimage/recipe.h"

#include <string.h>

#define TICK_S 0.01

/* A whole page nobody else has; cheaper than recipe_page(), and no easier to compare. */
static void write_unique(uint64_t *page, uint64_t seed)
{
    uint64_t word = seed;

    for (size_t i = 0; i < BENCH_PAGE_BYTES / sizeof *page; i++)
        page[i] = word += 0x9e3779b97f4a7c15ull;
}

static void *page_at(const struct writer *writer, size_t page)
{
    return writer->ram + page * BENCH_PAGE_BYTES;
}

static void write_event(const struct writer *writer, uint64_t event)
{
    size_t place = events_place(event, writer->guest, writer->npages);

    for (unsigned i = 0; i < events_pages(event); i++)
        recipe_page(page_at(writer, place + i), events_content(event, i));
}

double writer_work(struct writer *writer, const struct events_plan *plan)
{
    size_t hot = events_hot_pages(writer->npages);
    uint64_t event = plan->first, rewritten = 0;
    double late_s = 0;

    for (double due_s = plan->start_s; due_s < plan->end_s; due_s += TICK_S) {
        bench_sleep_until(due_s);
        while (event < plan->first + plan->n && events_time_s(plan, writer->npages, event) <= due_s)
            write_event(writer, event++);
        for (; (double)rewritten < (due_s - plan->start_s) * (double)hot; rewritten++)
            write_unique(page_at(writer, events_hot_page(rewritten % hot)),
                         recipe_mix(writer->guest, writer->rewrites++));
        double behind_s = bench_now_s() - due_s;
        if (behind_s > late_s)
            late_s = behind_s;
    }
    return late_s;
}

uint64_t writer_read_events(const struct writer *writer, const struct events_plan *plan)
{
    static uint64_t expected[BENCH_PAGE_BYTES / sizeof(uint64_t)];
    uint64_t wrong = 0;

    for (uint64_t event = plan->first; event < plan->first + plan->n; event++) {
        size_t place = events_place(event, writer->guest, writer->npages);
        for (unsigned i = 0; i < events_pages(event); i++) {
            recipe_page(expected, events_content(event, i));
            wrong += memcmp(expected, page_at(writer, place + i), sizeof expected) != 0;
        }
    }
    return wrong;
}
