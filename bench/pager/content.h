/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* content: images of guest memory, made of the machine's own files by mkimage's means. What fails ends the
 * program. */
#ifndef BENCH_PAGER_CONTENT_H
#define BENCH_PAGER_CONTENT_H

#include "bench/common/bench.h"

/* Pages of files, each another, none zero, all of which LZ4 packs to CONTENT_PACKED_MAX bytes or less: so
 * that both sides store the same pages in the same form. */
#define CONTENT_PACKED_MAX 3072
void content_packable(const char *path, size_t npages);

/* A whole guest, as mkimage makes it by default: half zero, the rest files, most of which other guests have,
 * and a tenth of it anonymous memory. */
void content_guest(const char *path, size_t npages, unsigned seed);

#endif
