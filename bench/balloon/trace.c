/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see trace.h. */
#include "bench/balloon/trace.h"

#include "bench/common/bench.h"

#include <stdlib.h>

#define BLOCK_PAGES 1024u /* the largest of Linux's buddy allocator, 4 MiB */
#define TAKEN_SHARE 64u   /* one page in so many is somebody else's */
#define SEED        0x9e3779b97f4a7c15ull

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void shuffle(uint32_t *item, size_t n, uint64_t *state)
{
    for (size_t i = n; i > 1; i--) {
        size_t k = draw(state) % i;
        uint32_t swap = item[i - 1];
        item[i - 1] = item[k];
        item[k] = swap;
    }
}

/* Three quarters of the memory: half of the rest stays the guest's. */
static void make_fresh(uint32_t first, uint32_t npages, uint64_t *state, struct trace *trace)
{
    uint32_t nblocks = npages / BLOCK_PAGES, *block = calloc(nblocks, sizeof *block);

    if (!block)
        bench_die("out of memory");
    for (uint32_t i = 0; i < nblocks; i++)
        block[i] = i;
    shuffle(block, nblocks, state);
    for (uint32_t i = 0; i < nblocks / 4 * 3; i++)
        for (uint32_t k = 0; k < BLOCK_PAGES; k++)
            if (draw(state) % TAKEN_SHARE)
                trace->pfn[trace->n++] = first + block[i] * BLOCK_PAGES + k;
    free(block);
}

static void make_fragmented(uint32_t first, uint32_t npages, uint64_t *state, struct trace *trace)
{
    for (uint32_t page = 0; page < npages; page += 2)
        trace->pfn[trace->n++] = first + page;
    shuffle(trace->pfn, trace->n, state);
}

void trace_make(enum trace_kind kind, uint32_t first, uint32_t npages, struct trace *ret_trace)
{
    uint64_t state = SEED;

    *ret_trace = (struct trace){.pfn = calloc(npages, sizeof *ret_trace->pfn)};
    if (!ret_trace->pfn)
        bench_die("out of memory");
    (kind == TRACE_FRESH ? make_fresh : make_fragmented)(first, npages, &state, ret_trace);
}

void trace_free(struct trace *trace)
{
    free(trace->pfn);
    *trace = (struct trace){0};
}

const char *trace_name(enum trace_kind kind)
{
    return kind == TRACE_FRESH ? "fresh" : "fragmented";
}
