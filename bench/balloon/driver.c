/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see driver.h. The ring is that of virtio 1.3, section 2.7. */
#include "bench/balloon/driver.h"

#include "bench/common/bench.h"

#include <assert.h>

#define BUFFER_PFNS 256u /* VIRTIO_BALLOON_ARRAY_PFNS_MAX of Linux */

struct desc {
    uint64_t gpa;
    uint32_t bytes;
    uint16_t flags, next;
};

static struct {
    struct desc desc[DRIVER_ENTRIES];
    struct {
        uint16_t flags, index, ring[DRIVER_ENTRIES];
    } avail;
} ring;
static_assert(sizeof(struct desc) == 16, "section 2.7.5");
static_assert(sizeof ring <= DRIVER_USED_GPA - DRIVER_RING_GPA, "fits before the used ring");

uint64_t driver_inflate(const struct driver_host *host, const struct trace *trace)
{
    size_t nbuffers = (trace->n + BUFFER_PFNS - 1) / BUFFER_PFNS;
    uint64_t cpu_ns = 0;

    host->write(host->ctx, DRIVER_PFNS_GPA, trace->pfn, trace->n * sizeof *trace->pfn);
    for (size_t done = 0, n; done < nbuffers; done += n) {
        n = nbuffers - done < DRIVER_ENTRIES ? nbuffers - done : DRIVER_ENTRIES;
        for (size_t i = 0; i < n; i++) {
            size_t first = (done + i) * BUFFER_PFNS, left = trace->n - first;
            ring.desc[i] = (struct desc){
                .gpa = DRIVER_PFNS_GPA + first * sizeof *trace->pfn,
                .bytes = (uint32_t)((left < BUFFER_PFNS ? left : BUFFER_PFNS) * sizeof *trace->pfn)};
            ring.avail.ring[(done + i) % DRIVER_ENTRIES] = (uint16_t)i;
        }
        ring.avail.index = (uint16_t)(done + n);
        host->write(host->ctx, DRIVER_RING_GPA, &ring, sizeof ring);
        uint64_t before_ns = host->cpu_ns(host->ctx);
        host->notify(host->ctx);
        cpu_ns += host->cpu_ns(host->ctx) - before_ns;
        uint16_t used = host->read16(host->ctx, DRIVER_USED_GPA + 2);
        if (used != (uint16_t)(done + n))
            bench_die("the device has used %u buffers of %zu", used, done + n);
    }
    return cpu_ns;
}
