/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * world: the daemon's matching parts with engines played by the test, in one thread and without sockets.
 *
 * A world has a core, domains with real stores and indexes, and VMs. Each page of a VM has a content, a
 * number from which its bytes follow; 0 is the zero page. world_hash() sends a VM's hashes to the matcher, as
 * if they had come through its ring; world_run() lets the engines answer what has been asked of them, until
 * nothing is left. An engine answers honestly unless its VM's knobs say otherwise. What it merged it shows in
 * its page map, and world_check() holds all accounts against each other.
 */
#ifndef TESTS_UNIT_WORLD_H
#define TESTS_UNIT_WORLD_H

#include "memd/daemon/state.h"

#include <stdbool.h>
#include <stdint.h>

#define WORLD_VMS_MAX     8u
#define WORLD_DOMAINS_MAX 2u

struct world_vm {
    struct vm *vm;
    struct session *session;
    struct region *region;
    struct ring down; /* the engine's end */
    struct wire_map *map;
    uint32_t *content;
    /* knobs */
    bool silent;          /* answers nothing; asked for things wait */
    bool exports_fail;    /* EXPORTED with count 0 */
    bool exports_garbage; /* other bytes than were hashed */
    uint16_t refuses;     /* enum wire_why: merges nothing, for this reason */
    /* what it was told */
    unsigned exports, exported_pages, merges, merge_pages, breaks;
    uint32_t broken_page; /* of the last BREAK */
};

struct world {
    struct core *core;
    struct domain *domain[WORLD_DOMAINS_MAX];
    struct world_vm vm[WORLD_VMS_MAX];
    unsigned nvms, ndomains;
    char dir[128];
};

/* `nodes` stores a domain. */
struct world *world_open(unsigned nodes, bool across_nodes);
void world_close(struct world *world);

struct domain *world_domain(struct world *world);
/* A VM with one region whose first page lies at `slot` of a chunk by its address. */
struct world_vm *world_vm(struct world *world, struct domain *domain, uint32_t npages, uint32_t slot);
/* Its process dies. */
void world_vm_leave(struct world *world, struct world_vm *vm);

/* Give pages a content; what they held is dropped, as an engine would. */
void world_write(struct world_vm *vm, uint32_t page, uint32_t content);
/* Tell the matcher the hashes of pages [page, page+count), and note them in the page map. */
void world_hash(struct world_vm *vm, uint32_t page, uint32_t count);
void world_hash_on_node(struct world_vm *vm, uint32_t page, uint32_t count, int node);
void world_survey(struct world_vm *vm, uint32_t page);
/* Tell the matcher a hash that need not be the page's. */
void world_hash_as(struct world_vm *vm, uint32_t page, uint64_t hash);
uint64_t world_content_hash(uint32_t content);

void world_run(struct world *world);
/* Deliver what was sent to one VM's engine; true if there was anything. */
bool world_serve(struct world *world, struct world_vm *vm);

/* The frame a page maps by its page map; 0: none. */
uint32_t world_frame(const struct world_vm *vm, uint32_t page);
/* References, holdings and frames agree; merged pages have their content. */
void world_check(struct world *world);

#endif
