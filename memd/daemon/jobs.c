/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see jobs.h. */
#include "memd/daemon/jobs.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/paging.h"
#include "memd/daemon/snapshot.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HASHES_ROOM_MIN (1u << 14)
#define HASHES_MAX      (1u << 28) /* 2 GiB of table */

/* The set of hashes an estimate has seen, by domain. */
struct jobs_hashes {
    uint64_t *slot;
    uint32_t room, used;
    uint64_t duplicates, frames; /* pages that equal an earlier one; distinct contents among them */
};

/* ---------------------------------------------------------------- records */

struct jobs_record *jobs_find(struct core *core, uint64_t id)
{
    struct jobs_record *r = &core->jobs.record[id % CORE_JOBS_MAX];

    return id && r->job.id == id ? r : NULL;
}

bool jobs_runs(const struct jobs_record *r)
{
    return r->job.id && r->job.state == CORE_JOB_RUNNING;
}

static void hashes_free(struct jobs_record *r)
{
    if (r->hashes)
        free(r->hashes->slot);
    free(r->hashes);
    r->hashes = NULL;
}

int jobs_begin(struct core *core, enum core_job_kind kind, struct jobs_record **ret_record)
{
    struct jobs_record *r;
    uint64_t id = core->jobs.last;

    do {
        r = &core->jobs.record[++id % CORE_JOBS_MAX];
        if (id > core->jobs.last + CORE_JOBS_MAX)
            return -EBUSY;
    } while (jobs_runs(r));
    hashes_free(r);
    *r = (struct jobs_record){.job = {.id = id, .kind = kind}, .started_ns = clock_now_ns()};
    core->jobs.last = id;
    *ret_record = r;
    return 0;
}

static void leave(struct core *core, uint64_t id)
{
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link) {
        if (vm->estimate_job == id) {
            vm->estimate_job = 0;
            if (vm->session)
                vm->session->budget_due = true;
        }
        if (vm->unmerge_job == id)
            vm->unmerge_job = 0;
        if (vm->paging.job == id)
            paging_leave(vm);
    }
    agents_leave(core, id);
}

void jobs_end(struct core *core, struct jobs_record *r, int error, const char *reason)
{
    leave(core, r->job.id);
    hashes_free(r);
    core->jobs.settling -= r->job.kind == CORE_JOB_SETTLE;
    r->job.state = error ? CORE_JOB_FAILED : CORE_JOB_DONE;
    r->job.error = error;
    r->job.progress = 1;
    if (error)
        snprintf(r->job.reason, sizeof r->job.reason, "%s", reason);
    pthread_mutex_lock(&core->jobs.lock);
    core->jobs.ended++;
    pthread_cond_broadcast(&core->jobs.more);
    pthread_mutex_unlock(&core->jobs.lock);
}

int jobs_poll(struct core *core, uint64_t id, struct core_job *ret_job)
{
    struct jobs_record *r = jobs_find(core, id);

    if (!r)
        return -ENOENT;
    *ret_job = r->job;
    return 0;
}

int jobs_cancel(struct core *core, uint64_t id)
{
    struct jobs_record *r = jobs_find(core, id);

    if (!r)
        return -ENOENT;
    if (jobs_runs(r))
        jobs_end(core, r, ECANCELED, "cancelled");
    return 0;
}

void jobs_open(struct jobs *jobs)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&jobs->more, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&jobs->lock, NULL);
}

void jobs_close(struct jobs *jobs)
{
    for (unsigned i = 0; i < CORE_JOBS_MAX; i++)
        hashes_free(&jobs->record[i]);
    pthread_cond_destroy(&jobs->more);
    pthread_mutex_destroy(&jobs->lock);
}

/* ---------------------------------------------------------------- whoever waits */

unsigned jobs_ended(struct jobs *jobs)
{
    pthread_mutex_lock(&jobs->lock);
    unsigned ended = jobs->ended;
    pthread_mutex_unlock(&jobs->lock);
    return ended;
}

void jobs_wait(struct jobs *jobs, unsigned ended, unsigned ms)
{
    uint64_t until_ns = clock_now_ns() + ms * CLOCK_MS;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};
    int err = 0;

    pthread_mutex_lock(&jobs->lock);
    while (jobs->ended == ended && !err)
        err = pthread_cond_timedwait(&jobs->more, &jobs->lock, &until);
    pthread_mutex_unlock(&jobs->lock);
}

/* ---------------------------------------------------------------- unmerge */

/* One VM's end of an unmerge. */
static void unmerge_left(struct vm *vm, int error, const char *reason)
{
    struct jobs_record *r = jobs_find(vm->core, vm->unmerge_job);
    char text[CORE_REASON_BYTES];

    vm->unmerge_job = 0;
    if (!r || !jobs_runs(r))
        return;
    if (error) {
        snprintf(text, sizeof text, "VM %.64s: %s", vm->engine.name, reason);
        jobs_end(vm->core, r, error, text);
        return;
    }
    r->left--;
    r->job.progress = 1 - (double)r->left / r->vms;
    if (!r->left)
        jobs_end(vm->core, r, 0, NULL);
}

void jobs_unmerged(struct vm *vm, int error)
{
    const char *why =
        error == ENOMEM  ? "its pages do not fit into memory"
        : error == EBUSY ? "written pages that devices may hold pinned stay merged: try again; where the VMM "
                           "has a seccomp filter memd cannot tell (docs/qemu.md)"
                         : strerror(error);

    if (vm->unmerge_job)
        unmerge_left(vm, error, why);
}

void jobs_session_lost(struct vm *vm)
{
    if (vm->unmerge_job)
        unmerge_left(vm, ECONNRESET, "its session ended");
    paging_session_lost(vm);
}

void jobs_vm_gone(struct vm *vm)
{
    if (vm->unmerge_job)
        unmerge_left(vm, 0, NULL);
    paging_vm_gone(vm);
}

static void unmerge_vm(struct vm *vm, uint64_t job)
{
    vm_set_merge(vm, false);
    vm->unmerge_job = job;
    proposals_drop_all(vm->session);
    vm->session->unmerge_id = job;
    vm->session->unmerge_due = true;
    channel_wake(vm->session);
}

static bool takes_part(const struct vm *vm, const struct vm *only)
{
    return session_is_live(vm->session) && (!only || vm == only);
}

int jobs_start_unmerge(struct core *core, const char *name, uint64_t *ret_job)
{
    struct vm *vm, *only = name ? vm_find(core, name) : NULL;
    uint64_t need = 0;
    struct jobs_record *r;

    if (name && (!only || !session_is_live(only->session)))
        return -ENOENT;
    int err = jobs_begin(core, CORE_JOB_UNMERGE, &r);
    if (err)
        return err;
    *ret_job = r->job.id;
    cds_list_for_each_entry (vm, &core->vms, link)
        if (takes_part(vm, only)) {
            if (vm->session->unmerge_id) {
                jobs_end(core, r, EBUSY, "an unmerge is under way already");
                return 0;
            }
            r->vms++;
            need += vm->held_pages * WIRE_PAGE_BYTES;
        }
    r->left = r->vms;
    proc_read_memory(core->config.proc_root, &core->memory);
    if (need > core->memory.available_bytes) {
        char text[CORE_REASON_BYTES];
        snprintf(text, sizeof text,
                 "does not fit: %" PRIu64 " MiB wanted, %" PRIu64 " MiB available; free memory first",
                 need >> 20, core->memory.available_bytes >> 20);
        jobs_end(core, r, ENOMEM, text);
        return 0;
    }
    if (!r->vms)
        jobs_end(core, r, 0, NULL);
    cds_list_for_each_entry (vm, &core->vms, link)
        if (takes_part(vm, only))
            unmerge_vm(vm, r->job.id);
    return 0;
}

/* ---------------------------------------------------------------- settle */

int jobs_start_settle(struct core *core, uint64_t *ret_job)
{
    struct jobs_record *r;
    struct vm *vm;
    int err = jobs_begin(core, CORE_JOB_SETTLE, &r);

    if (err)
        return err;
    *ret_job = r->job.id;
    if (core->jobs.settling++)
        return 0; /* passes follow each other already; to begin one anew for every job would end none */
    cds_list_for_each_entry (vm, &core->vms, link) {
        vm_restart_pass(vm, r->started_ns);
        if (session_is_live(vm->session)) {
            vm->session->round_due = true;
            channel_wake(vm->session);
        }
    }
    return 0;
}

static void tick_settle(struct core *core, struct jobs_record *r)
{
    uint32_t all = 0, settled = 0;
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm->merge_on && vm->session) {
            all++;
            settled += vm->settled_from_ns >= r->started_ns;
        }
    r->job.progress = all ? (double)settled / all : 1;
    if (settled == all && !core->nawaited)
        jobs_end(core, r, 0, NULL);
}

/* ---------------------------------------------------------------- estimate */

/* 1: was there; 0: added; negative: no room. */
static int hashes_put(struct jobs_hashes *set, uint64_t key);

static int hashes_grow(struct jobs_hashes *set)
{
    struct jobs_hashes grown = {.room = set->room ? set->room * 2 : HASHES_ROOM_MIN};

    if (grown.room > HASHES_MAX)
        return -ENOSPC;
    grown.slot = calloc(grown.room, sizeof *grown.slot);
    if (!grown.slot)
        return -ENOMEM;
    for (uint32_t i = 0; i < set->room; i++)
        if (set->slot[i])
            hashes_put(&grown, set->slot[i]);
    free(set->slot);
    set->slot = grown.slot;
    set->room = grown.room;
    return 0;
}

/* The lowest bit says "seen more than once". */
static int hashes_put(struct jobs_hashes *set, uint64_t key)
{
    if (set->used * 4ull >= set->room * 3ull && hashes_grow(set))
        return -ENOMEM;
    uint32_t at = (uint32_t)((key >> 1) * 0x9e3779b97f4a7c15ull >> 32) & (set->room - 1);
    while (set->slot[at] && (set->slot[at] ^ key) > 1)
        at = (at + 1) & (set->room - 1);
    if (!set->slot[at]) {
        set->slot[at] = key;
        set->used++;
        return 0;
    }
    set->frames += !(set->slot[at] & 1);
    set->slot[at] |= 1;
    return 1;
}

void jobs_estimate_hashes(struct vm *vm, const struct wire_rec_hashes *rec)
{
    struct jobs_record *r = jobs_find(vm->core, vm->estimate_job);

    if (!r || !r->hashes)
        return;
    for (uint32_t i = 0; i < rec->count; i++) {
        uint64_t hash = rec->hash[i];
        if (!hash) { /* a zero page of a huge page */
            r->job.zero_bytes += WIRE_PAGE_BYTES;
            continue;
        }
        uint64_t key = (hash ^ (uintptr_t)vm->domain * 0x9e3779b97f4a7c15ull) & ~1ull;
        if (hashes_put(r->hashes, key ? key : 2) == 1)
            r->hashes->duplicates++;
    }
}

int jobs_start_estimate(struct core *core, size_t nvms, const char *const *vms, uint64_t *ret_job)
{
    struct jobs_record *r;
    struct vm *vm;

    for (size_t i = 0; i < nvms; i++) {
        vm = vm_find(core, vms[i]);
        if (!vm || !session_is_live(vm->session))
            return -ENOENT;
        if (vm->estimate_job)
            return -EBUSY;
    }
    int err = jobs_begin(core, CORE_JOB_ESTIMATE, &r);
    if (err)
        return err;
    *ret_job = r->job.id;
    r->hashes = calloc(1, sizeof *r->hashes);
    if (!r->hashes) {
        jobs_end(core, r, ENOMEM, "no memory");
        return 0;
    }
    cds_list_for_each_entry (vm, &core->vms, link) {
        bool named = !nvms;
        for (size_t i = 0; i < nvms; i++)
            named |= vm == vm_find(core, vms[i]);
        if (!named || !session_is_live(vm->session) || vm->estimate_job)
            continue;
        vm->estimate_job = r->job.id;
        r->vms++;
        vm->session->budget_due = vm->session->round_due = true;
        channel_wake(vm->session);
    }
    return 0;
}

/* Has gone over all its pages since the job began. What it has merged already counts as it is. */
static bool estimated(const struct vm *vm, const struct jobs_record *r)
{
    return vm->merge_on ? vm->settled
                        : vm->stats.prev_started_ns >= r->started_ns && !vm->stats.backlog_pages;
}

static void tick_estimate(struct core *core, struct jobs_record *r)
{
    uint32_t all = 0, done = 0;
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm->estimate_job == r->job.id) {
            all++;
            done += !vm->session || estimated(vm, r);
        }
    r->job.progress = all ? (double)done / all : 1;
    if (done < all)
        return;
    uint64_t held = 0, frames = r->hashes->frames;
    r->job.duplicate_bytes = (r->hashes->duplicates + r->hashes->frames) * WIRE_PAGE_BYTES;
    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm->estimate_job == r->job.id) {
            r->job.guest_bytes += vm_guest_pages(vm) * WIRE_PAGE_BYTES;
            r->job.zero_bytes += (vm->stats.would_save_pages + vm->stats.zero_pages) * WIRE_PAGE_BYTES;
            held += vm->held_pages;
            frames += (uint64_t)(snapshot_frame_share(vm) + 0.5);
        }
    r->job.duplicate_bytes += held * WIRE_PAGE_BYTES;
    r->job.frame_bytes = frames * WIRE_PAGE_BYTES;
    jobs_end(core, r, 0, NULL);
}

void jobs_tick(struct core *core)
{
    for (unsigned i = 0; i < CORE_JOBS_MAX; i++) {
        struct jobs_record *r = &core->jobs.record[i];
        if (!jobs_runs(r))
            continue;
        if (r->job.kind == CORE_JOB_SETTLE)
            tick_settle(core, r);
        else if (r->job.kind == CORE_JOB_ESTIMATE)
            tick_estimate(core, r);
        else if (r->job.kind == CORE_JOB_PAGEOUT || r->job.kind == CORE_JOB_PAGEIN)
            paging_tick(core, r);
    }
}
