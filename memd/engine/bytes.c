/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading pages the guest may be writing at this moment. What is read then is a hint (I4): it is compared
 * again when nobody can write any more. So these reads are races by design, and the only ones: under
 * ThreadSanitizer this file is built without it (mk/build.mk) and calls nothing that it watches.
 */
#include "memd/common/hash.h"
#include "memd/engine/engine.h"

#include <stdatomic.h>
#include <string.h>

#ifdef MEMD_UNWATCHED
static bool differ(const void *a, const void *b, size_t bytes)
{
    const uint64_t *x = a, *y = b;
    uint64_t d = 0;

    for (size_t i = 0; i < bytes / sizeof *x; i++)
        d |= x[i] ^ y[i];
    return d;
}

static void copy(void *to, const void *from, size_t bytes)
{
    uint64_t *x = to;
    const uint64_t *y = from;

    for (size_t i = 0; i < bytes / sizeof *x; i++)
        x[i] = y[i];
}
#else
static bool differ(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes);
}

static void copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
#endif

static const uint64_t zero_words[8];

bool page_is_zero(const void *page)
{
    const char *p = page;

    /* most pages that are not zero show it in their first bytes */
    return !differ(p, zero_words, sizeof zero_words) &&
           !differ(p, p + sizeof zero_words, PAGE_BYTES - sizeof zero_words);
}

bool page_equals(const void *page, const void *other)
{
    return !differ(page, other, PAGE_BYTES);
}

void page_copy(void *to, const void *page)
{
    copy(to, page, PAGE_BYTES);
}

/* Memory that is not in the cache yet costs by the line: the first, as most have a header, and two more. */
#define WORD_A 0
#define WORD_B (24 * 8 + 3)
#define WORD_C (48 * 8 + 6)

void page_expect(const void *page)
{
    const uint64_t *word = page;

    __builtin_prefetch(&word[WORD_A]);
    __builtin_prefetch(&word[WORD_B]);
    __builtin_prefetch(&word[WORD_C]);
}

bool page_seems_zero(const void *page)
{
    const uint64_t *word = page;

    return !(word[WORD_A] | word[WORD_B] | word[WORD_C]);
}

uint64_t zero_page_hash(void)
{
    static const char zeros[WIRE_PAGE_BYTES];
    static _Atomic uint64_t hash;

    if (!atomic_load_explicit(&hash, memory_order_relaxed))
        atomic_store_explicit(&hash, hash_page(zeros), memory_order_relaxed);
    return atomic_load_explicit(&hash, memory_order_relaxed);
}
