/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ksm: the settings of the kernel's KSM, and what it counts. */
#ifndef BENCH_COMMON_KSM_H
#define BENCH_COMMON_KSM_H

#include "bench/common/bench.h"

#include <sys/types.h>

/* How fast, and whether pages that were not merged for a while are passed over for some scans. */
struct ksm_pace {
    uint64_t pages_to_scan, sleep_ms;
    bool smart_scan;
};

/* Remember the settings. Ends the program if KSM is not there, not ours to set, or in use. */
void ksm_save(void);
/* Put them back; whatever is merged is unmerged. For the guardian. */
void ksm_restore(void);

/* Stopped, with nothing merged and nothing remembered. */
void ksm_reset(void);
void ksm_run(const struct ksm_pace *pace);
void ksm_stop(void); /* what is merged stays so */

pid_t ksm_pid(void);
uint64_t ksm_value(const char *file);

extern const struct ksm_pace ksm_fastest;

#endif
