/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * heirs: processes that map frames and have no engine that speaks for them: children of VMMs that had not
 * excluded guest RAM from fork, and children of those. They outlive the VMM, and whatever it says.
 *
 * Before frames of a domain are freed, every engine has answered a fence, and here is the last question: can
 * there be heirs? There can if a living engine has told of forks since they were last looked for (wire_stats
 * `forks`), if a VM has left that may have forked, or if an earlier daemon made the domain. Then all
 * processes but the VMs themselves are looked at (mappers.h), by a thread, and nothing is freed before none
 * of them maps a store file of the domain. An engine that lies about its forks delays that at most, as one
 * does that does not answer the fence, and no longer than a process of its own maps the store.
 *
 * A domain that everybody has left is not asked about: its files are unlinked, not emptied, and live on with
 * the last mapping.
 */
#ifndef MEMD_DAEMON_HEIRS_H
#define MEMD_DAEMON_HEIRS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct core;
struct domain;
struct vm;
struct heirs_search;

/* Of a domain. */
struct heirs {
    uint64_t doubts, cleared; /* reasons to look for heirs; how many of them have been looked into */
    uint64_t asked;           /* `doubts` when the search under way began */
    uint64_t search;          /* its number */
    unsigned file;            /* the domain's first file in it */
    bool wanted;              /* frames wait for a search */
    pid_t told;               /* the heir named in the log; 0: none */
};

/* Of the core: one search at a time. */
struct heirs_searches {
    struct heirs_search *running;
    uint64_t number, started_ns, next_ns;
};

/* An heir may exist from now on that nobody tells of. */
void heirs_suspect(struct domain *domain);
/* The VM is leaving; its session, if it has one, is still open. */
void heirs_vm_leaves(struct vm *vm);
/* What it said of its forks last is the last word, or not: the session is ending. */
void heirs_session_ends(struct vm *vm);
/* Nobody but VMs maps frames. If that is not known, a search is asked for. */
bool heirs_are_none(struct domain *domain);
/* Start a search that is wanted, take the result of one that has ended. */
void heirs_tick(struct core *core, uint64_t now_ns);
/* Abandon the search under way. */
void heirs_close(struct core *core);

#endif
