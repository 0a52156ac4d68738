/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vmm: a VMM's control socket with a guest's balloon behind it, for the tests of the backends: QMP as QEMU's
 * documentation has it, the HTTP APIs as Firecracker's swagger file and Cloud Hypervisor's OpenAPI
 * description do. On demand it misbehaves.
 *
 * One thread serves one connection at a time, as a monitor does; what else connects waits. The fields of
 * struct vmm are read under its lock: change them between vmm_lock() and vmm_unlock() while it runs.
 */
#ifndef TESTS_BACKENDS_VMM_H
#define TESTS_BACKENDS_VMM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MIB (UINT64_C(1) << 20)

enum vmm_kind { VMM_QMP, VMM_FIRECRACKER, VMM_CLOUD_HYPERVISOR, VMM_KINDS };

enum vmm_misdeed {
    VMM_GOOD,
    VMM_SILENT,      /* no answer */
    VMM_HANGS_UP,    /* in place of an answer */
    VMM_TRUNCATES,   /* half an answer, then it hangs up */
    VMM_HALF,        /* half an answer, then nothing */
    VMM_DRIPS,       /* a byte at a time, slower than anybody's patience */
    VMM_ENDLESS,     /* an answer without an end, as fast as it goes */
    VMM_HUGE,        /* a well-formed answer of megabytes */
    VMM_NOISE,       /* bytes that are nothing */
    VMM_NOT_JSON,    /* well framed, but no JSON */
    VMM_DEEP,        /* JSON of 100,000 brackets */
    VMM_WRONG_TYPES, /* texts for numbers, lists for objects */
    VMM_NEGATIVE,    /* numbers below zero, and broken ones */
    VMM_ABSURD,      /* more RAM than there can be, a balloon larger than that */
    VMM_EMPTY,       /* an object with nothing in it */
    VMM_FLOODS,      /* QMP: events without an end; HTTP: headers */
    VMM_MISDEEDS
};

struct vmm {
    enum vmm_kind kind;
    char path[64];
    /* the guest */
    uint64_t ram, balloon, wanted; /* bytes; wanted in the balloon */
    uint64_t step;                 /* what the guest moves by, each time somebody looks */
    bool device, driver, stats;
    uint64_t stats_interval, updates; /* QMP */
    bool deflate_on_oom, reporting;
    bool old;              /* QMP: knows no x-query-virtio-status */
    uint64_t refuse_above; /* bytes in the balloon; 0: none */
    /* what it does wrong, from its so many-th answer on (of a connection; QMP: its greeting is the first) */
    enum vmm_misdeed misdeed;
    unsigned misdeed_from;
    /* what it has seen */
    unsigned connections, requests;
    /* its own */
    unsigned answers;
    int listen_fd;
    atomic_bool stopping;
    pthread_t thread;
    pthread_mutex_t lock;
};

/* A guest of 1 GiB with an empty balloon and all that there is, listening at `path`. */
void vmm_start(struct vmm *vmm, enum vmm_kind kind, const char *path);
/* It ends, and with it its connections. Safe to call twice. */
void vmm_stop(struct vmm *vmm);
void vmm_lock(struct vmm *vmm);
void vmm_unlock(struct vmm *vmm);
/* How many have connected. */
unsigned vmm_connections(struct vmm *vmm);

const char *vmm_scheme(enum vmm_kind kind);

#endif
