/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see paging.h. */
#include "memd/daemon/paging.h"

#include "memd/daemon/channel.h"
#include "memd/daemon/jobs.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static uint64_t out_pages(const struct vm *vm)
{
    return vm->stats.parked_pages + vm->stats.packed_pages + vm->stats.swapped_pages + vm->stats.remote_pages;
}

static uint64_t moved(const struct vm *vm, enum core_job_kind kind)
{
    return kind == CORE_JOB_PAGEOUT ? vm->stats.page_outs : vm->stats.page_ins;
}

/* What is asked for, and what there is. */
static uint64_t pages_to_move(const struct vm *vm, bool out, uint64_t asked)
{
    uint64_t all = vm_guest_pages(vm),
             gone = vm->held_pages + vm->stats.zero_pages + vm->stats.packed_pages + vm->stats.swapped_pages;
    uint64_t there = out ? (all > gone ? all - gone : 0) : out_pages(vm);

    return asked < there ? asked : there;
}

/* At most, what an order may write: what is to go out, what is out and not there yet, and what rounding takes
 * (16 bytes a record, whole blocks, clusters that are not full). */
static uint64_t to_write_bytes(const struct vm *vm, const struct core_paging *what)
{
    uint64_t all = vm_guest_pages(vm), pages = what->bytes / WIRE_PAGE_BYTES;

    pages = (pages < all ? pages : all) + vm->stats.parked_pages + vm->stats.packed_pages;
    return pages * (WIRE_PAGE_BYTES + WIRE_PAGE_BYTES / 8) + (1 << 20);
}

static void order(struct vm *vm, uint16_t type, const struct core_paging *what)
{
    struct session *session = vm->session;
    uint64_t may = what->swap ? writes_promise(vm, to_write_bytes(vm, what)) : UINT64_MAX;

    session->page = (struct wire_rec_page){
        .r = {.type = type},
        .pages = what->bytes / WIRE_PAGE_BYTES,
        .park_ms = what->park_ms,
        .flags = (what->all ? WIRE_PAGEOUT_ALL : 0) | (what->swap ? WIRE_PAGEOUT_SWAP : 0) |
                 (what->merged ? WIRE_PAGEOUT_MERGED : 0) | (may != UINT64_MAX ? WIRE_PAGEOUT_LIMIT : 0),
        .swap_bytes = may};
    session->page_due = true;
    channel_wake(session);
}

int paging_start(struct core *core, const char *name, bool out, const struct core_paging *what,
                 uint64_t *ret_job)
{
    struct vm *vm = vm_find(core, name);
    struct jobs_record *r;

    if (!vm || !session_is_live(vm->session))
        return -ENOENT;
    if (vm->paging.job)
        return -EBUSY;
    int err = jobs_begin(core, out ? CORE_JOB_PAGEOUT : CORE_JOB_PAGEIN, &r);
    if (err)
        return err;
    *ret_job = r->job.id;
    r->vms = r->left = 1;
    vm_read_stats(vm);
    vm->paging = (struct paging){.job = r->job.id, /* an order of our own is forgotten */
                                 .before = moved(vm, r->job.kind),
                                 .pages = pages_to_move(vm, out, what->bytes / WIRE_PAGE_BYTES)};
    struct core_paging allowed = *what;
    allowed.swap &= !vm->reclaim.terms.swap_never;
    order(vm, out ? WIRE_REC_PAGEOUT : WIRE_REC_PAGEIN, &allowed);
    return 0;
}

void paging_order_own(struct vm *vm, const struct budget_order *own)
{
    vm->paging = (struct paging){.own = *own};
    order(vm, WIRE_REC_PAGEOUT,
          &(struct core_paging){.bytes = own->pages * WIRE_PAGE_BYTES,
                                .park_ms = own->park_ms,
                                .all = own->all,
                                .swap = own->swap});
}

void paging_tick(struct core *core, struct jobs_record *r)
{
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link) {
        if (vm->paging.job != r->job.id || !vm->paging.pages)
            continue;
        uint64_t done = moved(vm, r->job.kind) - vm->paging.before;
        r->job.progress = done < vm->paging.pages ? (double)done / (double)vm->paging.pages : 0.99;
    }
}

void paging_leave(struct vm *vm)
{
    bool waits = (vm->paging.job || vm->paging.own.pages) && vm->session &&
                 (vm->paging.order || vm->session->page_due);

    vm->paging = (struct paging){0};
    if (waits) /* for nothing any more: an order for no pages ends it */
        order(vm, WIRE_REC_PAGEIN, &(struct core_paging){0});
}

static void finish(struct vm *vm, int error, const char *reason)
{
    struct jobs_record *r = jobs_find(vm->core, vm->paging.job);
    char text[CORE_REASON_BYTES];

    vm->paging = (struct paging){0};
    if (!r || !jobs_runs(r))
        return;
    snprintf(text, sizeof text, "VM %.64s: %s", vm->engine.name, reason);
    jobs_end(vm->core, r, error, text);
}

void paging_session_lost(struct vm *vm)
{
    writes_settle(vm); /* an engine on its own writes nothing more */
    if (vm->paging.job)
        finish(vm, ECONNRESET, "its session ended");
    vm->paging = (struct paging){0};
}

void paging_vm_gone(struct vm *vm)
{
    if (vm->paging.job)
        finish(vm, ECONNRESET, "it is gone");
}

void paging_send(struct session *session)
{
    struct wire_rec_page *rec;

    if (!session->page_due)
        return;
    rec = channel_reserve(session, (enum wire_rec_type)session->page.r.type, sizeof *rec, 0);
    if (!rec)
        return;
    struct wire_rec head = rec->r;
    *rec = session->page;
    rec->r = head;
    rec->id = ++session->page_sent;
    session->page_due = false;
    if (session->vm->paging.job || session->vm->paging.own.pages)
        session->vm->paging.order = rec->id;
}

int paging_answered(struct session *session, const struct wire_rec_paged *rec)
{
    struct vm *vm = session->vm;

    if (rec->id != session->page_answered + 1 || rec->id > session->page_sent)
        return -EPROTO;
    session->page_answered = rec->id;
    if (rec->id != vm->paging.order)
        return 0;
    vm_read_stats(vm); /* the engine has brought them up to date before it answered */
    writes_settle(vm);
    if (!vm->paging.job) {
        struct budget_order own = vm->paging.own;
        vm->paging = (struct paging){0};
        reclaim_answered(vm, &own, rec->pages, rec->error);
        return 0;
    }
    struct jobs_record *r = jobs_find(vm->core, vm->paging.job);
    uint64_t most = vm_guest_pages(vm);
    if (r)
        r->job.paged_bytes = (rec->pages < most ? rec->pages : most) * WIRE_PAGE_BYTES;
    finish(
        vm, rec->error,
        rec->error == ENOMEM   ? "its pages do not fit into memory"
        : rec->error == ENOSPC ? "its swap file is full, or cannot be written; what could go is out of RAM"
        : rec->error == EDQUOT
            ? "as much was written to swap files as may be in a day (swap-writes); the rest is packed in RAM"
            : strerror(rec->error));
    return 0;
}
