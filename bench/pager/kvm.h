/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * kvm: a guest that is a real one, memvm, behind the orders of guest.h: of these GUEST_LOAD, GUEST_OPEN,
 * GUEST_ENROL, GUEST_STATS, GUEST_PAGEOUT, GUEST_JOB, GUEST_CHECK and GUEST_END. Its job reads only.
 */
#ifndef BENCH_PAGER_KVM_H
#define BENCH_PAGER_KVM_H

#include "bench/pager/guest.h"

/* Serve orders until GUEST_END or the socket's end. `config`: a struct guest_config. */
void kvm_main(const void *config, int socket) __attribute__((noreturn));

#endif
