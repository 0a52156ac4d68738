/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see watch.h. Some thousand pages; every look reads all that are due. */
#include "bench/dedup/watch.h"

#include "bench/common/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct watch {
    struct fleet *fleet;
    struct events_plan plan;
    size_t guest_pages;
    uint64_t first, end; /* events watched */
    int pagemap[BENCH_GUESTS_MAX];
    double *merged_s; /* [event][page][guest]: since when; infinite: it is not */
};

static size_t index_of(const struct watch *watch, uint64_t event, unsigned page, unsigned guest)
{
    return ((size_t)(event - watch->first) * EVENTS_RUN_MAX + page) * watch->fleet->n + guest;
}

struct watch *watch_start(struct fleet *fleet, const struct events_plan *plan, double from_s, double to_s)
{
    struct watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        bench_die("no memory");
    *watch =
        (struct watch){.fleet = fleet, .plan = *plan, .guest_pages = fleet->guest_bytes / BENCH_PAGE_BYTES};
    watch->first = watch->end = plan->first;
    for (uint64_t event = plan->first; event < plan->first + plan->n; event++) {
        double due_s = events_time_s(plan, watch->guest_pages, event);
        if (due_s < from_s)
            watch->first = event + 1;
        if (due_s <= to_s)
            watch->end = event + 1;
    }
    size_t n = (size_t)(watch->end - watch->first) * EVENTS_RUN_MAX * fleet->n;
    watch->merged_s = malloc(n * sizeof *watch->merged_s + 1);
    if (!watch->merged_s)
        bench_die("no memory");
    for (size_t i = 0; i < n; i++)
        watch->merged_s[i] = INFINITY;
    for (unsigned guest = 0; guest < fleet->n; guest++) {
        watch->pagemap[guest] = kernel_pagemap_open(fleet->guest[guest].child.pid);
        if (watch->pagemap[guest] < 0)
            bench_die("/proc/PID/pagemap: %s", strerror(-watch->pagemap[guest]));
    }
    return watch;
}

static bool shared(const uint64_t *pfn, unsigned n, unsigned guest)
{
    for (unsigned other = 0; other < n; other++)
        if (other != guest && pfn[other] == pfn[guest])
            return true;
    return false;
}

/* `absent_ok`: a page that is not present counts as merged. */
static void look_at(struct watch *watch, uint64_t event, double now_s, bool absent_ok)
{
    unsigned npages = events_pages(event), nguests = watch->fleet->n;
    uint64_t read[EVENTS_RUN_MAX], pfn[EVENTS_RUN_MAX][BENCH_GUESTS_MAX];

    for (unsigned guest = 0; guest < nguests; guest++) {
        uint64_t first = watch->fleet->guest[guest].ram / BENCH_PAGE_BYTES;
        first += events_place(event, guest, watch->guest_pages);
        int error = kernel_frames_read(watch->pagemap[guest], first, npages, read);
        if (error)
            bench_die("/proc/PID/pagemap: %s", strerror(-error));
        for (unsigned page = 0; page < npages; page++)
            pfn[page][guest] = read[page];
    }
    for (unsigned page = 0; page < npages; page++)
        for (unsigned guest = 0; guest < nguests; guest++) {
            double *since_s = &watch->merged_s[index_of(watch, event, page, guest)];
            bool merged = pfn[page][guest] ? shared(pfn[page], nguests, guest) : absent_ok;
            if (!merged)
                *since_s = INFINITY;
            else if (isinf(*since_s))
                *since_s = now_s;
        }
}

void watch_look(struct watch *watch)
{
    double now_s = bench_now_s();

    /* the guests may be a little late: what they have not written yet is not merged */
    for (uint64_t event = watch->first; event < watch->end; event++)
        if (events_time_s(&watch->plan, watch->guest_pages, event) < now_s)
            look_at(watch, event, now_s, true);
}

static void read_all(struct watch *watch)
{
    struct guest_order order = {.op = GUEST_READ_EVENTS, .plan = watch->plan};
    struct guest_answer answer[BENCH_GUESTS_MAX];

    order.plan.first = watch->first;
    order.plan.n = watch->end - watch->first;
    fleet_order(watch->fleet, &order);
    fleet_wait(watch->fleet, answer);
    for (unsigned guest = 0; guest < watch->fleet->n; guest++)
        if (answer[guest].value[0] > 0)
            bench_die("guest %u: %.0f pages do not hold what was written there", guest,
                      answer[guest].value[0]);
}

/* What a guest's pages held where an event went. */
static void describe(const struct watch *watch, uint64_t event, unsigned guest, uint8_t *ret_kind)
{
    content_describe(&watch->fleet->guest[guest].content, events_place(event, guest, watch->guest_pages),
                     events_pages(event), ret_kind, NULL);
}

struct tally {
    size_t n, in_time;
};

static double share(const struct tally *tally)
{
    return tally->n ? (double)tally->in_time / (double)tally->n : NAN;
}

static void tally_add(struct tally *tally, bool in_time)
{
    tally->n++;
    tally->in_time += in_time;
}

struct watch_result watch_finish(struct watch *watch, double within_s)
{
    struct tally all = {0}, of[WATCH_KINDS] = {{0}};
    struct watch_result result = {0};
    double *after_s = watch->merged_s; /* in place: an entry is read before its place is needed */

    read_all(watch);
    for (uint64_t event = watch->first; event < watch->end; event++) {
        double due_s = events_time_s(&watch->plan, watch->guest_pages, event);
        uint8_t kind[EVENTS_RUN_MAX];

        look_at(watch, event, bench_now_s(), false);
        for (unsigned page = 0; page < events_pages(event); page++)
            for (unsigned guest = 0; guest < watch->fleet->n; guest++)
                watch->merged_s[index_of(watch, event, page, guest)] -= due_s;
        for (unsigned guest = 0; guest < watch->fleet->n; guest++) {
            describe(watch, event, guest, kind);
            for (unsigned page = 0; page < events_pages(event); page++)
                tally_add(&of[kind[page]], watch->merged_s[index_of(watch, event, page, guest)] <= within_s);
        }
        for (size_t i = 0; i < (size_t)events_pages(event) * watch->fleet->n; i++) {
            double s = watch->merged_s[index_of(watch, event, 0, 0) + i];
            after_s[all.n] = s;
            tally_add(&all, s <= within_s);
        }
    }
    result.pages = all.n;
    result.share = all.n ? share(&all) : 0;
    for (int kind = 0; kind < WATCH_KINDS; kind++)
        result.share_of[kind] = share(&of[kind]);
    result.p50_s = bench_percentile(after_s, all.n, 50);
    result.p95_s = bench_percentile(after_s, all.n, 95);
    for (unsigned guest = 0; guest < watch->fleet->n; guest++)
        close(watch->pagemap[guest]);
    free(watch->merged_s);
    free(watch);
    return result;
}
