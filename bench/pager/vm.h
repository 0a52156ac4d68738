/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vm: a guest (guest.h) as the benchmark sees it. What fails ends the program. */
#ifndef BENCH_PAGER_VM_H
#define BENCH_PAGER_VM_H

#include "bench/common/child.h"
#include "bench/pager/guest.h"

struct vm {
    struct child child;
    char name[16];
    pid_t pid; /* of the process with its memory */
    size_t npages;
    uint64_t ram; /* its address there */
};

/* Starts it and loads the image; nothing of memd is in it yet. */
void vm_start(struct vm *vm, unsigned number, const char *image, size_t npages);
/* The same, a guest of KVM; memd is in it, if it is to be. `memvm`: the program. */
void vm_start_kvm(struct vm *vm, unsigned number, const char *image, size_t npages, const char *memvm,
                  enum guest_kind kind);
void vm_end(struct vm *vm);

/* Order without waiting, wait, both; for orders without arguments, the first value. */
void vm_order(const struct vm *vm, const struct guest_order *order);
struct guest_answer vm_wait(const struct vm *vm);
struct guest_answer vm_ask(const struct vm *vm, const struct guest_order *order);
double vm_do(const struct vm *vm, enum guest_op op);

/* An engine that is connected, with the guest's memory. */
void vm_enrol(const struct vm *vm, int engine_cpu);
double vm_stat(const struct vm *vm, enum guest_stat stat);
/* memctl WORDS NAME MORE. */
void vm_control(const struct bench *bench, const struct vm *vm, const char *words, const char *more);
/* Wait until so many pages are in that state (STAT_PARKED and the like), 20 s at most. */
void vm_wait_for(const struct vm *vm, enum guest_stat stat, double at_least);
void vm_check(const struct vm *vm);

/* A path in the directory of the run, in a static buffer. */
const char *vm_image_path(const char *name);

#endif
