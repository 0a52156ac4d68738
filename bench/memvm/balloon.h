/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memvm's use of memd/balloon.h: the device behind the registers of virtio-mmio (virtio 1.3, section 4.2).
 * This is the example of an embedding: everything a VMM has to do for a balloon is in balloon.c.
 *
 * Threads: registers are touched by vCPU threads; balloon_set_target() and balloon_ask_stats() are called by
 * the main thread and the engine's, the rest by the main thread.
 */
#ifndef MEMVM_BALLOON_H
#define MEMVM_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include "memd/balloon.h"

struct vm;
struct balloon;

/* For all of guest RAM; memd is told of it, if there is an engine. 0 or -errno, having said why. */
int balloon_create(struct vm *vm, struct balloon **ret_balloon);
/* The engine is about to be closed: it is nobody's to move any more but the control socket's. */
void balloon_detach(struct balloon *balloon);
void balloon_destroy(struct balloon *balloon);

/* Registers, by offset in the device's window. False: no access that virtio-mmio allows. */
bool balloon_read(struct balloon *balloon, uint64_t offset, uint64_t bytes, void *ret_value);
bool balloon_write(struct balloon *balloon, uint64_t offset, uint64_t bytes, const void *value);

/* 0 or -errno, as memd_balloon_set_target() and memd_balloon_ask_stats(). */
int balloon_set_target(struct balloon *balloon, uint64_t bytes);
int balloon_ask_stats(struct balloon *balloon);
struct memd_balloon_info balloon_info(struct balloon *balloon);
/* The last value the guest sent; 0: none. */
uint64_t balloon_stat(struct balloon *balloon, enum memd_balloon_tag tag);

#endif
