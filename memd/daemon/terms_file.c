/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see terms_file.h. A line for each thing that was set:
 *
 *   budget BYTES
 *   domain NAME BYTES
 *   dry-run on|off
 *   vm PID START NAME RESERVATION LIMIT SHARES never|allowed WRITES
 */
#include "memd/daemon/terms_file.h"

#include "memd/common/log.h"
#include "memd/common/name.h"
#include "memd/daemon/state.h"
#include "memd/daemon/state_file.h"
#include "memd/daemon/terms.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WHAT       "terms"
#define LINE_BYTES 320
static_assert(CORE_NAME_BYTES > MEMD_NAME_MAX && MEMD_NAME_MAX == 63, "%63s reads any name");

/* ---- writing */

static void put_vm(FILE *out, pid_t pid, uint64_t start, const char *name, const struct budget_terms *t)
{
    fprintf(out, "vm %d %" PRIu64 " %s %" PRIu64 " %" PRIu64 " %" PRIu32 " %s %" PRIu64 "\n", (int)pid, start,
            name, t->reservation_bytes, t->limit_bytes, t->shares, t->swap_never ? "never" : "allowed",
            t->writes_bytes);
}

/* Returns how many things there are to be kept. */
static unsigned put_all(FILE *out, const struct core *core)
{
    const struct core_config *c = &core->config;
    const struct vm *vm;
    unsigned n = core->reclaim.nrecalled;

    if (core->reclaim.budget_set)
        fprintf(out, "budget %" PRIu64 "\n", c->budget_bytes), n++;
    if (core->reclaim.dry_run_set)
        fprintf(out, "dry-run %s\n", c->dry_run ? "on" : "off"), n++;
    for (unsigned i = 0; i < c->ndomains; i++)
        if (c->domains[i].budget_set)
            fprintf(out, "domain %s %" PRIu64 "\n", c->domains[i].name, c->domains[i].budget_bytes), n++;
    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm->reclaim.terms_set)
            put_vm(out, vm->engine.pid, vm->engine.start, vm->engine.name, &vm->reclaim.terms), n++;
    for (unsigned i = 0; i < core->reclaim.nrecalled; i++) {
        const struct terms_recalled *r = &core->reclaim.recalled[i];
        put_vm(out, r->pid, r->start, r->name, &r->terms);
    }
    return n;
}

void terms_file_write(struct core *core)
{
    state_file_write(core, WHAT, put_all, "budgets and terms are not kept for the next start");
}

/* ---- reading */

static bool is_awaited(struct core *core, const struct terms_recalled *r)
{
    struct registry_entry engine = {.pid = r->pid, .start = r->start};

    snprintf(engine.name, sizeof engine.name, "%s", r->name);
    return domain_find_awaited(core, &engine);
}

static bool recall_vm(struct core *core, const char *line)
{
    struct terms_recalled r = {0};
    char swap[8];
    int pid;

    if (sscanf(line, "vm %d %" SCNu64 " %63s %" SCNu64 " %" SCNu64 " %" SCNu32 " %7s %" SCNu64, &pid,
               &r.start, r.name, &r.terms.reservation_bytes, &r.terms.limit_bytes, &r.terms.shares, swap,
               &r.terms.writes_bytes) < 7 ||
        (strcmp(swap, "never") && strcmp(swap, "allowed")) ||
        (r.terms.shares > BUDGET_SHARES_MAX && r.terms.shares < BUDGET_SHARES_LOW))
        return false;
    r.pid = pid;
    r.terms.swap_never = !strcmp(swap, "never");
    if (!is_awaited(core, &r)) /* it ended meanwhile */
        return true;
    struct terms_recalled *grown =
        realloc(core->reclaim.recalled, (core->reclaim.nrecalled + 1) * sizeof *grown);
    if (!grown)
        return false;
    core->reclaim.recalled = grown;
    grown[core->reclaim.nrecalled++] = r;
    return true;
}

static bool recall(struct core *core, const char *line)
{
    char name[CORE_NAME_BYTES];
    uint64_t bytes;

    if (sscanf(line, "budget %" SCNu64, &bytes) == 1) {
        core->config.budget_bytes = bytes;
        core->reclaim.budget_set = true;
        return true;
    }
    if (!strcmp(line, "dry-run on\n") || !strcmp(line, "dry-run off\n")) {
        core->config.dry_run = !strcmp(line, "dry-run on\n");
        core->reclaim.dry_run_set = true;
        return true;
    }
    if (sscanf(line, "domain %63s %" SCNu64, name, &bytes) == 2) {
        struct core_domain_config *domain = terms_of_domain(core, name);
        if (domain) { /* it may be in the configuration no more */
            domain->budget_bytes = bytes;
            domain->budget_set = true;
        }
        return true;
    }
    return recall_vm(core, line);
}

void terms_file_read(struct core *core)
{
    char path[STATE_FILE_BYTES], line[LINE_BYTES];

    state_file_path(core, WHAT, path);
    core->reclaim.file_read = true;
    if (!core->nawaited) { /* nobody is left whom it was said of: the configuration counts */
        unlink(path);
        return;
    }
    FILE *in = fopen(path, "re");
    if (!in) {
        if (errno != ENOENT)
            core_warn(core, "%s cannot be read (%s): budgets and terms are those of the configuration", path,
                      strerror(errno));
        return;
    }
    while (fgets(line, sizeof line, in))
        if (!recall(core, line))
            log_warn("%s: a line that says nothing is left out: %.60s", path, line);
    fclose(in);
}

void terms_file_give(struct vm *vm)
{
    struct reclaim *r = &vm->core->reclaim;

    for (unsigned i = 0; i < r->nrecalled; i++) {
        const struct terms_recalled *was = &r->recalled[i];
        if (was->pid != vm->engine.pid || was->start != vm->engine.start ||
            strcmp(was->name, vm->engine.name) != 0)
            continue;
        vm->reclaim.terms = was->terms;
        vm->reclaim.terms_set = true;
        r->recalled[i] = r->recalled[--r->nrecalled];
        return;
    }
}

void terms_file_close(struct core *core)
{
    char path[STATE_FILE_BYTES];

    state_file_path(core, WHAT, path);
    if (core->reclaim.file_read && !core->nkept) /* else it may be another daemon's */
        unlink(path);
    free(core->reclaim.recalled);
    core->reclaim.recalled = NULL;
    core->reclaim.nrecalled = 0;
}
