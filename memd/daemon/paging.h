/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * paging: jobs that have an engine take pages out of RAM or bring them home.
 *
 * One order at a time per VM: PAGEOUT or PAGEIN, answered by PAGED. A job that is cancelled sends an order
 * for no pages, which ends the one before it.
 *
 * The daemon gives orders of its own, too (reclaim.h). A user's job has precedence: it ends such an order,
 * and there is none while it runs.
 */
#ifndef MEMD_DAEMON_PAGING_H
#define MEMD_DAEMON_PAGING_H

#include "memd/daemon/budget.h"
#include "memd/daemon/core.h"

#include <stdbool.h>
#include <stdint.h>

struct vm;
struct session;
struct jobs_record;

/* Of a VM. */
struct paging {
    uint64_t job;            /* 0: none */
    uint64_t order;          /* id of the order; 0: not sent yet */
    struct budget_order own; /* an order of the daemon's; pages 0: none */
    uint64_t before;         /* its count of page-outs or page-ins when it began */
    uint64_t pages;          /* that are to move, a guess */
};

int paging_start(struct core *core, const char *vm, bool out, const struct core_paging *what,
                 uint64_t *ret_job);
/* The daemon's own order, in place of the last one; not while there is a job. */
void paging_order_own(struct vm *vm, const struct budget_order *own);
void paging_tick(struct core *core, struct jobs_record *r);
void paging_leave(struct vm *vm); /* its job has ended; or an order of our own is not wanted any more */
void paging_session_lost(struct vm *vm);
void paging_vm_gone(struct vm *vm);

/* Of the channel: send the order that is due; PAGED arrived. */
void paging_send(struct session *session);
int paging_answered(struct session *session, const struct wire_rec_paged *rec);

#endif
