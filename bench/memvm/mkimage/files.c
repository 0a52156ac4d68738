/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: in four steps, each a list made from the one before.
 *
 *   scan    walk the directories: regular files, by path (sorted, so that the order of readdir() is no input)
 *   choose  shuffle by hash of (pool, path); from the front of that list, the same for all guests, a guest
 *           takes the files whose hash of (seed, path) says so, until it has what it needs
 *   cut     each file becomes runs of geometric length, followed by runs of unique and of zero pages; shuffle
 *   write   run by run, at the place the shuffled list gives it
 *
 * If there are fewer files than the image needs, the files are all taken and the rest becomes unique pages,
 * so that the shares of zero and non-zero pages still hold. A file that shrinks meanwhile reads as zeros.
 */
#include "bench/memvm/mkimage/files.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/memvm/mkimage/recipe.h"

#define FILES_MAX      (1u << 20)
#define FILE_PAGES_MAX (1u << 12) /* of one file; more would make an image of a few files */
#define ZERO_RUN_PAGES 32u
#define OPEN_DIRS_MAX  16

struct file {
    char *path;
    uint64_t npages;
    uint64_t order; /* sort key of the pool */
};

struct run {
    uint32_t file; /* index, or RUN_ZERO, RUN_UNIQUE */
    uint32_t npages;
    uint64_t at; /* first page in the file; content number of a unique run */
};
#define RUN_ZERO   UINT32_MAX
#define RUN_UNIQUE (UINT32_MAX - 1)

struct list {
    struct file *file;
    size_t nfiles;
    struct run *run;
    size_t nruns, runs_room;
};

/* ---------------------------------------------------------------- scan */

static struct list *scanning; /* nftw() passes no argument; one scan at a time, one thread */

static int on_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    struct file *file;

    (void)ftw;
    if (type != FTW_F || !S_ISREG(st->st_mode) || st->st_size == 0 || scanning->nfiles >= FILES_MAX)
        return 0;
    /* room doubles: powers of two are full */
    if ((scanning->nfiles & (scanning->nfiles - 1)) == 0) {
        size_t room = scanning->nfiles ? 2 * scanning->nfiles : 1;
        file = reallocarray(scanning->file, room, sizeof *file);
        if (!file)
            return -ENOMEM;
        scanning->file = file;
    }
    file = &scanning->file[scanning->nfiles];
    file->npages = ((uint64_t)st->st_size + RECIPE_PAGE_BYTES - 1) / RECIPE_PAGE_BYTES;
    if (file->npages > FILE_PAGES_MAX)
        file->npages = FILE_PAGES_MAX;
    file->path = strdup(path);
    if (!file->path)
        return -ENOMEM;
    scanning->nfiles++;
    return 0;
}

static int scan(struct list *list, const struct files_options *options)
{
    for (size_t i = 0; i < options->ndirs; i++) {
        scanning = list;
        int rc = nftw(options->dirs[i], on_entry, OPEN_DIRS_MAX, FTW_PHYS | FTW_MOUNT);
        scanning = NULL;
        if (rc < 0) {
            int error = rc == -1 ? -errno : rc;
            fprintf(stderr, "mkimage: %s: %s\n", options->dirs[i], strerror(-error));
            return error;
        }
    }
    if (!list->file) {
        fprintf(stderr, "mkimage: no files to take content from; name another --dir, or use --recipe\n");
        return -ENOENT;
    }
    return 0;
}

/* ---------------------------------------------------------------- choose */

static uint64_t hash_path(const char *path, uint64_t seed)
{
    uint64_t hash = recipe_mix(seed, 0);

    for (; *path; path++)
        hash = recipe_mix(hash, (uint8_t)*path);
    return hash;
}

static int by_order(const void *a, const void *b)
{
    const struct file *x = a, *y = b;

    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return strcmp(x->path, y->path);
}

/* Keep at the front of the list the files the guest takes; returns their number. */
static size_t choose(struct list *list, const struct files_options *options, uint64_t need_pages)
{
    uint64_t taken = 0;
    size_t chosen = 0;

    assert(list->file); /* scan() has found some */
    for (size_t i = 0; i < list->nfiles; i++)
        list->file[i].order = hash_path(list->file[i].path, options->pool);
    qsort(list->file, list->nfiles, sizeof *list->file, by_order);
    for (size_t i = 0; i < list->nfiles && taken < need_pages; i++) {
        struct file file = list->file[i];
        if (recipe_mix(options->seed, file.order) % 100 >= options->subset_percent)
            continue;
        taken += file.npages;
        list->file[i] = list->file[chosen];
        list->file[chosen++] = file;
    }
    return chosen;
}

/* ---------------------------------------------------------------- cut */

static int add_run(struct list *list, uint32_t file, uint32_t npages, uint64_t at)
{
    if (list->nruns == list->runs_room) {
        size_t room = list->runs_room ? 2 * list->runs_room : 1024;
        struct run *run = reallocarray(list->run, room, sizeof *run);
        if (!run)
            return -ENOMEM;
        list->run = run;
        list->runs_room = room;
    }
    list->run[list->nruns++] = (struct run){.file = file, .npages = npages, .at = at};
    return 0;
}

/* Length of run number `nth` of something with its own hash: geometric, so all guests cut a file alike. */
static uint32_t run_length(uint64_t hash, uint64_t nth, unsigned mean)
{
    uint64_t x = recipe_mix(hash, nth);
    uint32_t n = 1;

    while (n < RECIPE_RUN_MAX && (x = recipe_mix(x, n)) % mean != 0)
        n++;
    return n;
}

/* Cut `npages` of one source into runs. */
static int cut(struct list *list, uint32_t file, uint64_t npages, uint64_t hash, unsigned mean)
{
    uint64_t done = 0;

    for (uint64_t nth = 0; done < npages; nth++) {
        uint32_t n = run_length(hash, nth, mean);
        if (n > npages - done)
            n = (uint32_t)(npages - done);
        int error = add_run(list, file, n, done);
        if (error)
            return error;
        done += n;
    }
    return 0;
}

static int cut_all(struct list *list, const struct files_options *options, size_t chosen, uint64_t need_pages,
                   struct files_counts *counts)
{
    int error = 0;

    for (size_t i = 0; i < chosen && !error && counts->file_pages < need_pages; i++) {
        uint64_t n = list->file[i].npages;
        if (n > need_pages - counts->file_pages)
            n = need_pages - counts->file_pages;
        error = cut(list, (uint32_t)i, n, list->file[i].order, options->run_pages);
        counts->file_pages += n;
        counts->files++;
    }
    counts->file_runs = list->nruns;
    counts->zero_pages = options->npages * options->zero_percent / 100;
    counts->unique_pages = options->npages - counts->zero_pages - counts->file_pages;
    if (!error)
        error = cut(list, RUN_UNIQUE, counts->unique_pages, recipe_mix(options->seed, 1), options->run_pages);
    if (!error)
        error = cut(list, RUN_ZERO, counts->zero_pages, recipe_mix(options->seed, 2), ZERO_RUN_PAGES);
    if (error)
        fprintf(stderr, "mkimage: %s\n", strerror(-error));
    return error;
}

static void shuffle(struct list *list, uint64_t seed)
{
    for (size_t i = list->nruns; i > 1; i--) {
        size_t j = recipe_mix(seed, i) % i;
        struct run swap = list->run[i - 1];
        list->run[i - 1] = list->run[j];
        list->run[j] = swap;
    }
}

/* ---------------------------------------------------------------- write */

/* The run's bytes; what cannot be read stays zero. */
static void read_file_run(const char *path, const struct run *run, uint8_t *bytes)
{
    size_t want = (size_t)run->npages * RECIPE_PAGE_BYTES, done = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    memset(bytes, 0, want);
    while (fd >= 0 && done < want) {
        ssize_t n = pread(fd, bytes + done, want - done, (off_t)(run->at * RECIPE_PAGE_BYTES + done));
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (fd >= 0)
        close(fd);
}

static int write_runs(int fd, const struct list *list, const struct files_options *options)
{
    uint8_t *bytes = malloc((size_t)RECIPE_RUN_MAX * RECIPE_PAGE_BYTES);
    uint64_t page = 0;
    int error = bytes ? 0 : -ENOMEM;

    for (size_t i = 0; i < list->nruns && !error; page += list->run[i++].npages) {
        const struct run *run = &list->run[i];
        size_t length = (size_t)run->npages * RECIPE_PAGE_BYTES;

        if (run->file == RUN_ZERO)
            continue;
        if (run->file == RUN_UNIQUE) {
            for (uint32_t n = 0; n < run->npages; n++)
                recipe_page(bytes + (size_t)n * RECIPE_PAGE_BYTES,
                            recipe_mix(options->seed, run->at + n) | 1);
        } else {
            read_file_run(list->file[run->file].path, run, bytes);
        }
        if (pwrite(fd, bytes, length, (off_t)(page * RECIPE_PAGE_BYTES)) != (ssize_t)length)
            error = errno ? -errno : -EIO;
    }
    free(bytes);
    return error;
}

int files_write(int fd, const struct files_options *options, struct files_counts *ret_counts)
{
    struct list list = {0};
    struct files_counts counts = {0};
    uint64_t nonzero = options->npages - options->npages * options->zero_percent / 100;
    uint64_t need_pages = nonzero - nonzero * options->unique_percent / 100;
    int error = scan(&list, options);

    if (!error)
        error = cut_all(&list, options, choose(&list, options, need_pages), need_pages, &counts);
    if (!error) {
        shuffle(&list, options->seed);
        error = ftruncate(fd, (off_t)(options->npages * RECIPE_PAGE_BYTES)) ? -errno : 0;
        if (!error)
            error = write_runs(fd, &list, options);
        if (error)
            fprintf(stderr, "mkimage: writing the image: %s\n", strerror(-error));
    }
    for (size_t i = 0; i < list.nfiles; i++)
        free(list.file[i].path);
    free(list.file);
    free(list.run);
    if (!error)
        *ret_counts = counts;
    return error;
}
