/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How: XXH3 goes over a long input in stripes of 64 bytes. Of each 8-byte word v it takes x = v ^ secret,
 * adds low32(x) * high32(x) to one accumulator and v itself to its neighbour. Where low32(v) is low32(secret)
 * the product is zero whatever the upper half is, and only v counts. Two such words in the same place of two
 * stripes of one block may exchange any amount between their upper halves: their sum stays.
 */
#include "tests/faults/collision.h"

#include "memd/wire.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define STRIPE_BYTES 64u
#define SECRET_STEP  8u

static void put_word(uint8_t *page, unsigned stripe, uint32_t high)
{
    uint64_t secret;

    memcpy(&secret, XXH3_kSecret + stripe * SECRET_STEP, sizeof secret);
    uint64_t word = (secret & UINT32_MAX) | (uint64_t)high << 32;
    memcpy(page + stripe * STRIPE_BYTES, &word, sizeof word);
}

void collision_make(void *ret_a, void *ret_b)
{
    uint8_t *a = ret_a, *b = ret_b;

    for (unsigned i = 0; i < WIRE_PAGE_BYTES; i++)
        a[i] = (uint8_t)(i * 31 + i / 256 + 1);
    memcpy(b, a, WIRE_PAGE_BYTES);
    put_word(a, 2, 1000);
    put_word(a, 5, 2000);
    put_word(b, 2, 1700);
    put_word(b, 5, 1300);
}
