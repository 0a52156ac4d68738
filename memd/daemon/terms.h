/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * terms: what users say about memory: budgets, and the terms of VMs (struct budget_terms); what fits
 * together.
 *
 * The configuration has rules for VMs by name; what is set later counts until the VM leaves, over restarts of
 * memd (terms_file.h).
 * Reservations of the VMs that are there never add up to more than a budget: neither may a budget be set
 * below them, nor one of them be raised above it. A VM that joins brings its reservation along whether it
 * fits or not, and memd warns.
 */
#ifndef MEMD_DAEMON_TERMS_H
#define MEMD_DAEMON_TERMS_H

#include "memd/daemon/core.h"

struct domain;
struct vm;

/* The terms of the first rule for a VM of that name; none: zero. */
void terms_of_rules(const struct core_config *config, const char *name, struct budget_terms *ret_terms);
/* The domain's section; NULL: it has none. */
struct core_domain_config *terms_of_domain(struct core *core, const char *name);
/* A VM has joined: warn if its reservation is more than a budget has left. */
void terms_vm_joined(struct vm *vm);

/* Of the loop: see core.h. */
int terms_set_budget(struct core *core, const char *domain, uint64_t bytes,
                     char ret_reason[CORE_REASON_BYTES]);
void terms_set_dry_run(struct core *core, bool on);
int terms_set_vm(struct core *core, const char *vm, unsigned terms, const struct budget_terms *value,
                 struct budget_terms *ret_terms, char ret_reason[CORE_REASON_BYTES]);

#endif
