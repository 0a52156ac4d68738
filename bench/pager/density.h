/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * density: the memory that guests need which use 30% of theirs, while their work is not slowed down: without
 * anything, with the kernel's KSM, zram and swap file, with memd.
 */
#ifndef BENCH_PAGER_DENSITY_H
#define BENCH_PAGER_DENSITY_H

#include "bench/common/bench.h"

#define DENSITY_KEYS     "density", "density_vs_ksm_zram", "density_slowdown"
#define DENSITY_KVM_KEYS "density_kvm", "density_kvm_vs_ksm_zram", "density_kvm_slowdown"

void density_measure(const struct bench *bench);     /* plain processes */
void density_kvm_measure(const struct bench *bench); /* memvm */

#endif
