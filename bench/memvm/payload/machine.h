/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine under the payload, twice: a vCPU at CPL 3, where RAM starts at virtual address 0, a call is an
 * `outb`, the clock and the balloon's registers MMIO; or, with MEMVM_PAYLOAD_HOST, a plain thread of the VMM,
 * where RAM starts at a base and the same things are function calls. The payload knows no other difference.
 */
#ifndef MEMVM_PAYLOAD_MACHINE_H
#define MEMVM_PAYLOAD_MACHINE_H

#include "bench/memvm/payload/abi.h"

#ifdef MEMVM_PAYLOAD_HOST

#include "bench/memvm/payload_host.h"

#else

struct machine {
    struct abi_vcpu *me;
};

static inline void *machine_ram(const struct machine *m, uint64_t offset)
{
    (void)m;
    return (void *)(uintptr_t)offset;
}

static inline void machine_call(const struct machine *m, enum abi_call call)
{
    (void)m;
    __asm__ volatile("outb %%al, %1" : : "a"((uint8_t)call), "N"(ABI_PORT) : "memory");
}

static inline uint64_t machine_clock_ns(const struct machine *m)
{
    (void)m;
    return *(volatile uint64_t *)(ABI_MMIO_VA + ABI_MMIO_CLOCK);
}

static inline void machine_notify(const struct machine *m)
{
    (void)m;
    *(volatile uint64_t *)(ABI_MMIO_VA + ABI_MMIO_NOTIFY) = 1;
}

static inline uint32_t machine_virtio_read(const struct machine *m, uint32_t offset)
{
    (void)m;
    return *(volatile uint32_t *)(ABI_MMIO_VA + ABI_VIRTIO_OFF + offset);
}

static inline void machine_virtio_write(const struct machine *m, uint32_t offset, uint32_t value)
{
    (void)m;
    *(volatile uint32_t *)(ABI_MMIO_VA + ABI_VIRTIO_OFF + offset) = value;
}

#endif

/* The program itself; returns when the vCPU has left (on a host thread) or never (on a vCPU). */
void payload_main(struct machine m, unsigned index);

#endif
