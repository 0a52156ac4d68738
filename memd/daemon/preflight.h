/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * preflight: whether this kernel and this user can run memd at all, asked before anything is made. The
 * answers come from the kernel's interfaces themselves, not from its version: distributions move features.
 */
#ifndef MEMD_DAEMON_PREFLIGHT_H
#define MEMD_DAEMON_PREFLIGHT_H

#include <stddef.h>
#include <stdint.h>

/* Open `device` (normally /dev/userfaultfd), ask UFFDIO_API for its features and try PAGEMAP_SCAN. Returns 0,
 * or -errno with one line in ret_error that names the cause and the cure. */
int preflight_check(const char *device, char *ret_error, size_t error_bytes);

/* Whether `features`, as UFFDIO_API reports them, suffice: 0, or -ENOSYS with a line. */
int preflight_features(uint64_t features, char *ret_error, size_t error_bytes);

#endif
