/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest RAM: one anonymous private mapping, and where its parts appear in the guest. */
#ifndef MEMVM_RAM_H
#define MEMVM_RAM_H

#include <stdint.h>

#include "bench/memvm/options.h"

/* RAM below the hole and RAM above 4 GiB: a KVM slot and a memd region each. */
#define RAM_SEGMENTS_MAX 2

struct ram_segment {
    uint64_t offset; /* from ram.base */
    uint64_t gpa;
    uint64_t bytes;
};

struct ram {
    uint8_t *base; /* 2 MiB aligned */
    uint64_t bytes;
    uint64_t data_first; /* RAM page of data page 0 */
    uint64_t data_pages;
    unsigned nsegments;
    struct ram_segment segment[RAM_SEGMENTS_MAX];
    void *map; /* what to unmap: base with the slack around it */
    uint64_t map_bytes;
};

/* Map it with the advice asked for. Returns 0 or -errno, having said why on stderr. */
int ram_create(const struct options *options, struct ram *ret_ram);
void ram_destroy(struct ram *ram);

static inline void *ram_at(const struct ram *ram, uint64_t offset)
{
    return ram->base + offset;
}

#endif
