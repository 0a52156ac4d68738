/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The payload's source compiled into the VMM, for --accel=thread. */
#define MEMVM_PAYLOAD_HOST
#include "bench/memvm/payload/balloon.c"
#include "bench/memvm/payload/payload.c"
