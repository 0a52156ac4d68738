/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* own: a guest with memd's balloon device, in this process, its memory a region of memd. */
#ifndef BENCH_BALLOON_OWN_H
#define BENCH_BALLOON_OWN_H

#include "bench/balloon/driver.h"
#include "bench/common/bench.h"

/* What giving up the pages of a trace took, and what came of it. */
struct inflated {
    uint64_t cpu_ns, bytes, returned_bytes; /* returned: by which PSS fell */
};

struct inflated own_inflate(const struct trace *trace);

#endif
