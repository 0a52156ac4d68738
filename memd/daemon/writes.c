/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see writes.h. The file has a line for all VMs together and one for each VM that has a
 * limit or a promise:
 *
 *   host SECONDS LIMIT LEFT            seconds of CLOCK_REALTIME, when it was written; the others in bytes
 *   vm PID START NAME LEFT COUNTED PROMISED
 */
#include "memd/daemon/writes.h"

#include "memd/common/clock.h"
#include "memd/common/log.h"
#include "memd/daemon/state.h"
#include "memd/daemon/state_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY_NS      (86400 * CLOCK_S)
#define LEAST_BYTES (1ull << 20)   /* with less it is not worth while to begin */
#define SLACK_BYTES (1ull << 20)   /* what an engine may still be writing when its order has ended */
#define SAVE_NS     (10 * CLOCK_S) /* between two times the file is written */
#define WHAT        "writes"
#define LINE_BYTES  320

/* A VM that is not back yet. */
struct writes_recalled {
    pid_t pid;
    uint64_t start;
    char name[CORE_NAME_BYTES];
    double left_bytes;
    uint64_t counted_bytes, promised_bytes;
};

/* ---- buckets */

void writes_bucket_tend(struct writes_bucket *bucket, uint64_t limit_bytes, uint64_t elapsed_ns)
{
    uint64_t was = bucket->limit_bytes;

    bucket->limit_bytes = limit_bytes;
    if (!was)
        bucket->left_bytes = (double)limit_bytes;
    else if (limit_bytes > was)
        bucket->left_bytes += (double)(limit_bytes - was);
    bucket->left_bytes += (double)limit_bytes * ((double)elapsed_ns / (double)DAY_NS);
    if (bucket->left_bytes > (double)limit_bytes)
        bucket->left_bytes = (double)limit_bytes;
}

uint64_t writes_left(const struct writes_bucket *bucket)
{
    return bucket->left_bytes > 0 ? (uint64_t)bucket->left_bytes : 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Bytes there are for one more promise; UINT64_MAX: any. */
static uint64_t available(const struct vm *vm)
{
    const struct writes *all = &vm->core->writes;
    uint64_t bytes = UINT64_MAX;

    if (all->bucket.limit_bytes) {
        uint64_t left = writes_left(&all->bucket), others = all->promised_bytes - vm->writes.promised_bytes;
        bytes = left > others ? left - others : 0;
    }
    if (vm->writes.bucket.limit_bytes)
        bytes = least(bytes, writes_left(&vm->writes.bucket));
    return bytes;
}

bool writes_allowed(const struct vm *vm)
{
    return available(vm) >= LEAST_BYTES;
}

/* ---- promises, and what became of them */

static void set_promise(struct vm *vm, uint64_t bytes)
{
    struct writes *all = &vm->core->writes;

    all->changed |= bytes != vm->writes.promised_bytes;
    all->promised_bytes += bytes - vm->writes.promised_bytes;
    vm->writes.promised_bytes = bytes;
}

static void count(struct vm *vm)
{
    struct writes_vm *w = &vm->writes;
    struct writes *all = &vm->core->writes;
    uint64_t said = vm->stats.swap_written_bytes;

    if (said <= w->counted_bytes) /* its statistics may be those of a session that has just begun */
        return;
    uint64_t bytes = least(said - w->counted_bytes, w->credit_bytes);
    w->counted_bytes = said;
    w->credit_bytes -= bytes;
    w->bucket.left_bytes -= w->bucket.limit_bytes ? (double)bytes : 0;
    all->bucket.left_bytes -= all->bucket.limit_bytes ? (double)bytes : 0;
    all->changed |= all->bucket.limit_bytes || w->bucket.limit_bytes;
    set_promise(vm, w->promised_bytes - least(w->promised_bytes, bytes));
}

uint64_t writes_promise(struct vm *vm, uint64_t want)
{
    struct writes_vm *w = &vm->writes;

    count(vm);
    writes_bucket_tend(&w->bucket, vm->reclaim.terms.writes_bytes, 0); /* they may just have been set */
    uint64_t may = available(vm);
    if (may == UINT64_MAX) {
        set_promise(vm, 0);
        w->credit_bytes = UINT64_MAX;
        return may;
    }
    set_promise(vm, may < LEAST_BYTES ? 0 : least(want, may));
    w->credit_bytes = w->promised_bytes + SLACK_BYTES;
    return w->promised_bytes;
}

void writes_settle(struct vm *vm)
{
    count(vm);
    set_promise(vm, 0);
}

/* ---- the file */

static unsigned put_all(FILE *out, const struct core *core)
{
    const struct writes *all = &core->writes;
    const struct vm *vm;

    fprintf(out, "host %" PRIu64 " %" PRIu64 " %.0f\n", (uint64_t)(clock_read_ns(CLOCK_REALTIME) / CLOCK_S),
            all->bucket.limit_bytes, all->bucket.left_bytes);
    cds_list_for_each_entry (vm, &core->vms, link)
        fprintf(out, "vm %d %" PRIu64 " %s %.0f %" PRIu64 " %" PRIu64 "\n", (int)vm->engine.pid,
                vm->engine.start, vm->engine.name, vm->writes.bucket.left_bytes, vm->writes.counted_bytes,
                vm->writes.promised_bytes);
    for (unsigned i = 0; i < all->nrecalled; i++) {
        const struct writes_recalled *r = &all->recalled[i];
        fprintf(out, "vm %d %" PRIu64 " %s %.0f %" PRIu64 " %" PRIu64 "\n", (int)r->pid, r->start, r->name,
                r->left_bytes, r->counted_bytes, r->promised_bytes);
    }
    return 1;
}

static void save(struct core *core)
{
    core->writes.changed = false;
    state_file_write(core, WHAT, put_all, "the next daemon does not know what was written to swap files");
}

/* What it was promised it may have written; if it comes back, it says so itself. */
static void recall_vm(struct core *core, const struct writes_recalled *r)
{
    struct registry_entry engine = {.pid = r->pid, .start = r->start};
    struct writes *all = &core->writes;

    snprintf(engine.name, sizeof engine.name, "%s", r->name);
    struct writes_recalled *grown = domain_find_awaited(core, &engine)
                                        ? realloc(all->recalled, (all->nrecalled + 1) * sizeof *grown)
                                        : NULL;
    if (!grown) {
        all->bucket.left_bytes -= (double)r->promised_bytes;
        return;
    }
    all->recalled = grown;
    grown[all->nrecalled++] = *r;
}

static bool recall(struct core *core, const char *line, uint64_t *ret_saved_s)
{
    struct writes_recalled r = {0};
    struct writes_bucket all;
    int pid;

    if (sscanf(line, "host %" SCNu64 " %" SCNu64 " %lf", ret_saved_s, &all.limit_bytes, &all.left_bytes) ==
        3) {
        core->writes.bucket = all;
        return true;
    }
    if (sscanf(line, "vm %d %" SCNu64 " %63s %lf %" SCNu64 " %" SCNu64, &pid, &r.start, r.name, &r.left_bytes,
               &r.counted_bytes, &r.promised_bytes) != 6)
        return false;
    r.pid = pid;
    recall_vm(core, &r);
    return true;
}

/* Since the last daemon saved it; a clock that was set back has not run. */
static uint64_t elapsed_ns(uint64_t saved_s)
{
    uint64_t now_s = clock_read_ns(CLOCK_REALTIME) / CLOCK_S;
    uint64_t s = now_s > saved_s ? now_s - saved_s : 0;

    return least(s, DAY_NS / CLOCK_S) * CLOCK_S;
}

void writes_open(struct core *core)
{
    struct writes *all = &core->writes;
    char path[STATE_FILE_BYTES], line[LINE_BYTES];
    uint64_t saved_s = UINT64_MAX;

    all->tended_ns = all->saved_ns = clock_now_ns();
    state_file_path(core, WHAT, path);
    FILE *in = fopen(path, "re");
    if (!in && errno == ENOENT) {
        writes_bucket_tend(&all->bucket, core->config.swap_writes_bytes, 0);
        return;
    }
    if (!in)
        core_warn(core, "%s cannot be read (%s): swap files are taken to have been written all day", path,
                  strerror(errno));
    while (in && fgets(line, sizeof line, in))
        if (!recall(core, line, &saved_s))
            log_warn("%s: a line that says nothing is left out: %.60s", path, line);
    if (in)
        fclose(in);
    if (saved_s == UINT64_MAX) /* there is a file, and it says nothing */
        all->bucket = (struct writes_bucket){.limit_bytes = core->config.swap_writes_bytes};
    all->recalled_ns = elapsed_ns(saved_s);
    writes_bucket_tend(&all->bucket, core->config.swap_writes_bytes, all->recalled_ns);
}

void writes_close(struct core *core)
{
    if (core->writes.changed)
        save(core);
    free(core->writes.recalled);
    core->writes.recalled = NULL;
    core->writes.nrecalled = 0;
}

/* ---- VMs come and go */

void writes_vm_joined(struct vm *vm)
{
    struct writes *all = &vm->core->writes;

    writes_bucket_tend(&vm->writes.bucket, vm->reclaim.terms.writes_bytes, 0);
    for (unsigned i = 0; i < all->nrecalled; i++) {
        const struct writes_recalled *r = &all->recalled[i];
        if (r->pid != vm->engine.pid || r->start != vm->engine.start || strcmp(r->name, vm->engine.name) != 0)
            continue;
        if (vm->writes.bucket.limit_bytes) {
            vm->writes.bucket.left_bytes = r->left_bytes;
            writes_bucket_tend(&vm->writes.bucket, vm->reclaim.terms.writes_bytes, all->recalled_ns);
        }
        vm->writes.counted_bytes = r->counted_bytes;
        vm->writes.credit_bytes = r->promised_bytes + SLACK_BYTES;
        all->recalled[i] = all->recalled[--all->nrecalled];
        return;
    }
}

void writes_vm_gone(struct vm *vm)
{
    writes_settle(vm);
}

void writes_tick(struct core *core, uint64_t now_ns)
{
    struct writes *all = &core->writes;
    uint64_t elapsed = now_ns - all->tended_ns;
    struct vm *vm;

    all->tended_ns = now_ns;
    writes_bucket_tend(&all->bucket, core->config.swap_writes_bytes, elapsed);
    if (all->bucket.limit_bytes && writes_left(&all->bucket) < LEAST_BYTES)
        core_warn(core,
                  "as much was written to swap files as may be in a day (swap-writes): pages stay in RAM");
    cds_list_for_each_entry (vm, &core->vms, link) {
        writes_bucket_tend(&vm->writes.bucket, vm->reclaim.terms.writes_bytes, elapsed);
        count(vm);
        if (vm->writes.bucket.limit_bytes && writes_left(&vm->writes.bucket) < LEAST_BYTES)
            core_warn(
                core,
                "VM %s has written as much to its swap file as it may in a day (swap-writes): its pages "
                "stay in RAM",
                vm->engine.name);
    }
    if (all->changed && now_ns - all->saved_ns >= SAVE_NS) {
        all->saved_ns = now_ns;
        save(core);
    }
}
