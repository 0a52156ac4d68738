/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* options: memd-agent's command line. */
#ifndef GUEST_AGENT_OPTIONS_H
#define GUEST_AGENT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum options_action { OPTIONS_RUN, OPTIONS_DONE, OPTIONS_BAD };

struct options {
    const char *transport, *user, *slice;
    const char *cgroup_root, *proc_root, *sys_root, *dev_root;
    unsigned interval_ms;
    uint32_t peer_cid;
    bool once, consumers, reclaim;
};

/* Prints help, the version or what is wrong itself. */
enum options_action options_read(int argc, char *argv[], struct options *ret_options);

#endif
