/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * watch: when the pages of events (events.h) get merged, as the kernel shows it. A page is merged when it is
 * in the same page frame as that page of another guest. memd maps a frame without touching it, so a page that
 * is not present is taken for merged, too - until the end: then guests read all of them, and a page that
 * shares its frame with no other then was never merged. So was one that was only out of sight for a moment:
 * what counts is since when it has been merged without a break.
 */
#ifndef BENCH_DEDUP_WATCH_H
#define BENCH_DEDUP_WATCH_H

#include "bench/dedup/fleet.h"
#include "bench/memvm/mkimage/recipe.h"

#define WATCH_KINDS 3

struct watch;

/* Watch those events of the plan that are due from from_s to to_s. */
struct watch *watch_start(struct fleet *fleet, const struct events_plan *plan, double from_s, double to_s);
void watch_look(struct watch *watch);

struct watch_result {
    size_t pages;
    double share;                 /* of them, merged within the time asked for */
    double share_of[WATCH_KINDS]; /* the same by what the page held in the beginning, enum recipe_kind */
    double p50_s, p95_s;          /* of all; infinite for pages that were not merged */
};
/* Ends the watch; the guests must have done their work. */
struct watch_result watch_finish(struct watch *watch, double within_s);

#endif
