/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: a vCPU is the payload called as a function on a thread of the VMM. RAM has the same
 * layout and the same content as under KVM, page tables and code aside, so everything that works on guest
 * memory from outside (merging, verifying) meets the same thing.
 */
#include <stdlib.h>

#include "bench/memvm/accel.h"
#define MEMVM_PAYLOAD_HOST
#include "bench/memvm/payload/machine.h"

void machine_call(const struct machine *m, enum abi_call call)
{
    vm_call(m->vm, m->index, call); /* leaving is the payload's return, not the call's answer */
}

uint64_t machine_clock_ns(const struct machine *m)
{
    uint64_t now_ns;

    return vm_mmio_read(m->vm, ABI_MMIO_CLOCK, sizeof now_ns, &now_ns) ? now_ns : 0;
}

void machine_notify(const struct machine *m)
{
    const uint64_t one = 1;

    vm_mmio_write(m->vm, ABI_MMIO_NOTIFY, sizeof one, &one);
}

uint32_t machine_virtio_read(const struct machine *m, uint32_t offset)
{
    uint32_t value;

    return vm_mmio_read(m->vm, ABI_VIRTIO_OFF + offset, sizeof value, &value) ? value : 0;
}

void machine_virtio_write(const struct machine *m, uint32_t offset, uint32_t value)
{
    vm_mmio_write(m->vm, ABI_VIRTIO_OFF + offset, sizeof value, &value);
}

static int thread_open(struct vm *vm, void **ret_state)
{
    *ret_state = vm;
    return 0;
}

static void thread_run(void *state, unsigned index)
{
    struct vm *vm = state;
    struct machine m = {.me = vm->vcpu[index], .base = vm->ram->base, .vm = vm, .index = index};

    payload_main(m, index);
}

static void thread_close(void *state)
{
    (void)state;
}

const struct accel_ops accel_thread = {
    .name = "thread",
    .open = thread_open,
    .run = thread_run,
    .close = thread_close,
};
