/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rig: one script, one engine in this process, one region: what most tests begin with.
 */
#ifndef TESTS_ENGINE_RIG_H
#define TESTS_ENGINE_RIG_H

#include "kit.h"
#include "script.h"

struct rig {
    struct script *script;
    struct script_vm *vm;
    struct memd *memd;
    char *ram;
    uint32_t npages, region;
};

/* Page i has content contents(i) (guest_fill()); NULL: untouched. The engine has joined. */
struct rig rig_open(const struct script_options *options, uint32_t npages, uint64_t (*contents)(uint32_t));
/* The same around memory the test has mapped. */
struct rig rig_open_at(const struct script_options *options, void *ram, uint32_t npages);
/* The same with an engine that is expected to complain, and to lose pages. */
struct rig rig_open_losing(const struct script_options *options, void *ram, uint32_t npages);
unsigned rig_lost(uint64_t *ret_gpa); /* pages the VMM was told of since; and where the last one is */
/* Closes the engine (which must succeed), then the script, and unmaps the memory. */
void rig_close(struct rig *rig);

static inline char *rig_page(const struct rig *rig, uint32_t page)
{
    return rig->ram + page * PAGE;
}
/* Fails the test unless every page has the content it began with. */
void rig_check(const struct rig *rig, uint64_t (*contents)(uint32_t));

/* Proposes frames with the bytes the pages have now, waits for the answer; returns how many were merged. */
uint32_t rig_merge(struct rig *rig, uint32_t page, uint32_t count);
/* Proposes given frames, waits for the answer. */
struct rig_answer {
    uint32_t merged;
    uint64_t bits[WIRE_CHUNK_PAGES / 64];
    unsigned why;
};
struct rig_answer rig_propose(struct rig *rig, uint32_t page, uint32_t frame, uint32_t count);

#endif
