/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: the smallest machine that runs 64-bit code at CPL 3. No interrupts, no devices in the
 * kernel, no BIOS: the registers are set to long mode with paging on, the payload's code lies in RAM, and a
 * vCPU leaves the guest only by `out`, by touching the MMIO window, or by dying (there is no IDT, so every
 * exception is a triple fault).
 *
 * CPL 3 because it costs nothing on hardware with VT-x or SVM, and makes the guest run at full speed on hosts
 * whose KVM must interpret privileged code. IOPL 3 lets it do port I/O.
 *
 * The page tables map RAM linearly at virtual 0 with 2 MiB pages, over the hole below 4 GiB, and the MMIO
 * window at ABI_MMIO_VA. All vCPUs share them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/memvm/accel.h"
#include "bench/memvm/payload_guest.h"

#define CPUID_ENTRIES_MAX 256
#define KICK_SIGNAL       SIGUSR1

/* Intel wants three pages of guest-physical space for its own use, out of the way of RAM. */
#define TSS_GPA      0xfffbd000ull
#define IDENTITY_GPA 0xfffbc000ull

#define PTE_PRESENT (1ull << 0)
#define PTE_WRITE   (1ull << 1)
#define PTE_USER    (1ull << 2)
#define PTE_LARGE   (1ull << 7)
#define PTE_TABLE   (PTE_PRESENT | PTE_WRITE | PTE_USER)
#define LARGE_BYTES 0x200000ull

#define CR0_VALUE  0x80050033ull /* PG, AM, WP, NE, ET, MP, PE */
#define CR4_VALUE  0x20ull       /* PAE */
#define EFER_VALUE 0x500ull      /* LME, LMA */
#define RFLAGS     0x3002ull     /* IOPL 3 */

struct kvm {
    struct vm *vm;
    int kvm_fd, vm_fd;
    size_t run_bytes;
    struct {
        int fd;
        struct kvm_run *run;
    } vcpu[ABI_VCPUS_MAX];
};

static int complain(const char *what)
{
    int error = errno ? -errno : -EIO;

    fprintf(stderr, "memvm: kvm: %s: %s\n", what, strerror(-error));
    return error;
}

/* ---------------------------------------------------------------- guest memory */

static uint64_t gpa_of(const struct ram *ram, uint64_t offset)
{
    for (unsigned i = 0; i < ram->nsegments; i++) {
        const struct ram_segment *segment = &ram->segment[i];
        if (offset - segment->offset < segment->bytes)
            return segment->gpa + (offset - segment->offset);
    }
    return 0;
}

static void build_page_tables(const struct ram *ram)
{
    uint64_t *pml4 = ram_at(ram, ABI_PML4_OFF), *pdpt = ram_at(ram, ABI_PDPT_OFF);
    uint64_t *mmio_pdpt = ram_at(ram, ABI_MMIO_PDPT), *mmio_pd = ram_at(ram, ABI_MMIO_PD);
    uint64_t *pd = ram_at(ram, ABI_PD_OFF);

    pml4[0] = ABI_PDPT_OFF | PTE_TABLE;
    pml4[ABI_MMIO_VA >> 39] = ABI_MMIO_PDPT | PTE_TABLE;
    mmio_pdpt[0] = ABI_MMIO_PD | PTE_TABLE;
    mmio_pd[0] = ABI_MMIO_GPA | PTE_TABLE | PTE_LARGE;
    /* The page directories lie side by side, so entry n of them all maps the n-th 2 MiB of RAM. */
    for (uint64_t n = 0; n * LARGE_BYTES < ram->bytes; n++) {
        if (n % 512 == 0)
            pdpt[n / 512] = (ABI_PD_OFF + n / 512 * ABI_PAGE_BYTES) | PTE_TABLE;
        pd[n] = gpa_of(ram, n * LARGE_BYTES) | PTE_TABLE | PTE_LARGE;
    }
}

static int load_payload(const struct ram *ram)
{
    size_t bytes = (size_t)(payload_guest_end - payload_guest);

    if (bytes == 0 || bytes > ABI_CODE_MAX) {
        fprintf(stderr, "memvm: the payload built into this program has %zu bytes\n", bytes);
        return -ENOEXEC;
    }
    memcpy(ram_at(ram, ABI_CODE_OFF), payload_guest, bytes);
    return 0;
}

static int add_slots(const struct kvm *kvm, const struct ram *ram)
{
    for (unsigned i = 0; i < ram->nsegments; i++) {
        struct kvm_userspace_memory_region slot = {
            .slot = i,
            .guest_phys_addr = ram->segment[i].gpa,
            .memory_size = ram->segment[i].bytes,
            .userspace_addr = (uintptr_t)ram_at(ram, ram->segment[i].offset),
        };
        if (ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot))
            return complain("handing over guest RAM");
    }
    return 0;
}

/* ---------------------------------------------------------------- vCPUs */

static int set_cpuid(const struct kvm *kvm, int fd)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + CPUID_ENTRIES_MAX * sizeof cpuid->entries[0]);
    int error = 0;

    if (!cpuid)
        return -ENOMEM;
    cpuid->nent = CPUID_ENTRIES_MAX;
    if (ioctl(kvm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(fd, KVM_SET_CPUID2, cpuid))
        error = complain("CPUID");
    free(cpuid);
    return error;
}

static int set_registers(int fd, unsigned index)
{
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 0x33, .present = 1, .type = 11, .dpl = 3, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 0x2b, .present = 1, .type = 3, .dpl = 3, .s = 1, .db = 1, .g = 1};
    struct kvm_regs regs = {
        .rip = ABI_CODE_OFF,
        .rflags = RFLAGS,
        .rdi = index,
        .rsp = ABI_STACK_OFF + (index + 1) * ABI_STACK_BYTES - 8, /* as after a call */
    };
    struct kvm_sregs sregs;

    if (ioctl(fd, KVM_GET_SREGS, &sregs))
        return complain("reading registers");
    sregs.cr0 = CR0_VALUE;
    sregs.cr3 = ABI_PML4_OFF;
    sregs.cr4 = CR4_VALUE;
    sregs.efer = EFER_VALUE;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    if (ioctl(fd, KVM_SET_SREGS, &sregs) || ioctl(fd, KVM_SET_REGS, &regs))
        return complain("setting registers");
    return 0;
}

static int create_vcpu(struct kvm *kvm, unsigned index)
{
    int fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
    void *run;
    int error;

    if (fd < 0)
        return complain("creating a vCPU");
    kvm->vcpu[index].fd = fd;
    run = mmap(NULL, kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED)
        return complain("mapping a vCPU");
    kvm->vcpu[index].run = run;
    error = set_cpuid(kvm, fd);
    return error ? error : set_registers(fd, index);
}

/* ---------------------------------------------------------------- set-up */

static int open_device(struct kvm *kvm)
{
    kvm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm->kvm_fd < 0) {
        int error = -errno;
        fprintf(stderr,
                "memvm: /dev/kvm: %s; %s. --accel thread runs the same workloads on plain threads, without "
                "KVM\n",
                strerror(-error),
                error == -EACCES || error == -EPERM
                    ? "give this user access to it (group kvm)"
                    : "load kvm_intel or kvm_amd; in a VM, nested virtualization must be on");
        return error;
    }
    if (ioctl(kvm->kvm_fd, KVM_GET_API_VERSION, 0) < 0)
        return complain("/dev/kvm is not KVM");
    errno = 0;
    if (ioctl(kvm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION ||
        ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_MMU) <= 0 ||
        ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
        return complain("this KVM is too old (Linux 4.13)");
    return 0;
}

static int open_vm(struct kvm *kvm)
{
    uint64_t identity = IDENTITY_GPA;
    int bytes;

    kvm->vm_fd = ioctl(kvm->kvm_fd, KVM_CREATE_VM, 0);
    if (kvm->vm_fd < 0)
        return complain("creating a VM");
    bytes = ioctl(kvm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (bytes < (int)sizeof(struct kvm_run))
        return complain("size of a vCPU's mapping");
    kvm->run_bytes = (size_t)bytes;
    if (ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 &&
        (ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
         ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA)))
        return complain("placing the TSS");
    return 0;
}

static void kvm_close(void *state)
{
    struct kvm *kvm = state;

    for (unsigned i = 0; i < ABI_VCPUS_MAX; i++) {
        if (kvm->vcpu[i].run)
            munmap(kvm->vcpu[i].run, kvm->run_bytes);
        if (kvm->vcpu[i].fd >= 0)
            close(kvm->vcpu[i].fd);
    }
    if (kvm->vm_fd >= 0)
        close(kvm->vm_fd);
    if (kvm->kvm_fd >= 0)
        close(kvm->kvm_fd);
    free(kvm);
}

static void on_kick(int signal)
{
    (void)signal; /* its arrival alone ends KVM_RUN */
}

static int build(struct kvm *kvm)
{
    struct sigaction action = {.sa_handler = on_kick};
    const struct ram *ram = kvm->vm->ram;
    int error = open_device(kvm);

    if (!error)
        error = open_vm(kvm);
    if (!error)
        error = load_payload(ram);
    if (error)
        return error;
    build_page_tables(ram);
    error = add_slots(kvm, ram);
    for (unsigned i = 0; i < kvm->vm->options->vcpus && !error; i++)
        error = create_vcpu(kvm, i);
    sigaction(KICK_SIGNAL, &action, NULL);
    return error;
}

static int kvm_open(struct vm *vm, void **ret_state)
{
    struct kvm *kvm = calloc(1, sizeof *kvm);
    int error;

    if (!kvm)
        return -ENOMEM;
    kvm->vm = vm;
    kvm->kvm_fd = kvm->vm_fd = -1;
    for (unsigned i = 0; i < ABI_VCPUS_MAX; i++)
        kvm->vcpu[i].fd = -1;
    error = build(kvm);
    if (error) {
        kvm_close(kvm);
        return error;
    }
    *ret_state = kvm;
    return 0;
}

/* ---------------------------------------------------------------- running */

static bool on_port(struct kvm *kvm, unsigned index)
{
    struct kvm_run *run = kvm->vcpu[index].run;

    if (run->io.direction != KVM_EXIT_IO_OUT || run->io.port != ABI_PORT || run->io.size != 1 ||
        run->io.count != 1) {
        vm_fail(kvm->vm, index, "port access it should not make (port 0x%x)", run->io.port);
        return false;
    }
    return vm_call(kvm->vm, index, ((uint8_t *)run)[run->io.data_offset]);
}

static bool on_mmio(struct kvm *kvm, unsigned index)
{
    struct kvm_run *run = kvm->vcpu[index].run;
    uint64_t offset = run->mmio.phys_addr - ABI_MMIO_GPA;
    bool served = false;

    if (offset < ABI_VIRTIO_OFF + ABI_VIRTIO_BYTES && run->mmio.is_write)
        served = vm_mmio_write(kvm->vm, offset, run->mmio.len, run->mmio.data);
    else if (offset < ABI_VIRTIO_OFF + ABI_VIRTIO_BYTES)
        served = vm_mmio_read(kvm->vm, offset, run->mmio.len, run->mmio.data);
    if (!served)
        vm_fail(kvm->vm, index, "%s of %u bytes at guest-physical 0x%llx, where there is nothing",
                run->mmio.is_write ? "write" : "read", run->mmio.len,
                (unsigned long long)run->mmio.phys_addr);
    return served;
}

static void on_death(struct kvm *kvm, unsigned index)
{
    struct kvm_run *run = kvm->vcpu[index].run;
    struct kvm_regs regs = {0};
    struct kvm_sregs sregs = {0};

    ioctl(kvm->vcpu[index].fd, KVM_GET_REGS, &regs);
    ioctl(kvm->vcpu[index].fd, KVM_GET_SREGS, &sregs);
    vm_fail(kvm->vm, index, "exit %u (suberror %u, hardware 0x%llx) at rip 0x%llx rsp 0x%llx cr2 0x%llx",
            run->exit_reason, run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0,
            run->exit_reason == KVM_EXIT_FAIL_ENTRY
                ? (unsigned long long)run->fail_entry.hardware_entry_failure_reason
                : 0ull,
            (unsigned long long)regs.rip, (unsigned long long)regs.rsp, (unsigned long long)sregs.cr2);
}

/* False: the vCPU is to leave. */
static bool on_exit_reason(struct kvm *kvm, unsigned index)
{
    switch (kvm->vcpu[index].run->exit_reason) {
    case KVM_EXIT_IO:
        return on_port(kvm, index);
    case KVM_EXIT_MMIO:
        return on_mmio(kvm, index);
    case KVM_EXIT_INTR:
        return true;
    default: /* KVM_EXIT_SHUTDOWN is the triple fault */
        on_death(kvm, index);
        return false;
    }
}

static void kvm_run_vcpu(void *state, unsigned index)
{
    struct kvm *kvm = state;
    sigset_t kick;

    sigemptyset(&kick);
    sigaddset(&kick, KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    for (;;) {
        if (ioctl(kvm->vcpu[index].fd, KVM_RUN, 0) == 0) {
            if (!on_exit_reason(kvm, index))
                return;
        } else if (errno == EINTR || errno == EAGAIN) {
            if (kvm->vcpu[index].run->immediate_exit)
                return;
        } else {
            vm_fail(kvm->vm, index, "KVM_RUN: %s", strerror(errno));
            return;
        }
    }
}

static void kvm_kick(void *state, unsigned index, pthread_t thread)
{
    struct kvm *kvm = state;

    /* Set first: a signal that arrives just before KVM_RUN is then not lost. The kernel reads it there. */
    __atomic_store_n(&kvm->vcpu[index].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(thread, KICK_SIGNAL);
}

const struct accel_ops accel_kvm = {
    .name = "kvm",
    .open = kvm_open,
    .run = kvm_run_vcpu,
    .kick = kvm_kick,
    .close = kvm_close,
};
