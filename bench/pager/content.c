/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see content.h. The pages of a larger image of files are looked at one by one. */
#include "bench/pager/content.h"

#include "bench/memvm/mkimage/files.h"

#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SPARE       3u /* pages looked at for each one wanted, at most */
#define POOL        1u /* all guests choose from the same files */
#define BATCH_PAGES 256u

static const char *const dirs[] = {"/usr/lib", "/usr/share", "/usr/bin"};

static int make(const char *path, const struct files_options *options)
{
    struct files_counts counts;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0)
        bench_die("%s: %s", path, strerror(errno));
    int err = files_write(fd, options, &counts);
    if (err)
        bench_die("an image of this machine's files cannot be made: %s", strerror(-err));
    return fd;
}

void content_guest(const char *path, size_t npages, unsigned seed)
{
    const struct files_options options = {.dirs = dirs,
                                          .ndirs = 1,
                                          .npages = npages,
                                          .seed = seed,
                                          .pool = POOL,
                                          .subset_percent = 70,
                                          .zero_percent = 50,
                                          .unique_percent = 10,
                                          .run_pages = 16};

    close(make(path, &options));
}

/* ---- pages that can be packed, each once */

struct seen {
    uint64_t *hash;
    size_t room; /* a power of two */
};

static bool seen_before(struct seen *seen, uint64_t hash)
{
    size_t i = hash & (seen->room - 1);

    for (; seen->hash[i]; i = (i + 1) & (seen->room - 1))
        if (seen->hash[i] == hash)
            return true;
    seen->hash[i] = hash;
    return false;
}

static bool is_packable(const char *page)
{
    char packed[CONTENT_PACKED_MAX];

    return LZ4_compress_default(page, packed, BENCH_PAGE_BYTES, sizeof packed) > 0;
}

/* Returns how many there were. */
static size_t copy_packable(int from, int to, size_t npages, struct seen *seen)
{
    static char batch[BATCH_PAGES * BENCH_PAGE_BYTES];
    size_t done = 0;
    off_t at = 0;
    ssize_t n;

    seen_before(seen, XXH3_64bits(batch, BENCH_PAGE_BYTES)); /* a page of zeros */
    while (done < npages && (n = pread(from, batch, sizeof batch, at)) > 0) {
        for (char *page = batch; page < batch + n && done < npages; page += BENCH_PAGE_BYTES) {
            if (!is_packable(page) || seen_before(seen, XXH3_64bits(page, BENCH_PAGE_BYTES)))
                continue;
            if (pwrite(to, page, BENCH_PAGE_BYTES, (off_t)(done * BENCH_PAGE_BYTES)) != BENCH_PAGE_BYTES)
                bench_die("writing an image: %s", strerror(errno));
            done++;
        }
        at += n;
    }
    return done;
}

void content_packable(const char *path, size_t npages)
{
    const struct files_options options = {.dirs = dirs,
                                          .ndirs = sizeof dirs / sizeof dirs[0],
                                          .npages = npages * SPARE,
                                          .seed = 1,
                                          .pool = POOL,
                                          .subset_percent = 100,
                                          .run_pages = 16};
    struct seen seen = {.room = 1};
    char whole[512];

    while (seen.room < 4 * npages)
        seen.room *= 2;
    seen.hash = calloc(seen.room, sizeof *seen.hash);
    if (!seen.hash)
        bench_die("memory: %s", strerror(errno));
    snprintf(whole, sizeof whole, "%s.whole", path);
    int from = make(whole, &options), to = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0)
        bench_die("%s: %s", path, strerror(errno));
    size_t n = copy_packable(from, to, npages, &seen);
    close(from);
    close(to);
    unlink(whole);
    free(seen.hash);
    if (n < npages)
        bench_die("this machine's files have only %zu of %zu pages that can be packed and are not alike", n,
                  npages);
}
