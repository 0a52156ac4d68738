/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mkimage: makes images of guest RAM for memvm --image: raw pages, nothing else, zero pages as holes. From
 * real files (files.c), or from a recipe (recipe.c), whose content is the same on every machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/memvm/mkimage/files.h"
#include "bench/memvm/mkimage/recipe.h"

#define PAGES_PER_MIB 256u
#define MIB_MAX       (1u << 20)
#define DIRS_MAX      16
#define BATCH_PAGES   1024u

struct options {
    const char *out;
    const char *dir[DIRS_MAX];
    size_t ndirs;
    unsigned long mem_mib, seed, family;
    unsigned long zero, dup, repeat, run, subset, unique; /* UNSET: the mode's default */
    int recipe;
};
#define UNSET (~0ul)

static const struct row {
    const char *name, *arg;
    size_t at; /* of an unsigned long in struct options */
    unsigned long min, max;
    const char *help;
} rows[] = {
    {"out", "FILE", 0, 0, 0, "the image (required)"},
    {"mem", "MIB", offsetof(struct options, mem_mib), 1, MIB_MAX, "its size (default 256)"},
    {"seed", "N", offsetof(struct options, seed), 0, ~0ul, "of this guest (default 1)"},
    {"family", "N", offsetof(struct options, family), 0, ~0ul,
     "guests of one family share their duplicates (default 1)"},
    {"zero", "PCT", offsetof(struct options, zero), 0, 100, "share of zero pages (default 50)"},
    {"run", "N", offsetof(struct options, run), 1, RECIPE_RUN_MAX,
     "mean length of duplicate runs (default 9; of large files 16)"},
    {"dir", "DIR", 0, 0, 0, "take files from DIR; may be repeated (default /usr/lib)"},
    {"subset", "PCT", offsetof(struct options, subset), 1, 100,
     "share of the family's files each guest takes (default 70)"},
    {"unique", "PCT", offsetof(struct options, unique), 0, 100,
     "of the pages that are not zero, those no file fills (default 10)"},
    {"recipe", NULL, 0, 0, 0, "synthetic content instead of files"},
    {"dup", "PCT", offsetof(struct options, dup), 0, 100,
     "--recipe: duplicates among the pages that are not zero (default 50)"},
    {"repeat", "PCT", offsetof(struct options, repeat), 0, 90,
     "--recipe: duplicate runs also found within the image (default 10)"},
    {"help", NULL, 0, 0, 0, "this text"},
};
#define NROWS (sizeof rows / sizeof *rows)

static void print_help(void)
{
    printf("usage: mkimage --out FILE [OPTION...]\n"
           "Make an image of guest RAM from this machine's files, or from a recipe.\n\n");
    for (size_t i = 0; i < NROWS; i++) {
        char left[32];
        snprintf(left, sizeof left, rows[i].arg ? "--%s %s" : "--%s", rows[i].name, rows[i].arg);
        printf("  %-16s %s\n", left, rows[i].help);
    }
    printf("\nThe same arguments (and the same files) give the same image. Exit code: 0 done, 1 failed, 2 "
           "usage.\n");
}

static int set_row(const struct row *row, const char *word, struct options *options)
{
    char *end;
    unsigned long value;

    if (!strcmp(row->name, "out")) {
        options->out = word;
        return 0;
    }
    if (!strcmp(row->name, "dir")) {
        if (options->ndirs == DIRS_MAX)
            return -EINVAL;
        options->dir[options->ndirs++] = word;
        return 0;
    }
    if (!strcmp(row->name, "recipe")) {
        options->recipe = 1;
        return 0;
    }
    errno = 0;
    value = strtoul(word, &end, 0);
    if (*word < '0' || *word > '9' || errno || *end || value < row->min || value > row->max)
        return -EINVAL;
    *(unsigned long *)((char *)options + row->at) = value;
    return 0;
}

/* 0, 1 when --help was answered, -EINVAL. */
static int parse(int argc, char **argv, struct options *options)
{
    struct option list[NROWS + 1] = {0};
    int index, c;

    for (size_t i = 0; i < NROWS; i++)
        list[i] = (struct option){rows[i].name, rows[i].arg ? required_argument : no_argument, NULL, 1};
    while ((c = getopt_long(argc, argv, "", list, &index)) != -1) {
        if (c == 1 && !strcmp(rows[index].name, "help")) {
            print_help();
            return 1;
        }
        if (c != 1 || set_row(&rows[index], optarg, options)) {
            fprintf(stderr, "mkimage: bad option or value; mkimage --help explains them\n");
            return -EINVAL;
        }
    }
    if (!options->out || optind < argc) {
        fprintf(stderr,
                "mkimage: --out FILE is required, and everything else is an option; see mkimage --help\n");
        return -EINVAL;
    }
    return 0;
}

static unsigned given(unsigned long value, unsigned fallback)
{
    return value == UNSET ? fallback : (unsigned)value;
}

/* ---------------------------------------------------------------- recipe */

static int is_zero(const uint8_t *page)
{
    return page[0] == 0 && !memcmp(page, page + 1, RECIPE_PAGE_BYTES - 1);
}

/* Neighbouring pages that are not zero go out in one write; the others are holes. */
static int write_batch(int fd, const uint8_t *bytes, size_t first_page, size_t npages)
{
    for (size_t from = 0, to; from < npages; from = to) {
        int zero = is_zero(bytes + from * RECIPE_PAGE_BYTES);
        for (to = from + 1; to < npages && is_zero(bytes + to * RECIPE_PAGE_BYTES) == zero;)
            to++;
        size_t length = (to - from) * RECIPE_PAGE_BYTES;
        errno = 0;
        if (!zero && pwrite(fd, bytes + from * RECIPE_PAGE_BYTES, length,
                            (off_t)((first_page + from) * RECIPE_PAGE_BYTES)) != (ssize_t)length)
            return errno ? -errno : -EIO;
    }
    return 0;
}

static int write_recipe(int fd, const struct options *options)
{
    struct recipe recipe = RECIPE_DEFAULT(options->seed, options->family);
    size_t npages = options->mem_mib * PAGES_PER_MIB, counts[3] = {0};
    uint8_t *bytes = malloc(BATCH_PAGES * RECIPE_PAGE_BYTES), kinds[BATCH_PAGES];
    int error = bytes ? 0 : -ENOMEM;

    recipe.zero_percent = given(options->zero, recipe.zero_percent);
    recipe.dup_percent = given(options->dup, recipe.dup_percent);
    recipe.repeat_percent = given(options->repeat, recipe.repeat_percent);
    recipe.dup_run_pages = given(options->run, recipe.dup_run_pages);
    if (!error)
        error = recipe_check(&recipe);
    if (!error && ftruncate(fd, (off_t)(npages * RECIPE_PAGE_BYTES)))
        error = -errno;
    for (size_t page = 0; page < npages && !error; page += BATCH_PAGES) {
        size_t n = npages - page < BATCH_PAGES ? npages - page : BATCH_PAGES;
        recipe_fill(bytes, page, n, &recipe);
        recipe_describe(page, n, &recipe, kinds, NULL);
        for (size_t i = 0; i < n; i++)
            counts[kinds[i]]++;
        error = write_batch(fd, bytes, page, n);
    }
    free(bytes);
    if (error)
        fprintf(stderr, "mkimage: writing the image: %s\n", strerror(-error));
    else
        printf("%s: %zu pages: %zu zero, %zu duplicates, %zu unique\n", options->out, npages,
               counts[RECIPE_ZERO], counts[RECIPE_DUP], counts[RECIPE_UNIQUE]);
    return error;
}

/* ---------------------------------------------------------------- files */

static int write_files(int fd, const struct options *options)
{
    static const char *const default_dirs[] = {"/usr/lib"};
    struct files_counts counts;
    struct files_options files = {
        .dirs = options->ndirs ? options->dir : default_dirs,
        .ndirs = options->ndirs ? options->ndirs : 1,
        .npages = options->mem_mib * PAGES_PER_MIB,
        .seed = options->seed,
        .pool = options->family,
        .subset_percent = given(options->subset, 70),
        .zero_percent = given(options->zero, 50),
        .unique_percent = given(options->unique, 10),
        .run_pages = given(options->run, 16),
    };
    int error = files_write(fd, &files, &counts);

    if (error)
        return error;
    printf("%s: %llu pages: %llu zero, %llu of %llu files in runs of %.1f, %llu unique\n", options->out,
           (unsigned long long)files.npages, (unsigned long long)counts.zero_pages,
           (unsigned long long)counts.file_pages, (unsigned long long)counts.files,
           counts.file_runs ? (double)counts.file_pages / (double)counts.file_runs : 0.0,
           (unsigned long long)counts.unique_pages);
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {.mem_mib = 256,
                              .seed = 1,
                              .family = 1,
                              .zero = UNSET,
                              .dup = UNSET,
                              .repeat = UNSET,
                              .run = UNSET,
                              .subset = UNSET,
                              .unique = UNSET};
    int rc = parse(argc, argv, &options);

    if (rc)
        return rc > 0 ? 0 : 2;
    int fd = open(options.out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        fprintf(stderr, "mkimage: %s: %s\n", options.out, strerror(errno));
        return 1;
    }
    rc = options.recipe ? write_recipe(fd, &options) : write_files(fd, &options);
    if (close(fd) && !rc) {
        fprintf(stderr, "mkimage: %s: %s\n", options.out, strerror(errno));
        rc = -EIO;
    }
    if (rc)
        unlink(options.out); /* half an image is none */
    return rc ? 1 : 0;
}
