/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * terms_file: budgets and terms that users have set, kept for the next daemon.
 *
 * A state_file, STATE_DIR/terms.HASH. A daemon that finds VMs of the one before it takes them over: budgets
 * at once, the terms of a VM when it is back. When nobody is left of whom they were said, the configuration
 * counts.
 */
#ifndef MEMD_DAEMON_TERMS_FILE_H
#define MEMD_DAEMON_TERMS_FILE_H

#include "memd/daemon/budget.h"
#include "memd/daemon/core.h"

#include <stdint.h>
#include <sys/types.h>

struct core;
struct vm;

/* Terms of a VM that is not back yet. */
struct terms_recalled {
    pid_t pid;
    uint64_t start; /* struct registry_entry */
    char name[CORE_NAME_BYTES];
    struct budget_terms terms;
};

void terms_file_write(struct core *core);
/* At the start, when it is known which engines are awaited. */
void terms_file_read(struct core *core);
/* A VM is back: its terms, if a user has set them. */
void terms_file_give(struct vm *vm);
/* At the end; nobody is left: the file goes. */
void terms_file_close(struct core *core);

#endif
