/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* less: differences that end at nothing. */
#ifndef MEMD_COMMON_LESS_H
#define MEMD_COMMON_LESS_H

#include <stdint.h>

static inline uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

#endif
