/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see latency.h. */
#include "memd/daemon/latency.h"

uint64_t latency_quantile(const uint64_t buckets[WIRE_LATENCY_BUCKETS], unsigned per_mille)
{
    uint64_t count = 0, below = 0, begin = 0;

    for (unsigned i = 0; i < WIRE_LATENCY_BUCKETS; i++)
        count += buckets[i];
    double rank = (double)count * per_mille / 1000;
    for (unsigned i = 0; i < WIRE_LATENCY_BUCKETS - 1 && count; i++) {
        uint64_t end = wire_latency_bound(i);
        if (buckets[i] && (double)(below + buckets[i]) >= rank)
            return begin + (uint64_t)((double)(end - begin) * (rank - (double)below) / (double)buckets[i]);
        below += buckets[i];
        begin = end;
    }
    return count ? begin : 0;
}
