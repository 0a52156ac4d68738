/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: one thread per vCPU, named vcpuN, all signals blocked but the kick. Stopping is the
 * guest's own doing (the stop flag in the control page); a kick after STOP_MS covers a guest that spins, and
 * a vCPU that still does not return waits for a page nobody brings.
 */
#include "bench/memvm/accel.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STOP_MS 10000u
#define KICK_MS 5000u

struct vcpu_thread {
    struct accel *accel;
    unsigned index;
    pthread_t thread;
    sem_t left; /* posted at its end */
};

struct accel {
    struct vm *vm;
    const struct accel_ops *ops;
    void *state;
    unsigned nthreads;
    struct vcpu_thread vcpu[ABI_VCPUS_MAX];
};

static const struct accel_ops *const accelerators[] = {&accel_kvm, &accel_thread};

static void *vcpu_main(void *arg)
{
    struct vcpu_thread *vcpu = arg;
    struct accel *accel = vcpu->accel;
    char name[16];

    snprintf(name, sizeof name, "vcpu%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    accel->ops->run(accel->state, vcpu->index);
    vm_left(accel->vm);
    sem_post(&vcpu->left);
    return NULL;
}

static int start_threads(struct accel *accel)
{
    sigset_t all, old;
    int error = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned i = 0; i < accel->vm->options->vcpus && !error; i++) {
        accel->vcpu[i] = (struct vcpu_thread){.accel = accel, .index = i};
        sem_init(&accel->vcpu[i].left, 0, 0);
        error = -pthread_create(&accel->vcpu[i].thread, NULL, vcpu_main, &accel->vcpu[i]);
        accel->nthreads += !error;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        fprintf(stderr, "memvm: starting vCPU threads: %s\n", strerror(-error));
    return error;
}

int accel_start(struct vm *vm, struct accel **ret_accel)
{
    struct accel *accel = calloc(1, sizeof *accel);
    int error;

    if (!accel)
        return -ENOMEM;
    accel->vm = vm;
    accel->ops = accelerators[0];
    for (size_t i = 0; i < sizeof accelerators / sizeof *accelerators; i++) {
        if (!strcmp(accelerators[i]->name, vm->options->accel))
            accel->ops = accelerators[i];
    }
    error = accel->ops->open(vm, &accel->state);
    if (error) {
        free(accel);
        return error;
    }
    error = start_threads(accel);
    if (error) {
        accel_stop(accel);
        return error;
    }
    *ret_accel = accel;
    return 0;
}

static int join_within(struct vcpu_thread *vcpu, unsigned timeout_ms)
{
    struct timespec deadline;

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    while (sem_clockwait(&vcpu->left, CLOCK_MONOTONIC, &deadline)) {
        if (errno != EINTR)
            return -errno;
    }
    sem_destroy(&vcpu->left);
    return -pthread_join(vcpu->thread, NULL);
}

int accel_stop(struct accel *accel)
{
    vm_stop(accel->vm);
    for (unsigned i = 0; i < accel->nthreads; i++) {
        struct vcpu_thread *vcpu = &accel->vcpu[i];
        int error = join_within(vcpu, STOP_MS);
        if (error && accel->ops->kick) {
            fprintf(stderr, "memvm %s: vCPU %u does not stop by itself\n", accel->vm->options->name, i);
            accel->ops->kick(accel->state, i, vcpu->thread);
            error = join_within(vcpu, KICK_MS);
        }
        if (error) {
            fprintf(stderr, "memvm %s: vCPU %u is stuck in the kernel\n", accel->vm->options->name, i);
            return error;
        }
    }
    accel->ops->close(accel->state);
    free(accel);
    return 0;
}
