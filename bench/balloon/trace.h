/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * trace: page numbers in the order in which a guest's driver gives them up, always the same.
 *
 * A fresh Linux guest allocates one page after the other from blocks of its buddy allocator, which it splits
 * from the front: long stretches of neighbours, block after block, with a page gone here and there that
 * somebody else has taken. A guest whose memory has been in use for long gives up single pages from
 * everywhere: here no two of them are neighbours.
 */
#ifndef BENCH_BALLOON_TRACE_H
#define BENCH_BALLOON_TRACE_H

#include <stddef.h>
#include <stdint.h>

enum trace_kind { TRACE_FRESH, TRACE_FRAGMENTED, TRACE_KINDS };

struct trace {
    uint32_t *pfn; /* each once */
    size_t n;
};

/* Of the pages [first, first + npages); npages is a multiple of 2048. */
void trace_make(enum trace_kind kind, uint32_t first, uint32_t npages, struct trace *ret_trace);
void trace_free(struct trace *trace);
const char *trace_name(enum trace_kind kind);

#endif
