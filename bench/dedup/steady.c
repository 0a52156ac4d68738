/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see steady.h. A window: guests begin their work, have LEAD_S to get into it, then CPU
 * is counted to the end. Events of the window's last STEADY_LATENCY_S are written, too, but not judged: there
 * is no time left to merge them in.
 *
 * KSM's pace: from the latencies of a window and from what a scanned page and the pauses took follows a
 * better pages_to_scan, at the default sleep of 20 ms. That is repeated until KSM meets the latency with
 * little to spare, a few times at most.
 */
#include "bench/dedup/steady.h"

#include "bench/common/report.h"
#include "bench/dedup/side.h"
#include "bench/dedup/watch.h"

#include <math.h>
#include <stdio.h>

#define LEAD_S         4.0
#define JUDGED_S       12.0
#define JUDGED_QUICK_S 5.0
#define MARGIN_S       1.0 /* guests and looks are a little late */
#define LOOK_S         0.2
#define ALONE_S        8.0  /* the work with nothing merging */
#define PROBES         3u   /* of KSM's pace, with and without smart_scan */
#define SLEEP_MS       20u  /* KSM's default */
#define FIRST_PASS_S   4.5  /* two passes over memory in not quite STEADY_LATENCY_S, */
#define SCANNED_SHARE  0.5  /* over the part that is not zero: KSM passes mapped zero pages by */
#define AIM_S          9.5  /* where the 95th percentile is aimed at, and */
#define AIM_MIN_S      8.8  /* where it is near enough */
#define TAIL           1.35 /* the 95th percentile over the median, where only the latter is known */
#define TOO_SLOW       1.8  /* scan so much faster if more than half was never merged */
#define TOO_FEW        1.2  /* and at least so much if too few were merged in time */
#define BUSY_MAX       0.97 /* CPUs: a faster pace does not sleep at all */
#define MEMD_WINDOWS   2u

struct steady {
    const struct bench *bench;
    struct side side;
    uint64_t next_event;
    double alone_cpus; /* the guests' work, with nothing merging */
};

struct window {
    struct watch_result seen;
    double cpus;    /* less the work alone */
    double scanned; /* KSM: pages a second */
    double merger_cpus;
};

/* Guests work; returns when they have begun. */
static struct events_plan begin_work(struct steady *steady, double work_s)
{
    struct guest_order order = {.op = GUEST_WORK};
    double start_s = bench_now_s() + 0.1;

    order.plan = events_plan(steady->side.fleet.guest_bytes / BENCH_PAGE_BYTES, steady->next_event, start_s,
                             start_s + work_s);
    steady->next_event += order.plan.n;
    fleet_order(&steady->side.fleet, &order);
    return order.plan;
}

static void end_work(struct steady *steady)
{
    struct guest_answer answer[BENCH_GUESTS_MAX];

    fleet_wait(&steady->side.fleet, answer);
    for (unsigned i = 0; i < steady->side.fleet.n; i++)
        if (answer[i].value[0] > MARGIN_S)
            bench_say("guest %u was up to %.1f s late: the machine is too busy for this", i,
                      answer[i].value[0]);
}

static void measure_alone(struct steady *steady)
{
    struct events_plan plan = begin_work(steady, ALONE_S);

    bench_sleep_until(plan.start_s);
    uint64_t before_ns = fleet_cpu_ns(&steady->side.fleet);
    end_work(steady);
    steady->alone_cpus = (double)(fleet_cpu_ns(&steady->side.fleet) - before_ns) * 1e-9 / ALONE_S;
}

static struct window run_window(struct steady *steady)
{
    double judged_s = steady->bench->quick ? JUDGED_QUICK_S : JUDGED_S;
    struct events_plan plan = begin_work(steady, LEAD_S + judged_s + STEADY_LATENCY_S + MARGIN_S);
    double from_s = plan.start_s + LEAD_S;
    struct watch *watch = watch_start(&steady->side.fleet, &plan, from_s, from_s + judged_s);
    struct window window;

    bench_sleep_until(from_s);
    double cpu_s = side_cpu_s(&steady->side), begun_s = bench_now_s();
    uint64_t scanned = ksm_value("pages_scanned"), merger_ns = kernel_cpu_ns(steady->side.merger);
    while (bench_now_s() < plan.end_s - LOOK_S) {
        bench_sleep(LOOK_S);
        watch_look(watch);
    }
    bench_sleep_until(plan.end_s);
    double s = bench_now_s() - begun_s;
    window.cpus = (side_cpu_s(&steady->side) - cpu_s) / s - steady->alone_cpus;
    window.merger_cpus = (double)(kernel_cpu_ns(steady->side.merger) - merger_ns) * 1e-9 / s;
    window.scanned = (double)(ksm_value("pages_scanned") - scanned) / s;
    end_work(steady);
    window.seen = watch_finish(watch, STEADY_LATENCY_S);
    return window;
}

static bool window_meets(const struct window *window)
{
    return window->seen.share * 100 >= STEADY_PERCENT;
}

/* Cheaper, of windows that met the latency; else nearer to it. */
static bool better(const struct window *a, const struct window *b)
{
    if (window_meets(a) && window_meets(b))
        return a->cpus < b->cpus;
    return a->seen.share > b->seen.share;
}

/* what the pages were before the event, enum recipe_kind */
static const char *const kind_names[WATCH_KINDS] = {"zero", "merged", "private"};

static void report_window(const struct steady *steady, const struct window *window, const char *name)
{
    const char *group = steady->side.kind == BENCH_KSM ? "steady_KSM" : "steady_memd";

    report_raw(group, window->cpus, "%s_cpus", name);
    report_raw(group, window->merger_cpus, "%s_merger_cpus", name);
    report_raw(group, window->seen.share, "%s_share_in_time", name);
    for (int kind = 0; kind < WATCH_KINDS; kind++)
        report_raw(group, window->seen.share_of[kind], "%s_share_in_time_%s", name, kind_names[kind]);
    report_raw(group, window->seen.p50_s, "%s_p50_s", name);
    report_raw(group, window->seen.p95_s, "%s_p95_s", name);
    report_raw(group, (double)window->seen.pages, "%s_pages", name);
    if (steady->side.kind == BENCH_KSM)
        report_raw(group, window->scanned, "%s_scanned_per_s", name);
}

/* Fill, settle, and measure the work alone before. */
static void begin(const struct bench *bench, enum bench_side kind, struct steady *steady)
{
    struct side_content content = {.guests = bench->guests,
                                   .guest_bytes = bench->guest_bytes,
                                   .machine_bytes = bench->guest_bytes,
                                   .kind = CONTENT_PLAIN};

    *steady = (struct steady){.bench = bench};
    side_begin(bench, kind, &content, &steady->side);
    measure_alone(steady);
    struct side_curve curve = side_watch(&steady->side);
    report_raw("steady", steady->alone_cpus, "%s_work_alone_cpus", bench_side_name(kind));
    bench_say("keeping up, %s: settled in %.2f s; the guests' work alone takes %.3f CPUs",
              bench_side_name(kind), curve.s, steady->alone_cpus);
}

/* ---------------------------------------------------------------- KSM */

/* What is known of ksmd's work: cycles of a pause and pages_to_scan pages. */
struct ksm_cost {
    double pause_s; /* sleep_millisecs is rounded up to the kernel's ticks, and a busy machine adds to it */
    double page_s;
};

static struct ksm_pace pace_for(double pages_per_s, const struct ksm_cost *cost, bool smart_scan)
{
    double busy = pages_per_s * cost->page_s;

    if (busy > BUSY_MAX)
        return (struct ksm_pace){ksm_fastest.pages_to_scan, 0, smart_scan};
    return (struct ksm_pace){(uint64_t)(pages_per_s * cost->pause_s / (1 - busy)) + 1, SLEEP_MS, smart_scan};
}

static void learn_cost(const struct window *window, const struct ksm_pace *pace, struct ksm_cost *cost)
{
    cost->page_s = window->merger_cpus / window->scanned;
    double pause_s = (double)pace->pages_to_scan * (1 / window->scanned - cost->page_s);
    if (pace->sleep_ms > 0 && pause_s > 0)
        cost->pause_s = pause_s;
}

/* How much faster or slower KSM should have been. */
static double correction(const struct watch_result *seen)
{
    double p95_s = isfinite(seen->p95_s) ? seen->p95_s : seen->p50_s * TAIL;

    if (!isfinite(p95_s))
        return TOO_SLOW;
    double factor = p95_s / AIM_S;
    /* the percentile that is not known is beyond what could be seen */
    return seen->share * 100 < STEADY_PERCENT && factor < TOO_FEW ? TOO_FEW : factor;
}

/* One probe; says and reports it. */
static struct window probe_ksm(struct steady *steady, const struct ksm_pace *pace, unsigned number)
{
    char name[32];

    ksm_run(pace);
    struct window window = run_window(steady);
    snprintf(name, sizeof name, "%s_%u", pace->smart_scan ? "smart" : "plain", number);
    report_window(steady, &window, name);
    report_raw("steady_KSM", (double)pace->pages_to_scan, "%s_pages_to_scan", name);
    report_raw("steady_KSM", (double)pace->sleep_ms, "%s_sleep_ms", name);
    bench_say(
        "keeping up, KSM, smart_scan %d, %llu pages every %llu ms: %.1f%% merged in time (p50 %.1f s, p95 "
        "%.1f s), %.3f CPUs",
        pace->smart_scan, (unsigned long long)pace->pages_to_scan, (unsigned long long)pace->sleep_ms,
        window.seen.share * 100, window.seen.p50_s, window.seen.p95_s, window.cpus);
    return window;
}

/* The cheapest window that met the latency; if none did, the one that came nearest. */
static struct window pace_ksm(struct steady *steady, bool smart_scan, struct ksm_cost cost)
{
    double npages = (double)steady->bench->guests * (double)steady->bench->guest_bytes / BENCH_PAGE_BYTES;
    struct ksm_pace pace = pace_for(npages * SCANNED_SHARE / FIRST_PASS_S, &cost, smart_scan);
    unsigned probes = steady->bench->quick ? 1 : PROBES;
    struct window best = {0};

    for (unsigned i = 0; i < probes; i++) {
        struct window window = probe_ksm(steady, &pace, i);
        bool meets = window_meets(&window);

        if (better(&window, &best))
            best = window;
        if ((meets && window.seen.p95_s >= AIM_MIN_S) || (!meets && pace.sleep_ms == 0) ||
            window.scanned == 0)
            break;
        learn_cost(&window, &pace, &cost);
        pace = pace_for(window.scanned * correction(&window.seen), &cost, smart_scan);
    }
    return best;
}

static struct window measure_ksm(const struct bench *bench)
{
    struct window best[2];
    struct steady steady;
    uint64_t scanned = ksm_value("pages_scanned"), cpu_ns = kernel_cpu_ns(ksm_pid());

    begin(bench, BENCH_KSM, &steady);
    scanned = ksm_value("pages_scanned") - scanned;
    struct ksm_cost cost = {
        .pause_s = (SLEEP_MS + 5) * 1e-3, /* as on most kernels */
        .page_s =
            scanned ? (double)(kernel_cpu_ns(steady.side.merger) - cpu_ns) * 1e-9 / (double)scanned : 1e-6,
    };
    for (int smart_scan = 1; smart_scan >= 0; smart_scan--)
        best[smart_scan] = pace_ksm(&steady, smart_scan, cost);
    side_end(&steady.side);
    return better(&best[0], &best[1]) ? best[0] : best[1];
}

/* ---------------------------------------------------------------- both */

static struct window measure_memd(const struct bench *bench)
{
    struct window window[MEMD_WINDOWS], mean = {0};
    unsigned n = bench->quick ? 1 : MEMD_WINDOWS;
    struct steady steady;

    begin(bench, BENCH_MEMD, &steady);
    for (unsigned i = 0; i < n; i++) {
        char name[32];
        window[i] = run_window(&steady);
        snprintf(name, sizeof name, "window_%u", i);
        report_window(&steady, &window[i], name);
        bench_say("keeping up, memd: %.1f%% merged in time (p50 %.1f s, p95 %.1f s), %.3f CPUs",
                  window[i].seen.share * 100, window[i].seen.p50_s, window[i].seen.p95_s, window[i].cpus);
        mean.cpus += window[i].cpus / n;
        mean.seen.share += window[i].seen.share / n;
    }
    side_end(&steady.side);
    return mean;
}

void steady_measure(const struct bench *bench)
{
    struct window ksm = measure_ksm(bench), memd = measure_memd(bench);
    bool memd_meets = window_meets(&memd);

    report_raw("steady", ksm.seen.share, "KSM_share_in_time");
    report_raw("steady", memd.seen.share, "memd_share_in_time");
    if (!window_meets(&ksm))
        bench_say("KSM did not merge %.0f%% within %.0f s at any pace tried", STEADY_PERCENT,
                  STEADY_LATENCY_S);
    if (!memd_meets)
        bench_say("memd did not merge %.0f%% within %.0f s: its CPU time does not count", STEADY_PERCENT,
                  STEADY_LATENCY_S);
    report_value(STEADY_KEY, ksm.cpus, memd.cpus, memd_meets ? ksm.cpus / memd.cpus : 0);
}
