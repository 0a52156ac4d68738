/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kit: what the tests with a daemon and real guests share: a memd of the test's own, memvm guests driven over
 * their control pipe, and the kernel's view of guest memory.
 *
 * Everything started here dies with the test: the children ask for SIGKILL when their parent ends. A check
 * that fails prints where and what and ends the test with 1. One daemon at a time; its struct must live as
 * long as the test.
 */
#ifndef TESTS_KVM_KIT_H
#define TESTS_KVM_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define KIT_PAGE     4096ull
#define KIT_LINE_MAX 8192

void kit_fail(const char *file, int line, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
#define FAIL(...) kit_fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition, format, ...)                               \
    do {                                                            \
        if (!(condition))                                           \
            FAIL("not so: %s: " format, #condition, ##__VA_ARGS__); \
    } while (0)

/* Ends the test with 77, the reason as its last line, unless a guest can run under memd here. */
void kit_need_kvm(void);
void kit_skip(const char *reason) __attribute__((noreturn));

/* `full` times MEMD_TEST_SCALE, at least `least`. */
uint64_t kit_scaled(uint64_t full, uint64_t least);
uint64_t kit_ms(void);
/* Times that hold on a quiet machine, times three in an instrumented tree. */
uint64_t kit_patience_ms(uint64_t ms);

/* The number after "key": in JSON text, the first one; 0 if there is none and `missing` is NULL. */
int64_t kit_number(const char *json, const char *key);
bool kit_has(const char *json, const char *key);

/* ---- memd */

struct kit_daemon {
    pid_t pid; /* 0: not running */
    char run_dir[128];
    char state_dir[128];
    char config[128];
};

/*
 * Make directories and a configuration that opens the domains "web" and "db", and start memd with these
 * options (NULL-terminated) besides. Returns when it says that it is ready.
 */
void kit_daemon_create(struct kit_daemon *daemon, const char *const *options);
/* Start it again in the same directories, after kit_daemon_kill(). */
void kit_daemon_start(struct kit_daemon *daemon, const char *const *options);
void kit_daemon_kill(struct kit_daemon *daemon);
/* SIGTERM; the daemon must end with 0. Removes its run directory. */
void kit_daemon_end(struct kit_daemon *daemon);

/* Run memctl with these arguments; returns its exit code and what it wrote to stdout. */
int kit_memctl(const struct kit_daemon *daemon, char *ret_text, size_t text_bytes, const char *const *args);
#define KIT_ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* memctl settle. Fails the test when the host does not settle within this. */
void kit_settle(const struct kit_daemon *daemon, unsigned timeout_s);
/* A number of the totals of memctl status --json. */
int64_t kit_total(const struct kit_daemon *daemon, const char *key);
/* Wait until kit_total(key) is at least, or at most, `value`; fails the test when that takes too long. */
void kit_total_reaches(const struct kit_daemon *daemon, const char *key, int64_t value);
void kit_total_falls(const struct kit_daemon *daemon, const char *key, int64_t value);

/* ---- guests */

struct kit_vm {
    pid_t pid; /* 0: has ended */
    const char *name;
    int to;                  /* memvm's stdin */
    FILE *from;              /* and its stdout */
    char line[KIT_LINE_MAX]; /* the last answer */
    uint64_t hva, pages;     /* of its data pages */
};

/* Start memvm with --control - and these options (NULL-terminated) besides; returns when it is ready. */
void kit_vm_start(const struct kit_daemon *daemon, struct kit_vm *vm, const char *name,
                  const char *const *options);
/* Send a command; the answer is in vm->line. Fails the test unless the guest says it did it. */
void kit_vm_do(struct kit_vm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As kit_vm_do(), but returns what memvm answers: 0 or -errno. */
int kit_vm_try(struct kit_vm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A number of the guest's status, fetched now. */
int64_t kit_vm_number(struct kit_vm *vm, const char *key);
/* Wait until every page was compared with its checksum once more, from now on. */
void kit_vm_verified(struct kit_vm *vm);
/* Rewrite every page with unique content and wait for the end of it. */
void kit_vm_rewrite(struct kit_vm *vm);
/* Stop in order. The guest must have checked pages, found no failure, and end with 0. */
void kit_vm_end(struct kit_vm *vm);
void kit_vm_kill(struct kit_vm *vm);

/* ---- what the kernel says */

/* Page frame numbers of data pages [first, first+n); 0: not present. */
void kit_pfns(const struct kit_vm *vm, uint64_t first, uint64_t n, uint64_t *ret_pfns);
/* The bytes of the same pages, read from outside. */
void kit_bytes(const struct kit_vm *vm, uint64_t first, uint64_t n, void *ret_bytes);
/* A field of /proc/PID/smaps_rollup, in bytes. */
uint64_t kit_rollup(pid_t pid, const char *field);

#endif
