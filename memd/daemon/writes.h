/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * writes: how much is written to swap files in a day, so that it does not wear the device out.
 *
 * All of them together may write `swap-writes` a day, and a VM what its terms say. Each limit is a token
 * bucket: it fills evenly, a day's worth in a day, and holds no more than that. So no more is ever written in
 * n days than n + 1 times the limit.
 *
 * Engines write only for an order to page out (paging.h), so each order carries what it may write, and that
 * is promised to its VM until it is answered. What was written is counted as engines report it; what one says
 * counts no further than it was promised: a lying engine cannot use up what others may write.
 *
 * When nothing is left, pages stay packed in RAM.
 *
 * STATE_DIR/writes.HASH (of the run directory) keeps the buckets for the next daemon, with what was promised:
 * what a VM that is gone by then may have written counts as written. Without that file a bucket begins full;
 * with one that cannot be read, empty.
 */
#ifndef MEMD_DAEMON_WRITES_H
#define MEMD_DAEMON_WRITES_H

#include <stdbool.h>
#include <stdint.h>

struct core;
struct vm;
struct writes_recalled;

struct writes_bucket {
    uint64_t limit_bytes; /* a day; 0: none */
    double left_bytes;    /* below 0: more was written than was left */
};

struct writes {
    struct writes_bucket bucket; /* of all VMs */
    uint64_t promised_bytes;     /* to all of them */
    uint64_t tended_ns, saved_ns;
    bool changed;         /* since it was saved */
    uint64_t recalled_ns; /* time that passed since it was written, when it was read */
    struct writes_recalled *recalled;
    unsigned nrecalled;
};

/* Of a VM. */
struct writes_vm {
    struct writes_bucket bucket;
    uint64_t promised_bytes; /* that its order may still write */
    uint64_t counted_bytes;  /* of what it says it has written */
    uint64_t credit_bytes;   /* how much more of that may be counted */
};

/* Time passes, or the limit is another. */
void writes_bucket_tend(struct writes_bucket *bucket, uint64_t limit_bytes, uint64_t elapsed_ns);

/* At the start, when it is known which engines are awaited; at the end, while VMs are still known. */
void writes_open(struct core *core);
void writes_close(struct core *core);
void writes_vm_joined(struct vm *vm);
void writes_vm_gone(struct vm *vm);
void writes_tick(struct core *core, uint64_t now_ns);

/* What of `want` bytes an order for this VM may write; UINT64_MAX: any. */
uint64_t writes_promise(struct vm *vm, uint64_t want);
/* Its order has ended. */
void writes_settle(struct vm *vm);
/* Whether it is worth while to ask it to write. */
bool writes_allowed(const struct vm *vm);

/* What may be written now; 0 also if there is no limit. */
uint64_t writes_left(const struct writes_bucket *bucket);

#endif
