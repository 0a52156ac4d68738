/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of /proc, read without the C library's streams: those allocate, and in some programs what malloc()
 * hands out is itself memory the engine watches over.
 */
#ifndef MEMD_ENGINE_MAPS_H
#define MEMD_ENGINE_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct lines {
    int fd;
    size_t at, end;
    char buf[4096];
};

/* 0 or -errno; lines_close() in any case. Any thread. */
int lines_open(struct lines *l, const char *path);
/* The next line without its newline, cut to `size`; false: no more. */
bool lines_next(struct lines *l, char *line, size_t size);
void lines_close(struct lines *l);
/* The number in the first line of a file, or `otherwise`. */
uint64_t file_number(const char *path, uint64_t otherwise);

struct mapping {
    uint64_t start, end;
    bool file, readable, writable, shared;
    char flags[160]; /* " rd wr mr ..." of smaps; "" if they were not asked for */
};

bool mapping_has(const struct mapping *v, const char *two_letters);
/* Calls fn for each mapping of this process that has bytes in [start, end), in order, each byte
 * once, until fn says not 0, which is then returned. -errno if /proc cannot be read. With flags it costs a
 * walk of the page tables. */
typedef int mapping_fn(void *ctx, const struct mapping *v);
int mappings_each(uint64_t start, uint64_t end, bool with_flags, mapping_fn *fn, void *ctx);

#endif
