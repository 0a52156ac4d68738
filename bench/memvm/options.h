/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memvm's command line, parsed into one struct that never changes afterwards. */
#ifndef MEMVM_OPTIONS_H
#define MEMVM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define OPTIONS_MEBIBYTE (1024ull * 1024)

struct options {
    const char *accel;   /* "kvm" or "thread" */
    const char *name;    /* never NULL after options_parse() */
    const char *domain;  /* NULL: the guest's own */
    const char *run_dir; /* NULL: libmemd's default */
    const char *image;   /* NULL: synthetic content */
    const char *control; /* socket path, "-" for stdin, NULL: none */
    uint64_t mem_mib;
    uint64_t vcpus;
    uint64_t seed;           /* of the guest's unique content; 0: random */
    uint64_t zero_percent;   /* of the data pages */
    uint64_t shared_percent; /* of the pages made without an image */
    uint64_t churn_ppm;      /* data pages rewritten each second, in millionths */
    uint64_t toggle_ppm;     /* data pages changed by a word each second, in millionths */
    uint64_t sweep_mbps;     /* 0: none */
    uint64_t verify_mbps;    /* with `verify`; 0: as fast as it goes */
    uint64_t job_maccesses;  /* 0: none */
    uint64_t hot_percent;    /* of the data pages, which jobs read */
    uint64_t report_ms;      /* 0: none */
    uint64_t time_s;         /* 0: until told to stop */
    uint64_t inject_ms;      /* with `inject`: after the guest is ready */
    bool verify, inject, balloon;
    bool thp, dontfork;
    bool prealloc, mergeable, no_memd, no_daemon;
};

/*
 * Returns 0; 1 when --help was answered; -EINVAL after saying on stderr what is wrong. Strings point into
 * argv.
 */
int options_parse(int argc, char **argv, struct options *ret_options);

/*
 * Parsers for one word, also used by the control commands: 0 or -EINVAL. A size takes a suffix K, M or G;
 * a percentage has up to four decimals and comes out in millionths.
 */
int options_parse_u64(const char *word, uint64_t min, uint64_t max, uint64_t *ret_value);
int options_parse_bytes(const char *word, uint64_t *ret_bytes);
int options_parse_ppm(const char *word, uint64_t *ret_ppm);

#endif
