/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* proc: what the core asks the kernel about processes and memory. Roots are parameters, so tests give theirs.
 */
#ifndef MEMD_DAEMON_PROC_H
#define MEMD_DAEMON_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* When a process started, in clock ticks since boot: with the pid it names a process for good. Returns 0,
 * -ESRCH (no such process, or a zombie), -EPROTO (unreadable). */
int proc_start_time(const char *proc_root, pid_t pid, uint64_t *ret_start);

/* User and system time of a process and all its threads, in steps of a clock tick. Errors as above. */
int proc_read_cpu(const char *proc_root, pid_t pid, uint64_t *ret_ns);

/* A pidfd of the process that is (pid, start), or -errno; -ESRCH if it is gone. */
int proc_open_pidfd(const char *proc_root, pid_t pid, uint64_t start);
/* Whether the process of a pidfd has ended. */
bool proc_has_ended(int pidfd);

struct proc_memory {
    uint64_t total_bytes, available_bytes;
};
int proc_read_memory(const char *proc_root, struct proc_memory *ret_memory);
/* Anonymous memory of a process that is in RAM, swap not counted. Takes no lock of the process. */
int proc_read_anon(const char *proc_root, pid_t pid, uint64_t *ret_bytes);

/* Memory of a process that is locked or pinned: mlock, VFIO, RDMA. */
int proc_read_locked(const char *proc_root, pid_t pid, uint64_t *ret_bytes);

/* Per cent of the last 10 s in which some, or all, who wanted to run waited for memory (PSI). -ENOENT: this
 * kernel does not say. */
struct proc_stall {
    double some, full;
};
int proc_read_stall(const char *proc_root, struct proc_stall *ret_stall);

/* vm.max_map_count, or `fallback`. */
uint64_t proc_max_map_count(const char *proc_root, uint64_t fallback);

#endif
