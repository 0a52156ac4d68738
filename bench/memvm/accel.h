/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How vCPUs run: under KVM, or as plain threads. accel.c owns one thread for each vCPU; an accelerator is a
 * table of functions over its own state.
 */
#ifndef MEMVM_ACCEL_H
#define MEMVM_ACCEL_H

#include "bench/memvm/vm.h"

struct accel_ops {
    const char *name;
    /* Build what the vCPUs need; 0 or -errno, having said why. Main thread. */
    int (*open)(struct vm *vm, void **ret_state);
    /* Run vCPU `index` until it leaves or fails (then vm_fail() was called). Its own thread. */
    void (*run)(void *state, unsigned index);
    /* Make run() return soon although the guest does not cooperate; NULL: cannot. */
    void (*kick)(void *state, unsigned index, pthread_t thread);
    void (*close)(void *state);
};

extern const struct accel_ops accel_kvm, accel_thread;

struct accel; /* running vCPUs */

/* By options->accel. 0 or -errno, having said why. */
int accel_start(struct vm *vm, struct accel **ret_accel);

/*
 * Ask the guest to stop and wait for its vCPUs; those that do not listen are kicked. Returns 0, or -ETIMEDOUT
 * when one is stuck in the kernel: then nothing was freed and the process should exit.
 */
int accel_stop(struct accel *accel);

#endif
