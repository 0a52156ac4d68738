/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * latency: how long accesses waited for the fault server, by where their page was.
 *
 * The time counts from the moment the server has read the message until the page is there and the waiter
 * woken; reading the swap file, and waiting for a chunk that was locked, are in it. How long the kernel took
 * to wake the server is not. Buckets are powers of two (wire_latency_bucket()). Plain atomics: the server
 * writes them, anybody reads them.
 */
#ifndef MEMD_ENGINE_LATENCY_H
#define MEMD_ENGINE_LATENCY_H

#include "memd/engine/engine.h"

static inline void latency_count(struct memd *m, enum wire_tier tier, uint64_t since_ns)
{
    uint64_t ns = now_ns() - since_ns;

    atomic_fetch_add_explicit(&m->stats.latency[tier][wire_latency_bucket(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->stats.latency_ns[tier], ns, memory_order_relaxed);
}

#endif
