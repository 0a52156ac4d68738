/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see thp.h. */
#include "bench/qemu/thp.h"

#include "bench/common/bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ENABLED "/sys/kernel/mm/transparent_hugepage/enabled"

static bool never;

static int put(const char *word)
{
    FILE *f = fopen(ENABLED, "we");

    if (!f)
        return -errno;
    int failed = fputs(word, f) < 0;
    return fclose(f) || failed ? -errno : 0;
}

void thp_save(void)
{
    char text[64] = "";
    FILE *f = fopen(ENABLED, "re");

    if (!f || !fgets(text, sizeof text, f))
        bench_die("this kernel has no transparent huge pages (" ENABLED ")");
    fclose(f);
    never = strstr(text, "[never]") != NULL;
}

void thp_allow(void)
{
    int error = never ? put("madvise") : 0;

    if (error)
        bench_die("cannot write madvise to " ENABLED ": %s", strerror(-error));
}

void thp_restore(void)
{
    if (never && put("never"))
        fprintf(stderr, "bench: " ENABLED " could not be put back to never\n");
}
