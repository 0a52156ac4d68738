/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* hash_page() compiled for AVX2 (mk/build.mk): xxHash chooses its vector code when it is compiled. */
#include "memd/common/hash.h"
#include "memd/wire.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_page_avx2(const void *page)
{
    uint64_t hash = XXH3_64bits(page, WIRE_PAGE_BYTES);

    return hash ? hash : 1;
}
