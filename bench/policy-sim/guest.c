/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest: the kernel in a VM.
 *
 * What a guest has, less its balloon, its processes hold, or its page cache, or it is free. Processes take
 * what is free, then what the cache gives; where there is no more of that, a guest whose balloon has
 * deflate-on-oom takes it from there, and another one kills the largest of them. Of its cache, a part is in
 * use; what is dropped and used again is read again, from its own disk. A cache that has no room for what is
 * in use reads all the time, and whoever reads waits.
 *
 * A balloon fills at the speed of BALLOON_US_PAGE, from what is free, of which some was never touched and
 * costs the host nothing, then from the cache. What it gives back is free, and untouched.
 *
 * memd-agent looks and speaks by the rules of guest-agent/talk.c; statistics come every STATS_S.
 */
#include "bench/policy-sim/sim.h"

#include "balloon-driver/backends/balloons.h"

#include <math.h>
#include <string.h>

#define GROW_PER_S     0.1 /* of its memory that processes can begin to use in a second; as in model.c */
#define WATERMARK_PART 128 /* one part in so many stays free: for the kernel alone */
#define CACHE_PART     200 /* and as much of the cache cannot be dropped */
#define FILL_PER_S     (1e6 / BALLOON_US_PAGE)
#define DROP_US        1.0    /* to drop a page of the cache, for whoever waits for it */
#define READ_PER_S     64000. /* pages of its disk: 250 MiB */
#define USE_S          4.0    /* between two uses of a page that is in use: COOL_S of model.c */
#define KILLED_S       60.0   /* until what was killed is started again */
#define KILLED_PART    0.5    /* of what processes held, and of what they want until then */
#define SHORT_PART     16     /* a guest with less than one part in so many available is short */
#define SHORT_MAX      131072 /* or with less than 512 MiB */
#define IDLE_PART      0.2    /* that uses less of its memory hardly runs */
#define THRASHES       0.1    /* or of whose time so much is waited for the cache */
#define NEAR_PAGES     ((double)BALLOON_NEAR / SIM_PAGE)
#define STATS_S        2.0

/* guest-agent/talk.h, talk.c */
#define LOOK_S       1.0
#define WARY_S       0.25
#define TIGHT_S      0.1
#define TIGHT_PART   4
#define WARY_PART    2
#define SOON_S       0.025
#define TAKES_S      1048576.0
#define CHANGE_PART  64
#define CHANGE_MIN   1024.0
#define REREAD_PAGES 256.0
#define STALL_PART   0.01
#define STALL_MAX_S  0.02
#define HEARTBEAT_S  10.0
#define NEWS_S       3.0 /* memd/daemon/inflate.c: for so long what is said of stalls counts */

static const char *const names[SIM_SPEAKS] = {"none", "mute", "risky", "stats", "agent"};

const char *sim_speaks_name(enum sim_speaks speaks)
{
    return names[speaks];
}

enum sim_speaks sim_speaks_of(const char *name)
{
    int i = 0;

    while (i < SIM_SPEAKS && strcmp(names[i], name) != 0)
        i++;
    return (enum sim_speaks)i;
}

static double less(double a, double b)
{
    return a > b ? a - b : 0;
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

/* ---------------------------------------------------------------- its memory */

static double unused(const struct sim_vm *vm)
{
    const struct sim_guest *g = &vm->kernel;

    return less(vm->guest, g->balloon + g->processes + g->cache);
}

/* What anybody may have of that. */
static double free_pages(const struct sim_vm *vm)
{
    return less(unused(vm), vm->guest / WATERMARK_PART);
}

static double can_drop(const struct sim_vm *vm)
{
    return less(vm->kernel.cache, vm->guest / CACHE_PART);
}

/* As Linux counts MemAvailable. */
double sim_guest_available(const struct sim_vm *vm)
{
    double kept = least(vm->kernel.cache / 2, vm->guest / WATERMARK_PART);

    return free_pages(vm) + vm->kernel.cache - kept;
}

/* So many of the cache, idle ones first. Returns how many of them were in use. */
static double drop(struct sim_vm *vm, double pages)
{
    struct sim_guest *g = &vm->kernel;
    double used = less(pages, g->cache - g->cache_used);

    g->cache -= pages;
    g->cache_used = less(g->cache_used, used);
    g->dropped += pages;
    vm->balloons.dropped += pages;
    return used;
}

/* It is waited for memory, for so long together. */
static void wait(struct sim_vm *vm, double s)
{
    vm->kernel.stalls_s += s;
    vm->lost_s += s;
}

/* ---------------------------------------------------------------- its balloon */

static void deflate(struct sim_vm *vm, double pages)
{
    vm->kernel.balloon = less(vm->kernel.balloon, pages);
    vm->balloons.emptied += pages;
}

/* Free pages go as they come: as many that were never touched as there are of them. */
static void inflate(struct sim_vm *vm, double pages)
{
    struct sim_guest *g = &vm->kernel;
    double nothing = unused(vm), untouched = less(vm->guest, g->balloon + vm->touched);
    double taken = least(pages, free_pages(vm)), dropped = least(pages - taken, can_drop(vm)), used = 0;

    if (dropped > 0) {
        used = drop(vm, dropped);
        g->alloc_stalls++;
        wait(vm, dropped * DROP_US * 1e-6);
    }
    double touched = nothing > 0 ? taken * less(nothing, untouched) / nothing : 0;
    g->balloon += taken + dropped;
    vm->balloons.filled += taken + dropped;
    sim_vm_discard(vm, touched + dropped - used, used);
}

static void move_balloon(struct sim_vm *vm, double s)
{
    const struct sim_guest *g = &vm->kernel;
    double most = FILL_PER_S * s;

    if (g->aim < 0)
        return;
    if (g->balloon < g->aim)
        inflate(vm, least(most, g->aim - g->balloon));
    else if (g->balloon > g->aim)
        deflate(vm, least(most, g->balloon - g->aim));
}

void sim_guest_aim(struct sim_vm *vm, uint64_t bytes)
{
    vm->kernel.aim = less(vm->guest, (double)bytes / SIM_PAGE);
}

/* ---------------------------------------------------------------- its processes */

static double processes_want(const struct sim_vm *vm)
{
    const struct sim_guest *g = &vm->kernel;

    return g->needed >= 0 ? g->needed : g->base + g->share * vm->want;
}

/* There is none left for them. */
static void run_out(struct sim_vm *vm, double lacking, double now_s)
{
    struct sim_guest *g = &vm->kernel;

    if (g->speaks == SIM_STATS && g->balloon > 0) {
        double some = least(lacking, g->balloon);
        deflate(vm, some);
        vm->balloons.on_oom += some;
        g->processes += some;
        g->aim = -1; /* the driver does not fill it again by itself */
        lacking -= some;
    }
    if (lacking < 1 || now_s < g->quiet_until_s)
        return;
    bool own = processes_want(vm) > vm->guest - vm->guest / WATERMARK_PART - vm->guest / CACHE_PART;
    g->oom_kills++;
    vm->balloons.kills += !own;
    vm->balloons.kills_own += own;
    g->processes *= KILLED_PART;
    g->quiet_until_s = now_s + KILLED_S;
}

static void hold(struct sim_vm *vm, double s, double now_s)
{
    struct sim_guest *g = &vm->kernel;
    double want = processes_want(vm) * (now_s < g->quiet_until_s ? KILLED_PART : 1);
    double more = least(less(want, g->processes), vm->guest * GROW_PER_S * s);
    double taken = least(more, free_pages(vm)), dropped = least(more - taken, can_drop(vm));

    if (want < g->processes)
        g->processes = want;
    g->processes += taken;
    if (dropped > 0) {
        drop(vm, dropped);
        g->processes += dropped;
        g->alloc_stalls++;
        wait(vm, dropped * DROP_US * 1e-6);
    }
    if (more - taken - dropped >= 1)
        run_out(vm, more - taken - dropped, now_s);
}

/* ---------------------------------------------------------------- its files */

/* So many pages of files are to be read into the cache, in place of others that are idle if need be. Those
 * that there is no room for are read whenever they are used, and gone again. */
static void read_in(struct sim_vm *vm, double pages, double s)
{
    struct sim_guest *g = &vm->kernel;
    double most = READ_PER_S * s, fresh = least(least(pages, most), free_pages(vm));
    double instead = least(least(pages, most) - fresh, less(g->cache, g->cache_used));
    double vain = least((pages - fresh - instead) * s / USE_S, most - fresh - instead);

    g->cache += fresh;
    g->cache_used += fresh + instead;
    g->dropped = less(g->dropped, fresh);
    vm->lost_s += (fresh + instead + vain) / READ_PER_S;
    vm->balloons.read_again += fresh + instead + vain;
    g->stalls_s +=
        instead * DROP_US * 1e-6; /* what goes before it is used twice is not waited for, to the kernel */
}

static void use_files(struct sim_vm *vm, double s)
{
    struct sim_guest *g = &vm->kernel;
    double want = (1 - g->share) * vm->want, more = less(want, g->cache_used);
    double idle = g->cache - g->cache_used, gone = idle + g->dropped;

    if (g->cache_used > want)
        g->cache_used = want;
    if (more < 1)
        return;
    double again = gone > 0 ? more * least(1, g->dropped / gone) : 0, kept = least(more - again, idle);
    g->cache_used += kept;
    if (again > 0)
        read_in(vm, again, s);
    /* new ones: where else would they be */
    double fresh = least(more - again - kept, free_pages(vm));
    g->cache += fresh;
    g->cache_used += fresh;
}

/* ---------------------------------------------------------------- a tick */

/* What is used for the first time was touched by nobody before. */
static void touch(struct sim_vm *vm)
{
    double fresh = vm->kernel.processes + vm->kernel.cache - vm->touched;

    if (fresh > 0) {
        vm->hot += fresh;
        vm->touched += fresh;
    }
}

/* Whether its balloon has what it lacks, and for how long that has been so. */
static void note_need(struct sim_vm *vm, double s, double stalled_s)
{
    struct sim_guest *g = &vm->kernel;
    double little = least((vm->guest - g->balloon) / SHORT_PART, SHORT_MAX);
    bool is_short = g->balloon > NEAR_PAGES && (sim_guest_available(vm) < little || stalled_s > THRASHES * s);

    if (is_short) {
        vm->balloons.needs += !g->short_s;
        g->short_s += s;
        return;
    }
    if (g->short_s > 0) {
        sim_note_wait(vm->balloons.waits, g->short_s * 1e6, 1);
        if (g->short_s > vm->balloons.longest_s)
            vm->balloons.longest_s = g->short_s;
    }
    g->short_s = 0;
}

static void speak(struct sim_vm *vm, double now_s)
{
    struct sim_guest *g = &vm->kernel;
    double since_s = now_s - (double)g->said.at_ns * 1e-9, stalls_s = g->stalls_s - g->told_stalls_s;

    g->said = (struct sim_said){.at_ns = (uint64_t)(now_s * 1e9),
                                .available = sim_guest_available(vm),
                                .stall_percent = least(100, since_s > 0 ? 100 * stalls_s / since_s : 0),
                                .oom_kills = g->oom_kills,
                                .alloc_stalls = g->alloc_stalls};
    g->said.reread = vm->balloons.read_again;
    g->told_stalls_s = g->stalls_s;
    g->spoke = true;
}

static void agent_looks(struct sim_vm *vm, double now_s)
{
    struct sim_guest *g = &vm->kernel;
    double since_s = now_s - (double)g->said.at_ns * 1e-9, stalls_s = g->stalls_s - g->told_stalls_s;
    double available = sim_guest_available(vm), all = vm->guest - g->balloon;
    double changed = fabs(available - g->said.available), news = fmax(all / CHANGE_PART, CHANGE_MIN);
    double again = vm->balloons.read_again - g->seen_again;

    if (now_s < g->look_s && stalls_s < STALL_MAX_S) /* the kernel wakes it for that */
        return;
    g->seen_again = vm->balloons.read_again;
    double in_s = available < all / TIGHT_PART || again >= REREAD_PAGES ? TIGHT_S
                  : available < vm->guest / WARY_PART                   ? WARY_S
                                                                        : LOOK_S;
    g->look_s = now_s + (in_s < LOOK_S ? least(in_s, fmax(available / TAKES_S, SOON_S)) : in_s);
    if (!g->said.at_ns || since_s >= HEARTBEAT_S || changed > news ||
        vm->balloons.read_again - g->said.reread >= REREAD_PAGES ||
        stalls_s > least(since_s * STALL_PART, STALL_MAX_S) || g->oom_kills > g->said.oom_kills)
        speak(vm, now_s);
}

void sim_guest_begin(struct sim_vm *vm)
{
    struct sim_guest *g = &vm->kernel;

    if (!g->floor)
        g->floor = (double)balloons_floor((uint64_t)(vm->guest * SIM_PAGE)) / SIM_PAGE;
    g->aim = -1;
    g->processes = least(processes_want(vm), vm->touched);
    g->cache = least(vm->touched - g->processes, vm->guest - vm->guest / WATERMARK_PART - g->processes);
    g->cache = less(g->cache, 0);
    g->cache_used = least(g->cache, (1 - g->share) * vm->want);
    g->in_use = vm->want;
}

void sim_guest_tick(struct sim_vm *vm, double s, double now_s)
{
    struct sim_guest *g = &vm->kernel;
    double stalled_s = g->stalls_s;

    g->spoke = false;
    g->in_use = vm->want;
    if (g->speaks == SIM_BARE)
        return;
    move_balloon(vm, s);
    hold(vm, s, now_s);
    use_files(vm, s);
    touch(vm);
    g->in_use = least(g->share * vm->want, g->processes) + g->cache_used;
    note_need(vm, s, g->stalls_s - stalled_s);
    if (g->speaks == SIM_AGENT) {
        agent_looks(vm, now_s);
    } else if (g->speaks != SIM_MUTE && now_s >= g->look_s) {
        g->look_s = now_s + STATS_S;
        speak(vm, now_s);
    }
}

bool sim_guest_is_quiet(const struct sim_vm *vm)
{
    const struct sim_guest *g = &vm->kernel;

    return g->speaks == SIM_BARE ||
           ((g->aim < 0 || fabs(g->balloon - g->aim) < 1) && fabs(g->processes - processes_want(vm)) < 1 &&
            fabs(g->cache_used - (1 - g->share) * vm->want) < 1 && !g->short_s);
}

/* ---------------------------------------------------------------- what is known of it */

void sim_guest_see(struct sim_vm *vm, uint64_t now_ns)
{
    const struct sim_guest *g = &vm->kernel;
    struct balloon_seen seen = {.now_ns = now_ns,
                                .excluded = g->speaks == SIM_BARE ? BALLOON_NOT_READY : BALLOON_INCLUDED,
                                .ram_bytes = (uint64_t)(vm->guest * SIM_PAGE),
                                .actual_bytes = (uint64_t)((vm->guest - g->balloon) * SIM_PAGE),
                                .target_bytes = g->aim < 0 ? 0 : (uint64_t)((vm->guest - g->aim) * SIM_PAGE),
                                .min_bytes = (uint64_t)(g->floor * SIM_PAGE),
                                .resident_bytes = (uint64_t)(sim_resident(vm) * SIM_PAGE),
                                .heard_ns = g->said.at_ns,
                                .speaks_up = g->speaks == SIM_AGENT,
                                .available_bytes = (uint64_t)(g->said.available * SIM_PAGE),
                                .oom_kills = g->said.oom_kills,
                                .alloc_stalls = g->said.alloc_stalls};
    seen.activity = vm->want < vm->guest * IDLE_PART ? BALLOON_IDLE : BALLOON_BUSY;
    if (g->speaks == SIM_AGENT)
        seen.reread_bytes = (uint64_t)(g->said.reread * SIM_PAGE);

    if (g->speaks == SIM_AGENT && (double)(now_ns - g->said.at_ns) * 1e-9 < NEWS_S)
        seen.stall_percent = g->said.stall_percent;
    balloon_rung_see(&vm->kernel.rung, &seen, g->speaks == SIM_STATS);
}
