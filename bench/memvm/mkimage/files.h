/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image of guest RAM made of the machine's own files, as a guest's page cache would hold them: whole
 * files, cut into the runs that readahead makes, runs of different files mixed, a share of zero pages between
 * them.
 *
 * `pool` alone decides the order in which files are considered, the same for all guests; each guest takes
 * `subset_percent` of them, chosen by its own seed, until its image is full. So a page of a file taken by one
 * guest is also in another with about that probability, as among machines installed from one distribution.
 */
#ifndef MEMVM_MKIMAGE_FILES_H
#define MEMVM_MKIMAGE_FILES_H

#include <stddef.h>
#include <stdint.h>

struct files_options {
    const char *const *dirs; /* where to look */
    size_t ndirs;
    uint64_t npages;         /* of the image */
    uint64_t seed;           /* of this guest */
    uint64_t pool;           /* seed of the common pool */
    unsigned subset_percent; /* 1..100 */
    unsigned zero_percent;   /* of the image */
    unsigned unique_percent; /* of the pages that are not zero: anonymous memory no other guest has */
    unsigned run_pages;      /* mean length of a run of a large file */
};

struct files_counts {
    uint64_t files, file_pages, file_runs, zero_pages, unique_pages;
};

/*
 * Write the image to fd, which is a fresh regular file: zero pages become holes. Returns 0; -ENOENT when the
 * directories hold no readable file; -errno, having said why.
 */
int files_write(int fd, const struct files_options *options, struct files_counts *ret_counts);

#endif
