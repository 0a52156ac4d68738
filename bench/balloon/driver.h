/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * driver: a guest driver that hands a trace to a balloon device, the same for both devices: a legacy split
 * ring of 128 entries, buffers of 256 page numbers as Linux's, as many at a time as the ring takes, then one
 * notification. What differs is how guest memory and registers are reached.
 */
#ifndef BENCH_BALLOON_DRIVER_H
#define BENCH_BALLOON_DRIVER_H

#include "bench/balloon/trace.h"

#include <stddef.h>
#include <stdint.h>

#define DRIVER_ENTRIES   128u
#define DRIVER_RING_GPA  0x100000u /* descriptors, available ring; the used ring begins at the next page */
#define DRIVER_USED_GPA  0x101000u
#define DRIVER_PFNS_GPA  0x200000u /* the page numbers */
#define DRIVER_PAGES_GPA 0x2000000u
#define DRIVER_PAGES     65536u
#define DRIVER_RAM_BYTES (DRIVER_PAGES_GPA + DRIVER_PAGES * 4096ul)
#define DRIVER_INFLATE   0u /* the queue */

/* A guest with one of the devices. */
struct driver_host {
    void *ctx;
    void (*write)(void *ctx, uint64_t gpa, const void *data, size_t bytes);
    uint16_t (*read16)(void *ctx, uint64_t gpa);
    void (*notify)(void *ctx);     /* the device has done what there was when this returns */
    uint64_t (*cpu_ns)(void *ctx); /* of the VMM, all threads */
};

/* Gives up the pages of the trace. Returns the CPU time that took, without that of laying out the ring. */
uint64_t driver_inflate(const struct driver_host *host, const struct trace *trace);

#endif
