/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see disks.h. */
#include "bench/balloon/disks.h"

#include "bench/balloon/guest/page.h"
#include "bench/common/daemon.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define BATCH 256u

/* The next page of the system disk that is not empty; from its beginning again after its end. */
static void next_content(FILE *from, struct page *page)
{
    static const struct page empty;
    unsigned ends = 0;

    do
        while (fread(page, sizeof *page, 1, from) != 1)
            if (ends++ == 1 || fseek(from, 0, SEEK_SET))
                bench_die("nothing can be read of the guests' system disk");
    while (!memcmp(page, &empty, sizeof empty));
}

static void make_one(FILE *from, const char *path, unsigned owner, size_t bytes)
{
    static struct page page[BATCH];
    FILE *to = fopen(path, "we");

    for (uint64_t number = 0; to && number < bytes / PAGE_BYTES; number += BATCH) {
        for (unsigned i = 0; i < BATCH; i++) {
            next_content(from, &page[i]);
            page[i].owner = owner;
            page[i].number = number + i;
            page[i].sum = page_sum(&page[i]);
        }
        if (fwrite(page, sizeof page, 1, to) != 1)
            break;
    }
    if (!to || ferror(to) || fclose(to))
        bench_die("cannot write %s: %s", path, strerror(errno));
}

const char *disks_make(const struct bench *bench, size_t bytes)
{
    static char dir[256];
    char path[512];

    if (dir[0])
        return dir;
    snprintf(path, sizeof path, "%s/qemu-guest/disk", bench->build_dir);
    FILE *from = fopen(path, "re");
    if (!from)
        bench_die("%s: %s", path, strerror(errno));
    snprintf(dir, sizeof dir, "%s/disks", daemon_run_dir());
    if (mkdir(dir, 0700))
        bench_die("cannot make %s: %s", dir, strerror(errno));
    for (unsigned i = 1; i <= bench->guests; i++) {
        snprintf(path, sizeof path, "%s/g%u", dir, i);
        make_one(from, path, i, bytes);
    }
    fclose(from);
    return dir;
}
