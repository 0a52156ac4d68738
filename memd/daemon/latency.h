/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* latency: quantiles from the engines' histograms of waiting times. Pure. */
#ifndef MEMD_DAEMON_LATENCY_H
#define MEMD_DAEMON_LATENCY_H

#include "memd/wire.h"

/* The time that `per_mille` of all waits did not take longer than, in ns: within its bucket as if those in it
 * were spread evenly; of the last one, which has no end, where it begins. 0: nobody has waited. */
uint64_t latency_quantile(const uint64_t buckets[WIRE_LATENCY_BUCKETS], unsigned per_mille);

#endif
