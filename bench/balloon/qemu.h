/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qemu: a guest with QEMU's balloon device, driven from outside through QEMU's test protocol: no guest code
 * runs. */
#ifndef BENCH_BALLOON_QEMU_H
#define BENCH_BALLOON_QEMU_H

#include "bench/balloon/own.h"

struct inflated qemu_inflate(const struct trace *trace);

#endif
