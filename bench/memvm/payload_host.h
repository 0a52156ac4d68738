/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The machine of payload/machine.h on a host thread: RAM at a base, calls and MMIO as function calls. */
#ifndef MEMVM_PAYLOAD_HOST_H
#define MEMVM_PAYLOAD_HOST_H

#include "bench/memvm/payload/abi.h"

struct vm;

struct machine {
    struct abi_vcpu *me;
    uint8_t *base;
    struct vm *vm;
    unsigned index;
};

static inline void *machine_ram(const struct machine *m, uint64_t offset)
{
    return m->base + offset;
}

void machine_call(const struct machine *m, enum abi_call call);
uint64_t machine_clock_ns(const struct machine *m);
void machine_notify(const struct machine *m);
uint32_t machine_virtio_read(const struct machine *m, uint32_t offset);
void machine_virtio_write(const struct machine *m, uint32_t offset, uint32_t value);

#endif
