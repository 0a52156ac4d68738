/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* parse: what /proc/meminfo, /proc/vmstat and /proc/pressure/memory say, as values of a report. Pure; text
 * that is cut off or makes no sense leaves values unknown. */
#ifndef GUEST_AGENT_PARSE_H
#define GUEST_AGENT_PARSE_H

#include "memd/agent.h"

#include <stdbool.h>
#include <stddef.h>

struct sample {
    uint64_t present; /* bit i: value[i] is known */
    uint64_t value[AGENT_VALUES];
};

static inline bool sample_has(const struct sample *sample, enum agent_value value)
{
    return sample->present >> value & 1;
}

static inline void sample_set(struct sample *sample, enum agent_value value, uint64_t to)
{
    sample->value[value] = to;
    sample->present |= 1ull << value;
}

void parse_meminfo(const char *text, size_t n, struct sample *sample);
/* Pages become bytes. */
void parse_vmstat(const char *text, size_t n, uint64_t page_bytes, struct sample *sample);
void parse_pressure(const char *text, size_t n, struct sample *sample);

/* A decimal number at the beginning of `text`; 0: there is none, else how many bytes it takes. */
size_t parse_number(const char *text, size_t n, uint64_t *ret_value);

#endif
