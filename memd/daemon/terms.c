/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see terms.h. */
#include "memd/daemon/terms.h"

#include "memd/daemon/paging.h"
#include "memd/daemon/state.h"
#include "memd/daemon/terms_file.h"

#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static int refuse(char reason[CORE_REASON_BYTES], const char *format,
                                                        ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(reason, CORE_REASON_BYTES, format, args);
    va_end(args);
    return -ERANGE;
}

/* Rounded up, so that what is said to be needed is enough. */
static uint64_t mib(uint64_t bytes)
{
    return (bytes + (1 << 20) - 1) >> 20;
}

void terms_of_rules(const struct core_config *config, const char *name, struct budget_terms *ret_terms)
{
    *ret_terms = (struct budget_terms){0};
    for (unsigned i = 0; i < config->nvm_rules; i++)
        if (!fnmatch(config->vm_rules[i].pattern, name, 0)) {
            *ret_terms = config->vm_rules[i].terms;
            return;
        }
}

struct core_domain_config *terms_of_domain(struct core *core, const char *name)
{
    for (unsigned i = 0; i < core->config.ndomains; i++)
        if (!strcmp(core->config.domains[i].name, name))
            return &core->config.domains[i];
    return NULL;
}

/* Of all VMs, or of a domain's; without those of `but`. */
static uint64_t reservations(struct core *core, const char *domain, const struct vm *but)
{
    uint64_t bytes = 0;
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm != but && (!domain || !strcmp(vm->domain->name, domain)))
            bytes += vm->reclaim.terms.reservation_bytes;
    return bytes;
}

/* What its domain may have; 0: as much as it likes. */
static uint64_t domain_budget(const struct vm *vm)
{
    const struct core_domain_config *config = NULL;

    if (vm->domain->configured)
        config = terms_of_domain(vm->core, vm->domain->name);
    return config ? config->budget_bytes : 0;
}

void terms_vm_joined(struct vm *vm)
{
    uint64_t own = vm->reclaim.terms.reservation_bytes, budget = vm->core->config.budget_bytes;

    if (own && budget && reservations(vm->core, NULL, NULL) > budget)
        core_warn(vm->core, "the reservations of all VMs, now with %s, are more than the budget",
                  vm->engine.name);
    budget = domain_budget(vm);
    if (own && budget && reservations(vm->core, vm->domain->name, NULL) > budget)
        core_warn(vm->core, "the reservations in domain %s, now with %s, are more than its budget",
                  vm->domain->name, vm->engine.name);
}

/* What was said of another budget says nothing of this one. */
static void forget_shown(struct core *core, const char *name)
{
    struct domain *domain;

    if (!name)
        core->reclaim.shown = (struct budget_shown){0};
    cds_list_for_each_entry (domain, &core->domains, link)
        if (name && domain->configured && !strcmp(domain->name, name))
            domain->shown = (struct budget_shown){0};
}

int terms_set_budget(struct core *core, const char *name, uint64_t bytes, char ret_reason[CORE_REASON_BYTES])
{
    struct core_domain_config *domain = name ? terms_of_domain(core, name) : NULL;
    uint64_t reserved = reservations(core, name, NULL);

    if (name && !domain)
        return -ENOENT;
    if (bytes && bytes < reserved)
        return refuse(ret_reason, "%" PRIu64 " MiB are less than the %" PRIu64 " MiB that are reserved",
                      bytes >> 20, mib(reserved));
    *(domain ? &domain->budget_bytes : &core->config.budget_bytes) = bytes;
    *(domain ? &domain->budget_set : &core->reclaim.budget_set) = true;
    forget_shown(core, name);
    core->reclaim.looked_ns = 0; /* with the next tick */
    terms_file_write(core);
    if (bytes)
        log_info("budget%s%s: %" PRIu64 " MiB", name ? " of domain " : "", name ? name : "", bytes >> 20);
    else
        log_info("budget%s%s: none", name ? " of domain " : "", name ? name : "");
    return 0;
}

void terms_set_dry_run(struct core *core, bool on)
{
    if (on != core->config.dry_run)
        log_info("dry run: %s", on ? "on, nothing is ordered to keep budgets" : "off");
    reclaim_set_dry_run(core, on);
    core->reclaim.dry_run_set = true;
    terms_file_write(core);
}

static int fits(const struct vm *vm, const char *domain, uint64_t own, uint64_t budget,
                char ret_reason[CORE_REASON_BYTES])
{
    uint64_t others = reservations(vm->core, domain, vm);

    if (!budget || own + others <= budget)
        return 0;
    return refuse(ret_reason,
                  "a reservation of %" PRIu64 " MiB does not fit: others have reserved %" PRIu64
                  " of %" PRIu64 " MiB%s%s",
                  mib(own), mib(others), budget >> 20, domain ? " of domain " : "", domain ? domain : "");
}

int terms_set_vm(struct core *core, const char *name, unsigned which, const struct budget_terms *value,
                 struct budget_terms *ret_terms, char ret_reason[CORE_REASON_BYTES])
{
    struct vm *vm = vm_find(core, name);
    int err = 0;

    if (!vm)
        return -ENOENT;
    struct budget_terms terms = vm->reclaim.terms;
    if (which & CORE_TERM_RESERVATION)
        terms.reservation_bytes = value->reservation_bytes;
    if (which & CORE_TERM_LIMIT)
        terms.limit_bytes = value->limit_bytes;
    if (which & CORE_TERM_SHARES)
        terms.shares = value->shares;
    if (which & CORE_TERM_SWAP)
        terms.swap_never = value->swap_never;
    if (which & CORE_TERM_WRITES)
        terms.writes_bytes = value->writes_bytes;
    if (terms.limit_bytes && terms.limit_bytes < terms.reservation_bytes)
        return refuse(ret_reason, "a limit of %" PRIu64 " MiB is below the reservation of %" PRIu64 " MiB",
                      terms.limit_bytes >> 20, mib(terms.reservation_bytes));
    if (terms.reservation_bytes > vm->reclaim.terms.reservation_bytes) {
        err = fits(vm, NULL, terms.reservation_bytes, core->config.budget_bytes, ret_reason);
        if (!err)
            err = fits(vm, vm->domain->name, terms.reservation_bytes, domain_budget(vm), ret_reason);
    }
    if (err)
        return err;
    *ret_terms = vm->reclaim.terms = terms;
    vm->reclaim.terms_set = true;
    core->reclaim.looked_ns = 0; /* with the next tick */
    if (!vm->paging.job)         /* an order of the old terms */
        paging_leave(vm);
    terms_file_write(core);
    return 0;
}
