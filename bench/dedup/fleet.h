/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fleet: the guests of a run, as the benchmark sees them. What fails ends the program. */
#ifndef BENCH_DEDUP_FLEET_H
#define BENCH_DEDUP_FLEET_H

#include "bench/common/child.h"
#include "bench/dedup/guest.h"

struct fleet_guest {
    struct child child;
    uint64_t ram; /* its address in the guest */
    struct content content;
};

struct fleet {
    unsigned n;
    size_t guest_bytes;
    struct fleet_guest guest[BENCH_GUESTS_MAX];
};

/* Start `n` guests of guest_bytes and fill them. Machines are of machine_bytes, a multiple of guest_bytes:
 * several guests may make up the memory of one. run_dir is memd's, or NULL. */
void fleet_start(struct fleet *fleet, unsigned n, size_t guest_bytes, size_t machine_bytes,
                 enum content_kind kind, const char *run_dir);
void fleet_end(struct fleet *fleet);

/* Order without waiting; then wait for all answers (ret_answer: NULL, or one for each guest). */
void fleet_order(struct fleet *fleet, const struct guest_order *order);
void fleet_wait(struct fleet *fleet, struct guest_answer *ret_answer);
/* Both, for orders without arguments; returns the answers' sum. */
double fleet_do(struct fleet *fleet, enum guest_op op);
/* One guest, one order. */
struct guest_answer fleet_ask(struct fleet *fleet, unsigned guest, const struct guest_order *order);

uint64_t fleet_cpu_ns(const struct fleet *fleet);

#endif
