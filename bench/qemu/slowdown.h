/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * slowdown: what a guest at work feels of memd. The same job in a guest whose host merges meanwhile, and in
 * one of QEMUs without memd, in pairs.
 */
#ifndef BENCH_QEMU_SLOWDOWN_H
#define BENCH_QEMU_SLOWDOWN_H

#include "bench/common/bench.h"

#define SLOWDOWN_KEYS "guest_slowdown"

void slowdown_measure(const struct bench *bench);

#endif
