/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The system calls behind the hooks, not by way of libc: there the hooks are. -1 and errno, as there. */
#ifndef MEMD_PRELOAD_SYS_H
#define MEMD_PRELOAD_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static inline void *sys_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, addr, bytes, prot, flags, fd, offset);
}
static inline int sys_munmap(void *addr, size_t bytes)
{
    return (int)syscall(SYS_munmap, addr, bytes);
}
static inline void *sys_mremap(void *addr, size_t bytes, size_t new_bytes, int flags, void *new_addr)
{
    return (void *)syscall(SYS_mremap, addr, bytes, new_bytes, flags, new_addr);
}
static inline int sys_madvise(void *addr, size_t bytes, int advice)
{
    return (int)syscall(SYS_madvise, addr, bytes, advice);
}
static inline int sys_mprotect(void *addr, size_t bytes, int prot)
{
    return (int)syscall(SYS_mprotect, addr, bytes, prot);
}

#endif
