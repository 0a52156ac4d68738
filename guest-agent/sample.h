/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sample: looks at the guest's kernel. Files are opened once, while there are privileges, and read again and
 * again; nothing is allocated.
 */
#ifndef GUEST_AGENT_SAMPLE_H
#define GUEST_AGENT_SAMPLE_H

#include "guest-agent/parse.h"

#define SAMPLE_TEXT_BYTES 16384u /* of a file in /proc; twice what Linux 6.18 writes */

struct sampler {
    int meminfo_fd, vmstat_fd, pressure_fd; /* -1: this kernel has none */
    int trigger_fd; /* POLLPRI: tasks have waited for memory; -1: this kernel does not tell */
    int cgroup_fd;  /* directory whose children are compared; -1: none */
    uint64_t page_bytes;
    char text[SAMPLE_TEXT_BYTES];
};

/* `cgroup_dir` NULL: none. 0, or -errno if not even /proc/meminfo can be read. */
int sampler_open(struct sampler *sampler, const char *proc_root, const char *cgroup_dir);

/* What is cheap to read and changes first: memory and stalls. The other values keep what they were. */
void sampler_look(struct sampler *sampler, struct sample *sample);
/* The rest. */
void sampler_look_closer(struct sampler *sampler, struct sample *sample);

/* The largest cgroups, largest first; returns how many. */
unsigned sampler_consumers(struct sampler *sampler, struct agent_consumer top[AGENT_CONSUMERS_MAX]);

/* A number for this run of the kernel, from its boot_id; 0: not known. */
uint64_t sample_boot(const char *proc_root);

#endif
