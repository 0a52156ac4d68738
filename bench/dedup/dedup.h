/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dedup: memd and the kernel's KSM on the same memory contents, one after the other, in one run.
 *
 *   guest.c    a guest: a plain process with its contents in private memory, under KSM, memd, or neither
 *   count.c    what the kernel says: memory, CPU time, slabs
 *   ksm.c      KSM's settings, saved and put back
 *   daemon.c   memd, started for the run in a directory of its own
 *   settle.c   how fast, at what cost, how much
 *   main.c     options, medians, table, JSON
 */
#ifndef BENCH_DEDUP_H
#define BENCH_DEDUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define GUESTS_MAX 64

enum side { SIDE_KSM, SIDE_MEMD };

struct setup {
    const char *build_dir;
    unsigned guests, mem_mib, runs;
    bool verbose;
};

/* ---- guest.c: ends the program with a message when something fails */
struct guests {
    unsigned n;
    size_t bytes; /* of each */
    pid_t pid[GUESTS_MAX];
    int command[GUESTS_MAX], answer[GUESTS_MAX];
};
void guests_start(struct guests *g, enum side side, unsigned n, size_t bytes, const char *run_dir);
/* Median time of a first write to a page that has duplicates, in ns; over all guests. */
double guests_first_write_ns(struct guests *g);
void guests_end(struct guests *g);

/* ---- count.c */
uint64_t count_pss(pid_t pid);    /* bytes */
uint64_t count_cpu_ns(pid_t pid); /* user and system, all threads */
uint64_t count_ksm_items(pid_t pid);
uint64_t count_available(void);                          /* MemAvailable, bytes */
uint64_t count_slab(const char *const *names, size_t n); /* bytes of these slab caches */
double count_now_s(void);
pid_t count_find_kthread(const char *name);

/* ---- ksm.c */
void ksm_save(void);    /* and put back at exit, whatever ends us */
void ksm_fastest(void); /* as fast as it goes, not running */
void ksm_run(int mode);
uint64_t ksm_value(const char *file);

/* ---- daemon.c */
struct daemon {
    pid_t pid;
    char run_dir[64];
    const char *build_dir;
};
void daemon_start(struct daemon *d, const char *build_dir);
void daemon_merge_on(struct daemon *d);
bool daemon_is_settled(struct daemon *d);
/* A number of `totals` of `memctl status --json`. */
uint64_t daemon_total(struct daemon *d, const char *key);
uint64_t daemon_unmapped_store(const struct daemon *d, const struct guests *g);
void daemon_end(struct daemon *d);

/* ---- settle.c */
struct settled {
    double s, cpu_s;          /* to 95% of what is saved in the end */
    double saved, net;        /* bytes, by the kernel's numbers; net of metadata */
    double available;         /* MemAvailable gained */
    double metadata_per_page; /* bytes: engine and daemon, or KSM's items */
    double with_vmas_per_page;
    double first_write_ns;
    double total_cpu_s; /* until settled */
};
struct settled settle_run(const struct setup *setup, enum side side, unsigned guests, size_t bytes);

void quit(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
