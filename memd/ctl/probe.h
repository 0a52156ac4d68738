/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * probe: does the kernel really do what memd's engine asks of it? Each part is tried on a few pages of
 * memctl's own: a feature bit may be set by a kernel whose implementation is switched off or patched out.
 */
#ifndef MEMD_CTL_PROBE_H
#define MEMD_CTL_PROBE_H

#include <stdint.h>

struct probe {
    int device_error;   /* opening the device or making a userfaultfd: 0 or a positive errno */
    uint64_t missing;   /* features UFFDIO_API does not know, of PROBE_FEATURES */
    int move_error;     /* moving a page with UFFDIO_MOVE */
    int tracking_error; /* seeing a write through WP_ASYNC and PAGEMAP_SCAN; ENODATA: it was not seen */
};

#define PROBE_FEATURE_EVENT_REMAP    (1ull << 2)
#define PROBE_FEATURE_WP_UNPOPULATED (1ull << 13)
#define PROBE_FEATURE_WP_ASYNC       (1ull << 15)
#define PROBE_FEATURE_MOVE           (1ull << 16)
#define PROBE_FEATURES \
    (PROBE_FEATURE_EVENT_REMAP | PROBE_FEATURE_WP_UNPOPULATED | PROBE_FEATURE_WP_ASYNC | PROBE_FEATURE_MOVE)

/* `device`: normally /dev/userfaultfd. What could not be tried, because something before it is missing, is
 * ENOSYS. */
void probe_kernel(const char *device, struct probe *ret_probe);

#endif
