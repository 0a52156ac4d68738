/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* name: of VMs and of domains; they become names of files. */
#ifndef MEMD_COMMON_NAME_H
#define MEMD_COMMON_NAME_H

#include "memd/memd.h"

#include <stdbool.h>
#include <string.h>

#define NAME_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

/* `name` need not end within MEMD_NAME_MAX + 1 bytes. */
static inline bool name_is_valid(const char *name)
{
    size_t n = strnlen(name, MEMD_NAME_MAX + 1);

    return n && n <= MEMD_NAME_MAX && strspn(name, NAME_LETTERS) == n;
}

/* What is no letter of a name becomes a dash. */
static inline void name_mend(char *name)
{
    while (*(name += strspn(name, NAME_LETTERS)))
        *name = '-';
}

#endif
