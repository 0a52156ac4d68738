/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* kernel: what the kernel says of memory and CPU time. A process that is gone counts as nothing. */
#ifndef BENCH_COMMON_KERNEL_H
#define BENCH_COMMON_KERNEL_H

#include "bench/common/bench.h"

#include <sys/types.h>

/* Of /proc/PID/smaps_rollup, in bytes. */
struct kernel_rollup {
    uint64_t pss, pss_anon, pss_file, pss_shmem, anon_huge;
};
void kernel_add_rollup(pid_t pid, struct kernel_rollup *rollup);

/* Mappings of a process. */
unsigned kernel_count_maps(pid_t pid);
/* PSS of the process, in bytes, apart from [start, start + bytes) and from the files below `dir` (or NULL).
 */
uint64_t kernel_pss_outside(pid_t pid, uint64_t start, uint64_t bytes, const char *dir);

uint64_t kernel_cpu_ns(pid_t pid); /* user and system, all its threads, also those that have ended */
/* MemAvailable, and free pages on the lists of the CPUs, which the kernel does not count as free: after much
 * memory was given back these are hundreds of MiB, for a minute. */
uint64_t kernel_available_bytes(void);
pid_t kernel_thread_find(const char *name); /* 0: there is none */

/* Memory in the slabs of vm_area_struct, anon_vma, anon_vma_chain and maple_node. */
uint64_t kernel_vma_slab_bytes(void);

/* Blocks of the files below `dir`, in bytes; and of the memfds that the processes hold, each once. */
uint64_t kernel_tree_bytes(const char *dir);
uint64_t kernel_memfd_bytes(const pid_t *pid, size_t npids);

/*
 * Memory of these processes: anonymous and file-backed memory as PSS, and every block of the files below
 * `dir` (NULL: none is looked at) and of the processes' memfds, mapped or not, once. What the kernel keeps
 * for it is not in here.
 */
uint64_t kernel_used_bytes(const pid_t *pid, size_t npids, const char *dir);

/* KSM's count of what it keeps for pages of this process. */
uint64_t kernel_ksm_items(pid_t pid);

/*
 * /proc/PID/pagemap, from page number (address / 4096) `first` on. A frame number of 0: the page is not
 * present. Returns 0 or -errno.
 */
int kernel_pagemap_open(pid_t pid); /* a descriptor or -errno */
int kernel_frames_read(int pagemap_fd, uint64_t first, size_t npages, uint64_t *ret_pfn);

#endif
