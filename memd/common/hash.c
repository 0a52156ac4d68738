/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see hash.h. Built without ThreadSanitizer (mk/build.mk): the page may be written. */
#include "memd/common/hash.h"

#include "memd/wire.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_page(const void *page)
{
    if (__builtin_cpu_supports("avx2"))
        return hash_page_avx2(page);
    uint64_t hash = XXH3_64bits(page, WIRE_PAGE_BYTES);
    return hash ? hash : 1;
}
