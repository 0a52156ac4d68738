/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control_json: the documents of the control API. Pure functions from what the core says to JSON; any thread.
 * Each returns a new reference, or NULL when memory is short. docs/api.md describes every key.
 */
#ifndef MEMD_DAEMON_CONTROL_JSON_H
#define MEMD_DAEMON_CONTROL_JSON_H

#include "memd/daemon/core.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

json_t *control_json_status(const struct core_snapshot *snapshot);
json_t *control_json_vms(const struct core_snapshot *snapshot);
json_t *control_json_vm(const struct core_vm *vm);
json_t *control_json_budget(const struct core_snapshot *snapshot);
json_t *control_json_terms(const char *vm, const struct budget_terms *terms);
json_t *control_json_agents(const struct core_snapshot *snapshot); /* control_json_agents.c */
json_t *control_json_job(const struct core_job *job);

/* {"error": text, "code": "ENOENT"}; `error` is a positive errno. Control characters of `text`, which may
 * quote the client, become '?': the message is one line wherever it is printed. */
json_t *control_json_error(int error, const char *text);

/* control_why.c. `real_ns`: the calendar's time, as of now. */
json_t *control_json_why(const struct core_why *why, uint64_t real_ns);

/* Shares as a body names them: a number, or a class by its name. False: neither. */
bool control_json_shares(const json_t *value, uint32_t *ret_shares);

#endif
