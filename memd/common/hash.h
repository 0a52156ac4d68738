/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hash of a page, the same in engine and daemon: XXH3 (64 bits, no seed) of its 4096 bytes, with 1 in
 * place of 0. It is a hint and nothing more: pages are compared before they are merged. Any thread; the page
 * may change meanwhile.
 */
#ifndef MEMD_COMMON_HASH_H
#define MEMD_COMMON_HASH_H

#include <stdint.h>

uint64_t hash_page(const void *page);

/* The same, for processors with AVX2: less than half the time where the page is in the cache. */
uint64_t hash_page_avx2(const void *page);

#endif
