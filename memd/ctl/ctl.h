/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ctl: memctl, memd's command line. What its parts share.
 *
 * main.c hands over to ctl_run() (run.c), which reads the command line by two tables, commands and options,
 * and calls the command's handler. Handlers live in cmd_*.c, a file per family; http.c talks to the daemon,
 * text.c formats, probe.c and doctor.c look at the machine. One thread. Everything is written to the streams
 * of struct ctl. What memctl knows of the daemon is its HTTP API and include/memd/.
 */
#ifndef MEMD_CTL_CTL_H
#define MEMD_CTL_CTL_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes. */
enum ctl_result { CTL_DONE = 0, CTL_FAILED = 1, CTL_USAGE = 2, CTL_NO_DAEMON = 3 };

struct ctl {
    FILE *out, *err;
    bool out_tty, err_tty; /* colours and progress only there */
    volatile sig_atomic_t interrupted;
    bool progress; /* a line of progress stands on the terminal */
    /* options */
    const char *run_dir;
    bool json;
    unsigned timeout_s;           /* 0: none */
    uint64_t guest_bytes;         /* doctor: size of the largest guest; 0: ask the daemon */
    uint64_t bytes;               /* pageout, pagein; 0: all */
    const char *domain;           /* budget; NULL: the host's */
    bool wait;                    /* balloon set */
    int64_t min_bytes, max_bytes; /* balloon limits; -1: not said */
    const char *dry_run;          /* budget; "on", "off"; NULL: not named */
    const char *proc_root, *sys_root, *dev_root;
    /* arguments after the command's words */
    int nargs;
    char *const *args;
};

/* The whole program but the process around it. `ctl` brings the streams; everything else is filled in. */
enum ctl_result ctl_run(struct ctl *ctl, int argc, char *argv[]);

/* One line to ctl->err, "memctl: ...", in place of a line of progress. Control characters, which may come
 * from a peer, become '?'. */
__attribute__((format(printf, 2, 3))) void ctl_error(struct ctl *ctl, const char *format, ...);

/* Where a long job stands: a line on the terminal that the next one replaces; nothing elsewhere. */
void ctl_progress(struct ctl *ctl, const char *what, double progress);
void ctl_progress_end(struct ctl *ctl);

/* ---- commands */
enum ctl_result ctl_status(struct ctl *ctl);
enum ctl_result ctl_vm_list(struct ctl *ctl);
enum ctl_result ctl_vm_show(struct ctl *ctl);
enum ctl_result ctl_vm_set(struct ctl *ctl);
enum ctl_result ctl_working_set(struct ctl *ctl);
enum ctl_result ctl_budget(struct ctl *ctl);
enum ctl_result ctl_why(struct ctl *ctl);
enum ctl_result ctl_merge_on(struct ctl *ctl);
enum ctl_result ctl_merge_off(struct ctl *ctl);
enum ctl_result ctl_unmerge(struct ctl *ctl);
enum ctl_result ctl_settle(struct ctl *ctl);
enum ctl_result ctl_estimate(struct ctl *ctl);
enum ctl_result ctl_pageout(struct ctl *ctl);
enum ctl_result ctl_pagein(struct ctl *ctl);
enum ctl_result ctl_agent_list(struct ctl *ctl);
enum ctl_result ctl_agent_reclaim(struct ctl *ctl);
enum ctl_result ctl_balloon_list(struct ctl *ctl);
enum ctl_result ctl_balloon_set(struct ctl *ctl);
enum ctl_result ctl_balloon_stats(struct ctl *ctl);
enum ctl_result ctl_balloon_auto(struct ctl *ctl);
enum ctl_result ctl_balloon_limits(struct ctl *ctl);
enum ctl_result ctl_doctor(struct ctl *ctl);
enum ctl_result ctl_version(struct ctl *ctl);

/* The VMs of an answer as a table, `before` printed first; nothing if there are none. 0 or -ENOMEM. */
int ctl_vm_table(struct ctl *ctl, const json_t *vms, const char *before);

/* Of one VM: what is not touched for how long, and how long it waited for what; a table each, after an empty
 * line, or nothing if nothing is known. 0 or -ENOMEM. */
int ctl_working_set_print(struct ctl *ctl, const json_t *vm);
int ctl_latency_print(struct ctl *ctl, const json_t *vm);

/* ---- cmd_job.c */

/* Start the job of POST /v1/WHAT and wait for its end; takes over `body`. On CTL_DONE the job is the
 * caller's. */
enum ctl_result ctl_job_run(struct ctl *ctl, const char *what, json_t *body, json_t **ret_job);

/* ---- http.c */

/*
 * One request to the daemon of ctl->run_dir. `body` may be NULL and is not taken over. On CTL_DONE the
 * answer, an object, is in ret_answer (free it with json_decref()). Otherwise one line was written to
 * ctl->err: CTL_NO_DAEMON if nobody serves the socket, CTL_FAILED for everything else, the daemon's refusals
 * included.
 */
enum ctl_result ctl_http(struct ctl *ctl, const char *method, const char *path, const json_t *body,
                         json_t **ret_answer);

/* The same without a word to ctl->err. */
enum ctl_result ctl_http_quiet(struct ctl *ctl, const char *method, const char *path, json_t **ret_answer);

/* `prefix` and, escaped, `name`. 0, -ENAMETOOLONG or -ENOMEM. */
#define CTL_PATH_BYTES 320
int ctl_http_path(char *path, size_t bytes, const char *prefix, const char *name);

/* ---- text.c */

/* "9.5 GiB", "256 MiB", "-4.0 KiB", "12 B". */
#define CTL_SIZE_BYTES 24
const char *ctl_size(char text[CTL_SIZE_BYTES], int64_t bytes);

/* "1 h 2 min", "3.5 s" */
const char *ctl_duration(char text[CTL_SIZE_BYTES], uint64_t ms);

/* A size with K, M, G or T. 0 or -EINVAL. */
int ctl_parse_size(const char *text, uint64_t *ret_bytes);
/* Below 1 MiB, and not 0: what nobody means for a VM. `budget 64` would page out everything. */
bool ctl_lacks_unit(uint64_t bytes);

enum ctl_colour { CTL_PLAIN, CTL_BOLD, CTL_GREEN, CTL_YELLOW, CTL_RED };
/* The sequences to switch a colour on and off; "" where there are none. */
const char *ctl_colour_on(const struct ctl *ctl, enum ctl_colour colour);
const char *ctl_colour_off(const struct ctl *ctl, enum ctl_colour colour);

/* Text that a peer may have chosen, in place: what could drive the terminal becomes '?'. Returns `text`. */
char *ctl_printable(char *text);

/* Fields of an answer: what is missing or of another type reads as 0, "" or false. */
int64_t ctl_get_int(const json_t *object, const char *key);
const char *ctl_get_text(const json_t *object, const char *key);
bool ctl_get_bool(const json_t *object, const char *key);

/* A document as --json prints it. */
enum ctl_result ctl_print_json(struct ctl *ctl, const json_t *document);

/* Rows of cells; columns are as wide as their widest cell. The first row is the heading,
 * unless `headless`; columns whose bit is set in `right` are aligned right. */
#define CTL_COLUMNS_MAX 14
#define CTL_CELL_BYTES  80
struct ctl_table {
    size_t ncolumns, nrows, capacity;
    unsigned right;
    bool headless;
    char (*cells)[CTL_CELL_BYTES]; /* ncolumns per row */
};
/* `format` holds the cells of one row, separated by tabs. Returns 0 or -ENOMEM. */
__attribute__((format(printf, 2, 3))) int ctl_table_add(struct ctl_table *table, const char *format, ...);
void ctl_table_print(struct ctl *ctl, const struct ctl_table *table);
void ctl_table_free(struct ctl_table *table);

#endif
