/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VMM's side of the guest: the control page, the hypercalls, requests and their answers, what went wrong.
 * Knows nothing of how vCPUs run; the accelerators call in here.
 *
 * Threads: the main thread makes requests; vCPU threads enter through vm_call(), vm_mmio_*() and vm_fail().
 * Everything a vCPU hands over is taken as hostile: ranges are checked, waits are bounded.
 */
#ifndef MEMVM_VM_H
#define MEMVM_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/memvm/balloon.h"
#include "bench/memvm/engine.h"
#include "bench/memvm/options.h"
#include "bench/memvm/payload/abi.h"
#include "bench/memvm/ram.h"

struct vm {
    const struct options *options;
    const struct ram *ram;
    struct engine *engine;
    struct balloon *balloon;              /* NULL: none */
    struct abi_ctl *ctl;                  /* in guest RAM */
    struct abi_vcpu *vcpu[ABI_VCPUS_MAX]; /* in guest RAM */
    int image_fd;                         /* -1: none */
    int event_fd;                         /* readable: vm_take_events() has something for the main thread */
    uint64_t image_bytes;

    pthread_mutex_t lock;   /* innermost but for the engine's own locks; guards what follows */
    pthread_cond_t bell;    /* the doorbell or stop moved; idle vCPUs wait here */
    pthread_cond_t changed; /* a vCPU answered something; the main thread waits here */
    uint64_t doorbell;
    uint64_t job_gen, job_start_ns, job_ns; /* job_ns: of the last one finished */
    bool job_running;

    _Atomic uint64_t verify_failures;
    _Atomic uint32_t vcpus_left; /* vCPU threads that have returned */
    _Atomic bool failed;         /* something other than a mismatch; said on stderr */
};

/* What the main thread may have to act on. */
struct vm_events {
    bool ready; /* every vCPU has filled its pages and runs */
    bool ended; /* failed, or all vCPUs left */
};

/* The guest's counters summed over its vCPUs. */
struct vm_counters {
    const char *state; /* "filling", "running", "stopped", "done" or "failed" */
    uint64_t verify_checks, verify_passes, verify_failures;
    uint64_t churn_writes, toggle_writes, rewrite_writes, sweep_pages;
    uint64_t rewrites_done; /* number of the last pass finished by every vCPU */
    uint64_t jobs_done, job_ns;
    bool job_running;
};

/* 0 or -errno, having said why. Writes the control page: the engine may already own the RAM. */
int vm_init(struct vm *vm, const struct options *options, const struct ram *ram, struct engine *engine);
void vm_fini(struct vm *vm);

/* ---- for the accelerators, on vCPU threads */

/* Serve a call whose arguments lie in the vCPU's page. False: the vCPU is to leave. */
bool vm_call(struct vm *vm, unsigned index, unsigned call);
/* Registers by offset in the window; false: no such register or width. */
bool vm_mmio_read(struct vm *vm, uint64_t offset, uint64_t bytes, void *ret_value);
bool vm_mmio_write(struct vm *vm, uint64_t offset, uint64_t bytes, const void *value);
/* A vCPU cannot go on. Says so, and makes the main thread stop. */
void vm_fail(struct vm *vm, unsigned index, const char *format, ...) __attribute__((format(printf, 3, 4)));
void vm_left(struct vm *vm);
uint64_t vm_clock_ns(void);

/* ---- for the main thread */

struct vm_events vm_take_events(struct vm *vm);
struct vm_counters vm_count(struct vm *vm);

void vm_set_churn(struct vm *vm, uint64_t ppm);
void vm_set_toggle(struct vm *vm, uint64_t ppm);
void vm_set_sweep(struct vm *vm, uint64_t mbps);
/* mbps 0 with `on`: unlimited. */
void vm_set_verify(struct vm *vm, bool on, uint64_t mbps);
/* Returns the number rewrites_done reaches when every page was rewritten after this call. */
uint64_t vm_rewrite(struct vm *vm);
/* 0 and the number jobs_done reaches with it; -EBUSY: one is running. */
int vm_job(struct vm *vm, uint64_t maccesses, uint64_t *ret_job);
/* The balloon device interrupts the guest. On any thread. */
void vm_interrupt(struct vm *vm);
/* Whole data pages, by RAM offset, given up by a call or, with `report`, by a free-page report; returns when
 * every vCPU has checked its zeros. -EINVAL, -ETIMEDOUT, or what the engine said (the pages then keep their
 * content). */
int vm_discard(struct vm *vm, uint64_t offset, uint64_t bytes, bool report);
/* Hold the vCPUs, or let them go on. -ETIMEDOUT: one is busy with a job; the request stands. */
int vm_hold(struct vm *vm, bool hold);
void vm_stop(struct vm *vm);

/* Flip one bit of a data page, chosen by `choice`, behind the guest's back. Returns the data page. */
uint64_t vm_inject(struct vm *vm, uint64_t choice);
/* Check every data page once more from the VMM, when no vCPU runs any more. Mismatches count as failures. */
void vm_audit(struct vm *vm);

#endif
