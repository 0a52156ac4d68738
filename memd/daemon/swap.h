/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* swap: a swap file for each VM; see swap.c. */
#ifndef MEMD_DAEMON_SWAP_H
#define MEMD_DAEMON_SWAP_H

struct session;

/* Makes one and sends it to the engine. Without one the VM's pages leave RAM for the pool only; why there is
 * none is logged. */
void swap_offer(struct session *session);

#endif
