/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* alone: whether any thread of the program is left; see alone.c. */
#ifndef MEMD_PRELOAD_ALONE_H
#define MEMD_PRELOAD_ALONE_H

#include <stdbool.h>

/* The program has no other thread than its main one, if that, and the caller. False also if it cannot be
 * told. */
bool alone_now(void);

#endif
