/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What memvm and its payload share: the layout of guest RAM, the control page, the hypercalls, the MMIO
 * registers. Used by the freestanding payload and by the VMM, so it needs nothing but the compiler.
 *
 * All positions are RAM offsets: bytes from the start of guest RAM. The payload's page tables map RAM
 * linearly at virtual address 0, so an offset is a pointer there; a VMM adds its own base. Guest-physical
 * addresses differ from offsets above the 3 GiB hole and concern only the VMM.
 *
 * RAM:  page tables | code | control page | vCPU pages | stacks | balloon driver | table | data pages
 *
 * Data pages are shared out: vCPU v owns an unbroken range of them, and only the owner reads or writes a data
 * page or its table entry while the guest runs. That makes every check exact without a lock.
 */
#ifndef MEMVM_PAYLOAD_ABI_H
#define MEMVM_PAYLOAD_ABI_H

#include <stdatomic.h>
#include <stdint.h>

#define ABI_VERSION    3u
#define ABI_PAGE_BYTES 4096ull
#define ABI_VCPUS_MAX  4u
#define ABI_MIB_MIN    8u
#define ABI_MIB_MAX    65536u /* 64 page directories */

#define ABI_PML4_OFF      0x1000ull
#define ABI_PDPT_OFF      0x2000ull /* of RAM */
#define ABI_MMIO_PDPT     0x3000ull
#define ABI_MMIO_PD       0x4000ull
#define ABI_PD_OFF        0x10000ull /* one page for each GiB of RAM */
#define ABI_CODE_OFF      0x80000ull
#define ABI_CODE_MAX      0x20000ull
#define ABI_CTL_OFF       0xa0000ull
#define ABI_VCPU_OFF      0xb0000ull /* one page for each vCPU */
#define ABI_STACK_OFF     0xc0000ull
#define ABI_STACK_BYTES   0x4000ull
#define ABI_BALLOON_OFF   0xd0000ull /* the balloon driver: its rings, then its state */
#define ABI_BALLOON_BYTES 0x8000ull
#define ABI_TABLE_OFF     0x100000ull
#define ABI_DATA_ALIGN    0x200000ull /* data starts on a chunk, so that equal images are equally aligned */

#define ABI_MMIO_VA    0x8000000000ull /* PML4 entry 1 */
#define ABI_MMIO_GPA   0xd0000000ull   /* in the hole below 4 GiB, outside every slot */
#define ABI_MMIO_BYTES 0x1000ull

#define ABI_VIRTIO_OFF   0x1000ull /* in the MMIO window: the balloon's virtio-mmio registers, 32 bits each */
#define ABI_VIRTIO_BYTES 0x200ull

/* 64-bit registers at ABI_MMIO_VA. */
enum abi_mmio {
    ABI_MMIO_CLOCK = 0x0,  /* read: nanoseconds, monotonic */
    ABI_MMIO_NOTIFY = 0x8, /* write: something in this vCPU's page has changed that the VMM waits for */
};

#define ABI_PORT 0x10 /* outb of a call number */

/* Arguments and result in the vCPU's page. Results are 0 or more, or a negative errno value. */
enum abi_call {
    ABI_CALL_LOAD = 1,     /* (RAM offset, bytes): fill from the image; the result is the bytes filled */
    ABI_CALL_IDLE = 2,     /* (ns, doorbell seen): sleep that long or until the doorbell differs */
    ABI_CALL_MISMATCH = 3, /* (data page, sum expected, found, counter expected, found, enum abi_where) */
    ABI_CALL_DISCARD = 4,  /* (data page, pages): the guest gives them up; they read as zeros afterwards */
    ABI_CALL_EXIT = 5,     /* this vCPU is done */
};
#define ABI_ARGS 6

/* Who met the mismatch. */
enum abi_where {
    ABI_WHERE_VERIFY,  /* the endless check */
    ABI_WHERE_WRITE,   /* the check of the old bytes before churn or rewrite replaces them */
    ABI_WHERE_DISCARD, /* bytes wrong before a discard, or not zero after it */
    ABI_WHERE_AUDIT,   /* the VMM's last look, after the engine closed */
    ABI_WHERE_COUNT
};

enum abi_state {
    ABI_STATE_BOOT,    /* not entered yet */
    ABI_STATE_FILLING, /* writing the first content and its checksums */
    ABI_STATE_RUNNING, /* the workloads */
    ABI_STATE_HELD,    /* `hold` seen: touching no data page */
    ABI_STATE_DONE,    /* left */
};

/* One for each data page, in RAM at ABI_TABLE_OFF. */
struct abi_entry {
    uint64_t sum;       /* page_sum() of what the page must hold */
    uint32_t writes;    /* how often the guest has rewritten it */
    uint16_t stamped;   /* 1: words 0 and 1 of the page are its stamp and `writes` */
    uint16_t ballooned; /* 1: in the balloon; it holds what it held before, or zeros */
};
_Static_assert(sizeof(struct abi_entry) == 16, "abi_entry");

#define ABI_UNLIMITED UINT64_MAX

/*
 * The control page; the VMM is the only writer. The first part is fixed before a vCPU starts; the rest may
 * change at any time. A request is a new generation number, stored with release after its arguments and
 * loaded with acquire before them; the next one waits until this one is answered. Rates and flags stand
 * alone. The doorbell counts changes: an idle vCPU hands over the number it saw before its last round, and is
 * not put to sleep if there is a newer one.
 */
struct abi_ctl {
    uint32_t version;
    uint32_t nvcpus;
    uint64_t ram_bytes;
    uint64_t data_first; /* RAM page number of data page 0 */
    uint64_t data_pages;
    uint64_t seed;           /* of the unique content */
    uint32_t zero_percent;   /* of the data pages are filled with zeros, whatever else fills them */
    uint32_t synthesize;     /* 1: fill what the image does not with made content; 0: leave it untouched */
    uint32_t shared_percent; /* of the made pages hold content all guests have, the others unique content */
    uint32_t balloon;        /* 1: there is a balloon device */
    uint32_t hot_percent;    /* of the data pages are read by jobs, see page_hot() */
    uint64_t low_bytes;      /* RAM below the hole; what follows is at guest-physical high_gpa */
    uint64_t high_gpa;

    _Atomic uint64_t doorbell;
    _Atomic uint64_t stop, hold;
    /* pages a second of the whole guest; ABI_UNLIMITED */
    _Atomic uint64_t churn_rate, toggle_rate, sweep_rate, verify_rate;
    _Atomic uint64_t rewrite_gen; /* a new number asks for one pass */
    _Atomic uint64_t job_gen, job_accesses;
    _Atomic uint64_t discard_gen, discard_first, discard_pages;
    _Atomic uint64_t discard_report; /* 1: by a free-page report, not by a call */
    _Atomic uint64_t
        balloon_irqs; /* interrupts of the balloon so far: a doorbell in place of an interrupt line */
};
_Static_assert(sizeof(struct abi_ctl) <= ABI_PAGE_BYTES, "abi_ctl");

/* A vCPU's page; the payload is the only writer, but for `ret`. Counters never go back. */
struct abi_vcpu {
    uint64_t arg[ABI_ARGS];
    int64_t ret;
    uint64_t reserved;

    _Atomic uint64_t state; /* enum abi_state */
    _Atomic uint64_t verify_checks, verify_passes;
    _Atomic uint64_t churn_writes, toggle_writes, rewrite_writes, sweep_pages;
    _Atomic uint64_t rewrite_done, job_done, discard_done; /* the generation last finished */
    _Atomic int64_t discard_result;
    _Atomic uint64_t job_sum; /* keeps the job's reads from being optimised away */
};
_Static_assert(sizeof(struct abi_vcpu) <= ABI_PAGE_BYTES, "abi_vcpu");

/* The data pages vCPU `v` of `n` owns: [abi_share(pages, v, n), abi_share(pages, v + 1, n)). */
static inline uint64_t abi_share(uint64_t pages, unsigned v, unsigned n)
{
    return pages * v / n;
}

_Static_assert(ABI_PD_OFF + (ABI_MIB_MAX / 1024) * ABI_PAGE_BYTES <= ABI_CODE_OFF, "page directories");
_Static_assert(ABI_CODE_OFF + ABI_CODE_MAX <= ABI_CTL_OFF, "code");
_Static_assert(ABI_CTL_OFF + ABI_PAGE_BYTES <= ABI_VCPU_OFF, "control page");
_Static_assert(ABI_VCPU_OFF + ABI_VCPUS_MAX * ABI_PAGE_BYTES <= ABI_STACK_OFF, "vCPU pages");
_Static_assert(ABI_STACK_OFF + ABI_VCPUS_MAX * ABI_STACK_BYTES <= ABI_BALLOON_OFF, "stacks");
_Static_assert(ABI_BALLOON_OFF + ABI_BALLOON_BYTES <= ABI_TABLE_OFF, "balloon driver");

#endif
